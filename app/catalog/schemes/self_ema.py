"""A student that is taught by the average of its own weights (Tarvainen & Valpola, 2017)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Architecture, Scheme


class SelfEma(Scheme):
    """Mean teacher: an exponential moving average of the student's weights teaches it, beside the teachers,
    if there are any, where it counts as much as one of weight 1 (Tarvainen & Valpola, 2017)."""

    teaches_itself: ClassVar[bool] = True

    kind: Literal["self_ema"] = "self_ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999,
        description="share of the average that step t leaves, at most 1 - 1 / (t + 1)",
    )
    leaves: Literal["student", "ema"] = Field(
        "student", description="which of the two is the job's student; the other is a version of its own"
    )

    @property
    def beside(self) -> str:
        """The column of the one that does not leave."""
        return "ema" if self.leaves == "student" else "trained"

    def hops(self, student: Architecture) -> list[list[tuple[str, Architecture]]]:
        return [[(self.beside, student), ("student", student)]]

    def about(self, name: str) -> str:
        if (name == "ema") or (name == "student" and self.leaves == "ema"):
            return "the moving average of the student's weights, which taught it"
        return "the student that its own moving average taught"
