"""Whole jobs on sklearn's digits: from the order to the registered student."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from sqlalchemy import select
from torch import nn

from app.catalog.base import Input
from app.db.tables import Event, Job, MetricPoint, ModelVersion, Signals
from app.errors import DataUnusable, JobFailure, LeaseLost
from app.services import jobs, models
from tests.worker.workshop import DIGITS, Stop, Workshop, digits, images, order, table, taught
from worker.run import run

X, Y = digits()
QUICK = {"epochs": 4, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 0.01}}
PLAIN = {"training": QUICK, "exports": [{"kind": "safetensors"}]}


def notes(workshop: Workshop, job: Job, type: str = "log") -> list[Event]:
    with workshop.parts.sessions.read() as session:
        told = select(Event).where(Event.job_id == job.id, Event.type == type).order_by(Event.seq)
        return list(session.scalars(told))


def asked(workshop: Workshop, job: Job) -> tuple[float, float]:
    """How many files' answers were there already, and how many had to be asked for."""
    with workshop.parts.sessions.read() as session:
        told = select(MetricPoint).where(MetricPoint.job_id == job.id, MetricPoint.split == "signals")
        found = {point.name: point.value for point in session.scalars(told)}
    return found["reused"], found["asked"]


def output(workshop: Workshop, job: Job) -> ModelVersion:
    with workshop.parts.sessions.read() as session:
        return session.get_one(ModelVersion, job.output_version_id)


def fetched(workshop: Workshop, version: ModelVersion, folder: Path) -> Path:
    folder.mkdir()
    for file in version.files:
        workshop.parts.blobs.fetch(file["sha256"], folder / file["path"])
    return folder


