"""The demo's digits as a lesson for the engine, and the same lesson taught by a loop in bare torch."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.catalog.base import UNLABELED
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.losses.kd import KD
from app.catalog.spec import ARCHITECTURES, TASKS, AdamW, Training
from examples.digits.rows import LABELS, Digit
from examples.digits.teacher import EDGE
from worker.engine.device import Device, Rows, seed_everything
from worker.engine.distill import Lesson, Stage, distill
from worker.engine.ensemble import Ensemble
from worker.engine.inputs import Inputs
from worker.engine.learner import Learner
from worker.engine.teaching import Teaching

CPU = Device(torch.device("cpu"), torch.float32)
TRAINING = Training(epochs=10, batch_size=32, optimizer=AdamW(lr=0.003), precision="float32")
TEMPERATURE, ALPHA = 4.0, 0.9
TASK = TASKS["image_classification"](kind="image_classification")
PREPROCESSING = TASK.parse_preprocessing(
    {"size": (EDGE, EDGE), "resize": (EDGE, EDGE), "mean": [0.5] * 3, "std": [0.5] * 3}
)
normalize: Callable[[Any], Any] = partial(TASK.normalize, preprocessing=PREPROCESSING)


@dataclass(frozen=True)
class Images:
    """pixels: (N, 3, H, W) uint8, as the engine stores them. labels: (N,), -100 where there is none."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Quiet:
    """Nobody looks on."""

    def step(self, step: int, total: int, epoch: int, samples: int) -> None: ...

    def reading(self, split: Literal["train", "validation"], step: int, values: dict[str, float]) -> None: ...

    def best(self, step: int, metric: str, value: float) -> None: ...


def images(hands: dict[str, list[Digit]]) -> Images:
    """What the demo's student learns from: a few labeled images and many unlabeled ones, in whole batches.

    A smaller last batch would make torch take other kernels for the teacher of the bare loop; its answers to
    these rows would move by 4e-6, and the final weights by 4e-5.
    """
    train, unlabeled = hands["train"], hands["unlabeled"]
    pixels = np.stack([TASK.encode(digit.png, PREPROCESSING) for digit in train + unlabeled])
    labels = np.array([digit.label for digit in train] + [UNLABELED] * len(unlabeled))
    whole = len(labels) // TRAINING.batch_size * TRAINING.batch_size
    return Images(pixels[:whole], labels[:whole])


def student(sizes: dict[str, Any]) -> nn.Module:
    """Always with the same first weights."""
    seed_everything(TRAINING.seed)
    return ARCHITECTURES["resnet"].model_validate(sizes).build(TASK.input(PREPROCESSING), LABELS)


def teach(
    module: nn.Module, learned_from: Images, answers: NDArray[np.float32], training: Training = TRAINING
) -> None:
    """The engine's own loop. answers: the teacher's logits (N, 1, C)."""
    rows, labels = np.arange(len(learned_from.labels)), Rows(learned_from.labels, CPU)
    pixels = Inputs(Rows(learned_from.pixels, CPU), labels, normalize)
    lesson = Lesson(
        terms=[KD(temperature=TEMPERATURE, weight=ALPHA), CrossEntropy(weight=1 - ALPHA)],
        stages=[Stage(training.epochs, [0, 1], rows, len(rows))],
        inputs=pixels,
        teaching=Teaching(Ensemble(None, [1.0]), Rows(answers, CPU)),
        validate=lambda _: {"accuracy": 0.0, "log_loss": 0.0},
        metric="accuracy",
    )
    probe = lesson.inputs(torch.arange(8), 0)
    learner = Learner(
        module, lesson.terms, training, device=CPU, teaching=lesson.teaching, probe=probe, rows=len(rows)
    )
    distill([learner], lesson, training, watch=Quiet(), finish=threading.Event())


def teach_barely(
    module: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    answer: Callable[[Tensor, Tensor], Tensor],
    training: Training = TRAINING,
) -> None:
    """The same steps with nothing around them. answer: row numbers and their normalized pixels -> the
    teacher's logits (B, C).

    The arithmetic of both losses is the engine's to the last bit: in float32 any other rounding (1e-7) ended
    at weights that differ by 0.05, in float64 at 1e-14.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=training.optimizer.lr, fused=True)
    steps = training.epochs * -(-len(labels) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    module.train()
    for epoch in range(training.epochs):
        order = np.random.default_rng((training.seed, epoch)).permutation(len(labels))
        for index in torch.from_numpy(order).split(training.batch_size):  # type: ignore[no-untyped-call]
            inputs, target = normalize(pixels[index]), labels[index]
            logits, taught = module(inputs).logits, answer(index, inputs)
            log_q, log_p = ((z / TEMPERATURE).log_softmax(-1) for z in (logits, taught))
            kd = functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            ce = functional.cross_entropy(logits, target, reduction="sum") / (target >= 0).sum().clamp(min=1)
            optimizer.zero_grad()
            (ALPHA * TEMPERATURE**2 * kd + (1 - ALPHA) * ce).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest of any weight or running mean."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
