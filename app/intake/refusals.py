"""How a refused upload is told: what is wrong and the way out, in one sentence each."""

from typing import TypeVar

from app.errors import Fault, Invalid

E = TypeVar("E", bound=Invalid)


def refusal(kind: type[E], detail: str, fix: str, *, pointer: str = "/file", code: str = "") -> E:
    """detail: half a sentence without a full stop; fix: a whole one. code: the fault's, else the error's."""
    first, space, rest = detail.partition(" ")
    sentence = (
        (first.capitalize() if first.isalpha() else first) + space + rest
    )  # a file's name stays as it is
    return kind(f"{sentence}. {fix}", Fault(pointer, code or kind.code, detail, fix))
