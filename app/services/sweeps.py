"""Sweeps: ordered, looked at, cancelled and forgotten. services.sweep_steps carries them out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app import traces
from app.catalog.measures import LOWER_IS_BETTER
from app.catalog.sweep import Against, SweepSpec
from app.db.dialect import TERMINAL, db_now
from app.db.ids import new_id
from app.db.tables import Sweep, SweepTrial
from app.errors import NotFound, StateConflict, shown
from app.ports.parts import Parts
from app.services import sweep_plan
from app.services.idempotency import known, once

Json = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """A sweep, with its trials counted by their status."""

    sweep: Sweep
    counts: dict[str, int]


@dataclass(frozen=True)
class Filters:
    """What a list of sweeps is narrowed to. q: part of a name, or an id."""

    status: Sequence[str] = ()
    q: str | None = None


def submit(parts: Parts, project_id: str, order: SweepSpec, key: str | None = None) -> str:
    """The id of a running sweep without a trial yet, or of the one that the same Idempotency-Key made in the
    last 24 hours. It is planned before anything is locked, for that takes its time.

    Raises IdempotencyKeyReused for another order under a known key, and what sweep_plan.resolve raises.
    """
    sent = order.model_dump(mode="json", exclude_unset=True)
    digest = sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
    with parts.sessions.read() as session:
        if key is not None and (made := known(session, project_id, key, digest)):
            return str(made.sweep_id)
        resolved = sweep_plan.resolve(session, parts.settings, project_id, order)
    with parts.sessions.write() as session:

        def make() -> str:
            return _insert(session, project_id, order, sent, resolved)

        if key is None:
            return make()
        return str(once(session, project_id, key, digest, lambda: {"sweep_id": make()}).sweep_id)


def get(session: Session, project_id: str, sweep_id: str) -> Counted:
    """Raises NotFound."""
    sweep = _named(session, project_id, sweep_id)
    return Counted(sweep, _counts(session, [sweep_id]).get(sweep_id, {}))


def list_(
    session: Session, project_id: str, filters: Filters, before: str | None, limit: int
) -> list[Counted]:
    """Newest first, from below the id `before`."""
    narrowed: list[ColumnElement[bool]] = [Sweep.project_id == project_id]
    if filters.status:
        narrowed.append(Sweep.status.in_(filters.status))
    if filters.q:
        narrowed.append(or_(Sweep.name.icontains(filters.q, autoescape=True), Sweep.id == filters.q))
    if before is not None:
        narrowed.append(Sweep.id < before)
    found = session.scalars(select(Sweep).where(*narrowed).order_by(Sweep.id.desc()).limit(limit)).all()
    counts = _counts(session, [sweep.id for sweep in found])
    return [Counted(sweep, counts.get(sweep.id, {})) for sweep in found]


def trials(
    session: Session, project_id: str, sweep_id: str, after: int = -1, limit: int | None = None
) -> list[SweepTrial]:
    """By number, from behind `after`; limit None: all. Raises NotFound."""
    _named(session, project_id, sweep_id)
    query = select(SweepTrial).where(SweepTrial.sweep_id == sweep_id, SweepTrial.number > after)
    return list(session.scalars(query.order_by(SweepTrial.number).limit(limit)))


def cancel(session: Session, project_id: str, sweep_id: str) -> Sweep:
    """Asks a running sweep to end; its next step cancels its trials. Raises NotFound, StateConflict."""
    wished = (
        update(Sweep)
        .where(Sweep.id == sweep_id, Sweep.project_id == project_id, Sweep.status == "running")
        .where(Sweep.desired == "run")
        .values(desired="cancel", version=Sweep.version + 1)
        .execution_options(synchronize_session=False)
    )
    session.execute(wished)
    sweep = _named(session, project_id, sweep_id)
    if sweep.status in TERMINAL:
        raise StateConflict(f"Sweep {sweep_id} is {sweep.status}: it cannot be cancelled any more.")
    return sweep


def remove(session: Session, project_id: str, sweep_id: str) -> None:
    """Deletes an ended sweep with the table of its trials; their jobs and students stay.

    Raises NotFound, StateConflict.
    """
    _named(session, project_id, sweep_id)
    gone = delete(Sweep).where(Sweep.id == sweep_id, Sweep.status.in_(TERMINAL)).returning(Sweep.id)
    if session.execute(gone).first() is None:
        raise StateConflict(f"Sweep {sweep_id} has not ended: cancel it first, then delete it.")


# ---- the answer


def front(found: Sequence[SweepTrial], metric: str | None, against: Against | None) -> list[SweepTrial]:
    """The succeeded trials that no other beats in quality and in cost at once, cheapest first.

    against: what costs; None: parameters.
    """
    kept: list[SweepTrial] = []
    succeeded = [trial for trial in found if trial.status == "succeeded"]
    for trial in sorted(succeeded, key=lambda one: (cost(one, against), -_quality(one, metric))):
        if not kept or _quality(trial, metric) > _quality(kept[-1], metric):
            kept.append(trial)
    return kept


def best(found: Sequence[SweepTrial], metric: str | None, against: Against | None) -> SweepTrial | None:
    """The trial of the highest quality, and of several such the cheapest; None while none has succeeded."""
    along = front(found, metric, against)
    return along[-1] if along else None


def cost(trial: SweepTrial, against: Against | None) -> float:
    """Of a succeeded trial; None: its student's parameters."""
    found = {"bytes": trial.bytes, "latency_ms": trial.latency_ms}.get(
        against or "", trial.student_parameters
    )
    assert found is not None  # a trial without it has not succeeded
    return found


def _quality(trial: SweepTrial, metric: str | None) -> float:
    """Higher is better."""
    assert trial.value is not None
    return -trial.value if metric in LOWER_IS_BETTER else trial.value


# ---- rows


def _insert(session: Session, project_id: str, order: SweepSpec, sent: Json, resolved: Json) -> str:
    hours = order.budget.max_hours
    sweep = Sweep(
        id=new_id("swp"),
        project_id=project_id,
        name=order.name or order.spec.name,
        spec=sent,
        resolved=resolved,
        traceparent=traces.current(),
        seed=order.seed,
        metric=None if order.objective.metric == "auto" else order.objective.metric,
        deadline_at=None if hours is None else db_now(hours * 3600),
    )
    session.add(sweep)
    session.flush()
    return sweep.id


def _named(session: Session, project_id: str, sweep_id: str) -> Sweep:
    named = select(Sweep).where(Sweep.id == sweep_id, Sweep.project_id == project_id)
    sweep = session.scalar(named.execution_options(populate_existing=True))
    if sweep is None:
        raise NotFound(f"There is no sweep {shown(sweep_id)}.")
    return sweep


def _counts(session: Session, sweep_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    query = (
        select(SweepTrial.sweep_id, SweepTrial.status, func.count())
        .where(SweepTrial.sweep_id.in_(sweep_ids))
        .group_by(SweepTrial.sweep_id, SweepTrial.status)
    )
    found: dict[str, dict[str, int]] = {}
    for sweep_id, status, count in session.execute(query):
        found.setdefault(sweep_id, {})[status] = count
    return found
