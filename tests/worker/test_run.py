"""Whole jobs on sklearn's digits: from the order to the registered student."""

import json
from collections import Counter

import numpy as np
from sqlalchemy import select
from torch import nn

from app.db.tables import Event, ModelVersion
from tests.worker.workshop import Workshop, digits, order, table

QUICK = {"epochs": 12, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 0.01}}


def test_a_job_goes_from_its_order_to_a_registered_student(workshop: Workshop, expert: nn.Module) -> None:
    x, y = digits()
    train = workshop.data(table(x[:300], y[:300]))
    more = workshop.data(table(x[300:1200], [None] * 900), "more")
    test = workshop.data(table(x[1200:], y[1200:]), split="test")
    teacher = workshop.perceptron(expert, (64, 64))
    job = workshop.carry_out(order([teacher], train, spec={"training": QUICK}, unlabeled=[more], test=test))
    assert job.status == "succeeded"
    print(workshop.artifact(job, "report.md").decode())
