"""A sweep over HTTP with real processes: trials run, the teacher answers once, the best spec is ready."""

from collections.abc import Callable
from pathlib import Path

import httpx

from app.api.sweep_views import SweepView, TrialView
from tests.irises import iris_order
from tests.test_flow import ask

LONGEST_S = 240.0


def test_embedded_from_a_space_to_the_best_spec(service: Callable[..., httpx.Client], tmp_path: Path) -> None:
    client = service(slots=2)
    spec = iris_order(
        client,
        tmp_path,
        teachers=[{"model": "model:forest"}],
        losses={"preset": "hinton"},
        training={"epochs": 8, "batch_size": 16, "optimizer": {"kind": "adamw", "lr": 0.01}},
        exports=[{"kind": "safetensors"}],
        output={"model": "iris-tiny"},
    )
    families = [{"kind": "mlp", "hidden_sizes": [size]} for size in (4, 32)]
    order = {
        "name": "how warm, how wide",
        "spec": spec,
        "space": {
            "/losses/temperature": {"kind": "float", "low": 1, "high": 8, "log": True},
            "/student/architecture": {"kind": "choice", "values": families},
        },
        "budget": {"trials": 3, "parallel": 2},
        "objective": {"against": "bytes"},
        "seed": 3,
    }
    accepted = client.post("/v1/sweeps", json=order)
    assert accepted.status_code == 202, accepted.text
    sweep, waited = accepted.json(), 0.0
    while not sweep["terminal"]:
        assert waited < LONGEST_S, sweep
        answer = client.get(f"/v1/sweeps/{sweep['id']}?wait=20&version={sweep['version']}", timeout=40)
        waited += answer.elapsed.total_seconds()
        sweep = answer.json()
    assert sweep["status"] == "succeeded", sweep["error"]
    SweepView.model_validate(sweep)
    assert sweep["metric"] == "accuracy"

    trials = ask(client, "GET", f"/v1/sweeps/{sweep['id']}/trials")["data"]
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    for trial in trials:
        TrialView.model_validate(trial)
        assert trial["status"] == "succeeded", trial["error"]
        assert trial["report"]["split"] == "test"
        assert trial["report"]["low"] <= trial["report"]["value"] <= trial["report"]["high"]
        job = ask(client, "GET", trial["links"]["job"])
        assert job["best"]["value"] == trial["value"]
        assert job["resolved"]["teachers"][0]["reference"] == "model:forest@1"
    told = [_answers(client, trial["job"]) for trial in trials]
    assert told[0][0] == 0
    assert [reused for reused, _ in told[1:]] == [told[0][1]] * 2  # the teacher answered the first one alone
    assert [asked for _, asked in told[1:]] == [0] * 2

    front, best = sweep["front"], sweep["best"]
    assert [point["bytes"] for point in front] == sorted(point["bytes"] for point in front)
    assert best["value"] == max(trial["value"] for trial in trials)
    assert best["trial"] == front[-1]["trial"]
    assert best["spec"]["losses"]["temperature"] == best["parameters"]["/losses/temperature"]
    plan = ask(client, "POST", "/v1/jobs/plan", json=best["spec"])
    assert plan["ok"], plan["checks"]
    assert plan["resolved"]["spec"]["output"]["model"] == "iris-tiny"
    assert plan["resolved"]["spec"]["evaluation"]["compare"] == ["teacher", "control"]


def _answers(client: httpx.Client, job_id: str) -> tuple[int, int]:
    """How many of the teacher's answers a job found stored, and how many it had to ask for."""
    curves = ask(client, "GET", f"/v1/jobs/{job_id}/metrics?split=signals")["data"]
    counts = {series["name"]: int(series["points"][0]["value"]) for series in curves}
    return counts["reused"], counts["asked"]
