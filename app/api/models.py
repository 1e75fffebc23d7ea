"""Models: teachers are imported, students left by jobs; both are listed, downloaded and named by aliases."""

import re
import time
from asyncio import sleep, to_thread
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.api import source_orders, uploads
from app.api.dependencies import PartsDep, PrincipalDep, ReadSession, WriteSession
from app.api.files import DOWNLOAD, StoredFile, answer_file
from app.api.jobs import IdempotencyKey
from app.api.model_views import (
    AliasView,
    FileView,
    ImportedView,
    LayersView,
    ModelSummary,
    ModelView,
    VersionSummary,
    VersionView,
)
from app.api.pages import After, Limit, Page, cut, read_cursor
from app.api.source_orders import ImportView, accept, names_a_source
from app.api.uploads import Form, receive
from app.catalog.spec import TASKS, AliasName, Name
from app.errors import Fault, Invalid
from app.services import aliases, imports, layers, lineage, models
from app.services.aliases import Condition
from app.services.imports import Order
from app.services.layers import Layer
from app.services.sources import ModelOrder

router = APIRouter(prefix="/v1/models", tags=["models"])

Json = dict[str, Any]
POLL_S = 0.25  # between two looks for layers
Version = Annotated[
    str, Path(pattern="^[A-Za-z0-9._-]{1,64}$", description="a version's number, or an alias")
]

_BLACK_BOXES = [kind for kind, task in TASKS.items() if task.modality != "text"]
_FORM = Form(
    files={
        "file": "zip, tar or tar.gz of config.json, model.safetensors and, of an image model, "
        "preprocessor_config.json, of a text model, tokenizer.json; or one .onnx"
    },
    texts={
        "name": "the model that this becomes a version of",
        "alias": "moved to the new version",
        "task": f"needed with an ONNX file: {', '.join(_BLACK_BOXES)}",
        "labels": "JSON list of class names in the order of the outputs, instead of the file's own; or the "
        "number's one name",
        "preprocessing": "JSON, of an ONNX file: how its input is made, in the task's own schema",
        "output": "of an ONNX file: the output to read, where there are several",
        "output_kind": "of an ONNX file: logits or probabilities, where the file does not tell",
    },
    required=("name", "file"),
)


@router.post(
    "",
    status_code=201,
    response_model=ImportedView,
    openapi_extra=source_orders.openapi(_FORM, ModelOrder),
    responses={200: {"model": ImportedView}, 202: {"model": ImportView, "description": "It is fetched"}},
)
async def import_model(
    request: Request,
    response: Response,
    parts: PartsDep,
    principal: PrincipalDep,
    idempotency_key: IdempotencyKey = None,
) -> ImportedView | Response:
    """Imports a teacher. Content that stands under this name already is answered with 200 and its version.

    A JSON body names a source to fetch it from, hf:ORG/REPO@REVISION or s3://CONNECTION/KEY: 202, and where
    the import is to be followed. Idempotency-Key counts for this.

    Weights are read from safetensors alone, and no code, no pickle and no remote code is ever accepted.
    """
    if names_a_source(request):
        return await accept(request, ModelOrder, parts, principal.project_id, idempotency_key)
    async with receive(request, _FORM, parts.settings) as form:
        order = uploads.parse_texts(Order, form, "labels", "preprocessing")
        out = form.folder / "out"
        out.mkdir()
        work = partial(imports.take_in, parts, principal.project_id, order, form.files[0].path, out)
        imported = await uploads.take_in(request, work)
    response.status_code = 201 if imported.new else 200
    view = ImportedView.of_entry(imported.entry, warnings=imported.warnings)
    response.headers["Location"] = view.links["self"]
    return view


