"""Teachers of several formats together, classes of their own, and a last stage without them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
import torch
from numpy.typing import NDArray
from sqlalchemy import select
from torch import nn

from app.catalog.base import Input
from app.catalog.spec import PinnedModel
from app.db.tables import Event, Job, MetricPoint, ModelVersion
from app.errors import NumericDivergence
from tests.worker.workshop import DIGITS, Stop, Workshop, digits, images, order, table, taught
from worker.run import run

X, Y = digits()
QUICK = {"epochs": 4, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 0.01}}
PLAIN = {"training": QUICK, "exports": [{"kind": "safetensors"}]}


def forest(workshop: Workshop, folder: Path, labels: NDArray[Any], names: list[str]) -> PinnedModel:
    """A random forest of scikit-learn, exported to ONNX. labels: of the first 1,200 digits."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(30, random_state=0).fit(X[:1200].astype(np.float32), labels)
    exported = to_onnx(model, X[:1].astype(np.float32), options={"zipmap": False}, target_opset=18)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(exported.SerializeToString())
    features = [{"name": f"p{place}", "mean": 0.0, "std": 1.0} for place in range(64)]
    details = {"file": "model.onnx", "input": "X", "output": "probabilities", "output_kind": "probabilities"}
    known = {"format": "onnx", "family": "onnx", "details": details, "preprocessing": {"features": features}}
    return workshop.teacher(folder, "forest", labels=names, **known)


def report(workshop: Workshop, job: Job) -> dict[str, Any]:
    return dict(json.loads(workshop.artifact(job, "report.json")))


def accuracies(report: dict[str, Any]) -> dict[str, float]:
    return {one["name"]: one["metrics"]["accuracy"]["value"] for one in report["columns"]}


def weights(workshop: Workshop, job: Job) -> str:
    """The digest of what the student has learned."""
    with workshop.parts.sessions.read() as session:
        files = session.get_one(ModelVersion, job.output_version_id).files
    return str(next(file["sha256"] for file in files if file["path"] == "model.safetensors"))


def test_a_forest_and_two_networks_teach_by_every_rule_and_by_their_weights(
    workshop: Workshop, expert: nn.Module, tmp_path: Path
) -> None:
    train, test = (
        workshop.data(table(X[:300], Y[:300])),
        workshop.data(table(X[1200:], Y[1200:]), split="test"),
    )
    more = workshop.data(table(X[300:700], [None] * 400), "more")
    networks = [
        workshop.perceptron(expert, (64, 64)),
        workshop.perceptron(taught((16,), 60, seed=2), (16,), "small-one"),
    ]
    trees = forest(workshop, tmp_path / "forest", Y[:1200], DIGITS).model_copy(update={"weight": 2.0})
    found = {}
    rules = [("mean_probabilities", 2.0), ("mean_logits", 2.0), ("each", 2.0), ("random", 2.0), ("each", 0.1)]
    for rule, weight in rules:
        teachers = [*networks, trees.model_copy(update={"weight": weight})]
        spec = {
            **PLAIN,
            "ensemble": rule,
            "training": QUICK | {"epochs": 10},
            "evaluation": {"compare": ["teacher"], "bootstrap": 100},
        }
        given = order(teachers, train, spec=spec, unlabeled=[more], test=test)
        job = workshop.carry_out(given)
        told = accuracies(report(workshop, job))
        assert {"teacher_1", "teacher_2", "teacher_3", "ensemble", "student"} <= set(told)
        assert min(told["teacher_3"], told["ensemble"]) > 0.9
        assert told["student"] > 0.6
        found[rule, weight] = weights(workshop, job)
    assert len(set(found.values())) == len(rules)


