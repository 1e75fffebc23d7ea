"""What child processes see of the operator's variables."""

import os
import threading
from pathlib import Path

import pytest

from app.db.tables import ModelVersion
from app.services import layers
from tests.waiting import until
from worker import ranks

SECRETS = {
    "STILLHOUSE_DATABASE_URL": "postgresql+psycopg://me:secret@db/x",
    "STILLHOUSE_QUEUE_URL": "redis://:secret@queue/0",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "PGPASSWORD": "secret",
    "LAKE_KEY": "secret",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
}


@pytest.fixture(autouse=True)
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose variables hold secrets, and whose `worker` is this test's own."""
    for name, text in SECRETS.items():
        monkeypatch.setenv(name, text)
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)


def test_who_lists_the_layers_of_a_strangers_model_gets_no_secret(tmp_path: Path) -> None:
    (tmp_path / "worker" / "layers.py").write_text(
        "import json, os; print(json.dumps({'seen': dict(os.environ)}))"
    )
    said = ModelVersion(format="mlp", family="mlp", task="x", details={}, input={}, labels=[])
    seen = layers._ask(said, threading.Event())["seen"]
    assert not [name for name, text in seen.items() if "secret" in text]
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_a_rank_gets_what_opens_the_database_and_the_blobs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker" / "ranks.py").write_text(
        "import os, pathlib\n"
        "pathlib.Path('unnamed').write_text('\\n'.join(sorted(os.environ)))\n"
        "pathlib.Path('unnamed').rename('seen')"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("sys.argv", ["worker.ranks", "2", "job_x", "1"])
    with ranks._followers(2):
        until((tmp_path / "seen").exists)
    seen = set((tmp_path / "seen").read_text().split("\n"))
    assert seen & SECRETS.keys() == {"STILLHOUSE_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"}
    assert {"PATH", "CUDA_VISIBLE_DEVICES"} <= seen
