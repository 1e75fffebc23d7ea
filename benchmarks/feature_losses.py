"""What a loss over layers costs in the engine: its step, and the same step written bare.

Bare are the two forward passes with a hook a layer, the loss itself with its projectors, the backward pass
and the optimizer. Both take turns every two epochs over the same rows, from the same first weights, beside a
cross-entropy. Promised: at most 1.15 times the bare step.
"""

import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog.base import Batch, Context, Loss, Outputs
from app.catalog.features import FeatureLoss
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.spec import LOSSES
from examples.digits.rows import deal
from harness.lessons import CPU, TRAINING, Images, Quiet, difference, images, normalize, student
from worker.engine.device import Rows
from worker.engine.distill import Lesson, Stage, distill
from worker.engine.ensemble import Ensemble
from worker.engine.inputs import Inputs
from worker.engine.learner import Learner
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Teaching

SMALL = {"kind": "resnet", "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}
LARGE = {"kind": "resnet", "embedding_size": 32, "hidden_sizes": [64, 128], "depths": [2, 2]}
PATHS = [f"resnet.encoder.stages.{place}" for place in range(2)]
PAIRS = [(path, path) for path in PATHS]
KINDS = ("fitnet", "attention_transfer", "similarity", "vid")
ROUNDS, THREADS, SAME, PROMISED = 15, 1, 1e-4, 1.15
SHORT = TRAINING.model_copy(update={"epochs": 2})  # short turns, for the machine's pace changes by the second


def main() -> int:
    torch.set_num_threads(THREADS)
    learned_from = images(deal())
    parameters = sum(one.numel() for one in student(SMALL).parameters())
    print(f"student of {parameters:,} parameters, batches of {TRAINING.batch_size}, two pairs of layers")
    return max([compare(kind, learned_from) for kind in KINDS])


def compare(kind: str, learned_from: Images) -> int:
    form = LOSSES[kind].model_validate(
        {"kind": kind, "pairs": PAIRS, "weight": LOSSES[kind].usual_weight or 1.0}
    )
    assert isinstance(form, FeatureLoss)
    rounds: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):  # the first round warms up
        ours, bare = student(SMALL), student(SMALL)
        started = time.process_time()
        teach(ours, form, learned_from)
        between = time.process_time()
        teach_barely(bare, form, learned_from)
        rounds.append((between - started, time.process_time() - between))
    steps = SHORT.epochs * len(learned_from.labels) // SHORT.batch_size
    engine_ms, bare_ms = (1000 * median(column) / steps for column in zip(*rounds[1:], strict=True))
    ratio, moved = median(engine / bare for engine, bare in rounds[1:]), difference(ours, bare)
    print(
        f"{kind}: engine {engine_ms:.2f} ms a step, bare torch {bare_ms:.2f} ms (medians of {ROUNDS} rounds)"
    )
    print(f"  ratio {ratio:.3f}; promised: at most {PROMISED:.2f}")
    print(f"  the final weights differ by {moved:.1e} at most; promised: {SAME:.0e}")
    return 0 if moved <= SAME else 1


def teach(module: nn.Module, form: Loss, learned_from: Images) -> None:
    """The engine's own loop."""
    rows, pixels = np.arange(len(learned_from.labels)), Rows(learned_from.pixels, CPU)
    lesson = Lesson(
        terms=[form, CrossEntropy()],
        stages=[Stage(SHORT.epochs, [0, 1], rows, len(rows))],
        inputs=Inputs(pixels, Rows(learned_from.labels, CPU), normalize, live={0: (pixels, normalize)}),
        teaching=Teaching(Ensemble(None, [1.0]), None, {0: WhiteBox(student(LARGE))}),
        validate=lambda _: {"accuracy": 0.0, "log_loss": 0.0},
        metric="accuracy",
    )
    probe = lesson.inputs(torch.arange(8), 0)
    learner = Learner(
        module, lesson.terms, SHORT, device=CPU, teaching=lesson.teaching, probe=probe, rows=len(rows)
    )
    distill([learner], lesson, SHORT, watch=Quiet(), finish=threading.Event())


def teach_barely(module: nn.Module, form: FeatureLoss, learned_from: Images) -> None:
    """The same steps with nothing around them but hooks."""
    pixels, labels = torch.from_numpy(learned_from.pixels), torch.from_numpy(learned_from.labels)
    teacher = student(LARGE).eval().requires_grad_(requires_grad=False)
    mine, theirs = hooked(module), hooked(teacher)
    compared = built(form, module, teacher, normalize(pixels[:2]), mine, theirs)
    learned = compared.parameters() if isinstance(compared, nn.Module) else ()
    optimizer = torch.optim.AdamW([*module.parameters(), *learned], lr=SHORT.optimizer.lr, fused=True)
    steps = SHORT.epochs * -(-len(labels) // SHORT.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    module.train()
    for epoch in range(SHORT.epochs):
        order = np.random.default_rng((SHORT.seed, epoch)).permutation(len(labels))
        for index in torch.from_numpy(order).split(SHORT.batch_size):  # type: ignore[no-untyped-call]
            inputs, target = normalize(pixels[index]), labels[index]
            with torch.no_grad():
                teacher(inputs)
            logits = module(inputs).logits
            loss = compared(Outputs(features=mine), Outputs(features=theirs), Batch(indices=index))
            ce = functional.cross_entropy(logits, target, reduction="sum") / (target >= 0).sum().clamp(min=1)
            optimizer.zero_grad()
            (float(form.weight) * loss + ce).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def hooked(module: nn.Module) -> dict[str, Tensor]:
    """What its layers last showed, by path."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda _, __, output: seen.update({path: output})

    for path in PATHS:
        module.get_submodule(path).register_forward_hook(keep(path))
    return seen


def built(
    form: FeatureLoss, module: nn.Module, teacher: nn.Module, rows: Tensor, mine: Any, theirs: Any
) -> Callable[[Outputs, Outputs, Batch], Tensor]:
    """The loss itself, with its projectors."""
    with torch.no_grad():
        module.eval()(rows), teacher(rows)
    own, other = ({path: tuple(one.shape) for path, one in side.items()} for side in (mine, theirs))
    return form.build(Context(own, other, seed=SHORT.seed))


if __name__ == "__main__":
    sys.exit(main())
