"""How often a key may ask: so many requests in a window that begins with its first one, in each process.

Answers say where a key stands by the headers `RateLimit-Policy` and `RateLimit` (IETF draft
draft-ietf-httpapi-ratelimit-headers): the quota `q` of `w` seconds; `r` requests are left for `t` seconds.
"""

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from app.services.access import Scope
from app.settings import Settings

Headers = list[tuple[bytes, bytes]]


class RateLimits:
    """Of one process."""

    def __init__(self, settings: Settings) -> None:
        self._windows = FixedWindowRateLimiter(MemoryStorage())
        self._requests = _policy("requests", settings.rate_limit_requests)
        self._predictions = _policy("predictions", settings.rate_limit_predictions)

    def take(self, key_id: str, scope: Scope) -> tuple[Headers, int | None]:
        """One request: the headers of its answer and, where it is one too many, the seconds to wait."""
        policy = self._predictions if scope == "predict" else self._requests
        if policy is None:
            return [], None
        name, item, told = policy
        passes = self._windows.hit(item, name, key_id)
        stands = self._windows.get_window_stats(item, name, key_id)
        left_s = max(1, math.ceil(stands.reset_time - time.time()))
        now = f'"{name}";r={max(0, stands.remaining)};t={left_s}'.encode()
        headers = [(b"ratelimit-policy", told), (b"ratelimit", now)]
        return headers, None if passes else left_s


def _policy(name: str, rate: str) -> tuple[str, RateLimitItem, bytes] | None:
    if not rate:
        return None
    item = parse(rate)
    return name, item, f'"{name}";q={item.amount};w={item.get_expiry()}'.encode()
