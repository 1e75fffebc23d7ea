"""The straight line, over HTTP and with real processes: a teacher goes in, a proven student comes out.

Once embedded, on images; once with Postgres, Valkey, SeaweedFS and a Celery worker, on a table.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.job_views import EventView, JobView
from app.settings import Settings
from tests import composed as composed_file
from tests import servers
from tests.intake import checkpoints, samples
from tests.irises import FLOWER, iris_order

LONGEST_S = 240.0
KEY = "sh_first_" + "k" * 43


def ask(client: httpx.Client, method: str, path: str, **request: Any) -> Any:
    answer = client.request(method, path, **request)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Follows a job by long polls."""
    waited = 0.0
    while not job["terminal"]:
        assert waited < LONGEST_S, f"still {job['status']} in {job['phases']}"
        path = f"/v1/jobs/{job['id']}?wait=20&version={job['version']}"
        answer = client.get(path, timeout=40)
        waited += answer.elapsed.total_seconds()
        job = answer.json()
    return job


def streamed(client: httpx.Client, job_id: str, after: int = 0) -> list[dict[str, Any]]:
    """Events until the job's end, read as a stream."""
    found = []
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
    return found


def digits_order(client: httpx.Client, tmp_path: Path) -> dict[str, Any]:
    """Uploads digits and an untrained teacher, which knows nothing but works: the line is tried here."""
    pairs = samples.digits(120)
    names = samples.NAMES
    upload = {"train": samples.as_hugging_face(pairs[:80]), "test": samples.as_hugging_face(pairs[80:])}
    files = {split: (f"{split}.parquet", content) for split, content in upload.items()}
    data = ask(client, "POST", "/v1/datasets", data={"name": "digits"}, files=files)
    folder = checkpoints.contents(checkpoints.save_resnet(tmp_path / "teacher", list(names)))
    packed = checkpoints.pack(tmp_path / "teacher.zip", folder).read_bytes()
    model = ask(
        client, "POST", "/v1/models", data={"name": "teacher"}, files={"file": ("teacher.zip", packed)}
    )
    return {
        "name": "digits by hand",
        "labels": {"team": "a"},
        "task": {"kind": "image_classification"},
        "teachers": [{"model": model["reference"]}],
        "student": {
            "architecture": {"kind": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
        },
        "data": {"train": f"{data['reference']}#train", "test": f"{data['reference']}#test"},
        "training": {"epochs": 2, "batch_size": 16},
        "output": {"model": "digits-tiny", "alias": "champion"},
    }


def test_embedded_from_upload_to_prediction(service: Callable[..., httpx.Client], tmp_path: Path) -> None:
    client = service()
    spec = digits_order(client, tmp_path)
    plan = ask(client, "POST", "/v1/jobs/plan", json=spec)
    assert plan["ok"], plan["checks"]

    accepted = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "one"})
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["location"] == f"/v1/jobs/{job['id']}"
    JobView.model_validate(job)
    again = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "one"})
    assert again.json()["id"] == job["id"]

    told = streamed(client, job["id"])
    job = ended(client, job)
    assert job["status"] == "succeeded", job["error"]
    JobView.model_validate(job)
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert told[-1]["type"] == "job.ended"
    for event in told:
        EventView.model_validate(event)
    assert {phase["status"] for phase in job["phases"]} == {"succeeded"}
    assert streamed(client, job["id"], after=len(told) - 1) == told[-1:]
    assert ask(client, "GET", f"/v1/jobs/{job['id']}/events?limit=2")["data"] == told[:2]

    etag = client.get(f"/v1/jobs/{job['id']}").headers["etag"]
    assert client.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": etag}).status_code == 304
    listed = ask(client, "GET", "/v1/jobs?status=succeeded&label.team=a&q=hand&model=digits-tiny")
    assert [one["id"] for one in listed["data"]] == [job["id"]]
    assert ask(client, "GET", "/v1/jobs?label.team=b")["data"] == []

    report = ask(client, "GET", f"/v1/jobs/{job['id']}/report")
    assert {column["name"] for column in report["columns"]} >= {"control", "student"}
    markdown = client.get(f"/v1/jobs/{job['id']}/report", headers={"Accept": "text/markdown"})
    assert markdown.text.startswith("#")
    parted = ask(client, "GET", f"/v1/jobs/{job['id']}/rows")["data"]
    assert parted[0]["apart"] >= parted[-1]["apart"]
    kept = ask(client, "GET", "/v1/datasets/digits/versions/1/rows?split=test&limit=200")["data"]
    assert {row["row"]: row["values"]["label"] for row in kept}[parted[0]["row"]] == parted[0]["label"]
    curve = ask(client, "GET", f"/v1/jobs/{job['id']}/metrics?split=validation")["data"]
    assert "accuracy" in {series["name"] for series in curve}
    table = client.get(f"/v1/jobs/{job['id']}/metrics", headers={"Accept": "text/csv"}).text
    assert table.startswith("name,split,step,value,at\r\n")

    image = base64.b64encode(samples.digits(1)[0][0]).decode()
    asked = {"model": "digits-tiny@champion", "inputs": [image], "top_k": 3}
    answer = ask(client, "POST", "/predict", json=asked)
    assert len(answer["predictions"][0]["top"]) == 3
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert ask(client, "POST", "/predict", json=asked)["predictions"] == answer["predictions"]