@router.get("")
def list_models(
    session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> Page[ModelSummary]:
    """Every model with its newest version, the newest model first."""
    rows = models.list_(session, principal.project_id, before=read_cursor(after), limit=limit + 1)
    shown, more, token = cut(rows, limit, lambda model: model.id)
    latest = models.latest(session, shown)
    pointing = models.aliases(session, *latest)
    data = [ModelSummary.of(model, latest[model.id], pointing) for model in shown]
    return Page(data=data, has_more=more, next=token)


@router.get("/{name}")
def get_model(
    name: Name, session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> ModelView:
    """A model's aliases and versions."""
    mark = read_cursor(after, r"\d{1,9}")
    model = models.get_model(session, principal.project_id, name)
    rows = models.versions(session, model, before=int(mark) if mark else None, limit=limit + 1)
    shown, more, token = cut(rows, limit, lambda version: version.version)
    versions = Page[VersionSummary](
        data=[VersionSummary.of(name, version) for version in shown], has_more=more, next=token
    )
    pointing = [AliasView.of(row) for row in models.aliases(session, model.id)]
    return ModelView(name=name, created_at=model.created_at, aliases=pointing, versions=versions)


@router.get("/{name}/versions/{version}")
def get_version(name: Name, version: Version, session: ReadSession, principal: PrincipalDep) -> VersionView:
    """A version by its number or by an alias."""
    return VersionView.of_entry(models.get(session, principal.project_id, name, version))


@router.get("/{name}/versions/{version}/lineage")
def get_lineage(name: Name, version: Version, session: ReadSession, principal: PrincipalDep) -> Json:
    """Where a version comes from, through its teachers and theirs, and which students it taught."""
    return lineage.lineage(session, models.get(session, principal.project_id, name, version).version)


@router.get(
    "/{name}/versions/{version}/layers",
    responses={202: {"model": LayersView, "description": "A worker is listing them"}},
)
async def list_layers(
    name: Name,
    version: Version,
    parts: PartsDep,
    principal: PrincipalDep,
    response: Response,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait for a worker")] = 0.0,
) -> LayersView:
    """The layers that losses can name, with the shapes that they show. A worker lists them."""

    def look(opened: Callable[[], AbstractContextManager[Session]]) -> list[Layer] | None:
        with opened() as session:
            return layers.want(session, models.get(session, principal.project_id, name, version).version)

    until = time.monotonic() + wait
    found = await to_thread(look, parts.sessions.write)
    while found is None and time.monotonic() < until:
        await sleep(POLL_S)
        found = await to_thread(look, parts.sessions.read)
    if found is None:
        response.status_code = 202
        response.headers["Retry-After"] = "2"
    return LayersView(ready=found is not None, data=found or [])


@router.get("/{name}/versions/{version}/files")
def list_files(name: Name, version: Version, session: ReadSession, principal: PrincipalDep) -> Page[FileView]:
    """The files of a version."""
    found = models.get(session, principal.project_id, name, version).version
    return Page(data=[FileView.model_validate(file) for file in found.files], has_more=False, next=None)


@router.get("/{name}/versions/{version}/files/{path:path}", response_class=Response, responses=DOWNLOAD)
def download_file(
    name: Name,
    version: Version,
    path: str,
    request: Request,
    parts: PartsDep,
    session: ReadSession,
    principal: PrincipalDep,
) -> Response:
    """Downloads a file; Range and If-Range resume, If-None-Match spares what is there already."""
    file = models.file_of(models.get(session, principal.project_id, name, version).version, path)
    media_type = "application/json" if path.endswith(".json") else "application/octet-stream"
    stored = StoredFile(PurePosixPath(path).name, file["sha256"], file["size"], media_type)
    return answer_file(request, parts.blobs, stored)


# ---- aliases


class AliasTarget(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, strict=True, description="the number of the version to point at")]


def condition(
    if_match: Annotated[str | None, Header(description="the alias' ETag, or *: it must exist")] = None,
    if_none_match: Annotated[str | None, Header(description="*: it must not exist yet")] = None,
) -> Condition:
    """Raises Invalid."""
    if if_none_match not in (None, "*"):
        fault = Fault(
            "/header/if-none-match", "unsupported", "only * is understood here", "Send * or If-Match."
        )
        raise Invalid("If-None-Match takes only * here.", fault)
    if if_none_match == "*":
        return Condition(exists=False)
    if if_match in (None, "*"):
        return Condition(exists=True if if_match else None)
    tags = [re.fullmatch(r'\s*"(\d{1,9})"\s*', tag) for tag in (if_match or "").split(",")]
    return Condition(revisions=frozenset(int(tag[1]) for tag in tags if tag))


ConditionDep = Annotated[Condition, Depends(condition)]
_MOVED: dict[int | str, Json] = {
    412: {"description": "The alias is not as If-Match or If-None-Match expects"}
}


@router.put("/{name}/aliases/{alias}", responses=_MOVED)
def set_alias(
    name: Name, alias: AliasName, target: AliasTarget, response: Response, session: WriteSession,
    principal: PrincipalDep, expected: ConditionDep,
) -> AliasView:  # fmt: skip
    """Makes or moves an alias. With If-Match it moves only from the revision that you have seen."""
    row = aliases.set_alias(
        session, principal.project_id, name, alias, version=target.version, condition=expected
    )
    response.headers["ETag"] = f'"{row.revision}"'
    return AliasView.of(row)


@router.delete("/{name}/aliases/{alias}", responses=_MOVED)
def delete_alias(
    name: Name, alias: AliasName, session: WriteSession, principal: PrincipalDep, expected: ConditionDep
) -> AliasView:
    """Removes an alias, which is answered as it stood; its version stays."""
    return AliasView.of(aliases.delete_alias(session, principal.project_id, name, alias, condition=expected))
