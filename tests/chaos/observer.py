"""Reads the truth past every proxy: rows while the run goes on, and the whole history at its end."""

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.db import tables
from app.db.tables import Job, MetricPoint, ModelVersion
from app.errors import NotFound
from app.ports.blobs import Blobs
from tests.chaos.chain import STEPS, state_at
from tests.chaos.history import TERMINAL, Call, Event, History, Look, Row, Start, Version
from tests.chaos.stack import Stack

LOOK_S = 0.25


class Observer:
    """Looks at all rows a few times a second. going: how many jobs have not ended."""

    def __init__(self, stack: Stack, told: Any) -> None:
        self._stack, self._told = stack, told
        self.looks: list[Look] = []
        self._seen: dict[str, tuple[str, int]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def going(self) -> int:
        return sum(status not in TERMINAL for status, _ in list(self._seen.values()))

    @property
    def ended(self) -> int:
        return len(self._seen) - self.going

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            with suppress(SQLAlchemyError):
                self.look()
            self._told.going = self.going

    def look(self) -> None:
        at = time.time()
        with self._stack.sessions.read() as session:
            rows = session.execute(select(Job.id, Job.status, Job.version)).all()
        for job_id, status, version in rows:
            if self._seen.get(job_id) != (status, version):
                self._seen[job_id] = (status, version)
                self.looks.append(Look(at, job_id, status, version))


def history(stack: Stack, calls: Sequence[Call], looks: Sequence[Look]) -> History:
    """All that is known once the run is over."""
    with stack.sessions.read() as session:
        told: defaultdict[str, list[Event]] = defaultdict(list)
        for one in session.scalars(select(tables.Event).order_by(tables.Event.seq)):
            told[one.job_id].append(Event(one.seq, one.type, one.phase, one.data, one.at.timestamp()))
        steps: defaultdict[str, list[int]] = defaultdict(list)
        trained = select(MetricPoint.job_id, MetricPoint.step).where(MetricPoint.split == "train")
        for job_id, step in session.execute(trained.where(MetricPoint.name == "loss")):
            steps[job_id].append(step)
        rows = [_row(job, told[job.id], sorted(steps[job.id])) for job in session.scalars(select(Job))]
        students = session.scalars(select(ModelVersion).where(ModelVersion.source == "job")).all()
    versions = [
        Version(one.id, one.lineage["job"], [one.digest, *(file["sha256"] for file in one.files)])
        for one in students
    ]
    pointed = [one.files for one in rows] + [one.files for one in versions]
    named = {sha256 for files in pointed for sha256 in files}
    found = {sha256: _found(stack.blobs, sha256) for sha256 in named}
    files = {one.lineage["job"]: one.files[0]["sha256"] for one in students}
    wrong = [
        row.name
        for row in rows
        if row.status == "succeeded" and row.name.startswith("drill") and not _right(stack, row, files)
    ]
    return History(calls, rows, versions, looks, _starts(stack), found, wrong)


def _row(job: Job, events: list[Event], steps: list[int]) -> Row:
    files = [*(artifact["sha256"] for artifact in job.artifacts)]
    if job.result_manifest:
        files.append(job.result_manifest)
    return Row(
        job.id, job.name, job.status, job.attempt, job.last_seq, job.output_version_id,
        job.outcome, job.error, files, events, steps,
    )  # fmt: skip


def _found(blobs: Blobs, sha256: str) -> str | None:
    digest = hashlib.sha256()
    try:
        for chunk in blobs.read(sha256):
            digest.update(chunk)
    except NotFound:
        return None
    return digest.hexdigest()


def _right(stack: Stack, row: Row, files: dict[str, str]) -> bool:
    """Whether the student is what undisturbed training makes, and its curve has each step once."""
    try:
        student = json.loads(b"".join(stack.blobs.read(files[row.id])))
    except (KeyError, NotFound, ValueError):
        return False
    whole = student["step"] == STEPS and student["state"] == state_at(row.id, STEPS)
    return whole and list(row.steps) == list(range(1, STEPS + 1))


def _starts(stack: Stack) -> list[Start]:
    if not stack.starts.exists():
        return []
    lines = stack.starts.read_text().splitlines()
    return [Start(job, int(attempt)) for job, attempt in (line.split() for line in lines)]
