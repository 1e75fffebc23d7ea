"""The API process: its memory, its start, and how fast it tells of a job.

GET /v1/jobs/{id} is asked over 16 keep-alive connections, in turns with a bare FastAPI `def` endpoint that
returns a constant of the same size under the same server settings. Promised: at most 120 MB before a model is
loaded, ready within 2 s, torch never imported, at least half the bare rate.
"""

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

from app.catalog.spec import Resolved
from app.db import migrate
from app.db.dialect import now
from app.db.ids import new_id
from app.db.session import Sessions
from app.db.tables import Job
from app.services.access import DEFAULT_PROJECT
from app.services.keys import establish
from app.services.phases import PHASES
from app.settings import Settings
from harness.load import get, put_under_load
from harness.servers import Running, bare, embedded, service

STARTS, ROUNDS, SECONDS, CONNECTIONS = 5, 7, 2.0, 16


def main() -> None:
    with TemporaryDirectory() as folder:
        settings = embedded(Path(folder))
        path = f"/v1/jobs/{store_job(settings)}"
        starts(settings)
        with service(settings) as ours:
            answer = Path(folder) / "answer.json"
            with urlopen(f"http://127.0.0.1:{ours.port}{path}") as response:
                answer.write_bytes(response.read())
            with bare(answer) as theirs:
                compare(ours, theirs, path, answer.stat().st_size)


def starts(settings: Settings) -> None:
    seconds, megabytes = [], []
    for _ in range(STARTS):
        with service(settings) as running:
            seconds.append(running.ready_s)
            megabytes.append(running.resident_mb())
            if "torch" in running.maps():
                raise SystemExit("torch was imported")
    print(f"ready after {median(seconds):.2f} s, at the slowest {max(seconds):.2f} s, of {STARTS} starts")
    print(f"resident {max(megabytes):.0f} MB before a model is loaded; torch is not imported")


def compare(ours: Running, theirs: Running, path: str, size: int) -> None:
    request = get(path)
    rates: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):  # the first round warms up
        pair = [
            put_under_load(one.port, request, connections=CONNECTIONS, seconds=SECONDS).rate
            for one in (ours, theirs)
        ]
        rates.append((pair[0], pair[1]))
    job, constant = (median(column) for column in zip(*rates[1:], strict=True))
    ratio = median(job / constant for job, constant in rates[1:])
    print(f"GET /v1/jobs/{{id}}, {size:,} bytes, {CONNECTIONS} connections: {job:.0f}/s")
    print(f"bare FastAPI, the same size and connections: {constant:.0f}/s")
    print(f"ratio {ratio:.2f} (median of {ROUNDS} rounds); resident afterwards {ours.resident_mb():.0f} MB")


def store_job(settings: Settings) -> str:
    """Puts an ended job as a user would find it into the database; its id."""
    migrate.upgrade(settings.database_url)
    sessions, job_id, moment = Sessions(settings.database_url), new_id("job"), now()
    stamp = moment.isoformat()
    order = resolved()
    phases = [
        {"name": name, "status": "succeeded", "progress": 1.0, "started_at": stamp, "ended_at": stamp}
        for name in PHASES
    ]
    job = Job(
        id=job_id,
        project_id=DEFAULT_PROJECT,
        name=order["spec"]["name"],
        task="image_classification",
        spec=SPEC,
        resolved=order,
        spec_digest="0" * 64,
        status="cancelled",
        phases=phases,
        progress={"step": 300, "total_steps": 300, "epoch": 30, "samples_per_s": 5120.5, "eta_s": 0.0},
        best={"metric": "accuracy", "value": 0.9666, "step": 290},
        usage={"seconds": 42.5},
        artifacts=[],
        started_at=moment,
        ended_at=moment,
    )
    with sessions.write() as session:
        establish(session, settings)
        session.add(job)
    sessions.close()
    return job_id


SPEC: dict[str, Any] = {
    "name": "digits, small",
    "labels": {"team": "vision"},
    "task": {"kind": "image_classification"},
    "teachers": [{"model": "model:digits-teacher@1"}],
    "student": {"architecture": {"kind": "resnet", "hidden_sizes": [16, 32], "depths": [1, 1]}},
    "data": {"train": "dataset:digits@1#train", "test": "dataset:digits@1#test"},
    "output": {"model": "digits-small", "alias": "champion"},
}


def resolved() -> dict[str, Any]:
    labels = [str(digit) for digit in range(10)]
    pixels = {"size": [8, 8], "resize": [8, 8], "channels": 1, "mean": [0.5], "std": [0.5]}
    split = {"dataset_id": new_id("ds"), "sha256": "1" * 64, "size": 100_000, "rows": 1000}
    teacher = {
        "reference": "model:digits-teacher@1",
        "version_id": new_id("mdl"),
        "digest": "2" * 64,
        "format": "huggingface",
        "family": "resnet",
        "labels": labels,
        "order": [[place] for place in range(10)],
        "preprocessing": pixels,
        "details": {"config": {"model_type": "resnet", "id2label": dict(enumerate(labels))}},
        "parameters": 1_000_000,
        "weight": 1.0,
    }
    order = {
        "spec": SPEC,
        "teachers": [teacher],
        "data": {
            "train": {"reference": "dataset:digits@1#train", "split": "train", **split},
            "validation": {"holdout": 0.1},
            "test": {"reference": "dataset:digits@1#test", "split": "test", **split},
            "unlabeled": [],
            "inputs": ["image"],
            "label": "label",
        },
        "labels": labels,
        "input": {"modality": "image", "shape": [1, 8, 8]},
        "preprocessing": pixels,
        "parameters": 12_345,
    }
    return Resolved.model_validate(order).model_dump(mode="json")


if __name__ == "__main__":
    main()
