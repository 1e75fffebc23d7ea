"""The service as it is run, with every process in reach: embedded, and production."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg

from app.db.migrate import upgrade
from app.db.session import Sessions
from app.db.tables import Dataset
from app.ports.blobs import Blobs, file_blobs, s3_blobs
from app.settings import Settings
from tests import orders, servers
from tests.chaos.processes import Process, running
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).parents[2]
DRILL = Path(__file__).parent / "drill"
DISK_MB = 48
LEASE_S = 5.0  # a busy machine starts a process in seconds
POLL_S = 0.3
ROWS = b"rows of a drill" * 100
_migrating = threading.Lock()  # alembic knows one database at a time
_probe = httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass
class Stack:
    """supervisors: whose children trainers are. disk: a folder on a small file system, where one may be
    mounted. sessions and blobs: the runner's own way to the truth, past every proxy."""

    folder: Path
    apis: list[Process]
    supervisors: list[Process]
    urls: list[str]
    sessions: Sessions
    blobs: Blobs
    postgres: Process | None = None
    valkey: Process | None = None
    valkey_url: str | None = None
    disk: Path | None = None
    proxies: dict[str, Proxy] = field(default_factory=dict)

    @property
    def starts(self) -> Path:
        return self.folder / "starts"


@contextmanager
def embedded(
    folder: Path, changes: Mapping[str, str] | None = None, *, servers_count: int = 1
) -> Iterator[Stack]:
    """SQLite, files, the local queue. Several servers may share the file, and take over from each other.

    changes: of the environment.
    """
    with ExitStack() as stack:
        disk = stack.enter_context(_small_disk(folder / "disk"))
        home = disk or folder
        url = f"sqlite:///{home}/stillhouse.db"
        with _migrating:
            upgrade(url)
        environment = _environment(folder, home, database_url=url, blobs_url=f"file://{home}/blobs")
        environment |= changes or {}
        ports = [servers.free_port() for _ in range(servers_count)]
        apis = [_api(folder, port, environment) for port in ports]
        stack.enter_context(running(apis))
        sessions = Sessions(url)
        stack.callback(sessions.close)
        made = Stack(
            folder, apis, apis, list(map(_url, ports)), sessions, file_blobs(home / "blobs"), disk=disk
        )
        stock(made.sessions, made.blobs)
        yield made


@contextmanager
def production(
    folder: Path, changes: Mapping[str, str] | None = None, *, workers: int = 2, place: Path = DRILL
) -> Iterator[Stack]:
    """Postgres with fsync, Valkey, S3 behind a proxy, Celery workers.

    place: where servers are started, and so which worker they find: the drills' one, or in ROOT the real one.
    """
    with ExitStack() as stack:
        disk = stack.enter_context(_small_disk(folder / "disk"))
        postgres, direct_url = _postgres(folder / "postgres")
        valkey, valkey_url = _valkey(folder / "valkey")
        (folder / "s3").mkdir()
        s3 = stack.enter_context(servers.seaweedfs(folder / "s3"))
        stack.enter_context(running([postgres, valkey]))
        _execute(direct_url, "CREATE DATABASE chaos")
        direct_url = direct_url.removesuffix("/postgres") + "/chaos"
        with _migrating:
            upgrade(direct_url)
        proxies = {
            "s3": stack.enter_context(Proxy(("127.0.0.1", _port(s3.environment["AWS_ENDPOINT_URL"])))),
            "postgres": stack.enter_context(Proxy(("127.0.0.1", _port(direct_url.rpartition("/")[0])))),
        }
        through = direct_url.replace(
            f":{_port(direct_url.rpartition('/')[0])}/", f":{proxies['postgres'].port}/"
        )
        environment = {
            **s3.environment,
            **_environment(
                folder,
                disk or folder,
                database_url=through,
                blobs_url=f"s3://{s3.bucket}/chaos",
                queue_url=valkey_url,
            ),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxies['s3'].port}",
            **(changes or {}),
        }
        port = servers.free_port()
        api = _api(folder, port, environment, place)
        supervisors = [_worker(folder, number, environment, place) for number in range(workers)]
        stack.enter_context(running([api, *supervisors]))
        sessions = Sessions(direct_url)
        stack.callback(sessions.close)
        made = Stack(
            folder, [api], supervisors, [_url(port)], sessions, _direct_blobs(s3, folder),
            postgres, valkey, valkey_url, disk, proxies,
        )  # fmt: skip
        stock(made.sessions, made.blobs)
        yield made


def _environment(folder: Path, home: Path, **urls: str) -> dict[str, str]:
    settings = Settings.model_validate(
        {
            "work_dir": home / "work",
            "threads": 1,
            "lease_s": LEASE_S,
            "poll_s": POLL_S,
            "slots": 2,
            "max_no_progress": 1000,  # chaos kills a job as often as it likes
            **urls,
        }
    )
    return settings.environment() | {
        "CHAOS_STARTS": str(folder / "starts"),
        "CHAOS_BACKOFF_S": "0.02",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _api(folder: Path, port: int, environment: dict[str, str], place: Path = DRILL) -> Process:
    return Process(
        f"api-{port}",
        [sys.executable, "-m", "worker.api" if place == DRILL else "app"],
        folder / f"api-{port}.log",
        lambda: _probe.get(f"{_url(port)}/readyz").raise_for_status(),
        environment=environment | {"STILLHOUSE_PORT": str(port)},
        cwd=place,
    )


def _worker(folder: Path, number: int, environment: dict[str, str], place: Path) -> Process:
    name, log = f"worker-{number}", folder / f"worker-{number}.log"
    log.touch()
    command = [sys.executable, "-m", "celery", "--app", "worker.celery", "worker", "--pool", "threads"]
    command += ["--concurrency", "2", "--without-gossip", "--without-mingle", "--hostname", name]
    return Process(name, command, log, lambda: None, environment=environment, cwd=place)


def _postgres(folder: Path) -> tuple[Process, str]:
    """fsync is on: what it has said is committed must be there after any crash."""
    folder.mkdir()
    port = servers.free_port()
    command, before, popen = servers.postgres_cluster(folder, port)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    plain = url.replace("+psycopg", "")
    process = Process(
        "postgres",
        command,
        folder / "log",
        lambda: psycopg.connect(plain, connect_timeout=5).close(),
        end=signal.SIGQUIT,
        before=before,
        **popen,
    )
    return process, url


def _valkey(folder: Path) -> tuple[Process, str]:
    folder.mkdir()
    port = servers.free_port()
    process = Process(
        "valkey", servers.valkey_command(folder, port), folder / "log", lambda: servers.ping_valkey(port)
    )
    return process, f"redis://127.0.0.1:{port}/0"


def _direct_blobs(s3: servers.S3, folder: Path) -> Blobs:
    os.environ |= s3.environment
    return s3_blobs(s3.bucket, "chaos", folder / "direct")


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own, where this machine lets us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=1777", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def stock(sessions: Sessions, blobs: Blobs) -> None:
    """What the orders of the drills point at."""
    blob = blobs.put([ROWS])
    with sessions.write() as session:
        orders.stock(session)
        for dataset in session.query(Dataset):
            dataset.files = {
                split: {**told, "sha256": blob.sha256, "size": blob.size}
                for split, told in dataset.files.items()
            }


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement)
