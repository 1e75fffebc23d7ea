"""The way of an event out of its transaction: to a place in its project's stream, and to the webhooks that
want it.

Whoever writes an event leaves a row in the outbox in the same transaction. Any process may hand on what lies
there: the places are given in the order of commits, by the project's own counter, and no event is lost or
handed on twice.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.orm import Session

from app.db.dialect import now
from app.db.ids import new_id
from app.db.tables import Delivery, Event, Job, Outbox, Project, ProjectEvent, Webhook
from app.services import tallies
from app.services.webhooks import Told, message, payload, wants

MOST_AT_ONCE = 500


@dataclass(frozen=True)
class Placed:
    """An event and its place in its project's stream, counted from 1."""

    event: Event
    place: int


def waiting(session: Session) -> bool:
    """Whether something lies in the outbox."""
    return bool(session.scalar(select(exists().where(Outbox.id.is_not(None)))))


def hand_on(session: Session) -> int:
    """Hands on the oldest events of the outbox; how many lay there."""
    waiting = select(Outbox).order_by(Outbox.id).limit(MOST_AT_ONCE).with_for_update()
    rows = session.scalars(waiting).all()
    if not rows:
        return 0
    told = (
        select(Event, Job.project_id)
        .join(Job, Job.id == Event.job_id)
        .join(Outbox, (Outbox.job_id == Event.job_id) & (Outbox.seq == Event.seq))
        .where(Outbox.id.in_([row.id for row in rows]))
        .order_by(Outbox.id)
    )
    by_project: dict[str, list[Event]] = defaultdict(list)
    for event, project_id in session.execute(told):  # without those whose job is deleted already
        by_project[project_id].append(event)
    for project_id, events in sorted(by_project.items()):
        _place(session, project_id, events)
        _deliver(session, project_id, events)
    tallies.add_events(session, chain.from_iterable(by_project.values()))
    session.execute(delete(Outbox).where(Outbox.id.in_([row.id for row in rows])))
    return len(rows)


def tell(session: Session, project_id: str, type: Told, data: dict[str, Any]) -> None:
    """In the transaction of a change of what is no job: to the webhooks that want it, and to no stream."""
    told = message(type, now(), data)
    _send(session, [(hook, told) for hook in _hooks(session, project_id) if wants(hook, type)])


def stream(
    session: Session, project_id: str, after: int, limit: int, types: Sequence[str] = ()
) -> list[Placed]:
    """A project's events behind a place, in order."""
    query = (
        select(Event, ProjectEvent.place)
        .join(ProjectEvent, (ProjectEvent.job_id == Event.job_id) & (ProjectEvent.seq == Event.seq))
        .where(ProjectEvent.project_id == project_id, ProjectEvent.place > after)
        .order_by(ProjectEvent.place)
        .limit(limit)
    )
    if types:
        query = query.where(Event.type.in_(types))
    return [Placed(event, place) for event, place in session.execute(query)]


def newest_place(session: Session, project_id: str) -> int:
    """How many places the project's stream has given so far."""
    return session.scalar(select(Project.events).where(Project.id == project_id)) or 0


def _place(session: Session, project_id: str, events: Sequence[Event]) -> None:
    """The counter's row is held until the commit, so that places become visible in their order."""
    last = session.execute(
        update(Project)
        .where(Project.id == project_id)
        .values(events=Project.events + len(events))
        .returning(Project.events)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    first = last - len(events) + 1
    session.execute(
        insert(ProjectEvent),
        [
            {"project_id": project_id, "place": place, "job_id": event.job_id, "seq": event.seq}
            for place, event in enumerate(events, first)
        ],
    )


def _deliver(session: Session, project_id: str, events: Sequence[Event]) -> None:
    hooks = _hooks(session, project_id)
    _send(session, [(hook, payload(one)) for one in events for hook in hooks if wants(hook, one.type)])


def _hooks(session: Session, project_id: str) -> Sequence[Webhook]:
    return session.scalars(select(Webhook).where(Webhook.project_id == project_id, Webhook.enabled)).all()


def _send(session: Session, messages: Sequence[tuple[Webhook, dict[str, Any]]]) -> None:
    made = [
        {"id": new_id("msg"), "webhook_id": hook.id, "type": told["type"], "payload": told}
        for hook, told in messages
    ]
    if made:
        session.execute(insert(Delivery), made)
