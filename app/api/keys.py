"""Keys: made, listed, revoked. The key itself is shown once, when it is made."""

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.dependencies import PrincipalDep, ReadSession, WriteSession
from app.api.moments import Moment
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.db.tables import Key
from app.services import key_ring
from app.services.access import SCOPES, Scope
from app.services.key_ring import Order

router = APIRouter(prefix="/v1/keys", tags=["keys"])
scope = "admin"

ID = r"[a-z]+_[A-Za-z0-9]{1,64}"  # the operator names the first key, and may do so in capitals
_YEAR_S = 366 * 86_400.0
Scopes = Annotated[
    list[Scope],
    Field(
        min_length=1,
        max_length=len(SCOPES),
        description="read: what GET answers; write: datasets, models, jobs, sweeps, webhooks; predict; "
        "admin: keys and the audit log. None contains another",
    ),
]


class KeyOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, description="what it is for")]
    scopes: Scopes
    expires_at: Moment | None = Field(None, description="left out, as the other: it has no end")
    expires_in_s: Annotated[float, Field(gt=0, le=100 * _YEAR_S)] | None = None

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if self.expires_at is not None and self.expires_in_s is not None:
            raise ValueError("give expires_at or expires_in_s, not both")
        return self

    def order(self) -> Order:
        scopes = [scope for scope in SCOPES if scope in self.scopes]
        return Order(self.name, scopes, self.expires_at, self.expires_in_s)


class KeyView(BaseModel):
    object: Literal["key"] = "key"
    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    created_by: str | None = Field(description="the key that made it; null: the settings, or keys were off")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="to within seconds")

    @classmethod
    def of(cls, row: Key) -> Self:
        return cls.model_validate(row, from_attributes=True)


class MadeKeyView(KeyView):
    """A new key, with what nobody can read again."""

    key: str = Field(description="for the header `Authorization: Bearer KEY`; shown this once")

    @classmethod
    def of_made(cls, row: Key, key: str) -> Self:
        return cls.model_validate({**KeyView.of(row).model_dump(), "key": key})


@router.post("", status_code=201)
def make_key(
    order: KeyOrder, response: Response, session: WriteSession, principal: PrincipalDep
) -> MadeKeyView:
    """Makes a key of this project. To replace one, make another, hand it out, then revoke the first."""
    made = MadeKeyView.of_made(
        *key_ring.make(session, principal.project_id, order.order(), by=principal.key_id)
    )
    response.headers["Location"] = f"/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("")
def list_keys(
    session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> Page[KeyView]:
    """Newest first, those that are over too."""
    before = read_cursor(after, ID)
    rows = key_ring.list_(session, principal.project_id, before=before, limit=limit + 1)
    shown, more, following = cut(rows, limit, lambda row: row.id)
    return Page(data=[KeyView.of(row) for row in shown], has_more=more, next=following)


@router.get("/{key_id}")
def get_key(key_id: str, session: ReadSession, principal: PrincipalDep) -> KeyView:
    return KeyView.of(key_ring.get(session, principal.project_id, key_id))


@router.delete("/{key_id}", status_code=204)
def revoke_key(key_id: str, session: WriteSession, principal: PrincipalDep) -> None:
    """From now on it lets nobody in, in any process. It stays listed."""
    key_ring.revoke(session, principal.project_id, key_id)
