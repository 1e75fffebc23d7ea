"""The service as a client sees it: a process of its own, an address, and answers that are errors or not."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

START_S, STOP_S = 60, 30
ANSWER_S = 120  # an upload is profiled before it is answered

Json = dict[str, Any]


class Refused(Exception):
    """What the service said, in its own words."""


@contextmanager
def started(folder: Path) -> Iterator[str]:
    """A service that keeps all it has in `folder`, at a free port; its URL. Its log is service.log there."""
    log = folder / "service.log"
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("STILLHOUSE_")}
    own = {
        "STILLHOUSE_DATABASE_URL": f"sqlite:///{folder}/stillhouse.db",
        "STILLHOUSE_BLOBS_URL": f"file://{folder}/blobs",
        "STILLHOUSE_WORK_DIR": f"{folder}/work",
        "STILLHOUSE_PORT": "0",
        "STILLHOUSE_LOG_FORMAT": "json",
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            env=foreign | own,
            stdout=file,
            stderr=file,
            start_new_session=True,  # so that Ctrl-C ends it only after its job was cancelled
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def client(url: str, key: str | None) -> httpx.Client:
    """Raises Refused where nobody answers."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        httpx.get(f"{url}/healthz", timeout=ANSWER_S)
    except httpx.TransportError:
        raise Refused(f"Nobody answers at {url}: `make run` starts the service.") from None
    return httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S, follow_redirects=True)


def ask(http: httpx.Client, method: str, path: str, **request: Any) -> Any:
    """The JSON of an answer. Raises Refused."""
    return _checked(http.request(method, path, **request)).json()


def events(http: httpx.Client, job_id: str) -> Iterator[Json]:
    """A job's events up to its end, however often the connection breaks off."""
    seen = 0
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen)}
        broken = suppress(httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError)
        with broken, http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
            if response.is_error:
                response.read()
                _checked(response)
            for event in _data(response.iter_lines()):
                yield event
                seen = event["seq"]
                if event["type"] == "job.ended":
                    return


def download(http: httpx.Client, version: str, folder: Path) -> list[Json]:
    """All files of a model version, checked against their sha256. version: /v1/models/NAME/versions/N."""
    files: list[Json] = ask(http, "GET", f"{version}/files")["data"]
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = _checked(http.get(f"{version}/files/{file['path']}")).content
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise Refused(f"{file['path']} arrived damaged.")
        (folder / file["path"]).write_bytes(content)
    return files


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_error:
        return response
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem = response.json()
        faults = [f"  {fault['pointer']}: {fault['detail']} {fault['fix']}" for fault in problem["errors"]]
        raise Refused("\n".join([f"{response.status_code} {problem['code']}: {problem['detail']}", *faults]))
    request = response.request
    raise Refused(f"{request.method} {request.url.path} was answered {response.status_code}.")


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Read from the log, where the service says it in one line once it listens."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if line.startswith("{") and line.endswith("}\n") and '"listening"' in line:
                return str(json.loads(line)["url"])
        time.sleep(0.1)
    raise Refused(f"The service did not start; its log ends with:\n{log.read_text()[-2000:]}")


def _data(lines: Iterable[str]) -> Iterator[Json]:
    """What a text/event-stream carries."""
    parts: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            parts.append(line.removeprefix("data:"))
        elif not line and parts:
            yield json.loads("\n".join(parts))
            parts = []
