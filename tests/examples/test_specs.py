"""Every example spec is an order that is accepted and carried out, here in fewer epochs than it says."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

import examples
from app.main import create_app
from app.ports.parts import Parts
from app.services import claims
from app.settings import Settings
from app.wiring import assemble
from examples import stock
from examples.digits import screen
from examples.digits.outside import Measured
from tests.worker.workshop import Stop
from worker.engine import export
from worker.run import run

SPECS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(examples.__file__).parent / "specs").glob("*.json"))
}
JOBS = [name for name, spec in SPECS.items() if "task" in spec]
SWEEPS = [name for name in SPECS if name not in JOBS]  # what trials come to, other tests ask
AFTER_STAGES = 1  # epochs that follow the longest first stage
WHOLE = {"kd", "born_again", "gates", "text", "regression"}  # with the control and all exports


@pytest.fixture(scope="session")
def house(
    tmp_path_factory: pytest.TempPathFactory, _migrated_file: Path
) -> Iterator[tuple[TestClient, Parts]]:
    """The API with all that the specs name, whose own worker claims nothing that is ordered for a CPU."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("specs")
    shutil.copyfile(_migrated_file, folder / "stillhouse.db")
    settings = Settings(
        database_url=f"sqlite:///{folder}/stillhouse.db",
        blobs_url=f"file://{folder}/blobs",
        work_dir=folder / "work",
        threads=1,
        accelerators=("cuda",),
        devices=("0",),
    )
    parts = assemble(settings)
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        stock.put(client, told=lambda what: None, epochs=1)  # type: ignore[arg-type]
        yield client, parts
    parts.close()


@pytest.mark.parametrize("name", JOBS)
def test_it_is_accepted_and_ends_with_a_student(
    name: str, house: tuple[TestClient, Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, parts = house
    monkeypatch.setattr(export, "MEASURED_S", 0.05)
    order = shortened(SPECS[name])
    if name not in WHOLE:
        order |= {"exports": [{"kind": "safetensors"}]}
        order["evaluation"] |= {"compare": ["teacher"] if order["teachers"] else []}
    accepted = client.post("/v1/jobs", json=order)
    assert accepted.status_code == 202, accepted.text
    with parts.sessions.write() as session:
        job = claims.claim(session, "test", ("cpu",), 600.0)
    assert job is not None
    assert job.id == accepted.json()["id"]
    run(job, job.attempt, parts, Stop())
    ended = client.get(f"/v1/jobs/{job.id}").json()
    assert ended["status"] == "succeeded"
    assert ended["output"]["model"] == f"{SPECS[name]['output']['model']}@1"
    report = client.get(f"/v1/jobs/{job.id}/report").json()
    assert "student" in {column["name"] for column in report["columns"]}
    if name == "kd":
        screen.report(
            report, dict.fromkeys(("teacher", "student"), Measured(1, 1.0, 1.0))
        )  # as the demo does


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_would_be_accepted(name: str, house: tuple[TestClient, Parts]) -> None:
    planned = house[0].post("/v1/sweeps/plan", json=SPECS[name]).json()
    assert planned["ok"], planned["checks"]
    assert planned["trials"] == SPECS[name]["budget"]["trials"]


def shortened(spec: dict[str, Any]) -> dict[str, Any]:
    """As little training as the spec allows: what it comes to is not asked here."""
    losses = spec.get("losses", {})
    terms = losses if isinstance(losses, list) else []
    epochs = max((term.get("stage_epochs", 0) for term in terms), default=0)
    changed = [term | ({"stage_epochs": 1} if "stage_epochs" in term else {}) for term in terms] or losses
    training = spec["training"] | {"epochs": (1 if epochs else 0) + AFTER_STAGES}
    if "finetune" in training:
        training["finetune"] = training["finetune"] | {"epochs": 1}
    evaluation = spec.get("evaluation", {}) | {"bootstrap": 100}
    changes = {"training": training, "evaluation": evaluation, "resources": {"accelerator": "cpu"}}
    return spec | changes | ({"losses": changed} if losses else {})