def test_a_running_job_can_be_kept_or_discarded(service: Callable[..., httpx.Client], tmp_path: Path) -> None:
    client = service()
    spec = digits_order(client, tmp_path) | {"exports": [{"kind": "safetensors"}]}
    spec["training"] = {"epochs": 100_000, "batch_size": 16}
    for mode, status in (("keep", "succeeded"), ("discard", "cancelled")):
        job = ask(client, "POST", "/v1/jobs", json=spec)
        while job["progress"].get("step", 0) < 10:
            assert not job["terminal"], job["error"]
            job = ask(client, "GET", f"/v1/jobs/{job['id']}?wait=20&version={job['version']}", timeout=40)
        job = ask(client, "POST", f"/v1/jobs/{job['id']}/cancel", json={"mode": mode})
        assert job["status"] == "cancelling"
        job = ended(client, job)
        assert job["status"] == status, job["error"]
        if mode == "keep":
            assert job["outcome"]["stopped_by"] == "user"


def test_production_from_upload_to_prediction(
    service: Callable[..., httpx.Client],
    settings: Settings,
    postgres_url: str,
    redis_url: str,
    s3: servers.S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process has the variables of docker-compose.yml, and real servers in the places that they name."""
    places = {
        "STILLHOUSE_DATABASE_URL": postgres_url,
        "STILLHOUSE_BLOBS_URL": s3.url,
        "STILLHOUSE_QUEUE_URL": redis_url,
        "STILLHOUSE_WORK_DIR": str(settings.work_dir),
        "STILLHOUSE_METRICS_PORT": str(servers.free_port()),
        "TMPDIR": str(tmp_path),
        **s3.environment,
    }
    api = composed("api", places)
    client = service(**as_composed(monkeypatch, api).model_dump(exclude={"port"}))
    assert client.get("/v1/jobs").status_code == 401
    client.headers["Authorization"] = f"Bearer {KEY}"
    training, output = {"epochs": 5, "batch_size": 16}, {"model": "iris-tiny"}
    spec = iris_order(client, tmp_path, training=training, output=output)
    with celery_worker(as_composed(monkeypatch, composed("worker", places)), tmp_path):
        job = ended(client, ask(client, "POST", "/v1/jobs", json=spec))
        page = httpx.get(f"http://127.0.0.1:{places['STILLHOUSE_METRICS_PORT']}/metrics")
        well = httpx.get(f"http://127.0.0.1:{places['STILLHOUSE_METRICS_PORT']}/healthz")
    figures = {line.partition(" ")[0]: line.partition(" ")[2] for line in page.text.splitlines()}
    assert (figures["stillhouse_worker_slots"], well.status_code) == ("1.0", 200)
    assert float(figures["stillhouse_worker_silent_seconds"]) < 60
    assert float(figures["process_resident_memory_bytes"]) > 0
    assert job["status"] == "succeeded", job["error"]
    answer = ask(client, "POST", "/v1/models/iris-tiny/predict", json={"inputs": [FLOWER]})
    assert answer["predictions"][0]["label"] in job["resolved"]["labels"]
    told = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.log"))
    assert '"phase started"' in told
    assert not [secret for secret in (KEY, servers.SECRET_KEY) if secret in told]


def composed(name: str, places: dict[str, str]) -> dict[str, str]:
    """A service's variables, in which nothing is added and only places are others."""
    given = composed_file.environment(name, {"STILLHOUSE_BOOTSTRAP_KEY": KEY})
    return given | {variable: place for variable, place in places.items() if variable in given}


def as_composed(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    """What a process reads that has these variables and no others of ours."""
    for variable in [one for one in os.environ if one.startswith(("STILLHOUSE_", "AWS_"))]:
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return Settings()


@contextmanager
def celery_worker(settings: Settings, folder: Path) -> Iterator[None]:
    """As `make worker` starts it; it must end well when it is asked to."""
    command = [sys.executable, "-m", "celery", "--app", "worker.celery", "worker", "--pool", "threads"]
    command += ["--without-gossip", "--without-mingle"]
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            servers.tethered(command, signal.SIGTERM),
            env=os.environ | settings.environment(),
            stdout=output,
            stderr=output,
        )
    try:
        yield
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-6000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail("the worker did not end within 30 s")
    assert code == 0, log.read_text(errors="replace")[-6000:]
