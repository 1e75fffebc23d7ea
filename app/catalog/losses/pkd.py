"""Feature maps up to scale and shift."""

from typing import TYPE_CHECKING, ClassVar, Literal

from app.catalog.features import FeatureLoss
from app.catalog.layer_tensors import aligned, average, counted, rows, same_width

if TYPE_CHECKING:
    from torch import Tensor


class PKD(FeatureLoss):
    """Match feature maps up to the scale and shift of each channel, which is 1 - Pearson's correlation.

    Each channel is standardized over the batch and its positions first. The student's map is resized to its
    teacher's size; a projector stands where it is not as wide. Summed over the pairs.
    """

    batch_statistic: ClassVar[bool] = True
    projects: ClassVar[bool] = True
    paper: ClassVar[str] = "Cao et al., 2022, PKD: General Distillation Framework for Object Detectors"
    definition: ClassVar[str] = (
        "sum_pairs mean (z(Fs) - z(Ft))^2 / 2, z(F) = (F - mean) / (std + 1e-6) of each channel over batch "
        "and positions"
    )

    kind: Literal["pkd"] = "pkd"

    def align(self, student: "Tensor", teacher: "Tensor", tokens: "Tensor | None") -> "tuple[Tensor, Tensor]":
        return _resized(student, teacher, tokens)

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        return value(student, teacher, mask)


def value(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of features, one a pair."""
    student, teacher, tokens = counted(student, teacher, mask)
    total = student[0].new_zeros(())
    for pair in zip(student, teacher, strict=True):
        same_width(*pair)
        mine, theirs = (_standardized(rows(one, tokens)) for one in _resized(*pair, tokens))
        total = total + average((mine - theirs).square()) / 2
    return total


def _resized(student: "Tensor", teacher: "Tensor", tokens: "Tensor | None") -> "tuple[Tensor, Tensor]":
    """Of two maps the student's takes the teacher's size."""
    from torch.nn.functional import interpolate

    if student.ndim == teacher.ndim == 4 and student.shape[2:] != teacher.shape[2:]:
        return interpolate(student, list(teacher.shape[2:]), mode="bilinear"), teacher
    return aligned(student, teacher, tokens)


def _standardized(samples: "Tensor") -> "Tensor":
    """Of each column of (N, D), with the unbiased deviation as in the authors' code."""
    centered = samples - samples.mean(0)
    variance = centered.square().sum(0) / max(len(samples) - 1, 1)
    tiny = variance.new_tensor(1e-30)  # the root of a constant channel's zero would have an infinite gradient
    return centered / (variance.maximum(tiny).sqrt() + 1e-6)
