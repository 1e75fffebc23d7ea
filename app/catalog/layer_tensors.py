"""What layers show, as losses compare it: which rows and tokens count, and how two layers meet.

A layer shows a vector (B, D), tokens (B, T, D) or a map (B, c, h, w). What a mask excludes is cut off or made
zero before any arithmetic, so that it may be anything, NaN included.
"""

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING

from app.catalog.base import Batch, lift
from app.errors import ShapeMismatch

if TYPE_CHECKING:
    from torch import Tensor

# ---- which rows and tokens count


def counted(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None"
) -> "tuple[list[Tensor], list[Tensor], Tensor | None]":
    """Both sides in at least float32, the teacher's detached, and the mask that is left: (rows, T) or None.

    A row mask (B,) leaves the rows that count. A token mask (B, T) leaves the rows with a token that counts,
    and zeros where tokens do not.
    """
    both = [[lift(one) for one in student], [lift(one.detach()) for one in teacher]]
    if mask is None:
        return both[0], both[1], None
    mask = mask.bool()
    rows = mask if mask.ndim == 1 else mask.any(1)
    tokens = None if mask.ndim == 1 else mask[rows]
    left = [[blanked(one[rows], tokens) for one in side] for side in both]
    return left[0], left[1], tokens


def counted_indices(batch: Batch) -> "Tensor | None":
    """The row numbers of the rows that `counted` leaves."""
    if batch.indices is None or batch.mask is None:
        return batch.indices
    mask = batch.mask.bool()
    return batch.indices[mask if mask.ndim == 1 else mask.any(1)]


def blanked(tensor: "Tensor", tokens: "Tensor | None") -> "Tensor":
    """Tokens (B, T, D) with zeros where they do not count; what is not tokens as it is."""
    if tokens is None or tensor.ndim != 3:
        return tensor
    if tensor.shape[1] != tokens.shape[1]:
        raise ShapeMismatch(
            f"A layer shows {tensor.shape[1]} tokens a row and the input has {tokens.shape[1]}; "
            "choose a layer that keeps one place for each token"
        )
    return tensor.masked_fill(~tokens.unsqueeze(-1), 0.0)


def average(tensor: "Tensor", tokens: "Tensor | None" = None) -> "Tensor":
    """The mean over all numbers, or over those of counted tokens where `tensor` is (B, T, ...)."""
    if tokens is None or tensor.shape[:2] != tokens.shape:
        return tensor.mean() if tensor.numel() else tensor.sum()
    left = tensor[tokens]
    return left.mean() if left.numel() else left.sum()


def positions(tensor: "Tensor") -> "Tensor":
    """(B, c, n): channels first, then the positions of a map, the tokens, or the one position of a vector."""
    if tensor.ndim == 2:
        return tensor.unsqueeze(-1)
    return tensor.transpose(1, 2) if tensor.ndim == 3 else tensor.flatten(2)


def rows(tensor: "Tensor", tokens: "Tensor | None" = None) -> "Tensor":
    """(N, D): every vector, counted token or position of a map by itself."""
    if tensor.ndim == 4:
        return tensor.permute(0, 2, 3, 1).flatten(0, 2)
    return tensor.flatten(0, -2) if tokens is None or tensor.ndim != 3 else tensor[tokens]


def vectors(tensor: "Tensor", tokens: "Tensor | None" = None) -> "Tensor":
    """(B, D): a map flattened, tokens as the mean of those that count."""
    if tensor.ndim != 3:
        return tensor.flatten(1)
    if tokens is None:
        return tensor.mean(1)
    return tensor.sum(1) / tokens.sum(1, keepdim=True)


def unit(tensor: "Tensor", dim: int = -1) -> "Tensor":
    """Divided by the L2 norm along `dim`; a zero vector stays zero and has no gradient."""
    square = tensor.square().sum(dim, keepdim=True)
    sound = square > 1e-24
    return (tensor / square.where(sound, 1.0).sqrt()).masked_fill(~sound, 0.0)


# ---- attention heads


def same_heads(kind: str, student: Sequence[int], teacher: Sequence[int]) -> None:
    """Raises ShapeMismatch where two shapes (B, H, T, ...) differ in their heads."""
    if student[1] != teacher[1]:
        raise ShapeMismatch(
            f"{kind} compares head by head: the student's layer has {student[1]} heads and the teacher's "
            f"{teacher[1]}; give the student {teacher[1]} heads, or use hidden_mse or similarity"
        )


def counted_heads(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None"
) -> "tuple[list[Tensor], list[Tensor], Tensor | None]":
    """As `counted`, for (B, H, T, T) and (B, H, T, d): zeros in the rows of tokens that do not count."""
    student, teacher, tokens = counted(student, teacher, mask)
    if tokens is None:
        return student, teacher, None
    hidden = ~tokens[:, None, :, None]
    both = [[one.masked_fill(hidden, 0.0) for one in side] for side in (student, teacher)]
    return both[0], both[1], tokens


# ---- how two layers meet


def width(shape: Sequence[int]) -> int:
    """Channels of a map, numbers of a token or of a vector."""
    return shape[1] if len(shape) == 4 else shape[-1]


