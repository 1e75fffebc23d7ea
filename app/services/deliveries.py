"""Deliveries: one event for one webhook, sent until it is taken or too old.

Claiming one moves its `available_at` past the time that sending may take, so that two processes do not send
it at once and one whose process died comes up again. A delivery may arrive twice, always with the same
`webhook-id`, by which receivers tell.

Receivers may be slow, and senders are few: rows say how many deliveries of a webhook and of a project are
being sent, by all processes together, and beyond a few of them others go first.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, exists, func, literal, or_, select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now, now
from app.db.ids import new_id
from app.db.tables import Delivery, Job, Webhook
from app.errors import NotFound, StateConflict, shown
from app.services import tallies, webhooks

WAITS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)  # of the specification
ALONE_S = 60.0  # that a sender is left alone with a delivery
AT_ONCE = 2  # deliveries of one webhook
OF_PROJECT = 4  # deliveries of one project at once; processes that claim in the same moment may make it more
GONE = 410  # the receiver wants no more of them

Json = dict[str, Any]

PENDING = literal("pending", literal_execute=True)  # the index of what is due does not serve a parameter
_DUE = (Delivery.status == PENDING, Delivery.available_at <= db_now())
next_at = (  # when the first of a webhook's is due
    select(func.min(Delivery.available_at))
    .where(Delivery.webhook_id == Webhook.id, Delivery.status == PENDING)
    .scalar_subquery()
)
_SENT_NOW = (Delivery.sending_until.is_not(None), Delivery.sending_until > db_now())


@dataclass(frozen=True)
class Letter:
    """A delivery that is to be sent now."""

    id: str
    attempt: int
    url: str
    body: bytes
    headers: dict[str, str]
    traceparent: str | None = None  # of the job that it tells of


@dataclass(frozen=True)
class Reply:
    """What became of a letter. status: None where nobody answered, and `error` says why."""

    status: int | None
    error: str | None = None
    retry_after_s: float = 0.0

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def waiting(session: Session) -> bool:
    """Whether one is due that may be sent now."""
    return bool(session.scalar(select(exists(_turns()))))


def claim(session: Session) -> Letter | None:
    """A delivery that is due and may be sent now, for this sender alone for a while; None: there is none.

    Those of a disabled webhook end here, unsent.
    """
    while (row := _claimed(session)) is not None:
        hook = session.get_one(Webhook, row.webhook_id)
        if hook.enabled:
            job_id = row.payload["data"].get("job_id")
            traceparent = session.scalar(select(Job.traceparent).where(Job.id == job_id)) if job_id else None
            return _letter(hook, row, traceparent)
        _drop(session, row)
    return None


def record(session: Session, letter: Letter, reply: Reply) -> None:
    """Ends the delivery, or has it tried again later. What another sender did meanwhile stays."""
    row = session.get(Delivery, letter.id, with_for_update=True, populate_existing=True)
    if row is None or row.status != "pending" or row.attempts != letter.attempt:
        return
    row.answer, row.error, row.sending_until = reply.status, None if reply.taken else _why(reply), None
    if reply.taken:
        row.status, row.ended_at = "delivered", now()
    elif reply.status == GONE or row.attempts > len(WAITS_S):
        row.status, row.ended_at = "failed", now()
        if reply.status == GONE:
            _disable(session, row.webhook_id)
    else:
        wait_s = max(float(WAITS_S[row.attempts - 1]), reply.retry_after_s)
        session.flush()
        session.execute(update(Delivery).where(Delivery.id == row.id).values(available_at=db_now(wait_s)))
    session.flush()
    tallies.add(session, [("deliveries", "refused" if row.status == "pending" else row.status, None)])


def list_(
    session: Session, project_id: str, webhook_id: str, before: str | None, limit: int, *, status: str | None
) -> list[Delivery]:
    """Newest first, from below the id `before`. Raises NotFound."""
    webhooks.get(session, project_id, webhook_id)
    query = select(Delivery).where(Delivery.webhook_id == webhook_id)
    if before is not None:
        query = query.where(Delivery.id < before)
    if status is not None:
        query = query.where(Delivery.status == status)
    return list(session.scalars(query.order_by(Delivery.id.desc()).limit(limit)))


def test(session: Session, project_id: str, webhook_id: str) -> Delivery:
    """Sends an event that says nothing, whatever types are wanted. Raises NotFound, StateConflict."""
    hook = webhooks.get(session, project_id, webhook_id)
    told = webhooks.message(webhooks.TEST, now(), {"webhook_id": hook.id})
    return _add(session, hook, webhooks.TEST, told)


def repeat(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> Delivery:
    """Sends the same once more, as a delivery of its own with the same content.

    Raises NotFound, StateConflict while the first one is still under way.
    """
    hook = webhooks.get(session, project_id, webhook_id)
    row = session.get(Delivery, delivery_id)
    if row is None or row.webhook_id != hook.id:
        raise NotFound(f"The webhook has no delivery {shown(delivery_id)}.")
    if row.status == "pending":
        raise StateConflict(f"Delivery {row.id} is still tried: repeat it when it has ended.")
    return _add(session, hook, row.type, row.payload)


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: HMAC-SHA256 of `id.timestamp.body` by each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _claimed(session: Session) -> Delivery | None:
    """The webhook's row is held, so that nobody else counts at the same time what is sent for it."""
    held = _turns().order_by(next_at, Webhook.id).limit(1).with_for_update(skip_locked=True, key_share=True)
    hook_id = session.scalar(held)
    if hook_id is None:
        return None
    longest = (
        select(Delivery.id)
        .where(*_DUE, Delivery.webhook_id == hook_id)
        .order_by(Delivery.available_at, Delivery.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return session.execute(
        update(Delivery)
        .where(Delivery.id == longest, Delivery.status == "pending", Delivery.webhook_id.not_in(_busy()))
        .values(attempts=Delivery.attempts + 1, available_at=db_now(ALONE_S), sending_until=db_now(ALONE_S))
        .returning(Delivery)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).scalar_one_or_none()


def _turns() -> Select[str]:
    """The webhooks of which something is due, without those that have enough senders already."""
    project = (
        select(Webhook.project_id)
        .join(Delivery, Delivery.webhook_id == Webhook.id)
        .where(*_SENT_NOW)
        .group_by(Webhook.project_id)
        .having(func.count() >= OF_PROJECT)
    )
    free = (Webhook.id.not_in(_busy()), Webhook.project_id.not_in(project))
    return select(Webhook.id).where(next_at <= db_now(), *free)


def _busy() -> Select[str]:
    """The webhooks that have enough senders."""
    sent = select(Delivery.webhook_id).where(*_SENT_NOW).group_by(Delivery.webhook_id)
    return sent.having(func.count() >= AT_ONCE)


def _drop(session: Session, row: Delivery) -> None:
    """It, and what else is due for the same webhook; what another sender holds is its own."""
    due = select(Delivery.id).where(*_DUE, Delivery.webhook_id == row.webhook_id)
    held = or_(Delivery.id == row.id, Delivery.id.in_(due.with_for_update(skip_locked=True)))
    told: Json = {"status": "failed", "ended_at": db_now(), "error": "its webhook was disabled"}
    told["sending_until"] = None
    session.execute(update(Delivery).where(held).values(told).execution_options(synchronize_session=False))


def _add(session: Session, hook: Webhook, type: str, payload: Json) -> Delivery:
    if not hook.enabled:
        raise StateConflict(f"Webhook {hook.id} is disabled: enable it first.")
    row = Delivery(id=new_id("msg"), webhook_id=hook.id, type=type, payload=payload)
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def _letter(hook: Webhook, row: Delivery, traceparent: str | None) -> Letter:
    body = json.dumps(row.payload, separators=(",", ":")).encode()
    timestamp = int(now().timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "stillhouse",
        "webhook-id": row.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(webhooks.signing(hook), row.id, timestamp, body),
    }
    return Letter(row.id, row.attempts, hook.url, body, headers, traceparent)


def _why(reply: Reply) -> str:
    return reply.error or f"it answered {reply.status}"


def _disable(session: Session, webhook_id: str) -> None:
    because = "its receiver answered 410 Gone"
    session.execute(
        update(Webhook).where(Webhook.id == webhook_id).values(enabled=False, disabled_because=because)
    )
