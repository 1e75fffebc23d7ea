"""What all tests share: real servers, fresh databases, and the service as a process of its own."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
import pytest

from app.db.migrate import upgrade
from app.db.session import Sessions
from app.db.tables import Project
from app.ports.blobs import Blobs, file_blobs
from app.settings import Settings
from tests import servers
from tests.service import serving

for _name in [name for name in os.environ if name.startswith(("STILLHOUSE_", "AWS_"))]:
    del os.environ[_name]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # two workers share two cores
_numbers = itertools.count()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes in a test's name would differ between processes where they hold a time, as gzip's do."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


# ---- servers, each started when the first test asks for it


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A maintenance URL; its database `migrated` is the template of all others."""
    with TemporaryDirectory(prefix="stillhouse-postgres-") as folder, servers.postgres(Path(folder)) as url:
        _execute(url, "CREATE DATABASE migrated")
        upgrade(url.removesuffix("/postgres") + "/migrated")
        yield url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    with TemporaryDirectory(prefix="stillhouse-valkey-") as folder, servers.valkey(Path(folder)) as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[servers.S3]:
    with TemporaryDirectory(prefix="stillhouse-s3-") as folder, servers.seaweedfs(Path(folder)) as server:
        yield server


# ---- what a test asks for


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A migrated database of this test's own."""
    name = f"test_{next(_numbers)}"
    _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY FILE_COPY")
    yield postgres_server.removesuffix("/postgres") + f"/{name}"
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_migrated_file: Path, tmp_path: Path) -> str:
    """A migrated database of this test's own."""
    path = tmp_path / "stillhouse.db"
    shutil.copyfile(_migrated_file, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The same test on both databases."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    """Sessions on both databases in turn, with the project `prj_default`."""
    sessions = Sessions(database_url)
    with sessions.write() as session:
        session.add(Project(id="prj_default", name="default"))
    yield sessions
    sessions.close()


@pytest.fixture
def redis_url(valkey_server: str) -> str:
    """An empty queue server."""
    import redis

    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


@pytest.fixture
def s3(s3_server: servers.S3, monkeypatch: pytest.MonkeyPatch) -> servers.S3:
    """A fresh prefix in a real bucket; the AWS_* variables that open it are set."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return replace(s3_server, prefix=f"test-{next(_numbers)}")


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return file_blobs(tmp_path / "blobs")


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    """The embedded defaults, in this test's own folder, on a free port."""
    return Settings(
        database_url=sqlite_url,
        blobs_url=f"file://{tmp_path / 'blobs'}",
        work_dir=tmp_path / "work",
        port=servers.free_port(),
        threads=1,
        poll_s=0.2,
    )


@pytest.fixture
def service(settings: Settings) -> Iterator[Callable[..., httpx.Client]]:
    """`service(max_json_bytes=1000)` starts the API as a process, with changed settings, and gives a client.

    It runs until the test is over and must end well when it is asked to. Positional arguments are Python's
    own instead of `-m app`; `folder` is the working directory.
    """
    with ExitStack() as stack:

        def start(*arguments: str, folder: Path | None = None, **changes: Any) -> httpx.Client:
            changed = Settings(**settings.model_dump() | changes)
            return stack.enter_context(serving(changed, arguments or ("-m", "app"), folder))

        yield start


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement)
