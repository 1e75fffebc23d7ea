"""What a million rows by a hundred classes take: whole jobs, with answers in float32 and in float16.

Promised: the memory that is the process's own (RssAnon) grows by less than 300 MB over all phases. Then
stored answers are gathered in shuffled batches, against a small teacher that is asked about each batch.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
import torch
import transformers

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Input
from app.catalog.spec import JobSpec
from app.catalog.tabular import Feature, Preprocessing
from app.db.migrate import upgrade
from app.db.tables import Job, Project
from app.intake.profile import Profile
from app.ports.parts import Parts
from app.services import claims, datasets, models, submission
from app.services.datasets import Prepared, StoredSplit
from app.services.models import Checkpoint
from app.settings import Settings
from app.wiring import assemble
from harness.lessons import CPU
from worker.data import open_rows
from worker.engine.device import Rows
from worker.engine.teachers import WhiteBox
from worker.run import run

PROJECT, CLASSES, FEATURES, PROMISED_MB, BATCH = "prj_default", 100, 8, 300, 256
LABELS = [f"class {place:02}" for place in range(CLASSES)]
COLUMNS = [f"x{place}" for place in range(FEATURES)]


class Stop:
    """Nobody wants the job to end early."""

    def __init__(self) -> None:
        self.finish, self.leave = threading.Event(), threading.Event()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with TemporaryDirectory() as folder:
        parts = assembled(Path(folder))
        stock(parts, rows)
        carried_out(parts, "few", "float32")  # libraries are there, and torch has warmed up
        grown = max(carried_out(parts, "many", dtype) for dtype in ("float32", "float16"))
        parts.close()
        read(Path(folder), rows)
    print(f"promised: less than {PROMISED_MB} MB")
    return 0 if grown < PROMISED_MB else 1


def assembled(folder: Path) -> Parts:
    settings = Settings(
        database_url=f"sqlite:///{folder}/stillhouse.db", blobs_url=f"file://{folder}/blobs",
        work_dir=folder / "work", threads=1,
    )  # fmt: skip
    upgrade(settings.database_url)
    parts = assemble(settings)
    with parts.sessions.write() as session:
        if session.get(Project, PROJECT) is None:
            session.add(Project(id=PROJECT, name="default"))
    return parts


def stock(parts: Parts, rows: int) -> None:
    """A teacher, and the datasets `many` and `few`, whose labels are the teacher's own."""
    torch.manual_seed(0)
    features = tuple(Feature(name=name, mean=0.0, std=1.0) for name in COLUMNS)
    form, row = MLP(hidden_sizes=(64, 64)), Input(modality="vector", shape=(FEATURES,))
    module = form.build(row, LABELS).eval()
    with TemporaryDirectory() as saved:
        module.save_pretrained(Path(saved))  # type: ignore[operator]
        files = []
        for path in sorted(Path(saved).iterdir()):
            blob = parts.blobs.put_file(path)
            files.append({"path": path.name, "sha256": blob.sha256, "size": blob.size})
    fields: dict[str, Any] = {
        "source": "import", "format": "mlp", "family": "mlp", "task": "tabular_classification",
        "labels": LABELS, "input": row.model_dump(mode="json"), "gives": ["logits"], "parameters": 11_000,
        "preprocessing": Preprocessing(features=features).model_dump(mode="json"),
        "details": {"config": form.model_dump(mode="json")}, "files": files,
    }  # fmt: skip
    with parts.sessions.write() as session:
        models.register(session, PROJECT, "big", Checkpoint(**fields))
    for name, count in (("many", rows), ("few", 2000)):
        given(parts, name, count, module)


