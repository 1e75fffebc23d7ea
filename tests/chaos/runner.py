"""A run: faults from a seed against a whole service, and what its history says afterwards."""

import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import observer
from tests.chaos.checker import Violation, check
from tests.chaos.client import Client
from tests.chaos.faults import EMBEDDED, PRODUCTION, Named
from tests.chaos.history import Event, History
from tests.chaos.observer import Observer
from tests.chaos.stack import Stack, embedded, production

GREMLINS = 3  # faults at once
PAUSE_S = (0.05, 0.6)
BREATH_S, CHANGES = 60.0, 4  # before a fault: rows change so often, or this time goes by
FAULTS_A_JOB = 2.0  # at most, for all jobs that have ended
NURSE_S = 0.5
ALLOWED_S = 300.0  # for all jobs to end once the faults are over

STACKS: dict[str, tuple[Callable[..., AbstractContextManager[Stack]], Sequence[Named]]] = {
    "embedded": (embedded, EMBEDDED),
    "production": (production, PRODUCTION),
}


@dataclass
class Result:
    """recovery_s: by fault, see `recoveries`.

    deaths: of servers that no fault had killed.
    """

    seed: int
    faults: Counter[str]
    history: History
    violations: list[Violation]
    recovery_s: dict[str, list[float]]
    deaths: Counter[str]
    seconds: float

    @property
    def statuses(self) -> Counter[str]:
        return Counter(
            row.status + (f" ({row.error['code']})" if row.error else "") for row in self.history.rows
        )


@dataclass
class _Blow:
    at: float
    name: str


@dataclass
class _Fight:
    """What the gremlins share. due: how many faults are still to happen, of chance unless there is a plan."""

    stack: Stack
    faults: Sequence[Named]
    due: int
    until: float
    watching: Observer
    plan: list[Named]
    tell: Callable[[int], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    blows: list[_Blow] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)


def run(
    kind: str,
    folder: Path,
    *,
    faults: int,
    seed: int,
    depth: int = 6,
    true: float = 0.0,
    only: Sequence[str] = (),
    plan: Sequence[str] = (),
    minutes: float = 1e6,
    gremlins: int = GREMLINS,
    prepare: Callable[[Stack], dict[str, Any]] | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Result:
    """only: names of faults to choose from. plan: names of faults, one after the other, instead of chance.
    minutes: after which no more faults begin.

    prepare: makes the order of the jobs that the real worker does, a share `true` of all.
    tell: hears after each fault how many there were."""
    make, known = STACKS[kind]
    named = {fault.name: fault for fault in known}
    chosen = [fault for fault in known if not only or fault.name in only]
    begun = time.monotonic()
    with make(folder) as stack:
        client = Client(stack, seed, depth=depth, true=true)
        client.true_order = prepare(stack) if prepare else {}
        watching = Observer(stack, client)
        client.start()
        watching.start()
        deaths: Counter[str] = Counter()
        until, planned = time.monotonic() + 60 * minutes, [named[name] for name in reversed(plan)]
        fight = _Fight(stack, chosen, faults, until, watching, planned, tell)
        over = threading.Event()
        nurse = threading.Thread(target=_nurse, args=(stack, over, deaths), daemon=True)
        nurse.start()
        _fight(fight, seed, gremlins)
        client.stop()
        _wait_for_ends(watching)
        over.set()
        nurse.join()
        watching.stop()
        watching.look()
        told = observer.history(stack, client.calls, watching.looks)
    if fight.errors:
        raise fight.errors[0]
    return Result(
        seed,
        Counter(blow.name for blow in fight.blows),
        told,
        check(told),
        recoveries(told, [(blow.at, blow.name) for blow in fight.blows]),
        deaths,
        time.monotonic() - begun,
    )


def recoveries(history: History, blows: Sequence[tuple[float, str]]) -> dict[str, list[float]]:
    """Of every job that was running at a blow: seconds until it worked again.

    That is its next event where the attempt lived on, else the first phase of the next attempt. Where another
    blow came meanwhile, both are charged.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for at, name in blows:
        for row in history.rows:
            before = [event for event in row.events if event.at <= at]
            again = _again(row.events[len(before) :])
            if again is not None and _is_running(before):
                found[name].append(again - at)
    return dict(found)


def _is_running(events: Sequence[Event]) -> bool:
    told = [event.data["status"] for event in events if event.type == "job.status" and "status" in event.data]
    return told[-1:] == ["running"]


def _again(events: Sequence[Event]) -> float | None:
    """When the job worked again, or had ended; None: never."""
    if not events:
        return None
    if events[0].type == "attempt.ended" and not any(event.type == "job.ended" for event in events[:3]):
        events = [event for event in events if event.type in ("phase.started", "job.ended")]
    return events[0].at if events else None


def _fight(fight: _Fight, seed: int, gremlins: int) -> None:
    threads = [
        threading.Thread(target=_gremlin, args=(fight, random.Random(f"{seed} {number}")), daemon=True)
        for number in range(gremlins)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _gremlin(fight: _Fight, chance: random.Random) -> None:
    try:
        while _take(fight):
            time.sleep(chance.uniform(*PAUSE_S))
            _wait_for_life(fight)
            fault = _next(fight, chance)
            at = time.time()
            happened = fault.act(fight.stack, chance)
            with fight.lock:
                if happened:
                    fight.blows.append(_Blow(at, fault.name))
                    fight.tell(len(fight.blows))
                else:
                    fight.due += 1
    except BaseException as error:  # noqa: BLE001 - the run ends with it
        fight.errors.append(error)
        fight.due = 0


def _wait_for_life(fight: _Fight) -> None:
    """A service that is struck before it stands up again is not tried, only kept down.

    Faults of chance let jobs end, too: a slow machine would else see many faults and few jobs.
    """
    deadline, before = time.monotonic() + BREATH_S, len(fight.watching.looks)

    def lives() -> bool:
        paced = fight.plan or len(fight.blows) <= FAULTS_A_JOB * fight.watching.ended
        return len(fight.watching.looks) >= before + CHANGES and bool(paced)

    while not lives() and time.monotonic() < deadline:
        time.sleep(0.05)


def _next(fight: _Fight, chance: random.Random) -> Named:
    with fight.lock:
        if fight.plan:
            return fight.plan.pop()
    return chance.choices(fight.faults, [one.weight for one in fight.faults])[0]


def _take(fight: _Fight) -> bool:
    with fight.lock:
        if fight.due <= 0 or time.monotonic() > fight.until:
            return False
        fight.due -= 1
        return True


def _nurse(stack: Stack, over: threading.Event, deaths: Counter[str]) -> None:
    """Starts again what died without a fault of ours, as any init would, and counts it."""
    while not over.wait(NURSE_S):
        for process in {id(one): one for one in (*stack.apis, *stack.supervisors)}.values():
            if process.lock.acquire(blocking=False):
                try:
                    if not process.alive:
                        deaths[process.name] += 1
                        process.start()
                finally:
                    process.lock.release()


def _wait_for_ends(watching: Observer) -> None:
    deadline = time.monotonic() + ALLOWED_S
    time.sleep(1.0)
    while watching.going and time.monotonic() < deadline:
        time.sleep(0.2)


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="stillhouse-chaos-", ignore_cleanup_errors=True)
