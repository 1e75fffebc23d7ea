"""A whole job whose answers are numbers: a forest of scikit-learn, as ONNX, teaches a perceptron."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import root_mean_squared_error

from app.catalog.base import Column
from app.catalog.spec import JobSpec, PinnedData, PinnedModel, Resolved, ResolvedData
from app.catalog.tasks.tabular_regression import TabularRegression
from app.db.tables import Job, ModelVersion
from app.services import predictions
from tests.worker.workshop import Workshop, pinned

TASK = TabularRegression()
DATA = load_diabetes()
ORDER = np.random.default_rng(0).permutation(len(DATA.target))
X, Y = DATA.data[ORDER].astype(np.float64), DATA.target[ORDER]
COLUMNS = {
    name: Column(type="number", mean=float(X[:300, place].mean()), std=float(X[:300, place].std()))
    for place, name in enumerate(DATA.feature_names)
}
TARGET = Column(type="category", mean=float(Y[:300].mean()), std=float(Y[:300].std()))
PREPROCESSING = TASK.with_target(TASK.preprocessing(COLUMNS, list(COLUMNS), None), TARGET)
TRAINING = {"epochs": 30, "batch_size": 32, "optimizer": {"kind": "adamw", "lr": 0.003}}


def rows(chosen: slice, *, labeled: bool = True) -> pa.Table:
    """As the intake stores it: the label is text, also where it is a number."""
    columns: dict[str, Any] = {name: X[chosen, place] for place, name in enumerate(COLUMNS)}
    labels = [str(value) if labeled else None for value in Y[chosen]]
    sex = ["a" if value > 0 else "b" for value in X[chosen, 1]]
    return pa.table({**columns, "group": sex, "target": pa.array(labels, pa.string())})


@pytest.fixture(scope="module")
def forest() -> RandomForestRegressor:
    return RandomForestRegressor(50, min_samples_leaf=3, random_state=0).fit(
        X[:300].astype(np.float32), Y[:300]
    )


@pytest.fixture
def black_box(workshop: Workshop, tmp_path: Path, forest: RandomForestRegressor) -> PinnedModel:
    from skl2onnx import to_onnx

    (tmp_path / "onnx").mkdir()
    exported = to_onnx(forest, X[:1].astype(np.float32), target_opset=18)
    (tmp_path / "onnx" / "model.onnx").write_bytes(exported.SerializeToString())
    features = [{"name": name} for name in COLUMNS]  # the forest was trained on the numbers as they are
    return workshop.teacher(
        tmp_path / "onnx", "forest", format="onnx", family="onnx", task=TASK.kind, labels=["value"],
        input={"modality": "vector", "shape": [10]},
        details={"file": "model.onnx", "input": "X", "output": "variable", "output_kind": "value"},
        preprocessing=TASK.parse_preprocessing({"features": features}).model_dump(mode="json"),
    ).model_copy(update={"order": [[0]]})  # fmt: skip


def order(teacher: PinnedModel, train: PinnedData, spec: dict[str, Any], **data: Any) -> Resolved:
    whole = {
        "task": {"kind": TASK.kind},
        "teachers": [{"model": teacher.reference}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [16]}},
        "data": {"train": "dataset:diabetes"},
        "output": {"model": "small", "alias": "champion"},
        "training": TRAINING,
        "exports": [{"kind": "safetensors"}, {"kind": "onnx"}],
        **spec,
    }
    form = JobSpec.model_validate({**whole, "evaluation": {"bootstrap": 200, **spec.get("evaluation", {})}})
    row = TASK.input(PREPROCESSING)
    return Resolved(
        spec=form.model_copy(update={"losses": form.terms()}),
        teachers=[teacher],
        data=ResolvedData(
            train=train, inputs=list(COLUMNS), label="target",
            **{"validation": {"holdout": 0.2}, "test": None, "unlabeled": [], **data},
        ),
        labels=["target"],
        input=row,
        preprocessing=PREPROCESSING.model_dump(mode="json"),
        parameters=form.student.architecture.parameters(row, 1),
    )  # fmt: skip


def report_of(workshop: Workshop, job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(workshop.artifact(job, "report.json"))
    return found


def test_a_forest_teaches_a_perceptron_numbers_in_their_own_unit(
    workshop: Workshop, black_box: PinnedModel, forest: RandomForestRegressor
) -> None:
    train, test = workshop.data(rows(slice(0, 300))), workshop.data(rows(slice(300, None)), split="test")
    more = workshop.data(rows(slice(0, 100), labeled=False), "more")
    spec = {
        "evaluation": {
            "slices": ["group"],
            "gates": [
                {"metric": "rmse", "max": 80},
                {"metric": "mae", "versus": "teacher", "min_ratio": 0.5},
            ],
        }
    }
    job = workshop.carry_out(order(black_box, train, spec, test=test, unlabeled=[more]))
    assert job.status == "succeeded"
    report = report_of(workshop, job)
    columns = {column["name"]: column for column in report["columns"]}
    assert list(columns) == ["teacher", "student_before", "control", "student"]
    assert (report["metric"], report["rows"]) == ("rmse", 142)

    # the forest's own answers, in the unit of the data, as scikit-learn has them
    of_forest = root_mean_squared_error(Y[300:], forest.predict(X[300:].astype(np.float32)))
    assert columns["teacher"]["metrics"]["rmse"]["value"] == pytest.approx(of_forest, rel=1e-4)
    student = columns["student"]["metrics"]
    assert set(student) == {"rmse", "mae", "r2", "rmse_to_teacher"}
    assert student["rmse"]["value"] < 65 < columns["student_before"]["metrics"]["rmse"]["value"]
    assert student["r2"]["low"] < student["r2"]["value"] < student["r2"]["high"]
    assert columns["student"]["classes"] == []
    assert report["verdict"].startswith("The student reaches ")
    assert " rmse" in report["verdict"]
    assert [gate["passed"] for gate in report["gates"]] == [True, True]
    assert {(one["column"], one["value"]) for one in report["slices"]} == {("group", "a"), ("group", "b")}
    assert sum(one["n"] for one in report["slices"]) == 142
    assert report["inherited"] is None
    assert report["data"]["training_labeled"] == 240
    text = workshop.artifact(job, "report.md").decode()
    assert "in the unit of the data" in text
    assert "## rmse by group" in text

    served = _served(workshop, job)
    assert root_mean_squared_error(Y[300:], served) == pytest.approx(student["rmse"]["value"], rel=1e-4)
    parted = json.loads(workshop.artifact(job, "rows.json"))
    first = parted["data"][0]
    assert parted["likened"] == "teacher"
    assert len(parted["data"]) == 100
    assert first["apart"] == pytest.approx(
        abs(first["teacher"]["value"] - first["student"]["value"]), rel=1e-4
    )
    assert first["label"] == pytest.approx(Y[299 + first["row"]], rel=1e-4)
    assert first["student"]["value"] == pytest.approx(served[first["row"] - 1], rel=1e-4)
    assert first["apart"] >= parted["data"][-1]["apart"]


def _served(workshop: Workshop, job: Job) -> np.ndarray[Any, Any]:
    """What /predict would answer to the test rows."""
    with workshop.parts.sessions.read() as session:
        student = predictions.find(session, "prj_default", "small@champion")
        version = session.get_one(ModelVersion, job.output_version_id)
    assert version.labels == ["target"]

    inputs = [dict(zip(COLUMNS, row, strict=True)) for row in X[300:].tolist()]
    answers = predictions.answer(student, workshop.parts.predictor, inputs, top_k=1)
    return np.array([answer["value"] for answer in answers])


def test_a_student_of_ours_teaches_in_its_own_unit(workshop: Workshop, black_box: PinnedModel) -> None:
    """The second student's target has another mean and deviation than that of the first, its teacher."""
    train = workshop.data(rows(slice(0, 300)))
    first = workshop.carry_out(order(black_box, train, {}))
    with workshop.parts.sessions.read() as session:
        version = session.get_one(ModelVersion, first.output_version_id)
    teacher = pinned("small", version, order=[[0]])
    assert teacher.preprocessing["target"]["mean"] == pytest.approx(TARGET.mean)
    resolved = order(teacher, train, {"output": {"model": "smaller"}, "losses": [{"kind": "logit_mse"}]})
    other = {**resolved.preprocessing, "target": {"mean": 100.0, "std": 20.0}}
    second = workshop.carry_out(resolved.model_copy(update={"preprocessing": other}))
    before = {one["name"]: one["metrics"] for one in report_of(workshop, first)["columns"]}
    after = {one["name"]: one["metrics"] for one in report_of(workshop, second)["columns"]}
    assert after["teacher"]["rmse"]["value"] == pytest.approx(before["student"]["rmse"]["value"], rel=1e-4)
    assert after["student"]["rmse_to_teacher"]["value"] < 40
    assert after["control"]["rmse"]["value"] < 90