def test_a_job_goes_from_its_order_to_a_registered_student(
    workshop: Workshop, expert: nn.Module, tmp_path: Path
) -> None:
    train = workshop.data(table(X[:300], Y[:300]))
    more = workshop.data(table(X[300:1200], [None] * 900), "more")
    test = workshop.data(table(X[1200:], Y[1200:]), split="test")
    teacher = workshop.perceptron(expert, (64, 64))
    spec = {
        "training": QUICK | {"epochs": 12},
        "exports": [{"kind": "safetensors"}, {"kind": "onnx"}, {"kind": "onnx_int8"}],
        "output": {"model": "small", "alias": "candidate"},
    }
    job = workshop.carry_out(order([teacher], train, spec=spec, unlabeled=[more], test=test))

    assert job.status == "succeeded"
    assert [phase["status"] for phase in job.phases] == ["succeeded"] * 8
    assert job.outcome is not None
    assert (job.outcome["stopped_by"], job.outcome["gates"]) == ("epochs", [])
    assert job.best is not None
    assert job.best["metric"] == "accuracy"
    assert not list((workshop.parts.settings.work_dir / "jobs").iterdir())

    version = output(workshop, job)
    paths = [file["path"] for file in version.files]
    assert paths == [
        "config.json",
        "model.int8.onnx",
        "model.onnx",
        "model.safetensors",
        "preprocessing.json",
    ]
    assert (version.source, version.format, version.family, version.parameters) == ("job", "mlp", "mlp", 610)
    assert version.lineage["teachers"][0]["version_id"] == teacher.version_id
    assert [one["role"] for one in version.lineage["datasets"]] == ["train", "test", "unlabeled"]
    with workshop.parts.sessions.read() as session:
        assert models.find(session, "prj_default", "model:small@candidate").id == version.id
    manifest = json.loads(b"".join(workshop.parts.blobs.read(str(job.result_manifest))))
    assert [file["path"] for file in manifest["files"]] == paths

    report = json.loads(workshop.artifact(job, "report.json"))
    columns = {column["name"]: column for column in report["columns"]}
    assert list(columns) == ["teacher", "student_before", "control", "student"]
    assert report["split"] == "test"
    assert report["rows"] == 597
    assert report["data"] == {"training": 1140, "training_labeled": 240, "validation": 60, "test": 597}
    assert report["training"]["student"]["steps"] == report["training"]["control"]["steps"] == 12 * 18
    assert "The test set was read once, after everything was decided." in report["notes"]
    text = workshop.artifact(job, "report.md").decode()
    assert text.startswith(f"# Report on {job.id}, {report['date']}\n\n{report['verdict']}\n")
    accuracy = columns["student"]["metrics"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert {one["kind"]: one["runtime"] for one in report["exports"]} == {
        "safetensors": "torch",
        "onnx": "onnxruntime",
        "onnx_int8": "onnxruntime",
    }
    assert all(speed["p50_ms"] <= speed["p95_ms"] for one in report["exports"] for speed in one["latency"])

    folder = fetched(workshop, version, tmp_path / "student")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    logits = session.run(None, {"features": ((X[1200:] - 8) / 6).astype(np.float32)})[0]
    assert (logits.argmax(-1) == Y[1200:]).mean() == pytest.approx(accuracy["value"])


def test_the_second_job_reads_the_first_ones_answers_and_only_those_that_hold(
    workshop: Workshop, expert: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, more = (
        workshop.data(table(X[:300], Y[:300])),
        workshop.data(table(X[300:500], [None] * 200), "more"),
    )
    teacher = workshop.perceptron(expert, (64, 64))
    first = workshop.carry_out(order([teacher], train, spec=PLAIN))
    assert asked(workshop, first) == (0, 1)

    fetched: list[str] = []
    fetch = workshop.parts.blobs.fetch

    def told(sha256: str, path: Path) -> None:
        fetched.append(path.name)
        fetch(sha256, path)

    monkeypatch.setattr(workshop.parts.blobs, "fetch", told)
    second = workshop.carry_out(order([teacher], train, spec=PLAIN))
    assert asked(workshop, second) == (1, 0)
    assert "model.safetensors" not in fetched  # the teacher stayed where it was
    assert "reused" in notes(workshop, second)[-1].message
    assert output(workshop, second).digest == output(workshop, first).digest

    third = workshop.carry_out(order([teacher], train, spec=PLAIN, unlabeled=[more]))
    assert asked(workshop, third) == (1, 1)

    other = workshop.perceptron(taught((64, 64), steps=20, seed=1), (64, 64), "other")
    assert asked(workshop, workshop.carry_out(order([other], train, spec=PLAIN))) == (0, 1)
    features = [{**one, "mean": 7.0} for one in teacher.preprocessing["features"]]
    seen = teacher.model_copy(update={"preprocessing": {"features": features}})
    assert asked(workshop, workshop.carry_out(order([seen], train, spec=PLAIN))) == (0, 1)
    with workshop.parts.sessions.read() as session:
        assert len(list(session.scalars(select(Signals)))) == 4


def test_an_image_teacher_of_transformers_teaches_and_stays_as_it_was(
    workshop: Workshop, tmp_path: Path
) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    from app.catalog.tasks.image_classification.preprocessing import plain

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        id2label=dict(enumerate(DIGITS)), architectures=["ResNetForImageClassification"],
    )  # fmt: skip
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    preprocessing = plain(1, (8, 8))
    teacher = workshop.teacher(
        tmp_path / "resnet", format="huggingface", family="resnet", task="image_classification",
        input=Input(modality="image", shape=(1, 8, 8)).model_dump(mode="json"),
        preprocessing=preprocessing.model_dump(mode="json"), details={"config": {}},
    )  # fmt: skip
    train = workshop.data(images(X[:200], Y[:200]))
    spec = {
        **PLAIN,
        "task": {"kind": "image_classification"},
        "training": QUICK | {"epochs": 1},
        "student": {
            "architecture": {
                "kind": "resnet",
                "embedding_size": 4,
                "hidden_sizes": [4],
                "depths": [1],
                "layer_type": "basic",
            }
        },
    }
    job = workshop.carry_out(order([teacher], train, spec=spec))
    assert job.status == "succeeded"
    version = output(workshop, job)
    folder = fetched(workshop, version, tmp_path / "student")
    reloaded = ResNetForImageClassification.from_pretrained(folder)
    assert sum(weight.numel() for weight in reloaded.parameters()) == version.parameters
    assert (folder / "preprocessor_config.json").exists()
    assert version.details["preprocessor"]["size"] == {"height": 8, "width": 8}
    report = json.loads(workshop.artifact(job, "report.json"))
    assert report["split"] == "validation"
    assert any("no test set" in note for note in report["notes"])


@pytest.fixture
def black_box(workshop: Workshop, tmp_path: Path) -> Any:
    """A logistic regression of scikit-learn, exported to ONNX."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=200).fit((X[:1200] / 16).astype(np.float32), Y[:1200])
    (tmp_path / "onnx").mkdir()
    exported = to_onnx(model, X[:1].astype(np.float32), options={"zipmap": False}, target_opset=18)
    (tmp_path / "onnx" / "model.onnx").write_bytes(exported.SerializeToString())
    features = [{"name": f"p{place}", "mean": 0.0, "std": 16.0} for place in range(64)]
    details = {"file": "model.onnx", "input": "X", "output": "probabilities", "output_kind": "probabilities"}
    return workshop.teacher(
        tmp_path / "onnx",
        "box",
        format="onnx",
        family="onnx",
        details=details,
        preprocessing={"features": features},
    )


def test_a_black_box_and_a_network_teach_together(
    workshop: Workshop, expert: nn.Module, black_box: Any
) -> None:
    train, test = (
        workshop.data(table(X[:400], Y[:400])),
        workshop.data(table(X[1200:], Y[1200:]), split="test"),
    )
    teachers = [workshop.perceptron(expert, (64, 64)), black_box.model_copy(update={"weight": 0.5})]
    spec = {**PLAIN, "ensemble": "mean_probabilities"}
    report = json.loads(
        workshop.artifact(workshop.carry_out(order(teachers, train, spec=spec, test=test)), "report.json")
    )
    columns = {column["name"]: column["metrics"] for column in report["columns"]}
    assert list(columns) == ["teacher_1", "teacher_2", "ensemble", "student_before", "control", "student"]
    assert columns["teacher_2"]["accuracy"]["value"] > 0.9
    assert "kl" not in columns["ensemble"]
    assert "kl" in columns["teacher_1"]
    assert {(one["column"], one["minus"]) for one in report["differences"]} >= {
        ("student", "ensemble"),
        ("ensemble", "control"),
    }


def test_a_teacher_that_does_not_know_the_labels_is_noticed(workshop: Workshop, expert: nn.Module) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    wrong = teacher.model_copy(update={"order": [[place] for place in range(9, -1, -1)]})
    job = workshop.carry_out(order([wrong], train, spec=PLAIN))
    warnings = {event.data["kind"]: event for event in notes(workshop, job, "warning")}
    assert {"teacher_labels_disagree", "teacher_no_better_than_student"} <= set(warnings)
    assert warnings["teacher_labels_disagree"].level == "warning"


@pytest.mark.parametrize(
    ("role", "note"),
    [
        ("train", "The test rows are also training rows: these figures say nothing about new data."),
        ("unlabeled", "The test rows are also training rows: these figures say nothing about new data."),
        ("validation", "The test rows are also the validation rows, which chose the best step, "),
    ],
)
def test_a_test_set_that_the_student_has_seen_is_called_that(
    workshop: Workshop, expert: nn.Module, role: str, note: str
) -> None:
    train, other = workshop.data(table(X[:300], Y[:300])), workshop.data(table(X[300:400], Y[300:400]), "o")
    roles: dict[str, dict[str, Any]] = {
        "train": {"test": train},
        "unlabeled": {"unlabeled": [other], "test": other},
        "validation": {"validation": other, "test": other},
    }
    teacher = workshop.perceptron(expert, (64, 64))
    job = workshop.carry_out(order([teacher], train, spec=PLAIN, **roles[role]))
    noted = json.loads(workshop.artifact(job, "report.json"))["notes"]
    assert any(one.startswith(note) for one in noted)
    assert not any("read once" in one for one in noted)


@pytest.mark.parametrize(
    ("losses", "dominating"),
    [
        ({"preset": "hinton"}, []),
        ([{"kind": "kd", "weight": 1e6}, {"kind": "cross_entropy", "weight": 1}], ["kd"]),
    ],
)
def test_only_a_loss_that_leaves_nothing_to_the_others_is_warned_of(
    workshop: Workshop, expert: nn.Module, losses: Any, dominating: list[str]
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    job = workshop.carry_out(order([teacher], train, spec={**PLAIN, "losses": losses}))
    warned = [e.data for e in notes(workshop, job, "warning") if e.data["kind"] == "loss_term_dominates"]
    assert [one["term"] for one in warned] == dominating


def test_without_labels_there_is_no_control_and_the_report_says_so(
    workshop: Workshop, expert: nn.Module
) -> None:
    train, teacher = workshop.data(table(X[:300], [None] * 300)), workshop.perceptron(expert, (64, 64))
    spec = {**PLAIN, "losses": [{"kind": "kd"}]}
    job = workshop.carry_out(order([teacher], train, spec=spec))
    report = json.loads(workshop.artifact(job, "report.json"))
    assert [column["name"] for column in report["columns"]] == ["teacher", "student_before", "student"]
    assert "There is no control: no training row has a label." in report["notes"]
    assert report["verdict"].startswith("The student agrees with the teacher on")
    assert report["labeled"] is False


def test_a_user_who_has_seen_enough_gets_the_best_so_far(workshop: Workshop, expert: nn.Module) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    stop = Stop()
    stop.finish.set()
    job = workshop.carry_out(order([teacher], train, spec=PLAIN), stop)
    assert job.status == "succeeded"
    assert job.outcome is not None
    assert job.outcome["stopped_by"] == "user"
    report = json.loads(workshop.artifact(job, "report.json"))
    assert report["training"].keys() == {"student"}
    assert any("ended early" in note for note in report["notes"])


def test_an_attempt_that_lost_its_job_writes_nothing(workshop: Workshop, expert: nn.Module) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    job = workshop.submit(order([teacher], train, spec=PLAIN))
    with workshop.parts.sessions.write() as session:
        jobs.yield_(session, job.id, job.attempt)
    with pytest.raises(LeaseLost):
        run(job, job.attempt, workshop.parts, Stop())


@pytest.mark.parametrize(
    ("message", "phase", "changes", "optimizer"),
    [
        ("labels do not all have places of their own", "validate", {"order": [[0]] * 10}, {}),
        ("cannot take the rows of 1", "preflight", {"preprocessing": {"features": [{"name": "p1"}]}}, {}),
        ("infinite or not a number", "preflight", {}, {"kind": "sgd", "lr": 1e30}),
    ],
)
def test_a_job_that_cannot_be_done_says_why_in_the_earliest_phase(
    workshop: Workshop,
    expert: nn.Module,
    message: str,
    phase: str,
    changes: dict[str, Any],
    optimizer: dict[str, Any],
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    training = QUICK | ({"optimizer": optimizer} if optimizer else {})
    resolved = order([teacher], train, spec={**PLAIN, "training": training})
    job = workshop.submit(resolved.model_copy(update={"teachers": [teacher.model_copy(update=changes)]}))
    with pytest.raises(JobFailure, match=message):
        run(job, job.attempt, workshop.parts, Stop())
    running = [one["name"] for one in workshop.look(job).phases if one["status"] == "running"]
    assert running == [phase]
    assert not list((workshop.parts.settings.work_dir / "jobs").iterdir())


def test_a_label_that_the_job_does_not_know_is_named(workshop: Workshop, expert: nn.Module) -> None:
    train, test = (
        workshop.data(table(X[:300], Y[:300])),
        workshop.data(table(X[300:320], [77] * 20), split="test"),
    )
    job = workshop.submit(order([workshop.perceptron(expert, (64, 64))], train, spec=PLAIN, test=test))
    with pytest.raises(DataUnusable, match=r"dataset:digits@1#test has the label '77'"):
        run(job, job.attempt, workshop.parts, Stop())
