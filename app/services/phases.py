"""What a job goes through, in this order, as it stands in its row."""

from datetime import datetime
from typing import Any

from app.db.dialect import now
from app.db.tables import Job

PHASES = ("validate", "fetch", "preflight", "signals", "train", "evaluate", "export", "register")

Json = dict[str, Any]


def pending(name: str) -> Json:
    """A phase that has not begun."""
    return {"name": name, "status": "pending", "progress": 0.0, "started_at": None, "ended_at": None}


def running(job: Job) -> str | None:
    """The phase that an attempt is in."""
    return next((phase["name"] for phase in job.phases if phase["status"] == "running"), None)


def changed(job: Job, name: str, **changes: Any) -> list[Json]:
    return [{**phase, **changes} if phase["name"] == name else phase for phase in job.phases]


def closed(job: Job, status: str) -> list[Json]:
    """The phases of an ended job: the one that ran ends as the job does."""
    over = {"status": status, "ended_at": stamp()}
    return [{**phase, **over} if phase["status"] == "running" else phase for phase in job.phases]


def seconds(all_phases: list[Json], name: str) -> float:
    """Between the beginning and the end of one that is over."""
    phase = next(phase for phase in all_phases if phase["name"] == name)
    begun, ended = (datetime.fromisoformat(phase[key]) for key in ("started_at", "ended_at"))
    return round((ended - begun).total_seconds(), 3)


def stamp(moment: datetime | None = None) -> str:
    """A moment, or now, as it stands in JSON."""
    return (moment or now()).isoformat(timespec="milliseconds").replace("+00:00", "Z")
