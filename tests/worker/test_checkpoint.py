"""Jobs that are killed and taken up again: all that they come to is what it would have been."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select
from torch import nn

from app.catalog.base import Input
from app.catalog.spec import PinnedData, PinnedModel, Resolved
from app.catalog.tasks.image_classification.preprocessing import plain
from app.db.tables import Event, Job, JobCheckpoint, MetricPoint, ModelVersion
from app.services import checkpoints, claims, jobs
from tests.worker.workshop import DIGITS, Stop, Workshop, digits, images, order, table
from worker.ends import Left
from worker.engine import export
from worker.engine.checkpoint import Checkpoints
from worker.engine.job_watch import JobWatch
from worker.engine.pace import Pace
from worker.engine.packing import store
from worker.engine.standing import Standing
from worker.run import run

X, Y = digits()
QUICK: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 64,
    "optimizer": {"kind": "adamw", "lr": 0.01},
    "precision": "float32",
}
PLAIN: dict[str, Any] = {
    "training": QUICK,
    "exports": [{"kind": "safetensors"}],
    "evaluation": {"bootstrap": 100},
}
MOMENTUM = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
FITNET = {"kind": "fitnet", "pairs": [["layers.0", "layers.0"]], "stage_epochs": 1, "weight": 10}
SMALL = {"kind": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
CASES: dict[str, dict[str, Any]] = {
    "dropout": {"student": {"architecture": {"kind": "mlp", "hidden_sizes": [8], "dropout": 0.3}}},
    "generations": {
        "scheme": {"kind": "born_again", "generations": 2},
        "evaluation": {"bootstrap": 100, "seeds": 2},
    },
    "peers": {"scheme": {"kind": "mutual", "peers": 1}, "training": QUICK | {"optimizer": MOMENTUM}},
    "average": {"scheme": {"kind": "self_ema", "decay": 0.9, "leaves": "ema"}},
    "stages": {
        "losses": [FITNET, {"kind": "kd"}, {"kind": "crd", "negatives": 16}],
        "training": QUICK | {"finetune": {"epochs": 2}, "early_stopping": {"patience": 1}, "epochs": 4},
    },
}  # fmt: skip


class Killed(BaseException):
    """The power is gone."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every other step, whatever it costs."""
    turns = [0]

    def due(_: Pace) -> bool:
        turns[0] += 1
        return turns[0] % 2 == 0

    monkeypatch.setattr(Pace, "due", due)
    monkeypatch.setattr(export, "MEASURED_S", 0.01)  # how fast a student is does not matter here


@pytest.fixture
def taken(workshop: Workshop, expert: nn.Module) -> tuple[PinnedModel, PinnedData]:
    return workshop.perceptron(expert, (64, 64)), workshop.data(table(X[:250], Y[:250]))


def attempt(workshop: Workshop, job: Job, kill_at: int | None = None, stop: Stop | None = None) -> Job:
    """One attempt, which dies after so many of its own steps. Another one owns the job then."""
    steps, keep = [0], Checkpoints.keep

    def counted(self: Checkpoints, standing: Standing) -> None:
        keep(self, standing)
        steps[0] += 1
        if steps[0] == kill_at:
            raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "keep", counted)
        try:
            run(job, job.attempt, workshop.parts, stop or Stop())
        except (Killed, Left):
            return again(workshop, job)
    return workshop.look(job)


def again(workshop: Workshop, job: Job) -> Job:
    with workshop.parts.sessions.write() as session:
        jobs.yield_(session, job.id, job.attempt)
    with workshop.parts.sessions.write() as session:
        claimed = claims.claim(session, "test", ("cpu",), 600.0)
    assert claimed is not None
    return claimed


def finished(workshop: Workshop, resolved: Resolved, kills: Sequence[int] = ()) -> Job:
    job = workshop.submit(resolved)
    for steps in kills:
        job = attempt(workshop, job, steps)
        assert job.status == "running"
    return attempt(workshop, job)


def came_to(workshop: Workshop, job: Job) -> dict[str, Any]:
    """All that training decides, but for times and names."""
    with workshop.parts.sessions.read() as session:
        told = session.scalars(select(MetricPoint).where(MetricPoint.job_id == job.id))
        points = {(p.name, p.split, p.step): p.value for p in told if p.split != "signals"}
        version = session.get_one(ModelVersion, job.output_version_id)
    report = json.loads(workshop.artifact(job, "report.json"))
    weights = next(file["sha256"] for file in version.files if file["path"] == "model.safetensors")
    assert job.outcome is not None
    return {
        "weights": weights,
        "points": points,
        "best": job.best,
        "steps": job.usage["steps"],
        "samples": job.usage["samples"],
        "stopped_by": job.outcome["stopped_by"],
        "notes": report["notes"],
        "columns": [{**one, "about": ""} for one in report["columns"]],  # which names versions
    }