@torch.no_grad()
def given(parts: Parts, name: str, rows: int, module: torch.nn.Module) -> None:
    """As the intake stores it, without its profile of a million rows."""
    path, chance, counts = (
        Path(f"{parts.settings.work_dir}-{name}.parquet"),
        np.random.default_rng(0),
        np.zeros(CLASSES),
    )
    writer = None
    for start in range(0, rows, 50_000):
        x = chance.standard_normal((min(50_000, rows - start), FEATURES))
        places = module(torch.from_numpy(x).float()).logits.argmax(-1).numpy()
        counts += np.bincount(places, minlength=CLASSES)
        told = pa.table(
            {**dict(zip(COLUMNS, x.T, strict=True)), "label": [LABELS[place] for place in places]}
        )
        writer = writer or pq.ParquetWriter(path, told.schema)
        writer.write_table(told)
    assert writer is not None
    writer.close()
    blob = parts.blobs.put_file(path)
    path.unlink()
    number = {"type": "number", "mean": 0.0, "std": 1.0}
    found = {label: int(count) for label, count in zip(LABELS, counts, strict=True) if count}
    columns = dict.fromkeys(COLUMNS, number) | {"label": {"type": "category", "counts": found}}
    split = {"rows": rows, "columns": columns, "bad_rows": {}, "duplicates": 0}
    profile = Profile.model_validate({"label": "label", "splits": {"train": split}, "leaks": []})
    stored = StoredSplit(sha256=blob.sha256, size=blob.size, rows=rows)
    prepared = Prepared(digest=sha256(name.encode()).hexdigest(), files={"train": stored}, profile=profile)
    with parts.sessions.write() as session:
        datasets.create(session, PROJECT, name, prepared)


def carried_out(parts: Parts, data: str, dtype: str) -> float:
    """By how many MB the process grew at most while it carried the job out."""
    spec = {
        "task": {"kind": "tabular_classification"},
        "teachers": [{"model": "model:big"}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [16]}},
        "data": {"train": f"dataset:{data}", "validation": "dataset:few", "test": "dataset:few"},
        "training": {"epochs": 1, "batch_size": 1024},
        "evaluation": {"compare": ["teacher"], "bootstrap": 100},
        "exports": [{"kind": "safetensors"}],
        "signals": {"dtype": dtype},
    }
    with parts.sessions.write() as session:
        submission.submit(session, parts.settings, PROJECT, JobSpec.model_validate(spec))
    with parts.sessions.write() as session:
        job = claims.claim(session, "bench", ("cpu",), 3600.0)
    assert job is not None
    before = anonymous_mb()
    with sampled() as samples:
        run(job, job.attempt, parts, Stop())
    with parts.sessions.read() as session:
        ended = session.get_one(Job, job.id)
    grown = max(value for _, value in samples) - before
    if data == "many":
        print(f"{dtype}: {before:.0f} MB before, at most {grown:.0f} MB more")
        for phase in ended.phases:
            tell(phase, samples, before)
    return grown


def tell(phase: dict[str, Any], samples: list[tuple[float, float]], before: float) -> None:
    begun, ended = (datetime.fromisoformat(phase[name]).timestamp() for name in ("started_at", "ended_at"))
    inside = [value - before for at, value in samples if begun <= at <= ended]
    if inside:
        print(f"  {phase['name']:10} {ended - begun:7.1f} s  at most {max(inside):6.0f} MB more")


@contextmanager
def sampled() -> Iterator[list[tuple[float, float]]]:
    """Moments and the process's own memory then, in MB."""
    samples: list[tuple[float, float]] = [(time.time(), anonymous_mb())]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            samples.append((time.time(), anonymous_mb()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def anonymous_mb() -> float:
    told = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
    return int(told) * 1024 / 1e6


def read(folder: Path, rows: int) -> None:
    """Shuffled batches out of the stored file, and out of a small convnet that sees 32 x 32 pixels."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(rows)).split(BATCH)  # type: ignore[no-untyped-call]
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic",
        id2label=dict(enumerate(LABELS)),
    )  # fmt: skip
    live, images = WhiteBox(transformers.ResNetForImageClassification(config)), torch.randn(BATCH, 3, 32, 32)
    asked = [timed(lambda: live(images)) for _ in range(12)][2:]
    size = sum(weight.numel() for weight in live.module.parameters())
    per_asked = float(np.median(asked)) / BATCH
    print(f"a teacher of {size:,} parameters at hand: {1 / per_asked:,.0f} rows/s")
    for dtype in ("float32", "float16"):
        path = folder / f"{dtype}.npy"
        array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (rows, 1, CLASSES))
        for start in range(0, rows, 10_000):
            array[start : start + 10_000] = 1.5
        array.flush()
        stored, before = Rows(open_rows(path), CPU), anonymous_mb()
        with sampled() as samples:
            seconds = timed(partial(gathered, stored, order))
        grown = max(value for _, value in samples) - before
        print(
            f"stored in {dtype}, in shuffled batches of {BATCH}: {rows / seconds:,.0f} rows/s, "
            f"{per_asked * rows / seconds:,.0f} times as many, {grown:.0f} MB more"
        )


def gathered(stored: Rows, order: Iterable[torch.Tensor]) -> None:
    for index in order:
        stored[index].float()


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
