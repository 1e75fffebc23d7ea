"""Trainers that are killed (SIGKILL) at random moments of their training, and the weights that they come to.

Jobs of four kinds take turns: a student with dropout, generations, peers, and a student with its own average.
Each is killed several times, by chance also while it saves, and goes on each time in a fresh process.
Promised: all final weights and metric points are those of the same job undisturbed, to the last bit.
"""

import argparse
import random
import sys
import time
from itertools import cycle
from typing import Any

import structlog
import torch
from sqlalchemy import select

from app.catalog.spec import Resolved
from app.db.tables import Job, JobReference, MetricPoint, ModelVersion
from harness.processes import Trainer, installed
from tests.worker.workshop import Workshop, digits, order, table, taught

KILLS, CHECKPOINT_S = 10, 0.05
TRAINING = {
    "epochs": 40,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 0.003},
    "precision": "float32",
}
KINDS: dict[str, dict[str, Any]] = {
    "dropout": {
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [32], "dropout": 0.2}},
        "training": TRAINING | {"finetune": {"epochs": 5}},
    },
    "generations": {
        "scheme": {"kind": "born_again", "generations": 2},
        "losses": [
            {"kind": "kd"},
            {"kind": "fitnet", "pairs": [["layers.0", "layers.0"]], "stage_epochs": 5, "weight": 10},
        ],
    },
    "peers": {"scheme": {"kind": "mutual", "peers": 1}},
    "average": {"scheme": {"kind": "self_ema", "decay": 0.99, "leaves": "ema"}},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    chance, points, same, made, taken_up = random.Random(options.seed), 0, 0, 0, 0  # noqa: S311
    with installed(checkpoint_s=CHECKPOINT_S) as workshop:
        orders = ordered(workshop)
        undisturbed = {kind: carried_out(workshop, one) for kind, one in orders.items()}
        for kind in cycle(orders):
            job, kills, resumed = killed(
                workshop, orders[kind], undisturbed[kind][1], min(KILLS, options.points - points), chance
            )
            identical = came_to(workshop, job) == came_to(workshop, undisturbed[kind][0])
            points, made, taken_up = points + kills, made + 1, taken_up + resumed
            same += kills * identical
            print(f"{kind}: {kills} kills, {'identical' if identical else 'DIFFERENT'}", flush=True)
            if points >= options.points:
                break
    print(f"{points} kills of {made} jobs; after {taken_up} of them a checkpoint was there to go on from")
    print(f"identical {same} / {points}; promised: all")
    return 0 if same == points else 1


def ordered(workshop: Workshop) -> dict[str, Resolved]:
    x, y = digits()
    teacher = workshop.perceptron(taught((64, 64), steps=150), (64, 64))
    train = workshop.data(table(x[:800], y[:800]))
    common = {"training": TRAINING, "exports": [{"kind": "safetensors"}], "evaluation": {"bootstrap": 100}}
    return {kind: order([teacher], train, spec=common | more) for kind, more in KINDS.items()}


def carried_out(workshop: Workshop, resolved: Resolved) -> tuple[Job, float]:
    """The job, and for how many seconds it trained."""
    trainer = Trainer(workshop, workshop.submit(resolved))
    assert trainer.trains()
    begun = time.monotonic()
    while (phases := workshop.look(trainer.job).phases) and phases[4]["status"] == "running":
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    return trainer.ends(), seconds


def killed(
    workshop: Workshop, resolved: Resolved, seconds: float, most: int, chance: random.Random
) -> tuple[Job, int, int]:
    """The ended job, how often it was killed, and how often of these a checkpoint was there."""
    job, kills, resumed = workshop.submit(resolved), 0, 0
    while kills < most:
        trainer = Trainer(workshop, job)
        assert trainer.trains()
        time.sleep(chance.uniform(0, seconds / 3))
        later = trainer.is_killed()
        if later is None:
            break
        job, kills = later, kills + 1
        resumed += job.checkpoint_step > 0
    ended = workshop.look(job)
    return ended if ended.status == "succeeded" else Trainer(workshop, job).ends(), kills, resumed


def came_to(workshop: Workshop, job: Job) -> tuple[Any, ...]:
    """The weights of all students that the job has made, and every metric point."""
    with workshop.parts.sessions.read() as session:
        told = session.scalars(select(MetricPoint).where(MetricPoint.job_id == job.id))
        points = {(p.name, p.split, p.step): p.value for p in told if p.split != "signals"}
        roles = select(JobReference).where(JobReference.job_id == job.id)
        made = {one.role: session.get(ModelVersion, one.target_id) for one in session.scalars(roles)}
        made["student"] = session.get_one(ModelVersion, job.output_version_id)
    weights = {
        (role, file["sha256"])
        for role, version in made.items()
        if version is not None
        for file in version.files
        if file["path"] == "model.safetensors"
    }
    return job.status, weights, points, job.best


if __name__ == "__main__":
    sys.exit(main())
