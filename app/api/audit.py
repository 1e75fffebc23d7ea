"""The audit log: every write and every denied request of a project, by key."""

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.dependencies import PrincipalDep, ReadSession
from app.api.moments import Moment
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.db.tables import AuditEntry
from app.services import audit
from app.services.audit import Filters

router = APIRouter(prefix="/v1/audit", tags=["keys"])
scope = "admin"


class AuditView(BaseModel):
    object: Literal["audit_entry"] = "audit_entry"
    id: str
    at: datetime
    project_id: str | None = Field(description="null: nobody that is known")
    key_id: str | None = Field(description="null: nobody that is known, or keys were off")
    method: str
    route: str = Field(description="its template")
    path: str = Field(description="what it was done to; where something was made, its own path")
    status: int
    code: str | None = Field(description="of the error that was answered")
    request_id: str

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        fields = ("id", "at", "project_id", "key_id", "method", "route", "status", "code", "request_id")
        return cls.model_validate(
            {**{field: getattr(entry, field) for field in fields}, "path": entry.object}
        )


@router.get("")
def list_entries(
    session: ReadSession,
    principal: PrincipalDep,
    key: Annotated[str | None, Query(max_length=100, description="a key's id")] = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    until: Annotated[Moment | None, Query(alias="to", description="not included")] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[AuditView]:
    """Newest first: of this project; for the operator of all, and of those whom nobody knows."""
    project_id = None if principal.is_operator else principal.project_id
    filters = Filters(project_id, key, since, until)
    rows = audit.list_(session, filters, before=read_cursor(after), limit=limit + 1)
    shown, more, following = cut(rows, limit, lambda row: row.id)
    return Page(data=[AuditView.of(row) for row in shown], has_more=more, next=following)
