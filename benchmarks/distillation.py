"""What it is worth that the teacher answers once: the demo's distillation over 10 epochs, twice.

The engine with stored answers takes turns with a bare loop that runs the same teacher every step; losses,
optimizer, data order and first weights are the same, in float32 without augmentation. Promised: at least 2.5
times the samples a second, and the same final weights to 1e-5.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from app.catalog.spec import PinnedModel
from examples.digits import teacher
from examples.digits.__main__ import STUDENT
from examples.digits.rows import LABELS, deal
from harness.lessons import (
    CPU,
    TRAINING,
    Images,
    difference,
    images,
    normalize,
    student,
    teach,
    teach_barely,
)
from worker.engine import answers
from worker.engine.device import Rows
from worker.engine.teachers import WhiteBox

ROUNDS, THREADS, SAME, PROMISED = 5, 1, 1e-5, 2.5


def main() -> int:
    torch.set_num_threads(THREADS)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hands = deal()
    with TemporaryDirectory() as folder:
        print("training the demo's teacher")
        teacher.train(hands["teacher"], Path(folder) / "teacher", lambda _: None)
        expert = transformers.ResNetForImageClassification.from_pretrained(Path(folder) / "teacher")
        return compare(expert.train(False), images(hands), Path(folder) / "answers.npy")


def compare(expert: nn.Module, learned_from: Images, path: Path) -> int:
    pixels, labels = torch.from_numpy(learned_from.pixels), torch.from_numpy(learned_from.labels)

    @torch.no_grad()
    def live(_index: Tensor, inputs: Tensor) -> Tensor:
        logits: Tensor = expert(inputs).logits
        return logits

    rounds: list[list[float]] = []
    for _ in range(ROUNDS + 1):  # the first round warms up
        cached, plain = student(STUDENT), student(STUDENT)
        moments = [time.process_time()]
        ask(expert, learned_from, path)
        moments.append(time.process_time())
        teach(cached, learned_from, np.load(path)[:, None])
        moments.append(time.process_time())
        teach_barely(plain, pixels, labels, live)
        moments.append(time.process_time())
        rounds.append([after - before for before, after in pairwise(moments)])
    return show(rounds[1:], TRAINING.epochs * len(labels), difference(cached, plain))


def ask(expert: nn.Module, learned_from: Images, path: Path) -> None:
    """Stores the teacher's answers as a job does."""
    pinned = PinnedModel(
        reference="model:digits-teacher@1",
        version_id="",
        digest="",
        format="huggingface",
        family="resnet",
        labels=LABELS,
        order=[[place] for place in range(len(LABELS))],
        preprocessing={},
        details={},
        parameters=0,
        weight=1.0,
    )
    rows = Rows(learned_from.pixels, CPU)
    array = answers.create(path, len(rows), len(LABELS), dtype="float32", form=None)
    answers.ask(WhiteBox(expert), pinned, lambda index: normalize(rows[index]), array)


def show(rounds: list[list[float]], samples: int, moved: float) -> int:
    asking, teaching, plain = (median(column) for column in zip(*rounds, strict=True))
    alone = median(bare / teach for _, teach, bare in rounds)
    whole = median(bare / (ask + teach) for ask, teach, bare in rounds)
    print(f"{samples:,} samples, medians of {ROUNDS} rounds, by the time of one processor")
    print(f"bare loop, the teacher every step: {samples / plain:.0f} samples/s")
    asked = samples / (asking + teaching)
    print(f"engine, the teacher asked once before: {asked:.0f} samples/s, ratio {whole:.2f}")
    print(f"engine, answers of an earlier job: {samples / teaching:.0f} samples/s, ratio {alone:.2f}")
    print(f"promised: a ratio of at least {PROMISED}")
    print(f"the final weights differ by {moved:.1e} at most; promised: {SAME:.0e}")
    return 0 if moved <= SAME else 1


if __name__ == "__main__":
    sys.exit(main())
