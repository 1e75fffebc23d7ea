"""What was looked at before a job is accepted: each check passes, warns or fails, and says what to do."""

from collections.abc import Callable
from typing import Annotated, Literal, ParamSpec, TypeVar

from pydantic import AfterValidator, Field

from app.catalog.base import Frozen
from app.errors import Fault, Invalid, sentence

P = ParamSpec("P")
T = TypeVar("T")


class Check(Frozen):
    name: str
    status: Literal["ok", "warn", "fail"]
    code: str = ""
    pointer: str = ""
    detail: Annotated[str, AfterValidator(sentence)] = ""
    fix: Annotated[str, AfterValidator(sentence)] = ""
    evidence: str = Field("", description="what a warning rests on")


class Checks:
    """Collects; a failed check does not stop the ones that do not need it."""

    def __init__(self) -> None:
        self.all: list[Check] = []
        self._errors: list[Invalid] = []

    def run(
        self, name: str, pointer: str, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """What `look` found, or None when it raised Invalid. pointer: the place of faults without one."""
        try:
            found = look(*args, **kwargs)
        except Invalid as error:
            faults = error.faults or (Fault(pointer, error.code, error.detail),)
            placed = [Fault(one.pointer or pointer, one.code, one.detail, one.fix) for one in faults]
            told = [error.detail] if len(placed) == 1 else [fault.detail for fault in placed]
            self.all += [
                Check(name=name, status="fail", **{**vars(fault), "detail": detail})
                for fault, detail in zip(placed, told, strict=True)
            ]
            self._errors.append(type(error)(error.detail, *placed))
            return None
        self.all.append(Check(name=name, status="ok"))
        return found

    def warn(self, name: str, code: str, pointer: str, detail: str, fix: str, *, evidence: str = "") -> None:
        said = {"code": code, "pointer": pointer, "detail": detail, "fix": fix, "evidence": evidence}
        self.all.append(Check(name=name, status="warn", **said))

    def demand(self) -> None:
        """Raises the first error, with everything that is wrong in it."""
        if self._errors:
            first = self._errors[0]
            raise type(first)(first.detail, *(fault for error in self._errors for fault in error.faults))
