"""Real data, real teachers and real orders for the worker's tests, all of them tiny."""

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Input
from app.catalog.spec import JobSpec, PinnedData, PinnedModel, Resolved, ResolvedData
from app.catalog.tabular import Feature, Preprocessing
from app.db.ids import new_id
from app.db.tables import Dataset, Job, ModelVersion
from app.ports.parts import Parts
from app.services import claims, models
from app.services.models import Checkpoint
from worker.run import run

PROJECT = "prj_default"
DIGITS = [str(digit) for digit in range(10)]
PIXELS = [f"p{place}" for place in range(64)]
TABULAR = Preprocessing(features=tuple(Feature(name=name, mean=8.0, std=6.0) for name in PIXELS))


class Stop:
    """What the worker's process gives to `run`."""

    def __init__(self) -> None:
        self.finish, self.leave = threading.Event(), threading.Event()


def digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """1,797 handwritten digits, (N, 64) from 0 to 16, in an order of chance, and their labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return data.data[order], data.target[order]


def table(x: NDArray[Any], y: Sequence[int | None] | NDArray[Any]) -> pa.Table:
    """As the intake stores it: numbers as float64, labels as names."""
    columns = {name: x[:, place] for place, name in enumerate(PIXELS)}
    return pa.table({**columns, "label": [None if label is None else str(label) for label in y]})


def images(x: NDArray[Any], y: NDArray[Any]) -> pa.Table:
    """The same digits as PNG files."""
    files = []
    for row in x:
        buffer = io.BytesIO()
        Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8)).save(buffer, "PNG")
        files.append({"bytes": buffer.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(files, kind), "label": [str(label) for label in y]})


@dataclass
class Workshop:
    """Stores what an order points at, and carries orders out in this process."""

    parts: Parts

    def data(self, rows: pa.Table, name: str = "digits", split: str = "train") -> PinnedData:
        sink = io.BytesIO()
        pq.write_table(rows, sink, row_group_size=1000)
        blob = self.parts.blobs.put([sink.getvalue()])
        dataset = Dataset(
            id=new_id("ds"), project_id=PROJECT, name=f"{name}-{new_id('x')}", version=1, digest=blob.sha256,
            rows=len(rows), size=blob.size, files={}, profile={},
        )  # fmt: skip
        with self.parts.sessions.write() as session:
            session.add(dataset)
        return PinnedData(
            reference=f"dataset:{name}@1#{split}", dataset_id=dataset.id, split=split,
            sha256=blob.sha256, size=blob.size, rows=len(rows),
        )  # fmt: skip

    def teacher(self, folder: Path, name: str = "big", **changes: Any) -> PinnedModel:
        """Registers the files of a folder as an imported model; the fields default to an mlp over digits."""
        files = []
        for path in sorted(folder.iterdir()):
            blob = self.parts.blobs.put_file(path)
            files.append({"path": path.name, "sha256": blob.sha256, "size": blob.size})
        fields: dict[str, Any] = {
            "source": "import", "format": "mlp", "family": "mlp", "labels": DIGITS,
            "task": "tabular_classification",
            "input": {"modality": "vector", "shape": [64]}, "preprocessing": TABULAR.model_dump(mode="json"),
            "gives": ["logits"], "details": {}, "parameters": 1, "files": files,
        }  # fmt: skip
        with self.parts.sessions.write() as session:
            version = models.register(session, PROJECT, name, Checkpoint(**fields | changes))
        return pinned(name, version)

    def perceptron(self, module: nn.Module, hidden_sizes: tuple[int, ...], name: str = "big") -> PinnedModel:
        """Registers a module that MLP(hidden_sizes=...) built."""
        form = MLP(hidden_sizes=hidden_sizes)
        with TemporaryDirectory() as folder:
            module.save_pretrained(Path(folder))  # type: ignore[operator]
            return self.teacher(Path(folder), name, details={"config": form.model_dump(mode="json")})

    def submit(self, resolved: Resolved) -> Job:
        """A job that a first attempt owns."""
        queued = Job(
            id=new_id("job"), project_id=PROJECT, name="", task=resolved.spec.task.kind, spec={},
            spec_digest="0" * 64,
            resolved=resolved.model_dump(mode="json"), phases=[], progress={}, usage={}, artifacts=[],
        )  # fmt: skip
        with self.parts.sessions.write() as session:
            session.add(queued)
        with self.parts.sessions.write() as session:
            job = claims.claim(session, "test", ("cpu",), 600.0)
        assert job is not None
        return job

    def carry_out(self, resolved: Resolved, stop: Stop | None = None) -> Job:
        """The job after its run; what the run raises is raised."""
        job = self.submit(resolved)
        run(job, job.attempt, self.parts, stop or Stop())
        return self.look(job)

    def look(self, job: Job) -> Job:
        with self.parts.sessions.read() as session:
            return session.get_one(Job, job.id)

    def artifact(self, job: Job, name: str) -> bytes:
        sha256 = next(artifact["sha256"] for artifact in job.artifacts if artifact["name"] == name)
        return b"".join(self.parts.blobs.read(sha256))


def pinned(name: str, version: ModelVersion, **changes: Any) -> PinnedModel:
    fields = {
        "reference": f"model:{name}@{version.version}", "version_id": version.id, "digest": version.digest,
        "format": version.format, "family": version.family, "labels": version.labels,
        "order": [[place] for place in range(len(version.labels))], "preprocessing": version.preprocessing,
        "details": version.details, "parameters": version.parameters, "weight": 1.0,
    }  # fmt: skip
    return PinnedModel(**fields | changes)


def order(
    teachers: Sequence[PinnedModel], train: PinnedData, *, spec: Mapping[str, Any], **data: Any
) -> Resolved:
    """A resolved order over digits; spec: what it says beyond the smallest order; data: beyond a holdout."""
    whole = {
        "task": {"kind": "tabular_classification"},
        "teachers": [{"model": teacher.reference} for teacher in teachers],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [8]}},
        "data": {"train": "dataset:digits"},
        "output": {"model": "small"},
        "exports": [{"kind": "safetensors"}, {"kind": "onnx"}],
        "evaluation": {"bootstrap": 200},
        **spec,
    }
    form = JobSpec.model_validate(whole)
    form = form.model_copy(update={"losses": form.terms()})
    image = form.task.kind == "image_classification"
    resolved_data = {"validation": {"holdout": 0.2}, "test": None, "unlabeled": [], **data}
    preprocessing = teachers[0].preprocessing if image else TABULAR.model_dump(mode="json")
    row = form.task.input(form.task.parse_preprocessing(preprocessing))
    return Resolved(
        spec=form,
        teachers=list(teachers),
        data=ResolvedData(train=train, inputs=["image"] if image else PIXELS, label="label", **resolved_data),
        labels=DIGITS,
        input=row,
        preprocessing=preprocessing,
        parameters=form.student.architecture.parameters(row, len(DIGITS)),
    )


def taught(hidden_sizes: tuple[int, ...], steps: int, seed: int = 0) -> nn.Module:
    """A perceptron over digits, trained in plain torch on the first 1,200 of them."""
    torch.manual_seed(seed)
    module = MLP(hidden_sizes=hidden_sizes).build(Input(modality="vector", shape=(64,)), DIGITS)
    x, y = digits()
    features, labels = torch.tensor((x[:1200] - 8) / 6, dtype=torch.float32), torch.tensor(y[:1200])
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(features).logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval()
