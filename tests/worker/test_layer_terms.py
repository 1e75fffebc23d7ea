"""Losses over layers in the engine's loop: parts of a batch add up, and a stopped run goes on as it was."""

import threading
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.catalog.base import Loss
from app.catalog.features import FeatureLoss, RepresentationLoss
from app.catalog.spec import LOSSES, SGD, Training
from tests.worker.classroom import CPU, ONE, Notes, learner, through
from tests.worker.workshop import digits
from worker.engine.device import Rows, seed_everything
from worker.engine.distill import Lesson, Progress, Stage, distill
from worker.engine.inputs import Inputs
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Teaching

X, Y = digits()
ROWS = 96
IMAGES = ((X - 8) / 6).astype(np.float32).reshape(-1, 1, 8, 8)[:ROWS]
OVER_LAYERS = sorted(
    kind
    for kind, loss in LOSSES.items()
    if issubclass(loss, FeatureLoss | RepresentationLoss) and "attentions" not in loss.needs
)


class Answer(NamedTuple):
    logits: Tensor


class Net(nn.Module):
    """Two stages of convolutions and a classifier, without batch norm."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        seed_everything(seed)
        self.early = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Answer:
        return Answer(self.classifier(self.late(self.early(images)).mean((2, 3))))


def terms(kind: str) -> list[Loss]:
    pairs = {"pairs": [["early", "early"], ["late", "late"]]} if issubclass(LOSSES[kind], FeatureLoss) else {}
    small = {"negatives": 20} if kind == "crd" else {}
    own = LOSSES["cross_entropy"].model_validate({})
    return [LOSSES[kind].model_validate({**pairs, **small}), own]


def lesson(kind: str) -> Lesson:
    rows, labels = Rows(IMAGES, CPU), Rows(Y[:ROWS].astype(np.int64), CPU)
    return Lesson(
        terms=terms(kind),
        stages=[Stage(1, range(2), np.arange(ROWS), ROWS)],
        inputs=Inputs(rows, labels, lambda batch: batch, live={0: (rows, lambda batch: batch)}),
        teaching=Teaching(ONE, None, {0: WhiteBox(Net(6, seed=1))}),
        validate=lambda module: {"accuracy": 0.0},
        metric="accuracy",
    )


def taught(kind: str, training: Training, **more: Any) -> tuple[dict[str, Tensor], Any]:
    """All that there is at the end: the student's weights and what the loss itself learned."""
    made = through(lesson(kind), training)
    one = learner(Net(4, seed=2), made, training)
    if resumed := more.get("resumed"):
        one.load_state_dict(resumed["learner"])
        torch.set_rng_state(resumed["rng"])
        more = {"resumed": resumed["progress"]}
    kept: dict[str, Any] = {}

    def keep(progress: Progress) -> None:
        if progress.step == more.get("stop_at"):
            kept.update(
                deepcopy({"progress": progress, "learner": one.state_dict(), "rng": torch.get_rng_state()})
            )

    said = {"resumed": more["resumed"]} if "resumed" in more else {}
    distill([one], made, training, watch=Notes(), finish=threading.Event(), keep=keep, **said)
    return {**one.module.state_dict(), **one.objective.state_dict()}, kept


@pytest.mark.parametrize("kind", OVER_LAYERS)
def test_a_resumed_run_learns_the_very_same(kind: str) -> None:
    training = Training(epochs=2, batch_size=32, seed=7)
    straight, kept = taught(kind, training, stop_at=2)
    resumed, _ = taught(kind, training, resumed=kept)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    begun = {**Net(4, seed=2).state_dict()}
    assert all(not torch.equal(straight[name], tensor) for name, tensor in begun.items())


def leaves(loss: Tensor) -> set[Tensor]:
    """All tensors that a gradient of the loss reaches."""
    found, seen, left = set(), set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [one for one, _ in node.next_functions]
        if hasattr(node, "variable"):
            found.add(node.variable)
    return found


@pytest.mark.parametrize("kind", OVER_LAYERS)
def test_all_that_a_gradient_reaches_is_in_the_optimizer_and_in_the_checkpoint(kind: str) -> None:
    made = lesson(kind)
    one = learner(Net(4, seed=2), made, Training())
    assert made.teaching is not None
    seen = made.inputs(torch.arange(8), 0)
    begun = one.begin(0, [0, 1])
    values = one.objective.values(begun, one.answer(seen), made.teaching.hear(seen, 0), seen.batch)
    reached = leaves(values @ begun.weights)
    assert reached >= set(one.module.parameters())
    trained = {weight for group in one.optimizer.param_groups for weight in group["params"]}
    state = one.state_dict()
    kept = {tensor.data_ptr() for part in ("student", "objective") for tensor in state[part].values()}
    assert reached <= trained
    assert {tensor.data_ptr() for tensor in reached} <= kept


@pytest.mark.parametrize("kind", [kind for kind in OVER_LAYERS if not LOSSES[kind].batch_statistic])
def test_parts_of_a_batch_add_up_to_it(kind: str) -> None:
    training = Training(epochs=1, batch_size=32, optimizer=SGD(lr=0.05))
    whole, _ = taught(kind, training)
    parts, _ = taught(kind, training.model_copy(update={"micro_batch_size": 12}))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-5, atol=1e-6)
