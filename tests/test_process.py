"""`python -m app` as a process: how it starts, what it says, what it refuses and how it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from pydantic import ValidationError

from app.settings import Settings

KEY = "sh_test_" + "k" * 43
LIMIT_MB = 120


@contextmanager
def running(settings: Settings, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """The service, started as a user would; it is killed if the test did not end it."""
    command = [sys.executable, "-m", "app"]
    given = os.environ | settings.environment() | {"STILLHOUSE_PORT": "0"} | environment
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: "subprocess.Popen[str]") -> str:
    """Where the service says that it listens."""
    assert process.stderr is not None
    for line in process.stderr:
        if "listening" in line and (found := re.search(r"http://[^\s\"]+:\d+", line)):
            return found[0]
    raise AssertionError("the service ended without saying where it listens")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_when_it_is_asked_to(
    settings: Settings, how: signal.Signals
) -> None:
    with running(settings) as process:
        url = url_of(process)
        assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}
        process.send_signal(how)
        assert process.wait(20) in (0, -how)
        assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def test_it_warns_of_a_variable_that_sets_nothing(settings: Settings) -> None:
    with running(
        settings, STILLHOUSE_MAX_UPLOAD_BYTE="5", stillhouse_port="0", STILLHOUSE_KEY="of a client"
    ) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "no setting" in line or "listening" in line)
    assert "variable=STILLHOUSE_MAX_UPLOAD_BYTE" in line
    assert "did_you_mean=STILLHOUSE_MAX_UPLOAD_BYTES" in line


def test_it_makes_and_migrates_its_own_sqlite_file(settings: Settings, tmp_path: Path) -> None:
    fresh = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/new/fresh.db"})
    with running(fresh) as process:
        assert httpx.get(f"{url_of(process)}/readyz").status_code == 200
    assert (tmp_path / "new" / "fresh.db").exists()


def test_at_rest_it_is_small(settings: Settings) -> None:
    with running(settings) as process:
        assert httpx.get(f"{url_of(process)}/readyz").status_code == 200
        status = Path(f"/proc/{process.pid}/status").read_text()
    resident_kb = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]
    assert resident_kb < LIMIT_MB * 1024


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"STILLHOUSE_HOST": "0.0.0.0"}, "STILLHOUSE_BOOTSTRAP_KEY is not set"),
        ({"STILLHOUSE_BOOTSTRAP_KEY": "hunter2"}, "STILLHOUSE_BOOTSTRAP_KEY is not a key"),
        ({"STILLHOUSE_PORT": "99999999"}, "STILLHOUSE_PORT"),
        ({"STILLHOUSE_BLOBS_URL": "ftp://hunter2"}, "STILLHOUSE_BLOBS_URL cannot be used"),
        ({"STILLHOUSE_QUEUE_URL": "amqp://hunter2"}, "STILLHOUSE_QUEUE_URL cannot be used"),
        ({"STILLHOUSE_CONNECTIONS": "{hunter2"}, "STILLHOUSE_CONNECTIONS is read as JSON"),
        ({"STILLHOUSE_LOG_FORMAT": "hunter2"}, "STILLHOUSE_LOG_FORMAT: "),
        ({"STILLHOUSE_WORK_DIR": "/proc/nowhere"}, "STILLHOUSE_WORK_DIR names a folder"),
        ({"STILLHOUSE_BLOBS_URL": "file:///proc/nowhere"}, "STILLHOUSE_BLOBS_URL names a folder"),
    ],
)
def test_it_refuses_to_start_with_settings_that_do_not_fit(
    settings: Settings, environment: dict[str, str], reason: str
) -> None:
    with running(settings, **environment) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert reason in said
    assert "Traceback" not in said
    assert "hunter2" not in said


def test_it_says_that_its_port_is_taken(settings: Settings) -> None:
    with running(settings) as first:
        port = url_of(first).rpartition(":")[2]
        with running(settings, STILLHOUSE_PORT=port) as second:
            _, said = second.communicate(timeout=30)
    assert second.returncode == 3
    assert "already in use" in said
    assert "Traceback" not in said


def test_it_refuses_a_postgres_database_that_nobody_migrated(settings: Settings, postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP TABLE alembic_version")
    with running(settings, STILLHOUSE_DATABASE_URL=postgres_url) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "make migrate" in said


def test_with_a_key_it_listens_to_others_in_json(settings: Settings) -> None:
    environment = {
        "STILLHOUSE_HOST": "0.0.0.0",
        "STILLHOUSE_BOOTSTRAP_KEY": KEY,
        "STILLHOUSE_LOG_FORMAT": "json",
    }
    with running(settings, **environment) as process:
        url = url_of(process).replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/capabilities").status_code == 401
            answer = client.get(
                "/v1/capabilities", headers={"Authorization": f"Bearer {KEY}", "Host": "any.example"}
            )
            assert answer.status_code == 200


def test_a_worker_refuses_a_database_of_another_version(settings: Settings, postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
    command = [sys.executable, "-m", "celery", "--app", "worker.celery", "worker", "--pool", "threads"]
    changes = {"database_url": postgres_url, "queue_url": "redis://127.0.0.1:1/0"}
    environment = os.environ | settings.model_copy(update=changes).environment()
    ended = subprocess.run(command, env=environment, capture_output=True, check=False, text=True, timeout=60)
    assert ended.returncode != 0
    assert "make migrate" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_process_repeats_a_setting_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they are read for: a password may stand in any of them."""
    for name, value in (("CONNECTIONS", '{"a": {"bucket": "b", "key": "hunter2"}}'), ("PORT", "hunter2")):
        monkeypatch.setenv(f"STILLHOUSE_{name}", value)
        with pytest.raises(ValidationError) as told:
            Settings()
        monkeypatch.delenv(f"STILLHOUSE_{name}")
        assert name.lower() in str(told.value)
        assert "hunter2" not in str(told.value)
