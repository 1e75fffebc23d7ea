"""What a prediction is asked with: JSON, a form or an image as the body, all read into one Order by hand.

No pydantic here: it would take as long as the student.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.api.strict_route import parse_body
from app.api.uploads import Form, Received
from app.catalog.spec import NAME
from app.errors import Fault, Invalid, pointer
from app.services.predictions import MAX_ROWS

TOP_K = 3
_REFERENCE = re.compile(rf"(model:)?{NAME}(@[A-Za-z0-9._-]{{1,64}})?")
_MODEL = {"model": "NAME, NAME@VERSION or NAME@ALIAS"}
_TOP_K = {"top_k": "labels in each answer, likeliest first"}


@dataclass(frozen=True)
class Order:
    """What is asked for, whatever the format. where: the JSON pointer of the rows."""

    model: str
    rows: list[Any]
    top_k: int
    where: str


def form(named_in_path: bool) -> Form:
    """The form that carries images."""
    return Form(
        files={"file": f"an image; up to {MAX_ROWS} of them"},
        texts=_TOP_K if named_in_path else _MODEL | _TOP_K,
        required=("file",) if named_in_path else ("model", "file"),
        repeatable=frozenset({"file"}),
        max_files=MAX_ROWS,
    )


def of_json(body: bytes, reference: str | None) -> Order:
    """reference: the model that the path names; None: the body has to. Raises MalformedBody, Invalid."""
    sent = parse_body(body)
    if not isinstance(sent, dict):
        fault = Fault("", "wrong_type", "this is no object", 'send {"inputs": [...]}')
        raise Invalid("The body has to be a JSON object.", fault)
    return _order(sent, reference, "inputs")


def of_form(received: Received, reference: str | None) -> Order:
    """Raises Invalid."""
    images = [file.path.read_bytes() for file in received.files]
    return _order(_numbered({**received.texts, "file": images}), reference, "file")


def of_image(body: bytes, query: Mapping[str, str], reference: str | None) -> Order:
    """Raises Invalid."""
    return _order(_numbered({**query, "inputs": [body]}), reference, "inputs")


def _numbered(sent: dict[str, Any]) -> dict[str, Any]:
    """Of a form or a query, which know only texts: with a number where one is meant."""
    top_k = sent.get("top_k")
    if isinstance(top_k, str) and re.fullmatch("[0-9]{1,9}", top_k):
        return {**sent, "top_k": int(top_k)}
    return sent


def _order(sent: Mapping[str, Any], reference: str | None, rows: str) -> Order:
    """`rows` names the field in which the rows came. Raises Invalid with all that is wrong."""
    known = {"top_k", rows} if reference else {"model", "top_k", rows}
    faults = [_unknown(name, known) for name in sent if name not in known]
    model, inputs, top_k = reference or sent.get("model"), sent.get(rows), sent.get("top_k", TOP_K)
    if not isinstance(model, str) or not _REFERENCE.fullmatch(model):
        fix = "send NAME, NAME@VERSION or NAME@ALIAS"
        faults.append(Fault("/model", "no_reference", "this names no model", fix))
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_ROWS:
        came = f"{len(inputs):,} rows came" if isinstance(inputs, list) else "this is no list of rows"
        fix = f"send 1 to {MAX_ROWS:,} rows at once, as a list"
        faults.append(Fault(f"/{rows}", "wrong_rows", came, fix))
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        faults.append(Fault("/top_k", "out_of_range", "this is no count", "send a whole number from 1 on"))
    if faults:
        more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}; {faults[0].fix}.{more}", *faults)
    return Order(str(model), list(inputs or []), int(top_k), f"/{rows}")


def _unknown(name: str, known: set[str]) -> Fault:
    fix = f"known: {', '.join(sorted(known))}"
    return Fault(pointer(name), "unknown_field", "there is no such field here", fix)


# ---- in OpenAPI's words, for FastAPI sees none of this


def described(named_in_path: bool) -> dict[str, Any]:
    """The request body, and the query beside an image, as the `openapi_extra` of a route."""
    model = {"type": "string", "description": _MODEL["model"], "example": "digits-tiny@champion"}
    top_k = {"type": "integer", "minimum": 1, "default": TOP_K, "description": _TOP_K["top_k"]}
    fields: dict[str, Any] = {"inputs": _INPUTS, "top_k": top_k}
    if not named_in_path:
        fields = {"model": model, **fields}
    schema = {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name != "top_k"],
        "additionalProperties": False,
    }
    example = {name: value for name, value in _EXAMPLE.items() if name in fields}
    content = {
        "application/json": {"schema": schema, "example": example},
        **form(named_in_path).openapi()["requestBody"]["content"],
        "image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}},
    }
    query = {name: field for name, field in fields.items() if name != "inputs"}
    parameters = [
        {"name": name, "in": "query", "schema": field, "description": "beside an image as the body only"}
        for name, field in query.items()
    ]
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


_INPUTS = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_ROWS,
    "items": {
        "description": "a table's row, by column or as a list in the columns' order; a text, as it is or by "
        "its column; or an image in base64",
        "anyOf": [{"type": "object"}, {"type": "array", "items": {}}, {"type": "string"}],
    },
}
_EXAMPLE = {
    "model": "irises@champion",
    "inputs": [{"petal_length": 4.7, "petal_width": 1.4}],
    "top_k": 2,
}
_LABELS = [{"label": "versicolor", "probability": 0.93}, {"label": "virginica", "probability": 0.06}]
_ANSWER = {
    "model": "irises@3",
    "predictions": [{**_LABELS[0], "top": _LABELS}],
    "usage": {"rows": 1, "latency_ms": 0.84},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One answer for each row, in order",
        "content": {"application/json": {"example": _ANSWER}},
    }
}
