"""Projects and their quotas: for the operator, whose keys are those of the default project."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.dependencies import PrincipalDep, ReadSession, WriteSession
from app.api.keys import KeyOrder, MadeKeyView
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.db.tables import Project
from app.services import key_ring, projects
from app.services.access import SCOPES

router = APIRouter(prefix="/v1/projects", tags=["projects"])
scope = "admin"
of_installation = True

Count = Annotated[int, Field(ge=0, lt=2**31)]
Amount = Annotated[int, Field(ge=0, lt=2**63)]


class Quotas(BaseModel):
    """null: no limit; left out of a PATCH: as it is."""

    model_config = ConfigDict(extra="forbid")

    max_running_jobs: Count | None = Field(None, description="more wait in the queue")
    max_queued_jobs: Count | None = Field(None, description="more are refused with 429")
    max_gpu_s: Annotated[float, Field(ge=0, le=1e12)] | None = Field(
        None, description="GPU seconds in a calendar month (UTC); then jobs for GPUs are refused"
    )
    max_bytes: Amount | None = Field(None, description="of datasets, models and artifacts together")
    max_parameters: Amount | None = Field(None, description="of one student")

    def given(self) -> dict[str, Any]:
        return self.model_dump(include=set(projects.QUOTAS), exclude_unset=True)


class ProjectOrder(Quotas):
    """A project with its first key, which may do everything in it unless its scopes say less."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    key: KeyOrder = Field(
        default_factory=lambda: KeyOrder(name="first", scopes=list(SCOPES)), description="the first key"
    )


class ProjectView(Quotas):
    object: Literal["project"] = "project"
    id: str
    name: str
    created_at: datetime

    @classmethod
    def of(cls, project: Project) -> Self:
        fields = ("id", "name", "created_at", *projects.QUOTAS)
        return cls.model_validate({field: getattr(project, field) for field in fields})


class MadeProjectView(ProjectView):
    key: MadeKeyView


@router.post("", status_code=201)
def make_project(
    order: ProjectOrder, response: Response, session: WriteSession, principal: PrincipalDep
) -> MadeProjectView:
    """Makes a project and its first key."""
    project = projects.create(session, order.name, order.given())
    made = key_ring.make(session, project.id, order.key.order(), by=principal.key_id)
    response.headers["Location"] = f"/v1/projects/{project.id}"
    response.headers["Cache-Control"] = "no-store"
    shown = ProjectView.of(project).model_dump()
    return MadeProjectView(**shown, key=MadeKeyView.of_made(*made))


@router.get("")
def list_projects(session: ReadSession, after: After = None, limit: Limit = 50) -> Page[ProjectView]:
    """Newest first."""
    rows = projects.list_(session, before=read_cursor(after), limit=limit + 1)
    shown, more, following = cut(rows, limit, lambda row: row.id)
    return Page(data=[ProjectView.of(row) for row in shown], has_more=more, next=following)


@router.get("/{project_id}")
def get_project(project_id: str, session: ReadSession) -> ProjectView:
    return ProjectView.of(projects.get(session, project_id))


@router.patch("/{project_id}")
def change_quotas(project_id: str, quotas: Quotas, session: WriteSession) -> ProjectView:
    """Sets the quotas that are given, from the next request on; what stands already is never taken away."""
    return ProjectView.of(projects.change(session, project_id, quotas.given()))


@router.post("/{project_id}/keys", status_code=201)
def make_key_of_project(
    project_id: str, order: KeyOrder, response: Response, session: WriteSession, principal: PrincipalDep
) -> MadeKeyView:
    """A key of any project, for one that has lost all of its own."""
    project = projects.get(session, project_id)
    made = MadeKeyView.of_made(*key_ring.make(session, project.id, order.order(), by=principal.key_id))
    response.headers["Location"] = f"/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made
