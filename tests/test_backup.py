"""What was backed up comes back: the database and the blobs are destroyed, restored, verified and used."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app import backup, verify
from app.db.tables import AttemptLog, JobCheckpoint, Project
from app.ports.parts import Parts
from app.services import predictions
from app.settings import Settings
from app.wiring import assemble
from tests import orders, servers
from tests.serving.students import PROJECT, add_digits, digit

LATER = timedelta(days=2)


@contextmanager
def parts_of(settings: Settings) -> Iterator[Parts]:
    parts = assemble(settings)
    try:
        yield parts
    finally:
        parts.close()


def run(settings: Settings, *words: object, code: int = 0) -> str:
    """A module of the application, as an operator starts it; what it printed."""
    name, *rest = map(str, words)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        for variable, value in settings.environment().items():
            patch.setenv(variable, value)
        ended = backup.main(rest) if name == "app.backup" else verify.main(rest)
    assert ended == code, said.getvalue()
    return said.getvalue()


def fill(settings: Settings) -> dict[str, str]:
    """A student, and what else rows name; digests by what they are."""
    with parts_of(settings) as parts, parts.sessions.write() as session:
        session.add(Project(id=PROJECT, name="default"))
        session.flush()
        student = add_digits(session, parts.blobs)
        tensors = parts.blobs.put([b"tensors" * 3_000_000])  # in several parts
        listed = f'{{"files": [{{"name": "a", "sha256": "{tensors.sha256}", "size": 1}}], "step": 1}}'
        manifest, log = parts.blobs.put([listed.encode()]), parts.blobs.put([b"it said so"])
        orders.stock(session)
        for content in ("iris 60", "botanist"):  # whose digests stand in those rows
            parts.blobs.put([content.encode()])
        job = orders.submit(session, settings).id
        session.add(AttemptLog(job_id=job, attempt=1, sha256=log.sha256, size=log.size))
        session.add(
            JobCheckpoint(
                job_id=job, step=1, attempt=1, manifest=manifest.sha256, size=1, best=True, metrics={}
            )
        )
        onnx = next(file["sha256"] for file in student.files if file["path"] == "model.onnx")
        return {"student": onnx, "tensors": tensors.sha256, "manifest": manifest.sha256, "log": log.sha256}


def answered(settings: Settings) -> object:
    with parts_of(settings) as parts:
        with parts.sessions.read() as session:
            student = predictions.find(session, PROJECT, "digits")
        return predictions.answer(student, parts.predictor, [digit(0)], top_k=2)


def wipe_blobs(settings: Settings) -> int:
    with parts_of(settings) as parts:
        return sum(parts.blobs.remove(one.sha256, datetime.now(UTC) + LATER) for one in parts.blobs.all())


def tried(
    settings: Settings, folder: Path, save: Callable[[], object], lose: Callable[[], object],
    bring_back: Callable[[], object],
) -> None:  # fmt: skip
    digests = fill(settings)
    before = answered(settings)
    save()
    said = run(settings, "app.backup", folder)
    assert "7 new blobs are saved" in said
    assert "0 new blobs are saved" in run(settings, "app.backup", folder)
    lose()
    assert wipe_blobs(settings) == 7
    bring_back()
    assert "7 blobs are put back" in run(settings, "app.backup", "--restore", folder)
    assert "missing or damaged: 0" in run(settings, "app.verify")
    assert answered(settings) == before

    with parts_of(settings) as parts:
        parts.blobs.remove(digests["tensors"], datetime.now(UTC) + LATER)
    told = run(settings, "app.verify", code=1)
    assert f"missing {digests['tensors']} of job_" in told
    assert "sound: 6; missing or damaged: 1" in told


def test_embedded(settings: Settings, tmp_path: Path) -> None:
    database = Path(settings.database_url.removeprefix("sqlite:///"))

    def lose() -> None:
        database.unlink()

    tried(settings, tmp_path / "backup", lambda: None, lose, lambda: None)
    refused = run(settings, "app.backup", "--restore", tmp_path / "backup")
    assert "There is a database already, and it stays" in refused


def test_a_damaged_blob_is_found_kept_out_of_a_backup_and_put_back(
    settings: Settings, tmp_path: Path
) -> None:
    digests = fill(settings)
    sound, late = tmp_path / "sound", tmp_path / "late"
    run(settings, "app.backup", sound)
    log = digests["log"]
    stored = tmp_path / "blobs" / "sha256" / log[:2] / log
    stored.write_bytes(b"it said sO")
    command, environment = [sys.executable, "-m", "app.verify"], os.environ | settings.environment()
    told = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert (told.returncode, told.stderr) == (1, "")
    assert f"damaged {log} of job_" in told.stdout
    assert f"damaged {log}, not saved" in run(settings, "app.backup", late, code=1)
    assert not (late / "blobs" / "sha256" / log[:2] / log).exists()
    assert "1 blobs are put back" in run(settings, "app.backup", "--restore", sound)
    assert stored.read_bytes() == b"it said so"


def test_what_is_not_there_is_said_in_a_sentence(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    database = Path(settings.database_url.removeprefix("sqlite:///"))
    empty = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/none.db"})

    def refused(settings: Settings, *words: object) -> str:
        capfd.readouterr()
        assert run(settings, *words, code=2) == ""
        return capfd.readouterr().err

    for words in (["app.verify"], ["app.backup", tmp_path / "backup"]):
        assert "There is no database at the path" in refused(empty, *words)
    assert not (tmp_path / "none.db").exists()
    assert "no folder `blobs`" in refused(settings, "app.backup", "--restore", tmp_path / "nowhere")
    digests = fill(settings)
    assert "FOLDER names a folder that cannot be made" in refused(settings, "app.backup", "/proc/backup")
    run(settings, "app.backup", tmp_path / "backup")
    (tmp_path / "backup" / "stillhouse.db").unlink()
    assert "There is no database in" in refused(empty, "app.backup", "--restore", tmp_path / "backup")
    stored = tmp_path / "backup" / "blobs" / "sha256" / digests["log"][:2] / digests["log"]
    stored.write_bytes(b"it s")
    wipe_blobs(settings)
    said = run(settings, "app.backup", "--restore", tmp_path / "backup", code=1)
    assert "6 blobs are put back" in said
    assert f"damaged {digests['log']}, in the backup, not put back" in said
    database.write_bytes(b"no database at all" * 100)
    assert "The database does not answer" in refused(settings, "app.verify")


def test_postgres_and_s3(settings: Settings, postgres_url: str, s3: servers.S3, tmp_path: Path) -> None:
    production = settings.model_copy(update={"database_url": postgres_url, "blobs_url": s3.url})
    url, dump = postgres_url.replace("+psycopg", ""), tmp_path / "stillhouse.dump"
    programs = servers.postgres_programs()

    def tool(*words: object) -> None:
        subprocess.run([programs / str(words[0]), *map(str, words[1:])], check=True, capture_output=True)

    tried(
        production,
        tmp_path / "backup",
        lambda: tool("pg_dump", "--format=custom", f"--file={dump}", url),
        lambda: tool("psql", url, "--command=DROP SCHEMA public CASCADE; CREATE SCHEMA public"),
        lambda: tool("pg_restore", f"--dbname={url}", dump),
    )
