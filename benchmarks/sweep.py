"""What a search costs over its students: a sweep of 8 trials, and the same 8 students ordered as jobs.

Both sides take turns, each in a service of its own that has no stored answers: so the teacher answers once a
side, and the rest is eight students. The second side is given the specs that the first one's trials had.
Nothing is pruned. Promised: the sweep takes at most 1.10 times the processor time of the jobs, and 1.10 times
the time in which its own jobs run. Both sides are shown by the clock too, which feels all that the machine
does besides.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import transformers

from examples.digits import service as client
from examples.digits import teacher
from examples.digits.rows import Digit, deal, parquet
from harness.servers import Running, embedded, service

TRIALS, ROUNDS, PROMISED, EPOCHS = 8, 2, 1.10, 10
SPEC = Path(__file__).parents[1] / "examples" / "specs" / "sweep.json"

Json = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """seconds: from the first POST to the end. busy: of them, those in which jobs ran. processor: of service
    and jobs."""

    seconds: float
    busy: float
    processor: float
    specs: list[Json]


def main() -> int:
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hands = deal()
    rounds: list[tuple[Side, Side]] = []
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "teacher"
        print("training the demo's teacher", flush=True)
        teacher.train(hands["teacher"], checkpoint, lambda _: None)
        packed = teacher.packed(checkpoint)
        for turn in range(ROUNDS):
            with stocked(Path(folder) / f"sweep-{turn}", hands, packed) as (running, http):
                swept = sweep(running, http)
            with stocked(Path(folder) / f"jobs-{turn}", hands, packed) as (running, http):
                alone = one_by_one(running, http, swept.specs)
            rounds.append((swept, alone))
            print(f"round {turn + 1}: sweep {told(swept)}; jobs {told(alone)}", flush=True)
    return show(rounds)


@contextmanager
def stocked(
    folder: Path, hands: dict[str, list[Digit]], packed: bytes
) -> Iterator[tuple[Running, httpx.Client]]:
    """A service of its own with the demo's data and teacher, and nothing else."""
    folder.mkdir()
    names = ("train", "validation", "test", "unlabeled")
    splits = {name: (f"{name}.parquet", parquet(hands[name], labeled=name != "unlabeled")) for name in names}
    with (
        service(embedded(folder)) as running,
        client.client(f"http://127.0.0.1:{running.port}", None) as http,
    ):
        client.ask(http, "POST", "/v1/datasets", data={"name": "digits"}, files=splits)
        upload = {"file": ("teacher.zip", packed)}
        client.ask(http, "POST", "/v1/models", data={"name": "digits-teacher"}, files=upload)
        yield running, http


def sweep(running: Running, http: httpx.Client) -> Side:
    order = json.loads(SPEC.read_text()) | {"pruning": None, "budget": {"trials": TRIALS, "parallel": 2}}
    order["spec"]["training"]["epochs"] = EPOCHS
    before = running.processor_s()
    found = ended(http, "/v1/sweeps", client.ask(http, "POST", "/v1/sweeps", json=order))
    processor = running.processor_s() - before
    trials = client.ask(http, "GET", found["links"]["trials"])["data"]
    made = [client.ask(http, "GET", trial["links"]["job"]) for trial in trials]
    return measured(http, made, found["created_at"], found["ended_at"], processor)


def one_by_one(running: Running, http: httpx.Client, specs: list[Json]) -> Side:
    """The same students, as jobs that are all ordered at once."""
    before = running.processor_s()
    orders = [client.ask(http, "POST", "/v1/jobs", json=spec) for spec in specs]
    made = [ended(http, "/v1/jobs", job) for job in orders]
    processor = running.processor_s() - before
    return measured(http, made, made[0]["created_at"], max(job["ended_at"] for job in made), processor)


def measured(http: httpx.Client, made: list[Json], first: str, last: str, processor: float) -> Side:
    """Raises Refused where the teacher was asked more than once."""
    paths = [f"/v1/jobs/{job['id']}/metrics?split=signals&name=asked" for job in made]
    asked = [client.ask(http, "GET", path)["data"][0]["points"][0]["value"] > 0 for path in paths]
    if sum(asked) != 1 or len(made) != TRIALS:
        raise client.Refused(f"{sum(asked)} of {len(made)} students asked the teacher for answers.")
    busy = sum(seconds(job["started_at"], job["ended_at"]) for job in made)
    return Side(seconds(first, last), busy, processor, [job["spec"] for job in made])


def ended(http: httpx.Client, path: str, row: Json) -> Json:
    """Followed by long polls. Raises Refused when it did not succeed."""
    while not row["terminal"]:
        row = client.ask(http, "GET", f"{path}/{row['id']}?wait=30&version={row['version']}")
    if row["status"] != "succeeded":
        raise client.Refused(f"{row['id']} {row['status']}: {row['error']}")
    return row


def seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def told(side: Side) -> str:
    return f"{side.seconds:.1f} s by the clock, {side.processor:.1f} s of processors"


def show(rounds: list[tuple[Side, Side]]) -> int:
    clock = median(swept.seconds / alone.seconds for swept, alone in rounds)
    processor = median(swept.processor / alone.processor for swept, alone in rounds)
    waits = median(swept.seconds / swept.busy for swept, _ in rounds)
    print(f"{TRIALS} trials, one at a time, medians of {ROUNDS} rounds; the teacher answered once a side")
    print(f"a sweep over the teacher once and {TRIALS} students, processor time: ratio {processor:.3f}")
    print(f"a sweep's time over that in which its jobs ran: ratio {waits:.3f}")
    print(f"promised: {PROMISED:.2f} for both; by the clock, with all that the machine did: {clock:.3f}")
    return 0 if max(processor, waits) <= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
