"""What losses over layers share: which layers, which rows and tokens count, and how two layers meet.

A layer shows a vector (B, D), tokens (B, T, D) or a map (B, c, h, w). What a mask excludes is cut off or made
zero before any arithmetic, so that it may be anything, NaN included.
"""

from collections.abc import Callable, Iterable, Sequence
from math import isqrt
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    StringConstraints,
    Tag,
    field_validator,
)

from app.catalog.base import Batch, Context, Loss, Outputs, lift
from app.errors import ShapeMismatch

if TYPE_CHECKING:
    from torch import Tensor

LayerPath = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _two(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("A pair is [student layer, teacher layer], two paths")
    return value


Pair = Annotated[tuple[LayerPath, LayerPath], BeforeValidator(_two)]


def _form_of(value: object) -> str:
    """So that an error speaks of the form that was meant, the word or the list."""
    return "word" if isinstance(value, str) else "list"


Word = Annotated[Literal["auto"], Tag("word")]
Pairs = Annotated[
    Word | Annotated[list[Pair], Field(min_length=1, max_length=16), Tag("list")], Discriminator(_form_of)
]
OnePair = Annotated[Word | Annotated[Pair, Tag("list")], Discriminator(_form_of)]


class LayerLoss(Loss):
    """A loss of lists of tensors, one a pair of layers. A plug-in writes `compare`.

    One with parts of its own is built into a module; the form itself compares what it is given without them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    by_rows: ClassVar[bool] = False  # True: a mean over rows, however many tokens of each count

    teacher: NonNegativeInt = Field(
        0, description="which teacher's layers, counted from 0 in the order of `teachers`"
    )

    def named(self) -> list[tuple[str, int, str]]:
        """Every path that is not `auto`: its pointer within the form, whose it is (0 the student's, 1 the
        teacher's), and the path."""
        raise NotImplementedError

    def sides(self, student: Outputs, teacher: Outputs) -> "tuple[list[Tensor], list[Tensor]]":
        """What the two layers of each pair show, in the order of the pairs."""
        raise NotImplementedError

    def compare(
        self, student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor | None" = None
    ) -> "Tensor":
        """The file's `value` with this form's parameters."""
        raise NotImplementedError

    def counted(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Outputs, Outputs, Batch]:
        """Everything: the mask is read where the kind of each tensor is known, in `value`."""
        return student, teacher, batch

    def count(self, batch: Batch, rows: int) -> "Tensor | int":
        if batch.mask is None:
            return rows
        mask = batch.mask.bool()
        return (mask.any(1) if self.by_rows and mask.ndim == 2 else mask).sum()

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        return self.compare(*self.sides(student, teacher), batch.mask)


class FeatureLoss(LayerLoss):
    """A loss over pairs of layers."""

    projects: ClassVar[bool] = False  # True: a projector stands where the two widths differ
    fewest: ClassVar[int] = 1
    last_alone: ClassVar[bool] = False  # True: of what `auto` finds, the last pair alone

    pairs: Pairs = Field(
        "auto",
        description="[student layer, teacher layer] by path, in order of depth; auto matches stages by depth",
    )

    @field_validator("pairs")
    @classmethod
    def _enough(cls, pairs: Pairs) -> Pairs:
        if pairs != "auto" and len(pairs) < cls.fewest:
            raise ValueError(f"{cls.name()} compares neighbors: give at least {cls.fewest} pairs of layers")
        return pairs

    def taps(self) -> tuple[list[str], list[str]]:
        if self.pairs == "auto":
            return [], []
        student, teacher = zip(*self.pairs, strict=True)
        return list(dict.fromkeys(student)), list(dict.fromkeys(teacher))

    def named(self) -> list[tuple[str, int, str]]:
        pairs = [] if self.pairs == "auto" else self.pairs
        return [
            (f"/pairs/{m}/{side}", side, path)
            for m, pair in enumerate(pairs)
            for side, path in enumerate(pair)
        ]

    def paired(self, pairs: Sequence[tuple[str, str]]) -> Self:
        """The same form over these pairs. Raises ShapeMismatch where they are too few."""
        if len(pairs) < self.fewest:
            raise ShapeMismatch(
                f"{self.kind} needs {self.fewest} pairs of layers and {len(pairs)} could be matched by "
                "depth; name them in `pairs`"
            )
        return self.model_copy(update={"pairs": [tuple(pair) for pair in pairs]})

    def sides(self, student: Outputs, teacher: Outputs) -> "tuple[list[Tensor], list[Tensor]]":
        assert self.pairs != "auto", "paired() comes first"
        part = "attentions" if "attentions" in self.needs else "features"
        mine, theirs = getattr(student, part), getattr(teacher, part)
        return [mine[path] for path, _ in self.pairs], [theirs[path] for _, path in self.pairs]

    def shapes(self, context: Context) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """What one real batch showed of each pair, student and teacher."""
        assert self.pairs != "auto", "paired() comes first"
        return [(context.student_shapes[mine], context.teacher_shapes[other]) for mine, other in self.pairs]

    def align(self, student: "Tensor", teacher: "Tensor", tokens: "Tensor | None") -> "tuple[Tensor, Tensor]":
        """Both in the same space, before the projector."""
        return aligned(student, teacher, tokens)

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        if not self.projects:
            return self
        widths = [(width(mine), width(other)) for mine, other in self.shapes(context)]
        if all(mine == other for mine, other in widths):
            return self
        from app.catalog._torch import Projected

        return Projected(self, widths, context.seed)


class RepresentationLoss(LayerLoss):
    """A loss over one representation of each row, compared with those of the other rows of the batch."""

    batch_statistic: ClassVar[bool] = True

    layer: OnePair = Field(
        "auto", description="[student layer, teacher layer] by path; auto: the input of the classifier"
    )

    def taps(self) -> tuple[list[str], list[str]]:
        return (["auto"], ["auto"]) if self.layer == "auto" else ([self.layer[0]], [self.layer[1]])

    def named(self) -> list[tuple[str, int, str]]:
        both = () if self.layer == "auto" else self.layer
        return [(f"/layer/{side}", side, path) for side, path in enumerate(both)]

    def sides(self, student: Outputs, teacher: Outputs) -> "tuple[list[Tensor], list[Tensor]]":
        both = zip((student.features, teacher.features), self.taps(), strict=True)
        mine, theirs = (shown[path if path in shown else _only(shown)] for shown, (path,) in both)
        return [mine], [theirs]

    def widths(self, context: Context) -> tuple[int, int]:
        """How many numbers `vectors` makes of each side's representation."""
        (mine,), (theirs,) = self.taps()
        found = []
        for path, shapes in ((mine, context.student_shapes), (theirs, context.teacher_shapes)):
            shape = shapes[path if path in shapes else _only(shapes)]
            flat = 1
            for size in shape[2:] if len(shape) == 3 else shape[1:]:
                flat *= size
            found.append(flat)
        return found[0], found[1]


def _only(shown: Iterable[str]) -> str:
    (path,) = shown
    return path


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
