"""Numbers over HTTP: a table, a forest in ONNX, and a student that answers in the table's own unit.

Two processes train it, one of which is killed on the way.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor

from tests.intake import samples
from tests.test_flow import ask, ended
from tests.waiting import until


def test_numbers_from_upload_to_prediction(
    service: Callable[..., httpx.Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skl2onnx import to_onnx

    monkeypatch.setenv("STILLHOUSE_FAILPOINT", "checkpoint.after_commit:kill")
    monkeypatch.setenv("STILLHOUSE_FAILPOINT_ONCE", str(tmp_path))
    client = service(slots=2, checkpoint_s=0.0)
    found = load_diabetes()
    numbers = found.data.astype(np.float32)
    rows: list[dict[str, Any]] = [
        {**dict(zip(found.feature_names, map(float, row), strict=True)), "target": float(target)}
        for row, target in zip(numbers, found.target, strict=True)
    ]
    data = ask(
        client, "POST", "/v1/datasets", data={"name": "diabetes", "splits": '{"train": 0.7, "test": 0.3}'},
        files={"file": ("diabetes.csv", samples.as_csv(rows))},
    )  # fmt: skip
    forest = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(numbers, found.target)
    content = to_onnx(forest, numbers[:1], target_opset=18).SerializeToString()
    teacher = ask(
        client, "POST", "/v1/models", data={"name": "boosted", "task": "tabular_regression"},
        files={"file": ("boosted.onnx", content)},
    )  # fmt: skip
    spec = {
        "task": {"kind": "tabular_regression"},
        "teachers": [{"model": teacher["reference"]}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [16]}},
        "data": {"train": f"{data['reference']}#train", "test": f"{data['reference']}#test"},
        "training": {"epochs": 5, "batch_size": 16},
        "evaluation": {"gates": [{"metric": "r2", "min": -10}], "bootstrap": 200},
        "resources": {"devices": 2},
        "output": {"model": "diabetes-tiny", "alias": "champion"},
    }
    plan = ask(client, "POST", "/v1/jobs/plan", json=spec)
    assert plan["ok"], plan["checks"]
    job = ask(client, "POST", "/v1/jobs", json=spec)
    until(lambda: processes(job["id"]) == 2)
    job = ended(client, job)
    assert (job["status"], job["attempts"]) == ("succeeded", 2), job["error"]
    until(lambda: processes(job["id"]) == 0)
    told = ask(client, "GET", f"/v1/jobs/{job['id']}/events?limit=200")["data"]
    ends = [event["message"] for event in told if event["type"] == "attempt.ended"]
    assert "SIGKILL" in ends[0], ends
    assert job["output"]["alias"] == "champion"
    assert [gate["passed"] for gate in job["outcome"]["gates"]] == [True]
    assert 0 < job["outcome"]["metrics"]["rmse"] < 100
    asked = {name: value for name, value in rows[0].items() if name != "target"}
    answer = ask(client, "POST", "/predict", json={"model": "diabetes-tiny@champion", "inputs": [asked]})
    assert 25 < answer["predictions"][0]["value"] < 350  # the table's targets are from 25 to 346


def processes(job_id: str) -> int:
    """How many train this job now."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            words = path.read_bytes().decode(errors="replace").split("\0")
            found += "worker.ranks" in words and job_id in words
    return found
