"""Lists come in pages: `next` of one is `after` of the following one."""

import base64
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from app.errors import Fault, Invalid

T = TypeVar("T")
R = TypeVar("R")
MAX_LIMIT = 200

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="most entries of this page")]
After = Annotated[str | None, Query(max_length=200, description="`next` of the page before")]


class Page(BaseModel, Generic[T]):
    data: list[T]
    has_more: bool
    next: str | None = Field(description="opaque; null on the last page")


def cut(rows: Sequence[R], limit: int, mark: Callable[[R], object]) -> tuple[list[R], bool, str | None]:
    """One page of rows that were asked for with one more than `limit`: its rows, has_more and next.

    mark: what the service needs to go on behind a row.
    """
    shown = list(rows[:limit])
    more = len(rows) > limit
    return shown, more, write_cursor(mark(shown[-1])) if more else None


def write_cursor(mark: object) -> str:
    """What `read_cursor` reads back."""
    return base64.urlsafe_b64encode(str(mark).encode()).decode().rstrip("=")


def read_cursor(after: str | None, form: str = r"[a-z]+_[a-z0-9]{1,64}") -> str | None:
    """The mark in a cursor: an id, or what has another `form` (a regular expression).

    Raises Invalid for what no page gave out.
    """
    if after is None:
        return None
    try:
        mark = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
    except ValueError:
        mark = ""
    if not re.fullmatch(form, mark):
        fault = Fault(
            "/query/after", "invalid_cursor", "no page gave out this value", "Pass `next` of a page."
        )
        raise Invalid("The cursor `after` is not one of ours.", fault)
    return mark