def plainly(workshop: Workshop, resolved: Resolved) -> dict[str, Any]:
    """What the plain order comes to, trained once for all tests."""
    if not _plain:
        _plain.update(came_to(workshop, finished(workshop, resolved)))
    return _plain


_plain: dict[str, Any] = {}


def told(workshop: Workshop, job: Job, kind: str) -> list[str]:
    with workshop.parts.sessions.read() as session:
        events = session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.seq)).all()
    return [one.message for one in events if one.data.get("kind") == kind]


def kept(workshop: Workshop, job: Job) -> list[JobCheckpoint]:
    with workshop.parts.sessions.read() as session:
        return checkpoints.newest_first(session, job.id)


@pytest.mark.parametrize("case", CASES)
def test_a_job_that_was_killed_comes_to_what_it_would_have_come_to(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], case: str
) -> None:
    resolved = order([taken[0]], taken[1], spec=PLAIN | CASES[case])
    straight = finished(workshop, resolved)
    chance = random.Random(case)
    killed = finished(workshop, resolved, [chance.randint(1, 8), chance.randint(1, 8)])
    assert (killed.attempt, killed.status) == (3, "succeeded")
    expected, found = came_to(workshop, straight), came_to(workshop, killed)
    assert [key for key in expected if found[key] != expected[key]] == []


def test_rows_that_are_drawn_anew_and_batch_norm_come_to_the_same(workshop: Workshop, tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic",
        id2label=dict(enumerate(DIGITS)), architectures=["ResNetForImageClassification"],
    )  # fmt: skip
    ResNetForImageClassification(config).save_pretrained(tmp_path / "big")
    teacher = workshop.teacher(
        tmp_path / "big", format="huggingface", family="resnet", task="image_classification",
        input=Input(modality="image", shape=(1, 8, 8)).model_dump(mode="json"),
        preprocessing=plain(1, (8, 8)).model_dump(mode="json"), details={"config": {}},
    )  # fmt: skip
    spec = PLAIN | {
        "task": {"kind": "image_classification"},
        "student": {"architecture": SMALL},
        "data": {
            "train": "dataset:digits",
            "augment": [{"kind": "random_crop", "padding": 1}, {"kind": "mixup"}],
        },
        "training": QUICK | {"epochs": 2},
    }
    resolved = order([teacher], workshop.data(images(X[:120], Y[:120])), spec=spec)
    straight, killed = finished(workshop, resolved), finished(workshop, resolved, [3])
    expected, found = came_to(workshop, straight), came_to(workshop, killed)
    assert [key for key in expected if found[key] != expected[key]] == []


