"""One job over several processes, as a supervisor starts them, here by gloo on the CPU."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from app.catalog.spec import Resolved
from app.db.tables import Job, ModelVersion
from app.exit_codes import CRASHED
from app.services import claims, jobs
from tests.worker.workshop import Workshop, digits, order, table

X, Y = digits()
PATIENCE_S = 60
TRAINING = {  # the last batch of an epoch holds 2 rows: too few to be dealt
    "epochs": 3,
    "batch_size": 66,
    "precision": "float32",
    "optimizer": {"kind": "sgd", "lr": 0.05},
}
LESSON = {
    "training": TRAINING,
    "evaluation": {"bootstrap": 100, "compare": ["teacher"]},
    "exports": [{"kind": "safetensors"}],
}
WILD = {  # a linear student, whose squared error grows by the same factor each step
    "student": {"architecture": {"kind": "mlp", "hidden_sizes": []}},
    "losses": [{"kind": "logit_mse"}],
    "training": TRAINING | {"epochs": 40, "optimizer": {"kind": "sgd", "lr": 6.0}},
}


def ordered(workshop: Workshop, expert: nn.Module, **spec: Any) -> Resolved:
    rows = workshop.data(table(X[:400], Y[:400]))
    return order([workshop.perceptron(expert, (64, 64))], rows, spec=LESSON | spec)


@contextmanager
def started(workshop: Workshop, job: Job, size: int) -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | workshop.parts.settings.environment()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.ranks", str(size), job.id, str(job.attempt)],
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    yield process
    process.stdin.close()
    process.wait(PATIENCE_S)


def ranks_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """The processes that it has started."""
    return [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def weights(workshop: Workshop, job: Job) -> dict[str, Tensor]:
    with workshop.parts.sessions.read() as session:
        files = session.get_one(ModelVersion, job.output_version_id).files
    sha256 = next(one["sha256"] for one in files if one["path"] == "model.safetensors")
    return load(b"".join(workshop.parts.blobs.read(sha256)))


def test_two_ranks_learn_what_one_learns(workshop: Workshop, expert: nn.Module) -> None:
    resolved = ordered(workshop, expert)
    alone = workshop.carry_out(resolved)
    job = workshop.submit(resolved)
    with started(workshop, job, 2) as process:
        assert process.wait(PATIENCE_S) == 0
    both = workshop.look(job)
    assert (alone.status, both.status) == ("succeeded", "succeeded")
    mine, theirs = weights(workshop, alone), weights(workshop, both)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)  # sums in another order
    one, two = (json.loads(workshop.artifact(each, "report.json")) for each in (alone, both))
    shown = [[c["metrics"]["accuracy"]["value"] for c in report["columns"]] for report in (one, two)]
    assert shown[0] == pytest.approx(shown[1], abs=0.02)
    assert not list((workshop.parts.settings.work_dir / "jobs").iterdir())  # each rank has tidied up


def test_a_loss_without_a_number_stops_every_rank_at_the_same_step(
    workshop: Workshop, expert: nn.Module
) -> None:
    job = workshop.submit(ordered(workshop, expert, **WILD))
    with started(workshop, job, 2) as process:
        assert process.wait(PATIENCE_S) == 0
    seen = workshop.look(job)
    assert (seen.status, (seen.error or {})["code"]) == ("failed", "numeric_divergence")
    assert seen.adjustments == {"lr_halvings": 2}  # after two tries with lower rates, together


def test_a_job_that_is_finished_between_two_trainings_is_finished_by_every_rank(
    workshop: Workshop, expert: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_FAILPOINT", "export.started:stall:2")  # one that went on would be noticed
    both = {"evaluation": {"bootstrap": 100, "compare": ["teacher", "control"]}}
    job = workshop.submit(ordered(workshop, expert, training=TRAINING | {"epochs": 40}, **both))
    with started(workshop, job, 2) as process:
        until(lambda: workshop.look(job).checkpoint_step > 0)  # the student has learned, the control begins
        os.killpg(process.pid, 9)
    with workshop.parts.sessions.write() as session:
        jobs.yield_(session, job.id, job.attempt)
    with workshop.parts.sessions.write() as session:
        again = claims.claim(session, "test", ("cpu",), 600.0)
    assert again is not None
    with started(workshop, again, 2) as process:
        assert process.stdin is not None
        process.stdin.write(b"finish\n")
        process.stdin.flush()
        assert process.wait(PATIENCE_S) == 0
    assert workshop.look(job).status == "succeeded"


def test_the_attempt_crashes_with_a_rank_and_leaves_none_behind(
    workshop: Workshop, expert: nn.Module
) -> None:
    job = workshop.submit(ordered(workshop, expert, training=TRAINING | {"epochs": 10_000}))
    with started(workshop, job, 2) as process:
        until(lambda: workshop.look(job).progress.get("step", 0) > 0)
        followers = ranks_of(process)
        assert len(followers) == 1
        os.kill(followers[0], 9)
        assert process.wait(PATIENCE_S) == CRASHED
    until(lambda: not any(Path(f"/proc/{one}/stat").exists() for one in followers))
    assert workshop.look(job).status == "running"  # the verdict is the supervisor's


def test_no_rank_outlives_a_first_one_that_is_killed(workshop: Workshop, expert: nn.Module) -> None:
    job = workshop.submit(ordered(workshop, expert, training=TRAINING | {"epochs": 10_000}))
    with started(workshop, job, 2) as process:
        until(lambda: workshop.look(job).progress.get("step", 0) > 0)
        followers = ranks_of(process)
        os.kill(process.pid, 9)
        until(lambda: not any(Path(f"/proc/{one}/stat").exists() for one in followers))


MISHAPS = """
import sys
from pathlib import Path

import torch

from app.errors import NumericDivergence
from worker.engine.ranks import Ranks

rank = int(sys.argv[1])
ranks = Ranks(rank, 2, torch.device("cpu"), Path(sys.argv[2]))

def told(on, error):
    def find():
        if rank == on:
            raise error
        return 7
    return lambda: ranks.told(find)

def together(on, error):
    def do():
        with ranks.together():
            if rank == on:
                raise error
    return do

exhausted, diverged = torch.OutOfMemoryError(), NumericDivergence("x")
for what in (told(0, exhausted), told(0, diverged), told(1, exhausted), together(1, exhausted),
             together(0, MemoryError()), together(1, diverged), together(2, exhausted)):
    try:
        print(what())
    except (NumericDivergence, RuntimeError, MemoryError) as error:
        print(type(error).__name__.replace("OutOfMemoryError", "MemoryError"))
ranks.close()
"""


def test_a_mishap_of_one_rank_is_a_mishap_of_all(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MISHAPS, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE_S)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    heard = [
        "MemoryError",
        "NumericDivergence",
        "7",
        "MemoryError",
        "MemoryError",
        "NumericDivergence",
        "None",
    ]
    assert said == [heard, heard]


def until(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)
