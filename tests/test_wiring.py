"""What the URLs in the settings mean."""

from pathlib import Path

import pytest

from app.errors import Misconfigured
from app.ports.blobs import FileBlobs
from app.ports.queue import LocalQueue
from app.services import trainer
from app.services.layers import OFFLINE
from app.services.workplace import PLAIN
from app.settings import Connection, Settings
from app.wiring import assemble, database_url


def test_relative_paths_count_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = assemble(Settings())
    monkeypatch.chdir("/")
    assert isinstance(parts.blobs, FileBlobs)
    assert isinstance(parts.queue, LocalQueue)
    blob = parts.blobs.put([b"here"])
    with parts.sessions.write():
        pass
    assert (tmp_path / "data" / "blobs" / "sha256" / blob.sha256[:2] / blob.sha256).read_bytes() == b"here"
    assert parts.sessions.engine.url.database == str(tmp_path / "data" / "stillhouse.db")
    parts.close()


def test_a_postgres_url_stays_as_it_is() -> None:
    url = "postgresql+psycopg://user:secret@db/stillhouse"
    assert database_url(Settings(database_url=url)) == url


@pytest.mark.parametrize(
    "changes",
    [
        {"database_url": "no-url"},
        {"database_url": "sqlite://"},
        {"database_url": "sqlite:///:memory:"},
        {"database_url": "mysql://secret@db/x"},
        {"database_url": "postgresql://secret@db/x"},
        {"blobs_url": "ftp://secret@host/x"},
        {"blobs_url": "file://"},
        {"queue_url": "amqp://secret@host"},
        {"queue_url": "redis://:secret/unquoted@host/0"},
        {"database_url": "postgresql+psycopg://user:un@secret@host/x"},
        {"database_url": "postgresql+psycopg://user:secret:x/x"},
    ],
)
def test_a_url_that_means_nothing_is_refused_with_what_would(changes: dict[str, str], tmp_path: Path) -> None:
    sound = {"database_url": f"sqlite:///{tmp_path}/x.db", "blobs_url": f"file://{tmp_path}/blobs"}
    with pytest.raises(Misconfigured, match="it reads") as caught:
        assemble(Settings(**sound | changes, work_dir=tmp_path))  # type: ignore[arg-type]
    assert "secret" not in caught.value.detail


def test_a_child_is_handed_none_of_our_secrets() -> None:
    lake = Connection(bucket="b", access_key_env="LAKE_KEY", secret_key_env="LAKE_SECRET")
    ours = Connection(bucket="b", access_key_env="AWS_ACCESS_KEY_ID", secret_key_env="AWS_SECRET_ACCESS_KEY")
    settings = Settings(connections={"lake": lake, "ours": ours})
    secret = ("STILLHOUSE_BOOTSTRAP_KEY", "stillhouse_hub_token", "LAKE_KEY", "LAKE_SECRET")
    kept = {"PATH": "/bin", "AWS_ACCESS_KEY_ID": "a", "STILLHOUSE_PORT": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name in secret:
            patch.setenv(name, "told-to-nobody")
        assert "told-to-nobody" not in trainer.environment(settings, PLAIN).values()
    assert settings.without_secrets({**dict.fromkeys(secret, "x"), **kept}) == kept


def test_no_child_asks_a_hub_whatever_its_parent_may(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE:
        monkeypatch.setenv(name, "0")
    handed = trainer.environment(Settings(), PLAIN)
    assert handed["HF_HUB_OFFLINE"] == "1"
    assert OFFLINE.items() <= handed.items()
