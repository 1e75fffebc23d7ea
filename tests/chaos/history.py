"""What a run of chaos leaves behind: what the client asked and was told, and what the database says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Call:
    """A request with what became of it. at: when it was sent; acknowledged_at: None when no answer came.

    name: the job's own, given by the client, one job each. Times are seconds since the epoch.
    """

    kind: Literal["submit", "cancel"]
    name: str
    job_id: str | None
    at: float
    acknowledged_at: float | None


@dataclass(frozen=True)
class Event:
    seq: int
    type: str
    phase: str | None
    data: Mapping[str, Any]
    at: float


@dataclass(frozen=True)
class Row:
    """A job at the end. files: sha256 of all that it points at."""

    id: str
    name: str
    status: str
    attempt: int
    last_seq: int
    output_version_id: str | None
    outcome: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    files: Sequence[str]
    events: Sequence[Event]
    steps: Sequence[int] = ()  # of its training curve


@dataclass(frozen=True)
class Version:
    """A student. job: the id in its lineage."""

    id: str
    job: str
    files: Sequence[str]


@dataclass(frozen=True)
class Look:
    """A row as an observer saw it while the run went on."""

    at: float
    job_id: str
    status: str
    version: int


@dataclass(frozen=True)
class Start:
    """A trainer that says that it has begun, on paper of its own."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class History:
    """blobs: the sha256 of the bytes that lie under a sha256; None: nothing does.

    wrong: names of jobs whose student is not what undisturbed training makes.
    """

    calls: Sequence[Call] = ()
    rows: Sequence[Row] = ()
    versions: Sequence[Version] = ()
    looks: Sequence[Look] = ()
    starts: Sequence[Start] = ()
    blobs: Mapping[str, str | None] = field(default_factory=dict)
    wrong: Sequence[str] = ()