def matched(
    student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None"
) -> "tuple[list[Tensor], list[Tensor], Tensor | None]":
    """What `counted` leaves, each pair in the same space. Raises ShapeMismatch where widths differ."""
    student, teacher, tokens = counted(student, teacher, mask)
    pairs = [aligned(mine, other, tokens) for mine, other in zip(student, teacher, strict=True)]
    for mine, other in pairs:
        same_width(mine, other)
    return [mine for mine, _ in pairs], [other for _, other in pairs], tokens


def mean_squares(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None) -> "Tensor":
    """Of lists of layers of equal widths the mean squared difference, summed over the pairs."""
    student, teacher, tokens = matched(student, teacher, mask)
    total = student[0].new_zeros(())
    for mine, theirs in zip(student, teacher, strict=True):
        total = total + average((mine - theirs).square(), tokens)
    return total


def same_width(student: "Tensor", teacher: "Tensor") -> None:
    if width(student.shape) != width(teacher.shape):
        raise ShapeMismatch(
            f"The student's layer is {width(student.shape)} wide and the teacher's {width(teacher.shape)}; "
            "build the loss, so that a projector stands between them"
        )


def aligned(student: "Tensor", teacher: "Tensor", tokens: "Tensor | None" = None) -> "tuple[Tensor, Tensor]":
    """Both in the same space: the larger map average-pooled to the smaller, tokens made a map where the other
    side is one, token sequences of two lengths pooled as squares or, where they are none, along T."""
    if student.ndim == teacher.ndim and _space(student) == _space(teacher):
        return student, teacher
    if tokens is not None:
        raise ShapeMismatch(
            f"Layers of shapes {tuple(student.shape[1:])} and {tuple(teacher.shape[1:])} cannot be matched "
            "token by token, and the rows are padded; pair layers that both keep one place for each token"
        )
    if student.ndim == teacher.ndim == 3 and not (_side(student) and _side(teacher)):
        return _same_length(student, teacher)
    return _same_space(as_map(student), as_map(teacher))


def spread(kind: str, *tensors: "Tensor") -> None:
    """Raises ShapeMismatch where one is a vector: over a single position these losses are always 0."""
    if any(tensor.ndim == 2 for tensor in tensors):
        raise ShapeMismatch(
            f"{kind} compares positions and a layer shows one vector a row; choose one with a map or tokens"
        )


def as_map(tensor: "Tensor") -> "Tensor":
    """(B, c, h, w): tokens laid out as the square that they came from, without the class token; a vector as
    one position. Raises ShapeMismatch where tokens are no square."""
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim == 2:
        return tensor[..., None, None]
    side = _side(tensor)
    if not side:
        raise ShapeMismatch(
            f"{tensor.shape[1]} tokens are no square image, with or without a class token, and cannot be "
            "compared with a map; pair tokens with tokens"
        )
    return tensor[:, -side * side :].transpose(1, 2).reshape(len(tensor), tensor.shape[2], side, side)


def map_only(kind: str, tokens: "Tensor | None", *tensors: "Tensor") -> None:
    """Raises ShapeMismatch where one of them is tokens of padded rows, which are no image."""
    if tokens is not None and any(tensor.ndim == 3 for tensor in tensors):
        raise ShapeMismatch(f"{kind} compares maps and these rows are padded tokens; use hidden_mse for them")


def met_as_maps(
    kind: str, student: "list[Tensor]", teacher: "list[Tensor]", tokens: "Tensor | None"
) -> "tuple[list[Tensor], list[Tensor]]":
    """Each pair as two maps of one size."""
    map_only(kind, tokens, *student, *teacher)
    met = [_same_space(as_map(mine), as_map(other)) for mine, other in zip(student, teacher, strict=True)]
    return [mine for mine, _ in met], [other for _, other in met]


def _space(tensor: "Tensor") -> tuple[int, ...]:
    return tuple(tensor.shape[2:] if tensor.ndim == 4 else tensor.shape[1:-1])


def _side(tokens: "Tensor") -> int:
    """Of the square that tokens (B, T, D) are, or are after the class token; 0: they are none."""
    if tokens.ndim != 3:
        return 0
    length = tokens.shape[1]
    return next((isqrt(n) for n in (length, length - 1) if n and isqrt(n) ** 2 == n), 0)


def _same_length(student: "Tensor", teacher: "Tensor") -> "tuple[Tensor, Tensor]":
    from torch.nn.functional import adaptive_avg_pool1d

    length = min(student.shape[1], teacher.shape[1])
    both = [adaptive_avg_pool1d(one.transpose(1, 2), length).transpose(1, 2) for one in (student, teacher)]
    return both[0], both[1]


def _same_space(student: "Tensor", teacher: "Tensor") -> "tuple[Tensor, Tensor]":
    from torch.nn.functional import adaptive_avg_pool2d

    high, wide = (min(sizes) for sizes in zip(_space(student), _space(teacher), strict=True))
    both = [
        one if _space(one) == (high, wide) else adaptive_avg_pool2d(one, (high, wide))
        for one in (student, teacher)
    ]
    return both[0], both[1]
