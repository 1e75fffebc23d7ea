"""Webhooks: made, changed, tried; their deliveries listed and repeated."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.dependencies import PartsDep, PrincipalDep, ReadSession, WriteSession
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.db.tables import Delivery, Webhook
from app.ports.outgoing import check_url
from app.services import deliveries, webhooks
from app.services.webhooks import Told

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Url = Annotated[str, Field(min_length=8, max_length=2000, description="https, of a public host")]
Types = Annotated[list[Told], Field(max_length=20, description="of events; an empty list: all")]
Description = Annotated[str, Field(max_length=255)]


class WebhookOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Url
    types: Types = ["job.status", "warning"]
    description: Description = ""


class WebhookChange(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    types: Types | None = None
    description: Description | None = None
    enabled: bool | None = None


class WebhookView(BaseModel):
    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    types: list[str]
    description: str
    enabled: bool
    disabled_because: str | None
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, hook: Webhook, **more: Any) -> Self:
        link = f"/v1/webhooks/{hook.id}"
        return cls(
            id=hook.id,
            url=hook.url,
            types=hook.types,
            description=hook.description,
            enabled=hook.enabled,
            disabled_because=hook.disabled_because,
            created_at=hook.created_at,
            links={"self": link, "deliveries": f"{link}/deliveries"},
            **more,
        )


class NewWebhookView(WebhookView):
    secret: str = Field(description="signs every delivery, after Standard Webhooks; shown this once")


class DeliveryView(BaseModel):
    object: Literal["delivery"] = "delivery"
    id: str = Field(description="the header `webhook-id`, the same at every attempt")
    type: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: datetime | None
    answer: int | None = Field(description="HTTP status of the last attempt")
    error: str | None
    payload: dict[str, Any]
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, row: Delivery) -> Self:
        return cls(
            id=row.id,
            type=row.type,
            status=row.status,
            attempts=row.attempts,
            next_attempt_at=row.available_at if row.status == "pending" else None,
            answer=row.answer,
            error=row.error,
            payload=row.payload,
            created_at=row.created_at,
            ended_at=row.ended_at,
        )


@router.post("", status_code=201)
def create_webhook(
    order: WebhookOrder, response: Response, parts: PartsDep, session: WriteSession, principal: PrincipalDep
) -> NewWebhookView:
    """Events are sent from now on, each until it is taken, for about three days."""
    check_url(parts.settings, order.url)
    hook, secret = webhooks.create(session, principal.project_id, **order.model_dump())
    response.headers["Location"] = f"/v1/webhooks/{hook.id}"
    return NewWebhookView.of(hook, secret=secret)


@router.get("")
def list_webhooks(
    session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> Page[WebhookView]:
    """Newest first."""
    found = webhooks.list_(session, principal.project_id, read_cursor(after), limit + 1)
    shown, more, following = cut(found, limit, lambda hook: hook.id)
    return Page(data=[WebhookView.of(hook) for hook in shown], has_more=more, next=following)


@router.get("/{webhook_id}")
def get_webhook(webhook_id: str, session: ReadSession, principal: PrincipalDep) -> WebhookView:
    return WebhookView.of(webhooks.get(session, principal.project_id, webhook_id))


@router.patch("/{webhook_id}")
def change_webhook(
    webhook_id: str, change: WebhookChange, parts: PartsDep, session: WriteSession, principal: PrincipalDep
) -> WebhookView:
    """What is pending goes to where the webhook points when it is sent; once disabled it fails instead."""
    if change.url is not None:
        check_url(parts.settings, change.url)
    changes = change.model_dump(exclude_none=True)
    return WebhookView.of(webhooks.change(session, principal.project_id, webhook_id, changes))


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, session: WriteSession, principal: PrincipalDep) -> None:
    """With its deliveries, those that are still pending too."""
    webhooks.remove(session, principal.project_id, webhook_id)


@router.post("/{webhook_id}/rotate")
def rotate_secret(webhook_id: str, session: WriteSession, principal: PrincipalDep) -> NewWebhookView:
    """A new secret; for a day deliveries are signed by the old one as well."""
    hook, secret = webhooks.rotate(session, principal.project_id, webhook_id)
    return NewWebhookView.of(hook, secret=secret)


@router.post("/{webhook_id}/test", status_code=202)
def try_webhook(webhook_id: str, session: WriteSession, principal: PrincipalDep) -> DeliveryView:
    """Sends a `webhook.test`, whatever types are wanted; its delivery tells what came of it."""
    return DeliveryView.of(deliveries.test(session, principal.project_id, webhook_id))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str,
    session: ReadSession,
    principal: PrincipalDep,
    status: Annotated[Literal["pending", "delivered", "failed"] | None, Query()] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[DeliveryView]:
    """Newest first."""
    before = read_cursor(after)
    found = deliveries.list_(session, principal.project_id, webhook_id, before, limit + 1, status=status)
    shown, more, following = cut(found, limit, lambda row: row.id)
    return Page(data=[DeliveryView.of(row) for row in shown], has_more=more, next=following)


@router.post("/{webhook_id}/deliveries/{delivery_id}/repeat", status_code=202)
def repeat_delivery(
    webhook_id: str, delivery_id: str, session: WriteSession, principal: PrincipalDep
) -> DeliveryView:
    """Sends the same content once more, under an id of its own."""
    return DeliveryView.of(deliveries.repeat(session, principal.project_id, webhook_id, delivery_id))
