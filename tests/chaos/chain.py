"""The drills' training: each step hashes what the one before left, so a wrong one shows for good."""

from hashlib import sha256

STEPS = 20


def start(job_id: str) -> str:
    return sha256(job_id.encode()).hexdigest()


def link(state: str) -> str:
    return sha256(state.encode()).hexdigest()


def state_at(job_id: str, step: int) -> str:
    """What undisturbed training has come to."""
    state = start(job_id)
    for _ in range(step):
        state = link(state)
    return state
