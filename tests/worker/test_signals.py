"""Teachers' answers at hand, stored, and stored for augmented views: all the same answers, and found by what
they depend on alone."""

import json
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from app.catalog.base import Input
from app.catalog.losses.kd import KD
from app.catalog.spec import PinnedData, PinnedModel, Resolved, Training
from app.catalog.tasks.image_classification.preprocessing import plain
from app.db.tables import Job
from tests.worker.classroom import CPU, ONE, Notes
from tests.worker.test_answers import digest, teacher
from tests.worker.test_run import PLAIN, QUICK, X, Y, asked, fetched, output
from tests.worker.workshop import DIGITS, Workshop, images, order, table
from worker.engine import export
from worker.engine.answers import ask, create
from worker.engine.device import Rows
from worker.engine.distill import Lesson, Stage, distill
from worker.engine.inputs import Inputs
from worker.engine.learner import Learner
from worker.engine.questions import key, questions
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Teaching

SMALL = {"kind": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
CROP: dict[str, Any] = {"kind": "random_crop", "padding": 1}
CHANGES = [CROP, {"kind": "rotation"}, {"kind": "mixup"}]
SHORT = {**PLAIN, "evaluation": {"compare": ["teacher"], "bootstrap": 100}}
SGD = {"kind": "sgd", "lr": 0.05}


def resnet(seed: int = 0, size: int = 8) -> nn.Module:
    """With batch norm, not trained."""
    torch.manual_seed(seed)
    config = ResNetConfig(
        num_channels=1, embedding_size=size, hidden_sizes=[size, 2 * size], depths=[1, 1], layer_type="basic",
        id2label=dict(enumerate(DIGITS)), architectures=["ResNetForImageClassification"],
    )  # fmt: skip
    return ResNetForImageClassification(config)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast a student is does not matter here."""
    monkeypatch.setattr(export, "MEASURED_S", 0.01)


@pytest.fixture
def painter(workshop: Workshop, tmp_path: Path) -> PinnedModel:
    """A teacher of images that sees them larger than they are."""
    resnet().save_pretrained(tmp_path / "painter")  # type: ignore[operator]
    return workshop.teacher(
        tmp_path / "painter", "painter", format="huggingface", family="resnet", task="image_classification",
        input=Input(modality="image", shape=(1, 16, 16)).model_dump(mode="json"),
        preprocessing=plain(1, (16, 16)).model_dump(mode="json"), details={"config": {}},
        gives=["logits", "features"],
    )  # fmt: skip


@pytest.fixture
def pictures(workshop: Workshop) -> tuple[PinnedData, PinnedData]:
    return workshop.data(images(X[:90], Y[:90])), workshop.data(images(X[90:130], Y[90:130]), "more")


def painted(painter: PinnedModel, pictures: tuple[PinnedData, PinnedData], **changes: Any) -> Resolved:
    """changes: of data, and `seed`, `epochs` and others of the spec."""
    data: dict[str, Any] = {name: changes.pop(name) for name in ("augment", "views") if name in changes}
    training = QUICK | {"optimizer": SGD, "epochs": 2} | changes.pop("training", {})
    spec = {
        **SHORT,
        "task": {"kind": "image_classification"},
        "student": {"architecture": SMALL},
        "data": {"train": "dataset:digits", **data},
        "training": training,
        **changes,
    }
    small = plain(1, (8, 8))
    made = order([painter], pictures[0], spec=spec, unlabeled=[pictures[1]])
    seen = Input(modality="image", shape=(1, 8, 8))
    return made.model_copy(update={"preprocessing": small.model_dump(mode="json"), "input": seen})


def weights(workshop: Workshop, job: Job, folder: Path) -> dict[str, torch.Tensor]:
    return load_file(fetched(workshop, output(workshop, job), folder) / "model.safetensors")


def test_stored_views_teach_what_teachers_at_hand_teach(
    workshop: Workshop, painter: PinnedModel, pictures: tuple[PinnedData, PinnedData], tmp_path: Path
) -> None:
    """As many views as epochs are the very rows of the epochs, and no teacher is there to hear."""
    live = workshop.carry_out(painted(painter, pictures, augment=CHANGES))
    assert asked(workshop, live) == (0, 1)  # the held-out rows alone
    views = painted(painter, pictures, augment=CHANGES, views=2)
    stored = workshop.carry_out(views)
    assert asked(workshop, stored) == (1, 2)
    one, other = weights(workshop, live, tmp_path / "live"), weights(workshop, stored, tmp_path / "stored")
    before = workshop.carry_out(painted(painter, pictures))
    plainly = weights(workshop, before, tmp_path / "plain")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=0)
    assert max((plainly[name] - tensor).abs().max().item() for name, tensor in one.items()) > 1e-3

    workshop.parts.blobs.fetch, fetch = _no_teacher(workshop.parts.blobs.fetch), workshop.parts.blobs.fetch  # type: ignore[method-assign]
    again = workshop.carry_out(views)
    workshop.parts.blobs.fetch = fetch  # type: ignore[method-assign]
    assert asked(workshop, again) == (3, 0)
    assert output(workshop, again).digest == output(workshop, stored).digest


def _no_teacher(fetch: Any) -> Any:
    def told(sha256: str, path: Path) -> None:
        assert path.name != "model.safetensors"
        fetch(sha256, path)

    return told


def test_answers_are_found_by_all_that_they_depend_on(
    painter: PinnedModel, pictures: tuple[PinnedData, PinnedData]
) -> None:
    crop, flip = CROP, {"kind": "horizontal_flip"}

    def found(**changes: Any) -> set[str]:
        seen = changes.pop("seen", {"size": [16, 16]})
        made = painted(painter, pictures, **{"augment": [crop], "views": 2} | changes)
        asked = {one for files in questions(made).values() for one in chain(*files)}
        return {key(made, one, seen) for one in asked}

    usual = found()
    assert len(usual) == 3  # the views of two files, and the rows that are held out
    for same in ({"losses": [{"kind": "dist"}]}, {"training": {"epochs": 5, "batch_size": 7}}):
        assert found(**same) == usual
    for other in (
        {"augment": [{"kind": "random_crop", "padding": 2}]}, {"augment": [crop, flip]}, {"views": 3},
        {"signals": {"dtype": "float16"}}, {"signals": {"top_k": 5}}, {"seen": {"size": [32, 32]}},
    ):  # fmt: skip
        assert len(found(**other) & usual) == 1, other  # held-out rows are not augmented
    assert not found(training={"seed": 5}) & usual
    another = painter.model_copy(update={"digest": "1" * 64})
    reads = painter.model_copy(update={"preprocessing": plain(1, (8, 8)).model_dump(mode="json")})
    for knows in (another, reads):
        made = painted(knows, pictures, augment=[crop], views=2)
        assert not {key(made, files[0], {}) for (files,) in questions(made).values()} & usual
    swapped = (pictures[1], pictures[0])
    made = painted(painter, swapped, augment=[crop], views=2)
    asked = [key(made, one, {"size": [16, 16]}) for one in questions(made)["training"][0]]
    assert not set(asked) & usual  # the same rows at other positions are drawn otherwise


def test_partners_are_part_of_what_mixed_views_depend_on(
    painter: PinnedModel, pictures: tuple[PinnedData, PinnedData]
) -> None:
    def first(augment: list[dict[str, Any]], rows: tuple[PinnedData, PinnedData]) -> str:
        made = painted(painter, rows, augment=augment, views=2)
        return key(made, questions(made)["training"][0][0], {})

    fewer = (pictures[0], pictures[0])
    assert first(CHANGES[:1], pictures) == first(CHANGES[:1], fewer)
    assert first(CHANGES, pictures) != first(CHANGES, fewer)


@pytest.mark.parametrize(("signals", "awaited"), [({"dtype": "float16"}, 1), ({"top_k": 3}, 2)])
def test_answers_in_half_precision_and_with_a_tail_teach_almost_as_well(
    workshop: Workshop, expert: nn.Module, tmp_path: Path, signals: dict[str, Any], awaited: int
) -> None:
    train, knows = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    spec = {**SHORT, "training": QUICK | {"optimizer": SGD}, "losses": [{"kind": "kd", "temperature": 1.0}]}
    whole = workshop.carry_out(order([knows], train, spec=spec))
    less = workshop.carry_out(order([knows], train, spec={**spec, "signals": signals}))
    assert asked(workshop, less) == (0, awaited)  # what students are judged by is whole
    one, other = weights(workshop, whole, tmp_path / "whole"), weights(workshop, less, tmp_path / "less")
    apart = max((other[name] - tensor).abs().max().item() for name, tensor in one.items())
    assert 0 < apart < (1e-3 if "dtype" in signals else 0.1)
    assert asked(workshop, workshop.carry_out(order([knows], train, spec={**spec, "signals": signals}))) == (
        awaited,
        0,
    )


def test_a_lumped_teacher_whose_labels_stand_otherwise_is_put_in_order(
    workshop: Workshop, expert: nn.Module, tmp_path: Path
) -> None:
    train, knows = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    turned = knows.model_copy(update={"order": [[place] for place in range(9, -1, -1)]})
    spec = {**SHORT, "losses": [{"kind": "kd", "temperature": 1.0}], "signals": {"top_k": 4}}
    spec["training"] = QUICK | {"epochs": 30}
    made = order([turned], train, spec=spec).model_copy(update={"labels": DIGITS[::-1]})
    job = workshop.carry_out(made)
    assert job.best is not None
    assert job.best["value"] > 0.7


def test_a_file_for_two_purposes_is_answered_once_and_read_where_it_lies(
    workshop: Workshop, expert: nn.Module
) -> None:
    train, more = workshop.data(table(X[:200], Y[:200])), workshop.data(table(X[200:300], Y[200:300]), "more")
    knows = workshop.perceptron(expert, (64, 64))
    job = workshop.carry_out(order([knows], train, spec=SHORT, unlabeled=[more], validation=more))
    assert asked(workshop, job) == (0, 2)
    report = json.loads(workshop.artifact(job, "report.json"))
    columns = {column["name"]: column["metrics"] for column in report["columns"]}
    assert columns["teacher"]["accuracy"]["value"] > 0.9


def test_a_student_that_teaches_is_asked_about_the_very_rows_that_are_drawn(
    workshop: Workshop, painter: PinnedModel, pictures: tuple[PinnedData, PinnedData]
) -> None:
    for views in (None, 2):
        scheme = {"kind": "born_again", "generations": 2}
        job = workshop.carry_out(painted(painter, pictures, augment=CHANGES, views=views, scheme=scheme))
        assert job.status == "succeeded"


def test_a_loss_that_looks_into_the_teacher_sees_augmented_rows_too(
    workshop: Workshop, painter: PinnedModel, pictures: tuple[PinnedData, PinnedData]
) -> None:
    looking = [{"kind": "kd"}, {"kind": "fitnet"}]
    job = workshop.carry_out(painted(painter, pictures, augment=CHANGES, views=2, losses=looking))
    assert job.status == "succeeded"
    assert asked(workshop, job) == (0, 3)


# ---- without a job around

PIXELS = np.random.default_rng(0).standard_normal((150, 1, 16, 16)).astype(np.float32)


def stored(answer: WhiteBox, path: Path) -> Rows:
    array = create(path, len(PIXELS), len(DIGITS), dtype="float32", form=None)
    ask(answer, teacher(), lambda index: torch.from_numpy(PIXELS)[index], array)
    return Rows(array[:, None], CPU)


def inputs() -> Inputs:
    rows, labels = Rows(PIXELS, CPU), Rows(np.arange(150) % 10, CPU)
    return Inputs(rows, labels, lambda batch: batch, live={0: (rows, lambda batch: batch)})


@pytest.mark.parametrize("threads", [1, 2])
def test_stored_answers_are_those_of_the_teacher_at_hand(tmp_path: Path, threads: int) -> None:
    """To 1e-6 in any order and with any number of threads; to the last bit in the same batches."""
    answer = WhiteBox(resnet())
    cached, live = Teaching(ONE, stored(answer, tmp_path / "answers.npy")), Teaching(ONE, None, {0: answer})
    seen = inputs()
    torch.set_num_threads(threads)
    try:
        index = torch.from_numpy(np.random.default_rng(1).permutation(150))
        for part in index.split(40):  # type: ignore[no-untyped-call]
            one, other = (teaching.hear(seen(part, 0), 0).answers for teaching in (cached, live))
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    finally:
        torch.set_num_threads(1)
    for start in (0, 64, 128):
        batch = torch.arange(start, start + 64).clamp(max=149)  # the last one is filled up with its last row
        one, other = (teaching.hear(seen(batch, 0), 0).answers for teaching in (cached, live))
        assert torch.equal(one, other)  # type: ignore[arg-type]


def test_a_teacher_at_hand_is_as_it_was_after_many_steps() -> None:
    answer = WhiteBox(resnet().train())
    before = digest(answer.module)
    training = Training.model_validate({"epochs": 3, "batch_size": 32, "optimizer": SGD})
    lesson = Lesson(
        terms=[KD()],
        stages=[Stage(3, [0], np.arange(150), 150)],
        inputs=inputs(),
        teaching=Teaching(ONE, None, {0: answer}),
        validate=lambda _: {"accuracy": 0.0, "log_loss": 0.0},
        metric="accuracy",
    )
    student = resnet(seed=1, size=4)
    probe = lesson.inputs(torch.arange(8), 0)
    learner = Learner(
        student, lesson.terms, training, device=CPU, teaching=lesson.teaching, probe=probe, rows=150
    )
    first = digest(student)
    (trained,) = distill([learner], lesson, training, watch=Notes(), finish=threading.Event())
    assert trained.steps == 15
    assert digest(student) != first
    assert digest(answer.module) == before
    assert all(weight.grad is None for weight in answer.module.parameters())
