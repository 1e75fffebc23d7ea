"""What the engine's loop costs around the work of torch: its student step, and the same step written bare.

Both gather rows and stored answers, compute the same losses and take turns every ten epochs, with the
demo's student and then with a larger one. Promised: at most 1.10 times the bare step.
"""

import sys
import time
from statistics import median
from typing import Any

import numpy as np
import torch

from examples.digits.__main__ import STUDENT
from examples.digits.rows import LABELS, deal
from harness.lessons import TRAINING, Images, difference, images, student, teach, teach_barely

LARGER = {"kind": "resnet", "embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 1]}
ROUNDS, THREADS, SAME, PROMISED = 9, 1, 1e-5, 1.10


def main() -> int:
    torch.set_num_threads(THREADS)
    learned_from = images(deal())
    return max(compare(sizes, learned_from) for sizes in (STUDENT, LARGER))


def compare(sizes: dict[str, Any], learned_from: Images) -> int:
    shape = len(learned_from.labels), len(LABELS)
    answers = np.random.default_rng(0).normal(scale=4, size=shape).astype(np.float32)
    pixels, labels, known = map(torch.from_numpy, (learned_from.pixels, learned_from.labels, answers))
    rounds: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):  # the first round warms up
        ours, bare = student(sizes), student(sizes)
        started = time.process_time()
        teach(ours, learned_from, answers[:, None])
        between = time.process_time()
        teach_barely(bare, pixels, labels, lambda index, _: known[index])
        rounds.append((between - started, time.process_time() - between))
    steps = TRAINING.epochs * len(labels) // TRAINING.batch_size
    engine_ms, bare_ms = (1000 * median(column) / steps for column in zip(*rounds[1:], strict=True))
    ratio, moved = median(engine / bare for engine, bare in rounds[1:]), difference(ours, bare)
    parameters = sum(one.numel() for one in bare.parameters())
    print(f"student of {parameters:,} parameters, batches of {TRAINING.batch_size}, one processor")
    print(f"engine {engine_ms:.2f} ms a step, bare torch {bare_ms:.2f} ms (medians of {ROUNDS} rounds)")
    print(f"ratio {ratio:.3f}; promised: at most {PROMISED:.2f}")
    print(f"the final weights differ by {moved:.1e} at most; promised: {SAME:.0e}")
    return 0 if moved <= SAME else 1


if __name__ == "__main__":
    sys.exit(main())
