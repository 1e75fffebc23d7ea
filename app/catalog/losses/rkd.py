"""Distances and angles between the rows of a batch."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from app.catalog.features import RepresentationLoss
from app.catalog.layer_tensors import counted, unit, vectors

if TYPE_CHECKING:
    from torch import Tensor


class RKD(RepresentationLoss):
    """Match the geometry of a batch, whatever the widths: distances of two rows and angles of three.

    Time and memory grow with the cube of the batch. Of a batch of one it is 0.
    """

    usual_weight: ClassVar[float | None] = 1
    paper: ClassVar[str] = "Park et al., 2019, Relational Knowledge Distillation"
    definition: ClassVar[str] = (
        "distance * mean_ij huber(ds_ij - dt_ij) + angle * mean_ijk huber(cs_ijk - ct_ijk), "
        "d = distance / mean of the positive ones, c = cosine at row i between rows j and k"
    )

    kind: Literal["rkd"] = "rkd"
    distance: NonNegativeFloat = Field(25.0, description="share of the distances between two rows")
    angle: NonNegativeFloat = Field(50.0, description="share of the angles between three rows")

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask, distance=self.distance, angle=self.angle)


def value(
    student: "list[Tensor]",
    teacher: "list[Tensor]",
    mask: "Tensor | None" = None,
    *,
    distance: float = 25.0,
    angle: float = 50.0,
) -> "Tensor":
    """Of lists of representations (B, ...)."""
    from torch.nn.functional import smooth_l1_loss

    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        mine, theirs = (vectors(one, tokens) for one in pair)
        if not len(mine):
            total = total + mine.sum()
            continue
        total = total + distance * smooth_l1_loss(_distances(mine), _distances(theirs))
        total = total + angle * smooth_l1_loss(_angles(mine), _angles(theirs))
    return total


def _distances(rows: "Tensor") -> "Tensor":
    """(B, B), in units of the mean of the positive ones."""
    squares = rows.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp(min=1e-12).sqrt()
    apart = apart.clone().fill_diagonal_(0.0)
    return apart / (apart.sum() / (apart > 0).sum().clamp(min=1)).clamp(min=1e-12)


def _angles(rows: "Tensor") -> "Tensor":
    """(B, B, B): at row i the cosine between the ways to rows j and k."""
    ways = unit(rows[None] - rows[:, None])
    return ways @ ways.transpose(1, 2)
