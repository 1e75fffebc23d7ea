"""The second phase: what is needed comes into the job's folder, verified by sha256.

A teacher whose answers are all stored is not needed.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from app.catalog.base import LOOKS
from app.catalog.spec import JobSpec, PinnedData
from app.db.tables import ModelVersion
from app.ports.blobs import Blob
from app.services import signals as stored
from worker.data import Split, Tables
from worker.engine.questions import Asked, Question, key, questions
from worker.engine.validate import Order


@dataclass(frozen=True)
class Material:
    """What the job works on.

    pins: its data files, each once. questions: to the teachers, by split, teacher and file. answers: where
    the answer to each lies or will lie. awaited: the questions that no job has stored an answer to. live:
    places of the teachers that training itself asks.
    """

    tables: Tables
    training: Split
    validation: Split
    report: Split
    pins: list[PinnedData]
    questions: Asked
    answers: dict[Question, Path]
    awaited: list[Question]
    live: frozenset[int] = frozenset()


def fetch(order: Order) -> Material:
    resolved, spec, teachers = order.resolved, order.resolved.spec, order.resolved.teachers
    data = resolved.data
    named = [
        pin
        for pin in (data.train, *data.unlabeled, data.validation, data.test)
        if isinstance(pin, PinnedData)
    ]
    pins = list({pin.sha256: pin for pin in named}.values())
    asked = questions(resolved)
    source = order.source.model_dump(mode="json") if spec.data.augment else None
    keys = {one: key(resolved, one, source) for files in asked.values() for one in chain(*files)}
    answers = {one: order.folder / f"{name}.npy" for one, name in keys.items()}
    with order.parts.sessions.read() as session:
        known = stored.find(session, order.project_id, list(keys.values()))
        awaited = {name: one for one, name in keys.items() if name not in known}
        live = live_teachers(spec)
        needed = {teachers[k].version_id for k in live | {one.teacher for one in awaited.values()}}
        needed |= {one.version_id for one in (resolved.initialize,) if one}
        versions = [session.get_one(ModelVersion, version_id) for version_id in sorted(needed)]
    wanted = {order.folder / pin.sha256: Blob(pin.sha256, pin.size) for pin in pins}
    wanted |= {order.folder / f"{name}.npy": blob for name, blob in known.items()}
    wanted |= {order.folder / sha256: Blob(sha256, 0) for sha256 in _files(order)}
    for version in versions:
        wanted |= {order.folder / version.id / f["path"]: Blob(f["sha256"], f["size"]) for f in version.files}
    _bring(order, wanted)
    tables = Tables(order.resolved, order.folder, order.parts.settings.threads)
    splits = tables.splits(order.seed)
    return Material(tables, *splits, pins, asked, answers, list(awaited.values()), live)


def _files(order: Order) -> set[str]:
    """What the preprocessings of student and teachers name: tokenizers, small beside all else."""
    forms = [teacher.preprocessing for teacher in order.resolved.teachers] + [order.resolved.preprocessing]
    parsed = [order.task.parse_preprocessing(form) for form in forms]
    return {sha256 for form in parsed for sha256 in order.task.files(form).values()}


def live_teachers(spec: JobSpec) -> frozenset[int]:
    """Places of the teachers that must be there while the student learns: those that losses look into, and
    all where rows are drawn anew each time."""
    if spec.data.augment and not spec.data.views:
        return frozenset(range(len(spec.teachers)))
    looking = (form for form in spec.terms() if form.needs & LOOKS)
    return frozenset(getattr(form, "teacher", 0) for form in looking)


def _bring(order: Order, wanted: dict[Path, Blob]) -> None:
    total, done = sum(blob.size for blob in wanted.values()) or 1, 0
    for path, blob in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        order.parts.blobs.fetch(blob.sha256, path)
        done += blob.size
        order.journal.progress(done / total)