def test_classes_of_a_teacher_are_merged_and_dropped_before_anybody_learns_from_them(
    workshop: Workshop, tmp_path: Path
) -> None:
    """The forest tells slim ones from wide ones, and knows a class that is no digit."""
    fine = np.where((Y == 1) & (X[:, 20] > 8), 10, Y)[:1200]
    fine[:20] = 11
    names = [*DIGITS, "1, slim", "smudge"]
    teacher = forest(workshop, tmp_path / "forest", fine, names)
    own = [[place] for place in range(10)]
    own[1] = [1, 10]
    train, test = (
        workshop.data(table(X[:300], Y[:300])),
        workshop.data(table(X[1200:], Y[1200:]), split="test"),
    )
    given = order([teacher.model_copy(update={"order": own})], train, spec=PLAIN, test=test)
    job = workshop.carry_out(given)
    told = report(workshop, job)
    ones = {
        column["name"]: next(one for one in column["classes"] if one["label"] == "1")["recall"]
        for column in told["columns"]
    }
    assert accuracies(told)["teacher"] > 0.9
    assert ones["teacher"] > 0.8  # of which each half alone would be less likely than another class
    with workshop.parts.sessions.read() as session:
        warned = session.scalars(select(Event).where(Event.job_id == job.id, Event.type == "warning"))
        assert "teacher_labels_disagree" not in {event.data["kind"] for event in warned}


def test_a_network_of_transformers_and_a_black_box_teach_from_images(
    workshop: Workshop, tmp_path: Path
) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    from app.catalog.tasks.image_classification.preprocessing import plain

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        id2label=dict(enumerate(DIGITS)), architectures=["ResNetForImageClassification"],
    )  # fmt: skip
    module = ResNetForImageClassification(config)
    known: dict[str, Any] = {
        "task": "image_classification",
        "input": Input(modality="image", shape=(1, 8, 8)).model_dump(mode="json"),
        "preprocessing": plain(1, (8, 8)).model_dump(mode="json"),
    }
    module.save_pretrained(tmp_path / "resnet")
    huggingface = {"format": "huggingface", "family": "resnet", "details": {"config": {}}}
    white = workshop.teacher(tmp_path / "resnet", "white", **huggingface, **known)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(linear().SerializeToString())
    details = {"file": "model.onnx", "input": "x", "output": "y", "output_kind": "logits"}
    black = workshop.teacher(
        tmp_path / "onnx", "black", format="onnx", family="onnx", details=details, **known
    )
    spec = {
        **PLAIN,
        "ensemble": "mean_logits",
        "task": {"kind": "image_classification"},
        "training": QUICK | {"epochs": 1},
        "student": {
            "architecture": {"kind": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
        },
    }
    job = workshop.carry_out(order([white, black], workshop.data(images(X[:200], Y[:200])), spec=spec))
    assert {"teacher_1", "teacher_2", "ensemble"} <= set(accuracies(report(workshop, job)))


def linear() -> onnx.ModelProto:
    """A linear model of pixels."""
    tensor, initial = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    weight = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "weight"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "linear",
        [tensor("x", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])],
        [tensor("y", onnx.TensorProto.FLOAT, ["n", 10])],
        [initial(weight, "weight")],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)


# ---- the last stage


def test_the_last_stage_learns_from_labels_alone_and_the_control_takes_as_many_steps(
    workshop: Workshop, expert: nn.Module
) -> None:
    train = workshop.data(table(X[:300], Y[:300]))
    more = workshop.data(table(X[300:700], [None] * 400), "more")
    training = QUICK | {"finetune": {"epochs": 2, "lr": 0.002}}
    spec = {**PLAIN, "training": training, "losses": [{"kind": "kd"}]}
    job = workshop.carry_out(
        order([workshop.perceptron(expert, (64, 64))], train, spec=spec, unlabeled=[more])
    )
    runs = report(workshop, job)["training"]
    before, last = 4 * 10, 2 * 4  # of 640 rows to learn from 240 have labels
    assert runs["student"]["steps"] == runs["control"]["steps"] == before + last
    with workshop.parts.sessions.read() as session:
        points = session.scalars(select(MetricPoint).where(MetricPoint.job_id == job.id)).all()
    read = {
        name: [one.step for one in points if (one.split, one.name) == ("train", name)]
        for name in ("kd", "cross_entropy")
    }
    assert max(read["kd"]) == before
    assert min(read["cross_entropy"]) > before
    assert max(read["cross_entropy"]) == before + last


def test_the_last_stage_is_rehearsed_too(workshop: Workshop, expert: nn.Module) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    training = QUICK | {"finetune": {"epochs": 1, "lr": 1e38}}
    job = workshop.submit(order([teacher], train, spec={**PLAIN, "training": training}))
    with pytest.raises(NumericDivergence):
        run(job, job.attempt, workshop.parts, Stop())
    running = [one["name"] for one in workshop.look(job).phases if one["status"] == "running"]
    assert running == ["preflight"]
