"""What a search costs over its students: a sweep of 8 trials, and the same 8 students ordered as jobs.

Each side has a service of its own without stored answers: so the teacher answers once a side, and the rest is
eight students. Both run at the same time, one job at a time on one thread, so that both feel all that the
machine does besides: a trial's spec is ordered on the other side as soon as the trial has begun. Nothing is
pruned. Promised: the sweep takes at most 1.10 times the processor time of the jobs, and at most 1.10 times
the time in which its own jobs run.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import transformers

from examples.digits import service as client
from examples.digits import teacher
from examples.digits.rows import Digit, deal, parquet
from harness.servers import Running, embedded, service

TRIALS, PROMISED, EPOCHS, LOOK_S = 8, 1.10, 10, 2.0
SPEC = Path(__file__).parents[1] / "examples" / "specs" / "sweep.json"

Json = dict[str, Any]


def main() -> int:
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hands = deal()
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "teacher"
        print("training the demo's teacher", flush=True)
        teacher.train(hands["teacher"], checkpoint, lambda _: None)
        packed = teacher.packed(checkpoint)
        sides = [stocked(Path(folder) / name, hands, packed) for name in ("sweep", "jobs")]
        with sides[0] as (ours, swept), sides[1] as (theirs, plain):
            before = [running.processor_s() for running in (ours, theirs)]
            sweep, trials, jobs = compare(swept, plain)
            after = [running.processor_s() for running in (ours, theirs)]
            for http, made in ((swept, trials), (plain, jobs)):
                check(http, made)
    return show(sweep, trials, [end - start for start, end in zip(before, after, strict=True)])


@contextmanager
def stocked(
    folder: Path, hands: dict[str, list[Digit]], packed: bytes
) -> Iterator[tuple[Running, httpx.Client]]:
    """A service of its own with the demo's data and teacher, and nothing else."""
    folder.mkdir()
    settings = embedded(folder).model_copy(update={"threads": 1})
    names = ("train", "validation", "test", "unlabeled")
    splits = {name: (f"{name}.parquet", parquet(hands[name], labeled=name != "unlabeled")) for name in names}
    with (
        service(settings) as running,
        client.client(f"http://127.0.0.1:{running.port}", None) as http,
    ):
        client.ask(http, "POST", "/v1/datasets", data={"name": "digits"}, files=splits)
        upload = {"file": ("teacher.zip", packed)}
        client.ask(http, "POST", "/v1/models", data={"name": "digits-teacher"}, files=upload)
        yield running, http


def compare(swept: httpx.Client, plain: httpx.Client) -> tuple[Json, list[Json], list[Json]]:
    """The ended sweep, the jobs of its trials, and the same jobs on the other side. Raises Refused."""
    order = json.loads(SPEC.read_text()) | {"pruning": None, "budget": {"trials": TRIALS, "parallel": 2}}
    order["spec"]["training"]["epochs"] = EPOCHS
    sweep = client.ask(swept, "POST", "/v1/sweeps", json=order)
    trials: list[Json] = []
    jobs: list[Json] = []
    while len(jobs) < TRIALS:
        time.sleep(LOOK_S)
        begun = client.ask(swept, "GET", sweep["links"]["trials"])["data"][len(jobs) :]
        trials += [client.ask(swept, "GET", trial["links"]["job"]) for trial in begun]
        jobs += [client.ask(plain, "POST", "/v1/jobs", json=job["spec"]) for job in trials[len(jobs) :]]
        if client.ask(swept, "GET", sweep["links"]["self"])["terminal"]:
            break
    sweep = ended(swept, "/v1/sweeps", sweep)
    return (
        sweep,
        [ended(swept, "/v1/jobs", job) for job in trials],
        [ended(plain, "/v1/jobs", job) for job in jobs],
    )


def check(http: httpx.Client, made: list[Json]) -> None:
    """Raises Refused where not all were made, or the teacher was asked more than once."""
    paths = [f"/v1/jobs/{job['id']}/metrics?split=signals&name=asked" for job in made]
    asked = [client.ask(http, "GET", path)["data"][0]["points"][0]["value"] > 0 for path in paths]
    if sum(asked) != 1 or len(made) != TRIALS:
        raise client.Refused(f"{sum(asked)} of {len(made)} students asked the teacher for answers.")


def ended(http: httpx.Client, path: str, row: Json) -> Json:
    """Followed by long polls. Raises Refused when it did not succeed."""
    while not row["terminal"]:
        row = client.ask(http, "GET", f"{path}/{row['id']}?wait=30&version={row['version']}")
    if row["status"] != "succeeded":
        raise client.Refused(f"{row['id']} {row['status']}: {row['error']}")
    return row


def seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def show(sweep: Json, trials: list[Json], processor: list[float]) -> int:
    """processor: seconds of both sides."""
    ratio = processor[0] / processor[1]
    whole = seconds(sweep["created_at"], sweep["ended_at"])
    waits = whole / sum(seconds(job["started_at"], job["ended_at"]) for job in trials)
    print(f"{TRIALS} trials, one at a time; the teacher answered once a side")
    print(f"processors: sweep {processor[0]:.1f} s, teacher once and {TRIALS} students {processor[1]:.1f} s")
    print(f"processor time: ratio {ratio:.3f}")
    print(f"time from the POST to the end, {whole:.1f} s, over that in which its jobs ran: ratio {waits:.3f}")
    print(f"promised: {PROMISED:.2f} for both")
    return 0 if max(ratio, waits) <= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
