"""Students that become the teachers of students like themselves (Furlanello et al., 2018)."""

from typing import Annotated, Literal

from pydantic import Field

from app.catalog.base import Architecture, Scheme

ENSEMBLE = "generations"


class BornAgain(Scheme):
    """One student after the other, of the same architecture and newly initialized: the first learns from the
    teachers, each next one from the one before, and the last leaves (Furlanello et al., 2018)."""

    kind: Literal["born_again"] = "born_again"
    generations: Annotated[int, Field(ge=1, le=20)] = Field(
        3, description="students in all, the one that leaves included"
    )
    ensemble: bool = Field(
        False, description="report the mean of all generations' probabilities, as a column `generations`"
    )

    def hops(self, student: Architecture) -> list[list[tuple[str, Architecture]]]:
        before = [[(f"generation_{number}", student)] for number in range(1, self.generations)]
        return [*before, [("student", student)]]

    def ensembles(self) -> dict[str, list[str]]:
        if not self.ensemble:
            return {}
        return {ENSEMBLE: [*(f"generation_{number}" for number in range(1, self.generations)), "student"]}

    def about(self, name: str) -> str:
        if name == ENSEMBLE:
            return f"the mean of the probabilities of all {self.generations} generations"
        number = self.generations if name == "student" else int(name.removeprefix("generation_"))
        whom = "the teachers" if number == 1 else f"generation {number - 1}"
        return f"generation {number}, which learned from {whom}"