def test_a_gate_that_is_not_passed_leaves_the_alias_where_it_is(
    workshop: Workshop, black_box: PinnedModel
) -> None:
    from sqlalchemy import select

    from app.db.tables import Alias, Event

    train = workshop.data(rows(slice(0, 300)))
    spec = {
        "training": TRAINING | {"epochs": 1},
        "student": {"architecture": {"kind": "mlp"}, "limits": {"max_bytes": 10, "max_latency_ms": 1000}},
        "evaluation": {"gates": [{"metric": "rmse", "versus": "teacher", "min_ratio": 0.99}]},
    }
    job = workshop.carry_out(order(black_box, train, spec))
    assert job.status == "succeeded"
    assert job.outcome is not None
    assert [gate["passed"] for gate in job.outcome["gates"]] == [False, False, True]
    assert [list(gate["gate"]) for gate in job.outcome["gates"][1:]] == [["limit", "max"]] * 2
    with workshop.parts.sessions.read() as session:
        assert session.scalars(select(Alias)).all() == []
        told = session.scalars(select(Event).where(Event.job_id == job.id, Event.type == "gate.result")).all()
        warned = session.scalars(select(Event).where(Event.job_id == job.id, Event.type == "warning")).all()
    assert [event.level for event in told] == ["warning", "warning", "info"]
    assert "alias_not_moved" in {event.data["kind"] for event in warned}
    assert any("alias champion was not moved" in note for note in report_of(workshop, job)["notes"])


def test_a_teacher_in_another_unit_is_found_out(workshop: Workshop, black_box: PinnedModel) -> None:
    from sqlalchemy import select

    from app.db.tables import Event

    train = workshop.data(rows(slice(0, 300)))
    wrong = {**black_box.preprocessing, "target": {"mean": 0.0, "std": 1000.0}}
    teacher = black_box.model_copy(update={"preprocessing": wrong})
    job = workshop.carry_out(order(teacher, train, {"training": TRAINING | {"epochs": 1}}))
    with workshop.parts.sessions.read() as session:
        told = session.scalars(select(Event).where(Event.job_id == job.id, Event.type == "warning")).all()
    assert "in another unit" in next(
        one.message for one in told if one.data["kind"] == "teacher_labels_disagree"
    )
