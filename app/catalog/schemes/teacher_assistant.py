"""A chain of ever smaller models between a large teacher and a small student (Mirzadeh et al., 2020)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from app.catalog.base import Architecture, Scheme
from app.catalog.families import AnyArchitecture


class TeacherAssistant(Scheme):
    """Where the student is too small for its teachers, assistants of sizes in between: the first learns from
    the teachers, each next one from the one before, and the student from the last (Mirzadeh et al., 2020)."""

    kind: Literal["teacher_assistant"] = "teacher_assistant"
    assistants: Annotated[list[AnyArchitecture], Field(min_length=1, max_length=8)] = Field(
        description="from large to small, each larger than the student"
    )

    def hops(self, student: Architecture) -> list[list[tuple[str, Architecture]]]:
        before = [[(f"assistant_{number}", one)] for number, one in enumerate(self.assistants, 1)]
        return [*before, [("student", student)]]

    def map(self, change: Callable[[str, Architecture], Architecture]) -> "TeacherAssistant":
        assistants = [change(f"assistants/{place}", one) for place, one in enumerate(self.assistants)]
        return self.model_copy(update={"assistants": assistants})

    def misfit(self, sizes: Sequence[int]) -> str | None:
        for number, (size, after) in enumerate(pairwise(sizes), 1):
            if size <= after:
                whom = "the student" if number == len(self.assistants) else f"assistant {number + 1}"
                return f"assistant {number} has {size:,} parameters, {whom} after it {after:,}"
        return None

    def about(self, name: str) -> str:
        if name == "student":
            return f"the distilled student, which learned from assistant {len(self.assistants)}"
        number = int(name.removeprefix("assistant_"))
        whom = "the teachers" if number == 1 else f"assistant {number - 1}"
        return f"assistant {number}, which learned from {whom}"
