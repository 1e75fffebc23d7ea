"""How a refused upload is told: what is wrong and the way out, in one sentence each."""

from typing import TypeVar

from app.errors import Fault, Invalid

E = TypeVar("E", bound=Invalid)


def refusal(kind: type[E], detail: str, fix: str, *, pointer: str = "/file", code: str = "") -> E:
    """detail: half a sentence without a full stop; fix: a whole one. code: the fault's, else the error's."""
    return kind(f"{detail[0].upper()}{detail[1:]}. {fix}", Fault(pointer, code or kind.code, detail, fix))
