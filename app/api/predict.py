"""Predictions. Little stands between a request and its student: a few checks by hand, one thread for all."""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.api.dependencies import PartsDep, PrincipalDep
from app.api.strict_json import parse_json
from app.api.uploads import Form, Received, receive
from app.catalog.spec import NAME
from app.errors import Fault, Invalid, Overloaded, UnsupportedMediaType, shown
from app.ports.parts import Parts
from app.services import predictions
from app.services.predictions import MAX_ROWS

router = APIRouter(tags=["predictions"])

TOP_K = 3
IN_PARALLEL = max(
    4, os.cpu_count() or 1
)  # requests that compute at once; more would only fight over the cores
MAX_WAITING = 64  # requests in line behind them
_REFERENCE = re.compile(rf"(model:)?{NAME}(@[A-Za-z0-9._-]{{1,64}})?")
_HOW = "Send application/json, one image as image/png or the like, or images as multipart/form-data."

_FORM = Form(
    files={"file": f"an image; up to {MAX_ROWS} of them"},
    texts={"model": "NAME, NAME@VERSION or NAME@ALIAS", "top_k": "labels in each answer"},
    required=("file",),
    repeatable=frozenset({"file"}),
    max_files=MAX_ROWS,
)


@dataclass(frozen=True)
class _Order:
    """What is asked for, whatever the format. where: the JSON pointer of the rows."""

    model: str
    rows: list[Any]
    top_k: int
    where: str


def _described(named_in_path: bool) -> dict[str, Any]:
    """The request body in OpenAPI's words; FastAPI does not see it."""
    model = {
        "type": "string",
        "description": "NAME, NAME@VERSION or NAME@ALIAS",
        "example": "digits-tiny@champion",
    }
    top_k = {
        "type": "integer",
        "minimum": 1,
        "default": TOP_K,
        "description": "labels in each answer, likeliest first",
    }
    row = {
        "description": "a table's row, by column or as a list in the columns' order; or an image in base64",
        "anyOf": [{"type": "object"}, {"type": "array", "items": {}}, {"type": "string"}],
    }
    inputs = {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": row}
    fields: dict[str, Any] = {"inputs": inputs, "top_k": top_k}
    example: dict[str, Any] = {"inputs": [{"petal_length": 4.7, "petal_width": 1.4}], "top_k": 2}
    query = [{"name": "top_k", "in": "query", "required": False, "schema": top_k}]
    if not named_in_path:
        fields = {"model": model, **fields}
        example = {"model": "irises@champion", **example}
        query.append({"name": "model", "in": "query", "required": False, "schema": model})
    schema = {
        "type": "object",
        "required": [name for name in fields if name != "top_k"],
        "additionalProperties": False,
    }
    form = _FORM.openapi()["requestBody"]["content"]
    image = {"image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}}}
    json = {"application/json": {"schema": {**schema, "properties": fields}, "example": example}}
    return {
        "parameters": [{**one, "description": "beside an image body only"} for one in query],
        "requestBody": {"required": True, "content": {**json, **form, **image}},
    }


_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One answer for each row, in order",
        "content": {
            "application/json": {
                "example": {
                    "model": "irises@3",
                    "predictions": [
                        {
                            "label": "versicolor",
                            "probability": 0.93,
                            "top": [
                                {"label": "versicolor", "probability": 0.93},
                                {"label": "virginica", "probability": 0.06},
                            ],
                        }
                    ],
                    "usage": {"rows": 1, "latency_ms": 0.84},
                }
            }
        },
    }
}


@router.post("/predict", openapi_extra=_described(named_in_path=False), responses=_ANSWER)
async def predict(request: Request, parts: PartsDep, principal: PrincipalDep) -> JSONResponse:
    """Asks a student: rows of a table, or images as base64, as files of a form, or one as the body itself."""
    return await _predict(request, parts, principal.project_id, None)


@router.post(
    "/v1/models/{reference}/predict", openapi_extra=_described(named_in_path=True), responses=_ANSWER
)
async def predict_with(
    reference: str, request: Request, parts: PartsDep, principal: PrincipalDep
) -> JSONResponse:
    """As /predict, the student named in the path by NAME, NAME@VERSION or NAME@ALIAS."""
    return await _predict(request, parts, principal.project_id, reference)


