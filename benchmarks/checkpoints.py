"""What checkpoints cost a training: the same lesson with and without them, taking turns.

With the demo's student and with a larger one. First as often as the engine itself allows, which is for a
twentieth of the time, then every ten seconds at most, as it is set. Promised: at most 5 % of training time.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import structlog
import torch

from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.losses.kd import KD
from examples.digits.__main__ import STUDENT
from examples.digits.rows import LABELS, deal
from harness.lessons import ALPHA, CPU, TEMPERATURE, TRAINING, Images, Quiet, images, normalize, student
from harness.processes import installed
from tests.worker.workshop import Stop, Workshop, digits, order, table, taught
from worker.engine.checkpoint import Checkpoints
from worker.engine.device import Rows
from worker.engine.distill import Lesson, Progress, Stage, distill
from worker.engine.ensemble import Ensemble
from worker.engine.inputs import Inputs
from worker.engine.learner import Best, Learner
from worker.engine.pace import Pace
from worker.engine.standing import Standing
from worker.engine.teaching import Teaching
from worker.engine.validate import validate
from worker.journal import Journal

LARGER = {"kind": "resnet", "embedding_size": 64, "hidden_sizes": [128, 256], "depths": [1, 1]}
ROUNDS, PROMISED, DEFAULT_S = 5, 0.05, 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of training, about, in each turn")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    learned_from, worst = images(deal()), 0.0
    for sizes in (STUDENT, LARGER):
        for least_s in (0.0, DEFAULT_S):
            worst = max(worst, compare(sizes, learned_from, least_s, seconds))
    print(f"at most {worst:.2%} of the training time; promised: {PROMISED:.0%}")
    return 0 if worst <= PROMISED else 1


def compare(sizes: dict[str, Any], learned_from: Images, least_s: float, seconds: float) -> float:
    """The share of the time that saving took, over all turns."""
    epochs = max(round(seconds / timed(sizes, learned_from, 1)), 1)
    plain, kept, spent, saves = [], [], [], []
    with installed(checkpoint_s=least_s) as workshop:
        for _ in range(ROUNDS):
            plain.append(timed(sizes, learned_from, epochs))
            counted = Counted(workshop)
            kept.append(timed(sizes, learned_from, epochs, counted))
            spent.append(counted.pace.spent)
            saves.append(counted.pace.saves)
    parameters = sum(one.numel() for one in student(sizes).parameters())
    share = sum(spent) / (sum(kept) - sum(spent))
    often = "as often as allowed" if least_s == 0 else f"every {least_s:.0f} s at most"
    print(f"student of {parameters:,} parameters, {often}: {sum(saves)} checkpoints in {sum(kept):.0f} s,")
    print(f"  {1000 * sum(spent) / max(sum(saves), 1):.0f} ms each, {share:.2%} of the training time;")
    ratio = median(one / other for one, other in zip(kept, plain, strict=True))
    print(f"  the whole took {ratio:.3f} times as long as without (median of {ROUNDS})", flush=True)
    return share


class Counted:
    """Checkpoints of a job of their own, with the time that saving takes."""

    def __init__(self, workshop: Workshop) -> None:
        x, y = digits()
        teacher = workshop.perceptron(taught((8,), steps=1), (8,))
        resolved = order([teacher], workshop.data(table(x[:99], y[:99])), spec={})
        self._parts, self._job = workshop.parts, workshop.submit(resolved)

    def begin(self, learner: Learner, progress: Progress, lesson: Lesson, folder: Path) -> None:
        journal = Journal(self._parts.sessions, self._job.id, self._job.attempt)
        self._checkpoints = Checkpoints(validate(self._job, folder, self._parts, journal), Stop())
        self._standing = Standing("student-0", [learner], lesson.company, progress)

    def keep(self, _: Progress) -> None:
        self._checkpoints.keep(self._standing)

    @property
    def pace(self) -> Pace:
        return self._checkpoints.pace


def timed(sizes: dict[str, Any], learned_from: Images, epochs: int, counted: Counted | None = None) -> float:
    """Seconds of a training, saving included."""
    module, training = student(sizes), TRAINING.model_copy(update={"epochs": epochs})
    rows = np.arange(len(learned_from.labels))
    answers = np.random.default_rng(0).normal(scale=4, size=(len(rows), 1, len(LABELS))).astype(np.float32)
    lesson = Lesson(
        terms=[KD(temperature=TEMPERATURE, weight=ALPHA), CrossEntropy(weight=1 - ALPHA)],
        stages=[Stage(epochs, [0, 1], rows, len(rows))],
        inputs=Inputs(Rows(learned_from.pixels, CPU), Rows(learned_from.labels, CPU), normalize),
        teaching=Teaching(Ensemble(None, [1.0]), Rows(answers, CPU)),
        validate=lambda _: {"accuracy": 0.0},
        metric="accuracy",
    )
    probe = lesson.inputs(torch.arange(8), 0)
    learner = Learner(
        module, lesson.terms, training, device=CPU, teaching=lesson.teaching, probe=probe, rows=len(rows)
    )
    progress = Progress([Best("accuracy")])
    with TemporaryDirectory() as folder:
        if counted is not None:
            counted.begin(learner, progress, lesson, Path(folder))
        begun = time.perf_counter()
        distill(
            [learner],
            lesson,
            training,
            watch=Quiet(),
            finish=threading.Event(),
            resumed=progress,
            keep=counted.keep if counted else lambda _: None,
        )
        return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