def test_runs_that_are_over_are_not_done_again(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash after training costs no training."""
    job = workshop.submit(order([taken[0]], taken[1], spec=PLAIN))

    def dies(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("worker.run.evaluate", dies)
        job = attempt(workshop, job)
    with monkeypatch.context() as patched:
        patched.setattr("worker.engine.course.distill", dies)
        ended = attempt(workshop, job)
    assert ended.status == "succeeded"
    newest, before = kept(workshop, ended)[:2]
    manifest = json.loads(b"".join(workshop.parts.blobs.read(newest.manifest)))
    assert [one["name"] for one in manifest["runs"]] == ["student-0", "control-0"]
    assert newest.step == 2 * (3 * 4 + 1) > before.step
    assert newest.size > sum(one["size"] for one in manifest["files"])
    assert ended.checkpoint_manifest == newest.manifest


def test_who_is_asked_to_leave_saves_and_goes(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = order([taken[0]], taken[1], spec=PLAIN)
    monkeypatch.setattr(Pace, "due", lambda _: False)
    stop, job = Stop(), workshop.submit(resolved)

    def asks(_: JobWatch, step: int, *__: int) -> None:
        if step == 5:
            stop.leave.set()

    monkeypatch.setattr(JobWatch, "step", asks)
    job = attempt(workshop, job, stop=stop)
    assert [one.step for one in kept(workshop, job)] == [5]
    job = attempt(workshop, job, stop=stop)  # who is asked before it has begun has nothing to save
    assert (job.attempt, [one.step for one in kept(workshop, job)]) == (3, [5])
    assert came_to(workshop, attempt(workshop, job)) == plainly(workshop, resolved)


def test_who_asks_to_finish_gets_what_was_kept_without_another_step(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData]
) -> None:
    job = attempt(workshop, workshop.submit(order([taken[0]], taken[1], spec=PLAIN)), kill_at=6)
    stop = Stop()
    stop.finish.set()
    ended = attempt(workshop, job, stop=stop)
    assert ended.outcome is not None
    assert (ended.status, ended.outcome["stopped_by"], ended.usage["steps"]) == ("succeeded", "user", 6)


def damage(workshop: Workshop, name: str, row: JobCheckpoint) -> None:
    """Of the manifest itself, or of a file that it names."""
    sha256, folder = row.manifest, Path(workshop.parts.settings.blobs_url.removeprefix("file://"))
    if name != "manifest":
        files = json.loads(b"".join(workshop.parts.blobs.read(sha256)))["files"]
        sha256 = next(one["sha256"] for one in files if one["name"] == name)
    path = folder / "sha256" / sha256[:2] / sha256
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!}")


@pytest.mark.parametrize("name", ["manifest", "going.safetensors"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_counts(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], name: str
) -> None:
    resolved = order([taken[0]], taken[1], spec=PLAIN)
    job = attempt(workshop, workshop.submit(resolved), kill_at=8)
    newest, before = kept(workshop, job)[:2]
    assert newest.step > before.step
    damage(workshop, name, newest)
    ended = attempt(workshop, job)
    (warning,) = told(workshop, ended, "checkpoint_damaged")
    assert warning.startswith(f"The checkpoint of step {newest.step} is damaged or gone")
    assert came_to(workshop, ended) == plainly(workshop, resolved)


def test_where_all_are_damaged_training_begins_anew(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData]
) -> None:
    resolved = order([taken[0]], taken[1], spec=PLAIN)
    job = attempt(workshop, workshop.submit(resolved), kill_at=6)
    rows = kept(workshop, job)
    for row in rows:
        damage(workshop, "manifest", row)
    job = attempt(workshop, job, kill_at=3)
    (again,) = kept(workshop, job)  # what is learned anew is kept from the beginning
    assert again.step <= 3 < rows[0].step
    ended = attempt(workshop, job)
    assert len(told(workshop, ended, "checkpoint_damaged")) == len(rows) > 1
    assert came_to(workshop, ended) == plainly(workshop, resolved)


def test_another_machine_goes_on_and_says_so(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = attempt(workshop, workshop.submit(order([taken[0]], taken[1], spec=PLAIN)), kill_at=6)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    ended = attempt(workshop, job)
    (warning,) = told(workshop, ended, "not_bit_identical")
    assert "became 9.9.9" in warning
    assert "threads" not in warning
    assert ended.usage["steps"] == 24


def test_another_order_begins_anew(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = order([taken[0]], taken[1], spec=PLAIN)
    job = attempt(workshop, workshop.submit(resolved), kill_at=6)
    monkeypatch.setattr(job, "spec_digest", "1" * 64)
    steps: list[int] = []
    monkeypatch.setattr(JobWatch, "step", lambda _, step, *__: steps.append(step))
    ended = attempt(workshop, job)
    assert steps[0] == 1
    assert came_to(workshop, ended)["weights"] == plainly(workshop, resolved)["weights"]


def test_a_store_that_is_away_costs_a_checkpoint_and_no_more(
    workshop: Workshop, taken: tuple[PinnedModel, PinnedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def full(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] < 4:
            raise OSError(28, "No space left on device")
        return store(*given)

    monkeypatch.setattr("worker.engine.checkpoint.store", full)
    ended = finished(workshop, order([taken[0]], taken[1], spec=PLAIN))
    (warning,) = told(workshop, ended, "checkpoint_not_kept")
    assert "No space left on device" in warning
    assert (ended.status, len(kept(workshop, ended)) >= 2) == ("succeeded", True)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_saving_takes_a_twentieth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clock = Clock()
    pace, spent, saves = Pace(10.0, clock), 0.0, []
    while clock.now < 2000:
        clock.now += 0.5
        if pace.due():
            saves.append(clock.now)
            begun, clock.now = clock.now, clock.now + 2.0
            pace.saved(begun)
            spent += 2.0
    assert saves[0] == 10.0
    assert 0.045 < spent / (clock.now - spent) <= 0.05
    assert min(later - earlier for earlier, later in pairwise(saves)) >= 12
