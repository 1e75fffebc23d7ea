"""The forms of losses over layers: which layers they name, and what each of these shows."""

from collections.abc import Callable, Iterable, Sequence
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

from app.catalog.base import Batch, Context, Loss, Outputs
from app.catalog.layer_tensors import aligned, width
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
    maps_only: ClassVar[bool] = False  # True: padding cannot be left out of it, so texts are refused

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
