"""Builds from which one protection is taken away, to prove that the checker sees what it is for.

`CHAOS_SABOTAGE=NAME` in the environment of a server and its trainers; only the drills' package asks.
"""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.chaos import power


def sabotaged(name: str) -> bool:
    return os.environ.get("CHAOS_SABOTAGE") == name


MOST_BACKOFFS = 50


def apply() -> None:
    """Before anything else of ours is imported, so that everybody gets the sabotaged function."""
    if ledger := os.environ.get("CHAOS_LEDGER"):
        power.keep_ledger(ledger)
    name = os.environ.get("CHAOS_SABOTAGE")
    if name:
        SABOTAGES[name]()
    if backoff := os.environ.get("CHAOS_BACKOFF_S"):
        _hurry(float(backoff))


def _hurry(backoff_s: float) -> None:
    """A crash is tried again at once, and what lacks the store soon: thousands of them are to be seen."""
    from app.services import leases

    leases.BACKOFF_S = leases.AWAY_S = backoff_s
    leases.BACKOFF_MOST_S = leases.AWAY_MOST_S = MOST_BACKOFFS * backoff_s


def no_fence() -> None:
    """An attempt need not be the row's to write."""
    from app.db.tables import Job
    from app.services import transitions

    def owned_by(job_id: str, _attempt: int) -> list[Any]:
        return [Job.id == job_id, Job.status == "running"]

    vars(transitions)["owned_by"] = owned_by


def unverified() -> None:
    """One write, whose count nobody reads, without sync."""
    import hashlib

    from app.ports.blobs import Blob, FileBlobs, _key

    def put(self: Any, chunks: Any) -> Blob:
        content = b"".join(chunks)
        sha256 = hashlib.sha256(content).hexdigest()
        target = self._scratch.parent / _key(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, content)
        os.close(descriptor)
        return Blob(sha256, len(content))

    FileBlobs.put = put  # type: ignore[method-assign]


def no_fsync() -> None:
    """What was written is taken for safe."""
    vars(os)["fsync"] = lambda _descriptor: None


def hint_only() -> None:
    """The message is the truth: nobody looks whether there is work that no bell has told of."""
    from app.services import jobs, supervise

    def look_around(parts: Any, *_: Any) -> None:
        with parts.sessions.write() as session:
            jobs.reap(session, parts.settings.max_no_progress)

    def start(self: Any) -> None:
        for slot in self._slots:
            slot.start()

    vars(supervise)["look_around"] = look_around
    supervise.Supervisor.start = start  # type: ignore[method-assign]


def commit_before_blobs() -> None:
    """The drill itself does that: see drill/worker/run.py."""


def cancel_unguarded() -> None:
    """Success does not ask whether the job was cancelled."""
    from app.services import attempts
    from app.services.transitions import owner_change

    def unguarded(session: Any, job_id: str, attempt: int, *_guards: Any, **values: Any) -> Any:
        return owner_change(session, job_id, attempt, **values)

    vars(attempts)["owner_change"] = unguarded


def attempt_not_counted() -> None:
    """A job that is taken over keeps the number of the attempt before."""
    from sqlalchemy import func

    from app.db.tables import Job
    from app.services import claims
    from app.services.transitions import changing

    def uncounted(job_id: Any, *guards: Any, **values: Any) -> Any:
        if "attempt" in values:
            values["attempt"] = func.coalesce(func.nullif(Job.attempt, 0), 1)
        return changing(job_id, *guards, **values)

    vars(claims)["changing"] = uncounted


def keys_forgotten() -> None:
    """A submit that is sent again makes another job."""
    from app.services import idempotency

    def once(_session: Any, _project: str, _key: str, _digest: str, make: Callable[[], Any]) -> Any:
        return SimpleNamespace(**make())

    vars(idempotency)["once"] = once


SABOTAGES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        no_fence,
        unverified,
        no_fsync,
        hint_only,
        commit_before_blobs,
        cancel_unguarded,
        attempt_not_counted,
        keys_forgotten,
    )
}
