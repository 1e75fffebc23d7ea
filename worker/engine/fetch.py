"""The second phase: what is needed comes into the job's folder, verified by sha256.

A teacher whose answers are all stored is not needed.
"""

from dataclasses import dataclass
from pathlib import Path

from app.catalog.spec import JobSpec, PinnedData, PinnedModel
from app.db.tables import ModelVersion
from app.ports.blobs import Blob
from app.services import signals as stored
from worker.data import Split, Tables
from worker.engine.answers import key
from worker.engine.validate import Order


@dataclass(frozen=True)
class Material:
    """What the job works on.

    pins: its data files, each once. answers: by teacher and data file, where the answers lie or will lie.
    awaited: those of them that no job has stored yet. live: places of the teachers that training itself asks.
    """

    tables: Tables
    training: Split
    validation: Split
    report: Split
    pins: list[PinnedData]
    answers: dict[tuple[str, str], Path]
    awaited: list[tuple[PinnedModel, PinnedData]]
    live: frozenset[int] = frozenset()


def fetch(order: Order) -> Material:
    data, teachers = order.resolved.data, order.resolved.teachers
    named = [
        pin
        for pin in (data.train, *data.unlabeled, data.validation, data.test)
        if isinstance(pin, PinnedData)
    ]
    pins = list({pin.sha256: pin for pin in named}.values())
    keys = {(t.version_id, pin.sha256): key(order.resolved, t, pin) for t in teachers for pin in pins}
    answers = {pair: order.folder / f"{name}.npy" for pair, name in keys.items()}
    with order.parts.sessions.read() as session:
        known = stored.find(session, order.project_id, list(keys.values()))
        awaited = [(t, pin) for t in teachers for pin in pins if keys[t.version_id, pin.sha256] not in known]
        live = live_teachers(order.resolved.spec)
        needed = {teacher.version_id for teacher, _ in awaited} | {teachers[k].version_id for k in live}
        versions = [session.get_one(ModelVersion, version_id) for version_id in sorted(needed)]
    wanted = {order.folder / pin.sha256: Blob(pin.sha256, pin.size) for pin in pins}
    wanted |= {order.folder / f"{name}.npy": blob for name, blob in known.items()}
    wanted |= {order.folder / sha256: Blob(sha256, 0) for sha256 in _files(order)}
    for version in versions:
        wanted |= {order.folder / version.id / f["path"]: Blob(f["sha256"], f["size"]) for f in version.files}
    _bring(order, wanted)
    tables = Tables(order.resolved, order.folder, order.parts.settings.threads)
    return Material(tables, *tables.splits(order.seed), pins, answers, awaited, live)


def _files(order: Order) -> set[str]:
    """What the preprocessings of student and teachers name: tokenizers, small beside all else."""
    forms = [teacher.preprocessing for teacher in order.resolved.teachers] + [order.resolved.preprocessing]
    parsed = [order.task.parse_preprocessing(form) for form in forms]
    return {sha256 for form in parsed for sha256 in order.task.files(form).values()}


def live_teachers(spec: JobSpec) -> frozenset[int]:
    """Places of the teachers that losses look into, and so must be there while the student learns."""
    looking = (form for form in spec.terms() if form.needs & {"features", "attentions", "values"})
    return frozenset(getattr(form, "teacher", 0) for form in looking)


def _bring(order: Order, wanted: dict[Path, Blob]) -> None:
    total, done = sum(blob.size for blob in wanted.values()) or 1, 0
    for path, blob in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        order.parts.blobs.fetch(blob.sha256, path)
        done += blob.size
        order.journal.progress(done / total)
