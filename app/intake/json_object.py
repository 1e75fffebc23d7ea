"""The JSON objects in what was uploaded."""

from typing import Any

from app.errors import InvalidData
from app.intake.refusals import refusal
from app.strict_json import NotStrict, parse_json


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `raw`; `what` names it in the message. Raises InvalidData."""
    try:
        value = parse_json(raw)
        if not isinstance(value, dict):
            raise NotStrict("an object is expected at its top")
    except NotStrict as error:
        raise refusal(
            InvalidData, f"{what} cannot be read: {error}", "Write it again as plain JSON."
        ) from None
    return value
