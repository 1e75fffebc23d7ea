"""The layers of models, listed once for each version by a worker, which has torch.

Asking for them leaves an empty row; whoever claims it runs `python -m worker.layers` and stores the answer,
or why there is none. Nothing waits for it but who asked.
"""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Literal

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.catalog.base import Frozen
from app.db.dialect import db_now
from app.db.tables import ModelLayers, ModelVersion
from app.errors import UnknownLayer
from app.ports.parts import Parts
from app.services import surroundings
from app.services.stumbling import survived

TOO_LONG_S = 60.0  # for one listing
ALONE_S = 90.0  # that its worker is left alone with it; another one may try when it is over
ATTEMPTS = 3
_NO_END = f"{ATTEMPTS} processes that were to list them did not come to an end"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

Json = dict[str, Any]

log = structlog.get_logger()


class Layer(Frozen):
    """One that a loss can name."""

    path: str
    type: str
    shape: list[int]
    kind: Literal["features", "attention"]
    stage: bool


def want(session: Session, version: ModelVersion) -> list[Layer] | None:
    """The version's layers; None: a worker will list them. Raises UnknownLayer for a black box, and where it
    failed."""
    if version.format == "onnx":
        raise UnknownLayer(
            "This model is an ONNX file, a black box whose layers no loss can look at. Import its checkpoint "
            "folder, or use losses over logits, such as kd."
        )
    row = session.get(ModelLayers, version.id)
    if row is None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(ModelLayers(version_id=version.id))  # who asks at the same time leaves the same
        return None
    if row.error is not None or _given_up(session, row):
        raise UnknownLayer(f"The layers of this model could not be listed: {row.error or _NO_END}.")
    return _read(row)


def known(session: Session, version_id: str) -> list[Layer] | None:
    """Those that were listed already."""
    row = session.get(ModelLayers, version_id)
    return None if row is None else _read(row)


def serve(parts: Parts, stopping: threading.Event) -> None:
    """Lists the layers of every version that somebody waits for."""
    while not stopping.is_set():
        with parts.sessions.write() as session:
            version = _claim(session)
        if version is None:
            return
        answer = _ask(version, stopping)
        with parts.sessions.write() as session:
            if not answer and stopping.is_set():
                _give_back(session, version.id)
                return
            _store(session, version.id, answer)
        log.info("layers listed", version=version.id, error=answer.get("error"))


class Surveyor(threading.Thread):
    """Looks every `poll_s` whether somebody waits for layers, beside the slots: no job is in its way."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(name="surveyor", daemon=True)
        self._parts, self._stopping = parts, threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._parts.settings.poll_s):
            with survived("surveyor"):
                serve(self._parts, self._stopping)

    def stop(self) -> None:
        self._stopping.set()


def _claim(session: Session) -> ModelVersion | None:
    free = or_(ModelLayers.lease_expires_at.is_(None), ModelLayers.lease_expires_at <= db_now())
    nothing = ModelLayers.layers.is_(None), ModelLayers.error.is_(None)
    wanted = (*nothing, ModelLayers.attempts < ATTEMPTS, free)
    candidate = (
        select(ModelLayers.version_id)
        .where(*wanted)
        .order_by(ModelLayers.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    taken = session.scalar(
        update(ModelLayers)
        .where(ModelLayers.version_id == candidate, *wanted)
        .values(attempts=ModelLayers.attempts + 1, lease_expires_at=db_now(ALONE_S))
        .returning(ModelLayers.version_id)
    )
    return None if taken is None else session.get_one(ModelVersion, taken)


def _ask(version: ModelVersion, stopping: threading.Event) -> Json:
    """{"layers": [...]}, {"error": why}, or nothing from a process that did not come to an end."""
    said = {key: getattr(version, key) for key in ("format", "family", "task", "details", "input", "labels")}
    given: str | None = json.dumps(said)
    deadline = time.monotonic() + TOO_LONG_S
    with subprocess.Popen(
        [sys.executable, "-m", "worker.layers"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**surroundings.of_a_stranger(os.environ), **OFFLINE}, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            while not stopping.is_set() and time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    out, _ = process.communicate(given, timeout=0.5)
                    return dict(json.loads(out)) if process.returncode == 0 else {}
                given = None
            return {}
        finally:
            process.kill()


def _store(session: Session, version_id: str, answer: Json) -> None:
    row = session.get_one(ModelLayers, version_id)
    row.layers, row.error = answer.get("layers"), answer.get("error")
    row.lease_expires_at = None
    if not answer and row.attempts >= ATTEMPTS:
        row.error = _NO_END


def _give_back(session: Session, version_id: str) -> None:
    """By a worker that stops; it is not counted as one that tried."""
    row = session.get_one(ModelLayers, version_id)
    row.attempts, row.lease_expires_at = row.attempts - 1, None


def _given_up(session: Session, row: ModelLayers) -> bool:
    """Whether the last worker that might have tried died with it."""
    if row.layers is not None or row.attempts < ATTEMPTS or row.lease_expires_at is None:
        return False
    return bool(session.scalar(select(db_now() >= row.lease_expires_at)))


def _read(row: ModelLayers) -> list[Layer] | None:
    return None if row.layers is None else [Layer.model_validate(one) for one in row.layers]
