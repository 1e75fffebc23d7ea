"""Orders for tests: a dataset and a teacher that exist as rows, and specs that point at them."""

from hashlib import sha256
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.spec import JobSpec
from app.db.dialect import db_now
from app.db.ids import new_id
from app.db.tables import Dataset, Job, ModelVersion, Worker
from app.intake.profile import Profile
from app.services import datasets, models, submission
from app.services.datasets import Prepared, StoredSplit
from app.services.models import Checkpoint
from app.settings import Settings

PROJECT = "prj_default"
CLASSES = ["setosa", "versicolor", "virginica"]
FEATURES = ["petal_length", "petal_width"]


def spec(**changes: Any) -> dict[str, Any]:
    """The smallest order, as it is sent."""
    return {
        "task": {"kind": "tabular_classification"},
        "teachers": [{"model": "model:botanist"}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [4]}},
        "data": {"train": "dataset:iris#train", "test": "dataset:iris#test"},
        "training": {"batch_size": 16},
        **changes,
    }


def stock(session: Session, project_id: str = PROJECT) -> None:
    """What `spec` points at: the dataset `iris` and the teacher `botanist`, without their files."""
    dataset(session, project_id)
    teacher(session, project_id)


def dataset(session: Session, project_id: str = PROJECT, name: str = "iris", rows: int = 60) -> Dataset:
    numbers = {feature: {"type": "number", "mean": 1.0, "std": 2.0} for feature in FEATURES}
    share = rows // len(CLASSES)
    label = {"type": "category", "counts": dict.fromkeys(CLASSES, share)}
    split = {"rows": share * 3, "columns": {**numbers, "species": label}, "bad_rows": {}, "duplicates": 0}
    profile = Profile.model_validate(
        {"label": "species", "splits": {"train": split, "test": split}, "leaks": []}
    )
    stored = StoredSplit(sha256=_digest(f"{name} {rows}"), size=1000, rows=share * 3)
    prepared = Prepared(digest=_digest(name), files={"train": stored, "test": stored}, profile=profile)
    return datasets.create(session, project_id, name, prepared)[0]


def unlabeled(session: Session, project_id: str = PROJECT, name: str = "bare") -> str:
    """A dataset like `iris` whose rows have no label; its reference."""
    bare = dataset(session, project_id, name)
    profile = {**bare.profile, "splits": {}}
    for split, told in bare.profile["splits"].items():
        columns = {**told["columns"], "species": {**told["columns"]["species"], "counts": {}}}
        profile["splits"][split] = {**told, "columns": columns}
    bare.profile = profile
    return f"dataset:{name}#train"


def teacher(
    session: Session, project_id: str = PROJECT, name: str = "botanist", **changes: Any
) -> ModelVersion:
    fields: dict[str, Any] = {
        "source": "import",
        "format": "onnx",
        "family": "onnx",
        "task": "tabular_classification",
        "labels": CLASSES,
        "input": {"modality": "vector", "shape": [2]},
        "preprocessing": {"features": [{"name": "", "kind": "number"}] * 2},
        "gives": ["logits"],
        "details": {"file": "model.onnx", "input": "features", "output": "logits", "output_kind": "logits"},
        "parameters": 5000,
        "files": [{"path": "model.onnx", "sha256": _digest(name), "size": 10}],
    }
    return models.register(session, project_id, name, Checkpoint(**fields | changes))


def worker(session: Session, **changes: Any) -> Worker:
    """One that is there, with a CPU slot."""
    fields = {"host": "here", "version": "1", "accelerators": ["cpu"], "devices": [], "slots": 1}
    row = Worker(id=new_id("wrk"), expires_at=db_now(60.0), **fields | changes)
    session.add(row)
    session.flush()
    return row


def student(job: Job) -> Checkpoint:
    """What a worker registers at the job's end."""
    return Checkpoint(
        source="job",
        format="mlp",
        family="mlp",
        task=job.task,
        labels=CLASSES,
        input=job.resolved["input"],
        preprocessing=job.resolved["preprocessing"],
        gives=["logits"],
        details={"config": {}},
        parameters=27,
        files=[{"path": "model.onnx", "sha256": _digest(job.id), "size": 10}],
        lineage={"job": job.id, "teachers": [], "datasets": []},
    )


def submit(session: Session, settings: Settings, key: str | None = None, **changes: Any) -> Job:
    """A queued job."""
    return submission.submit(session, settings, PROJECT, JobSpec.model_validate(spec(**changes)), key)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
