"""The other body of POST /v1/models and POST /v1/datasets: JSON that names a source, without files."""

import json
from datetime import datetime
from typing import Any, Literal, Self, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, ValidationError

from app.api.faults import faults_in, summary
from app.api.strict_route import parse_body
from app.api.uploads import MAX_TEXT_BYTES, Form
from app.db.dialect import TERMINAL
from app.db.tables import Import
from app.errors import Invalid, PayloadTooLarge
from app.ports.parts import Parts
from app.services import import_orders
from app.services.sources import DatasetOrder, Kind, ModelOrder

Json = dict[str, Any]
ImportStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
T = TypeVar("T", ModelOrder, DatasetOrder)


class ImportView(BaseModel):
    """A model or a dataset on its way here."""

    id: str
    object: Literal["import"] = "import"
    version: int = Field(description="moves with every change; give it to `?wait=`")
    kind: Kind
    name: str = Field(description="of the model or the dataset that it becomes a version of")
    source: str = Field(description="as it was sent")
    pinned: str | None = Field(description="the source with its commit, or with a digest of what lay there")
    status: ImportStatus
    terminal: bool = Field(description="whether the status is final")
    bytes: int = Field(description="that are here")
    total_bytes: int | None = Field(description="null: the source has not been looked at yet")
    reference: str | None = Field(description="what a job spec names the result by")
    new: bool | None = Field(description="false: the same content stood under this name already")
    warnings: list[str] = Field(description="what to know before it teaches")
    error: Json | None = Field(description="problem details of an import that failed")
    attempts: int
    created_at: datetime
    ended_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, one: Import) -> Self:
        result = {"reference": None, "new": None, "warnings": [], **(one.result or {})}
        links = {"self": f"/v1/imports/{one.id}"}
        if (reference := result["reference"]) is not None:
            name, _, number = reference.partition(":")[2].rpartition("@")
            links["result"] = f"/v1/{one.kind}s/{name}/versions/{number}"
        columns = (
            "id", "version", "kind", "name", "source", "pinned", "status", "bytes", "total_bytes", "error",
            "created_at", "ended_at",
        )  # fmt: skip
        told = {column: getattr(one, column) for column in columns}
        terminal = one.status in TERMINAL
        return cls(**told, **result, terminal=terminal, attempts=one.attempt, links=links)


def names_a_source(request: Request) -> bool:
    """Whether the body is JSON; else it is a form with files."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def accept(request: Request, form: type[T], parts: Parts, project_id: str, key: str | None) -> Response:
    """202 with the import that the body orders. Raises MalformedBody, PayloadTooLarge, Invalid."""
    body = await request.body()
    if len(body) > MAX_TEXT_BYTES:  # it is kept as long as the import
        raise PayloadTooLarge(f"An order has {MAX_TEXT_BYTES:,} bytes at most; this one has {len(body):,}.")
    one = await run_in_threadpool(_submit, parts, project_id, body, form, key)
    return answer(one, 202, {"Location": f"/v1/imports/{one.id}"})


def answer(one: Import, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The import with its version as its ETag."""
    shown = ImportView.of(one).model_dump_json()
    tagged = {"ETag": f'"{one.version}"', **(headers or {})}
    return Response(shown, status, tagged, media_type="application/json")


def openapi(form: Form, order: type[BaseModel]) -> Json:
    """Both bodies as the `openapi_extra` of their route."""
    both = form.openapi()
    schema = order.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs", {})
    both["requestBody"]["content"]["application/json"] = {"schema": _resolved(schema, inner)}
    return both


def _resolved(value: Any, inner: Json) -> Any:
    """The schema without references, which would lead out of the route."""
    if isinstance(value, dict):
        if "$ref" in value:
            return _resolved(inner[value["$ref"].rpartition("/")[2]], inner)
        return {key: _resolved(part, inner) for key, part in value.items()}
    return [_resolved(part, inner) for part in value] if isinstance(value, list) else value


def _submit(parts: Parts, project_id: str, body: bytes, form: type[T], key: str | None) -> Import:
    sent = parse_body(body)
    try:
        order = form.model_validate_json(json.dumps(sent), strict=True)
    except ValidationError as error:
        raise _invalid(error, sent, form) from None
    with parts.sessions.write() as session:
        return import_orders.submit(session, parts.settings, project_id, order, key)


def _invalid(error: ValidationError, sent: Any, form: type[BaseModel]) -> Invalid:
    told = error.errors(include_url=False)
    faults = faults_in([{**one, "loc": ("body", *one["loc"])} for one in told], sent, form)
    return Invalid(summary(faults), *faults)
