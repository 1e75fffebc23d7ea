"""Webhooks: where a project wants its events sent, and by which secrets they are signed.

After the Standard Webhooks specification (standardwebhooks.com): a secret reads `whsec_` and base64 of 24 to
64 bytes, and while a new one takes over the old one signs as well.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.db.dialect import now
from app.db.ids import new_id
from app.db.tables import Event, Webhook
from app.errors import NotFound, StateConflict, shown

Json = dict[str, Any]
EventType = Literal[
    "job.created", "job.status", "job.ended", "phase.started", "phase.progress", "phase.ended",
    "attempt.started", "attempt.ended", "checkpoint.saved", "artifact.ready", "gate.result", "warning", "log",
]  # fmt: skip
Told = Literal[EventType, "import.succeeded", "import.failed"]  # what a webhook may want
TEST = "webhook.test"
MOST = 50  # of a project
SECRET_BYTES = 32
OVERLAP_S = 86_400  # that an old secret signs beside the new one


def create(
    session: Session, project_id: str, *, url: str, description: str, types: Sequence[str]
) -> tuple[Webhook, str]:
    """With its secret, which is told this once. Raises StateConflict when there are too many."""
    there = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id))
    if (there or 0) >= MOST:
        raise StateConflict(f"This project has {MOST} webhooks, the most there may be: delete one first.")
    secret = new_secret()
    hook = Webhook(
        id=new_id("whk"),
        project_id=project_id,
        url=url,
        description=description,
        types=list(types),
        secrets=[{"secret": secret, "until": None}],
    )
    session.add(hook)
    session.flush()
    return hook, secret


def get(session: Session, project_id: str, webhook_id: str) -> Webhook:
    """Raises NotFound."""
    hook = session.scalar(_named(project_id, webhook_id))
    if hook is None:
        raise NotFound(f"There is no webhook {shown(webhook_id)}.")
    return hook


def list_(session: Session, project_id: str, before: str | None, limit: int) -> list[Webhook]:
    """Newest first, from below the id `before`."""
    query = select(Webhook).where(Webhook.project_id == project_id)
    if before is not None:
        query = query.where(Webhook.id < before)
    return list(session.scalars(query.order_by(Webhook.id.desc()).limit(limit)))


def change(session: Session, project_id: str, webhook_id: str, changes: Json) -> Webhook:
    """changes: url, description, types, enabled. Raises NotFound."""
    hook = _held(session, project_id, webhook_id)
    for name, value in changes.items():
        setattr(hook, name, value)
    if changes.get("enabled"):
        hook.disabled_because = None
    session.flush()
    return hook


def rotate(session: Session, project_id: str, webhook_id: str) -> tuple[Webhook, str]:
    """A new secret, told this once; the old one signs beside it for a day. Raises NotFound."""
    hook = _held(session, project_id, webhook_id)
    secret, until = new_secret(), (now() + timedelta(seconds=OVERLAP_S)).isoformat()
    old = [{"secret": one, "until": until} for one in signing(hook)[:1]]
    hook.secrets = [{"secret": secret, "until": None}, *old]
    session.flush()
    return hook, secret


def remove(session: Session, project_id: str, webhook_id: str) -> None:
    """With its deliveries. Raises NotFound."""
    gone = delete(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)
    if session.execute(gone.returning(Webhook.id)).first() is None:
        raise NotFound(f"There is no webhook {shown(webhook_id)}.")


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signing(hook: Webhook) -> list[str]:
    """The secrets that sign now, newest first."""
    moment = now()
    return [
        one["secret"]
        for one in hook.secrets
        if one["until"] is None or datetime.fromisoformat(one["until"]) > moment
    ]


def wants(hook: Webhook, type: str) -> bool:
    return not hook.types or type in hook.types


def payload(event: Event) -> Json:
    """What is sent of an event."""
    told = {
        name: getattr(event, name) for name in ("id", "seq", "job_id", "level", "phase", "message", "data")
    }
    return message(event.type, event.at, told)


def message(type: str, at: datetime, data: Json) -> Json:
    """The body of a delivery."""
    stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": type, "timestamp": stamp, "data": data}


def _named(project_id: str, webhook_id: str) -> Select[Webhook]:
    return select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)


def _held(session: Session, project_id: str, webhook_id: str) -> Webhook:
    """Its row is this transaction's alone. Raises NotFound."""
    found = _named(project_id, webhook_id).with_for_update().execution_options(populate_existing=True)
    hook = session.scalar(found)
    return hook if hook is not None else get(session, project_id, webhook_id)
