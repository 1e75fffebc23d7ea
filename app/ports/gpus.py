"""The GPUs of this machine, found without torch: a supervisor has no use for its memory."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

ASK = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
LONGEST_S = 30.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Gpu:
    """id: as CUDA_VISIBLE_DEVICES names it, a number or a UUID."""

    id: str
    name: str


def find(chosen: Sequence[str] | None) -> list[Gpu]:
    """chosen: their ids; None: those of CUDA_VISIBLE_DEVICES, and without that all that there are."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None and visible is not None:
        chosen = [one.strip() for one in visible.split(",") if one.strip()]
    if chosen is not None and not chosen:
        return []
    there = _ask()
    if chosen is None:
        return [Gpu(index, name) for index, _, name in there]
    names = {key: name for index, uuid, name in there for key in (index, uuid)}
    return [Gpu(one, names.get(one, "GPU")) for one in chosen]


def _ask() -> list[tuple[str, str, str]]:
    """(number, UUID, name) of each; none where there is no driver."""
    try:
        said = subprocess.run(ASK, capture_output=True, check=True, text=True, timeout=LONGEST_S).stdout
    except FileNotFoundError:
        return []
    except (subprocess.SubprocessError, OSError):
        log.warning("the GPUs could not be listed", exc_info=True)
        return []
    rows = [tuple(part.strip() for part in line.split(",", 2)) for line in said.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]