async def _predict(request: Request, parts: Parts, project_id: str, reference: str | None) -> JSONResponse:
    lane = _lane(request)
    run = partial(to_thread.run_sync, limiter=lane)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        async with receive(request, _FORM, parts.settings, parts.settings.max_json_bytes) as form:
            return await run(_answer, parts, project_id, partial(_of_form, form, reference))
    if media_type == "application/json":
        return await run(_answer, parts, project_id, partial(_of_json, await request.body(), reference))
    if media_type.startswith("image/"):
        sent = {**request.query_params, "inputs": [await request.body()]}
        return await run(_answer, parts, project_id, partial(_of_texts, sent, reference, "inputs"))
    raise UnsupportedMediaType(f"{shown(media_type)} is not understood here. {_HOW}")


def _lane(request: Request) -> CapacityLimiter:
    """The threads of predictions, apart from those of other requests. Raises Overloaded if many wait."""
    state = request.app.state
    if not hasattr(state, "predict_lane"):
        state.predict_lane = CapacityLimiter(IN_PARALLEL)
    lane: CapacityLimiter = state.predict_lane
    if lane.statistics().tasks_waiting >= MAX_WAITING:
        raise Overloaded("Too many predictions are waiting; try again in a second.", retry_after_s=1)
    return lane


def _answer(parts: Parts, project_id: str, read: Callable[[], _Order]) -> JSONResponse:
    started = time.perf_counter()
    order = read()
    with parts.sessions.read() as session:
        student = predictions.find(session, project_id, order.model)
    answers = predictions.answer(student, parts.predictor, order.rows, top_k=order.top_k, where=order.where)
    latency_ms = round((time.perf_counter() - started) * 1000, 3)
    usage = {"rows": len(answers), "latency_ms": latency_ms}
    return JSONResponse({"model": student.name, "predictions": answers, "usage": usage})


def _of_json(body: bytes, reference: str | None) -> _Order:
    sent = parse_json(body)
    if not isinstance(sent, dict):
        raise Invalid(
            "The body has to be a JSON object.",
            Fault("", "wrong_type", "not an object", 'send {"inputs": [...]}'),
        )
    return _order(sent, reference, "inputs")


def _of_form(form: Received, reference: str | None) -> _Order:
    return _of_texts(
        {**form.texts, "file": [file.path.read_bytes() for file in form.files]}, reference, "file"
    )


def _of_texts(sent: dict[str, Any], reference: str | None, rows: str) -> _Order:
    """Of a form or a query, which know only texts."""
    if re.fullmatch("[0-9]{1,9}", str(sent.get("top_k", ""))):
        sent["top_k"] = int(sent["top_k"])
    return _order(sent, reference, rows)


def _order(sent: Mapping[str, Any], reference: str | None, rows: str) -> _Order:
    """`rows` names the field in which the rows came. Raises Invalid with all that is wrong."""
    known = {"top_k", rows} if reference else {"model", "top_k", rows}
    faults = [_unknown(name, known) for name in sent if name not in known]
    model, inputs, top_k = reference or sent.get("model"), sent.get(rows), sent.get("top_k", TOP_K)
    if not isinstance(model, str) or not _REFERENCE.fullmatch(model):
        faults.append(
            Fault("/model", "no_reference", "this names no model", "send NAME, NAME@VERSION or NAME@ALIAS")
        )
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_ROWS:
        faults.append(
            Fault(f"/{rows}", "wrong_rows", "this is no list of rows", f"send a list of 1 to {MAX_ROWS} rows")
        )
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        faults.append(Fault("/top_k", "out_of_range", "this is no count", "send a whole number from 1 on"))
    if faults:
        more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}; {faults[0].fix}.{more}", *faults)
    return _Order(str(model), list(inputs or []), int(top_k), f"/{rows}")


def _unknown(name: str, known: set[str]) -> Fault:
    pointer = "/" + name[:60].replace("~", "~0").replace("/", "~1")
    return Fault(
        pointer, "unknown_field", "there is no such field here", f"known: {', '.join(sorted(known))}"
    )
