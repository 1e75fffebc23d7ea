"""Prefixed ids that sort by time: 48 bits of milliseconds, 80 bits of chance, in Crockford's base 32."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """For example `job_01kavq3x7m9s6w2h8c4d5e6f7g`."""
    number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return prefix + "_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
