"""Whether a history keeps what is promised. A pure function: the same history, the same violations."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.history import TERMINAL, Event, History, Row

LOST, DOUBLED, WRONG = "lost", "doubled", "wrong artifact"


@dataclass(frozen=True)
class Violation:
    """rule: what was promised. about: a job's name or id, or a sha256."""

    rule: str
    about: str
    detail: str


def check(history: History) -> list[Violation]:
    """All violations of all rules."""
    return [violation for rule in RULES for violation in rule(history)]


def lost(history: History) -> Iterator[Violation]:
    """Every acknowledged submit ends. The history is taken when the time that is allowed for it is over."""
    rows = {row.id: row for row in history.rows}
    for call in history.calls:
        if call.kind == "submit" and call.acknowledged_at is not None:
            row = rows.get(call.job_id or "")
            if row is None:
                yield Violation(LOST, call.name, "acknowledged, but there is no such row")
            elif row.status not in TERMINAL:
                yield Violation(LOST, call.name, f"still {row.status} in attempt {row.attempt}")


def doubled_jobs(history: History) -> Iterator[Violation]:
    """A submit that is sent again under its key is one job."""
    for name, count in Counter(row.name for row in history.rows).items():
        if count > 1:
            yield Violation(DOUBLED, name, f"{count} rows of one submit")


def doubled_commits(history: History) -> Iterator[Violation]:
    """A job succeeds at most once, and its student is there once if it did, and not at all if it did not."""
    made: defaultdict[str, list[str]] = defaultdict(list)
    for version in history.versions:
        made[version.job].append(version.id)
    for row in history.rows:
        successes = sum(_says(event, "succeeded") for event in row.events)
        expected = [row.output_version_id] if row.status == "succeeded" else []
        if successes != len(expected):
            yield Violation(DOUBLED, row.name, f"{row.status}, and {successes} events of success")
        if made[row.id] != expected:
            yield Violation(DOUBLED, row.name, f"{row.status} with {row.output_version_id}: {made[row.id]}")
    known = {row.id for row in history.rows}
    for job in made.keys() - known:
        yield Violation(DOUBLED, job, "a student without a job")


def doubled_starts(history: History) -> Iterator[Violation]:
    """An attempt is one process."""
    for start, count in Counter(history.starts).items():
        if count > 1:
            yield Violation(DOUBLED, start.job_id, f"attempt {start.attempt} began {count} times")


def attempts(history: History) -> Iterator[Violation]:
    """They count from 1 without a gap, the row carries the last, and the result is the last one's."""
    for row in history.rows:
        seen = [event.data["attempt"] for event in row.events if event.type == "attempt.started"]
        if seen != list(range(1, row.attempt + 1)):
            yield Violation("attempts only grow", row.name, f"{seen}, and the row says {row.attempt}")
        author = (row.outcome or row.error or {}).get("attempt", row.attempt)
        if author != row.attempt:
            yield Violation(
                "a stale attempt writes nothing", row.name, f"attempt {author} wrote the end of {row.attempt}"
            )


def phases(history: History) -> Iterator[Violation]:
    """An attempt goes through each phase once and tells of the one that it is in, else it is not alone."""
    for row in history.rows:
        for number, events in enumerate(_attempts(row), 1):
            started = [event.phase for event in events if event.type == "phase.started"]
            if len(set(started)) < len(started):
                yield Violation("a stale attempt writes nothing", row.name, f"attempt {number} did {started}")
            now = None
            for event in events:
                now = event.phase if event.type == "phase.started" else now
                if event.type in ("phase.progress", "checkpoint.saved") and event.phase != now:
                    told = f"attempt {number} told of {event.phase} in {now}"
                    yield Violation("a stale attempt writes nothing", row.name, told)


def terminal(history: History) -> Iterator[Violation]:
    """What has ended never changes, and tells nothing more."""
    ends: dict[str, tuple[str, int]] = {}
    for look in sorted(history.looks, key=lambda look: look.at):
        now = (look.status, look.version)
        if ends.get(look.job_id, now) != now:
            yield Violation("terminal rows never change", look.job_id, f"{ends[look.job_id]}, then {now}")
        if look.status in TERMINAL:
            ends[look.job_id] = now
    for row in history.rows:
        types = [event.type for event in row.events]
        if "job.ended" in types[:-1]:
            yield Violation("terminal rows never change", row.name, f"ended, then {types[-1]}")


def steps(history: History) -> Iterator[Violation]:
    """Checkpoints only grow, and so do the steps that one attempt tells."""
    for row in history.rows:
        saved = [event.data["step"] for event in row.events if event.type == "checkpoint.saved"]
        if not _grow(saved):
            yield Violation("steps only grow", row.name, f"checkpoints {saved}")
        for number, events in enumerate(_attempts(row), 1):
            told = [event.data["step"] for event in events if "step" in event.data and event.phase == "train"]
            if any(later < earlier for earlier, later in pairwise(told)):
                yield Violation("steps only grow", row.name, f"attempt {number} told {told}")


def cancellations(history: History) -> Iterator[Violation]:
    """An acknowledged cancel is never followed by success."""
    rows = {row.id: row for row in history.rows}
    for call in history.calls:
        if call.kind == "cancel" and call.acknowledged_at is not None and call.job_id in rows:
            status = rows[call.job_id].status
            if status != "cancelled":
                yield Violation("a cancel holds", call.name, f"its cancel was acknowledged, and it {status}")


def sequence(history: History) -> Iterator[Violation]:
    """Events are numbered from 1 to the row's last without a gap."""
    for row in history.rows:
        found = [event.seq for event in row.events]
        if found != list(range(1, row.last_seq + 1)):
            yield Violation("events have no gap", row.name, f"{found}, and the row says {row.last_seq}")


def digests(history: History) -> Iterator[Violation]:
    """What a row points at lies there, byte for byte."""
    pointed = [(row.name, row.files) for row in history.rows]
    pointed += [(version.id, version.files) for version in history.versions]
    for name, files in pointed:
        for sha256 in files:
            found = history.blobs.get(sha256)
            if found != sha256:
                yield Violation(WRONG, name, f"{sha256[:12]} holds {found and found[:12]}")
    for name in history.wrong:
        yield Violation(WRONG, name, "not what undisturbed training makes")


RULES: tuple[Callable[[History], Iterator[Violation]], ...] = (
    lost,
    doubled_jobs,
    doubled_commits,
    doubled_starts,
    attempts,
    phases,
    terminal,
    steps,
    cancellations,
    sequence,
    digests,
)


def _says(event: Event, status: str) -> bool:
    return event.type == "job.status" and event.data.get("status") == status


def _attempts(row: Row) -> list[list[Event]]:
    """The events of each attempt."""
    parts: list[list[Event]] = []
    for event in row.events:
        if event.type == "attempt.started":
            parts.append([])
        elif parts:
            parts[-1].append(event)
    return parts


def _grow(numbers: list[int]) -> bool:
    return all(later > earlier for earlier, later in pairwise(numbers))
