"""What a key may do. A right is one of four scopes; none contains another, and nothing is allowed by default.

A route needs the scope that its router's module names, else `read` for GET and `write` for what changes
something. What concerns the whole installation is for keys of the default project alone: they are the
operator's.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from app.errors import Forbidden

Scope = Literal["read", "write", "predict", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_PROJECT = "prj_default"
_OF_METHOD: dict[str, Scope] = {
    "GET": "read", "POST": "write", "PUT": "write", "PATCH": "write", "DELETE": "write",
}  # fmt: skip


@dataclass(frozen=True)
class Principal:
    """The project that a request acts for, the key that let it in (None: keys are off), and its scopes."""

    project_id: str
    key_id: str | None
    scopes: frozenset[str]

    @property
    def is_operator(self) -> bool:
        return self.project_id == DEFAULT_PROJECT and "admin" in self.scopes


TRUSTED = Principal(DEFAULT_PROJECT, None, frozenset(SCOPES))


def scope_of(methods: Collection[str], named: str | None) -> Scope:
    """What a route needs. named: by its module. Raises TypeError where no scope is known."""
    found = {_OF_METHOD.get(method) if named is None else named for method in methods}
    for scope in SCOPES:
        if found == {scope}:
            return scope
    raise TypeError(f"no scope is known for {sorted(methods)} with the scope {named!r}: {', '.join(SCOPES)}")


def demand(principal: Principal, scope: Scope, *, of_installation: bool = False) -> None:
    """Raises Forbidden, which names what is missing."""
    if scope not in principal.scopes:
        has = ", ".join(sorted(principal.scopes)) or "none"
        raise Forbidden(f"This needs a key with the scope {scope!r}; this key has {has}.")
    if of_installation and principal.project_id != DEFAULT_PROJECT:
        raise Forbidden("This concerns the whole installation: it needs a key of the operator's own project.")
