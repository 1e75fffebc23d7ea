"""A plug-in is a frozen form: its fields are its parameters, its docstring is its help, and it does the work.

Nothing here imports torch. Tensor methods need no import; a plug-in that needs torch imports it in a method's
body or keeps its modules in a `_torch.py` of its own.
"""

import importlib
import pkgutil
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, Union, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from app.catalog.work import Work, by_size
from app.errors import Fault, Invalid, pointer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

T = TypeVar("T")
P = TypeVar("P", bound="Plugin")
F = TypeVar("F", bound="Frozen")
Opened = Callable[[str, Callable[[bytes], Any]], Any]  # (sha256, open): what `open` makes of the file, kept
UNLABELED = -100  # the label of a row that has none; it silences ground-truth terms only


class Frozen(BaseModel):
    """Parsed once at the edge, trusted inside, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse(form: type[F], value: Any, what: str) -> F:
    """JSON as a form. Raises Invalid with one fault a field; `what` names the whole in its message."""
    try:
        return form.model_validate(value)
    except ValidationError as error:
        faults = [
            Fault(pointer(*one["loc"]), one["type"], one["msg"])
            for one in error.errors(include_url=False)[:20]
        ]
        raise Invalid(f"{what}: {faults[0].pointer} {faults[0].detail}", *faults) from None


# ---- schedules


class Schedule(Frozen, Generic[T]):
    """A parameter that moves in a straight line over the first epochs and then stays."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    start: T = Field(alias="from", description="value in the first epoch")
    end: T = Field(alias="to", description="value from epoch `over_epochs` on")
    over_epochs: PositiveInt = Field(description="epochs that the way takes")

    def at(self, epoch: int) -> float:
        start, end = cast("float", self.start), cast("float", self.end)
        return start + (end - start) * min(epoch / self.over_epochs, 1.0)


if TYPE_CHECKING:
    Scheduled = Annotated[T, "a number, or a Schedule until at(epoch) has made it a number"]
else:

    class Scheduled:
        """`Scheduled[float]` is a number or a Schedule of such numbers."""

        def __class_getitem__(cls, number: Any) -> Any:
            return Union[number, Schedule[number]]  # noqa: UP007


# ---- plug-ins


class Plugin(Frozen):
    """`kind` is the name on the wire; a subclass narrows it to one literal."""

    kind: str

    @classmethod
    def name(cls) -> str:
        return cast("str", cls.model_fields["kind"].default)


def discover(folder: str, kind_of: type[P]) -> dict[str, type[P]]:
    """Imports every module of the package `folder` and returns its plug-ins by kind, each used once."""
    package = importlib.import_module(folder)
    found: dict[str, type[P]] = {}
    for module_info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{folder}.{module_info.name}")
        for plugin in vars(module).values():
            if not (
                isinstance(plugin, type)
                and issubclass(plugin, kind_of)
                and plugin.__module__ == module.__name__
            ):
                continue
            if plugin.name() in found:
                other = found[plugin.name()].__module__
                raise TypeError(f"{plugin.__module__} and {other} both call themselves {plugin.name()!r}")
            found[plugin.name()] = plugin
    return dict(sorted(found.items()))


def one_of(plugins: Mapping[str, type[Plugin]]) -> Any:
    """The field type that accepts any of these plug-ins and tells them apart by `kind`."""
    union = reduce(lambda left, right: left | right, plugins.values())  # type: ignore[arg-type, return-value]
    return Annotated[union, Field(discriminator="kind")] if len(plugins) > 1 else union


# ---- what flows between models and losses


@dataclass(frozen=True)
class Outputs:
    """What one forward pass shows. logits: (B, C) or (B, T, C); the dicts are keyed by layer path."""

    logits: "Tensor | None" = None
    features: "Mapping[str, Tensor]" = field(default_factory=dict)
    attentions: "Mapping[str, Tensor]" = field(default_factory=dict)
    values: "Mapping[str, Tensor]" = field(default_factory=dict)

    def map(self, change: "Callable[[Tensor], Tensor]") -> "Outputs":
        """The same outputs with every tensor changed."""
        return Outputs(
            None if self.logits is None else change(self.logits),
            *(
                {path: change(tensor) for path, tensor in part.items()}
                for part in (self.features, self.attentions, self.values)
            ),
        )


@dataclass(frozen=True)
class Batch:
    """labels: (B,) or (B, T), -100: unlabeled. indices: (B,) row numbers. mask: (B,) or (B, T), True: the row
    or the token counts.

    Of rows that were mixed with others (mixup, cutmix), `labels` are those of the larger parts, `others`
    those of the smaller ones, and `share`, (B,), is how much of a row its larger part is.
    """

    labels: "Tensor | None" = None
    indices: "Tensor | None" = None
    mask: "Tensor | None" = None
    others: "Tensor | None" = None
    share: "Tensor | None" = None

    def kept(self, keep: "Tensor") -> "Batch":
        """The rows, or tokens, where `keep` is True; the mask is then done with."""

        def part(tensor: "Tensor | None") -> "Tensor | None":
            return tensor if tensor is None or tensor.shape[: keep.ndim] != keep.shape else tensor[keep]

        labels, indices = part(self.labels), part(self.indices)
        return Batch(labels, indices, None, part(self.others), part(self.share))

    def targets(self, teacher: "Tensor") -> "Tensor":
        """The labels, and of rows that have none what the teacher's logits (..., C) choose."""
        chosen = teacher.argmax(-1)
        return chosen if self.labels is None else chosen.where(self.labels == UNLABELED, self.labels)


@dataclass(frozen=True)
class Context:
    """What a loss with learned parts is built from: the shapes that one real batch showed, by layer path."""

    student_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rows: int = 0
    labels: Sequence[str] = ()
    seed: int = 0


def lift(tensor: "Tensor") -> "Tensor":
    """Half precision becomes float32, float64 stays: losses are never summed in half."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


LOOKS = frozenset({"features", "attentions", "values"})  # what only a look into the layers gives


class Loss(Plugin):
    """One term of the objective. A plug-in writes `formula`; what is the same for all losses stands here."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})  # of logits, labels, features, attentions, values
    batch_statistic: ClassVar[bool] = (
        False  # True: the mean over parts of a batch is not the value of the batch
    )
    remembers: ClassVar[bool] = False  # True: it keeps what it saw of each row, from batch to batch
    lumps: ClassVar[bool] = False  # True: it holds as well where many unlikely classes are lumped into one
    answers: ClassVar[frozenset[str]] = frozenset({"class"})  # what `logits` may stand for: class, number
    across_families: ClassVar[str] = ""  # evidence, where it is known to hurt between unlike architectures
    usual_weight: ClassVar[float | None] = None  # in RepDistiller's recipes, beside a cross-entropy of 1
    paper: ClassVar[str] = ""
    definition: ClassVar[str] = ""  # the formula in one line of plain text, for docs/losses.md

    weight: Scheduled[NonNegativeFloat] = Field(
        1.0, description="share in the weighted sum of the losses, or a schedule of it"
    )

    def taps(self) -> tuple[list[str], list[str]]:
        """The layer paths to capture, of the student and of the teacher."""
        return [], []

    def counts(self) -> bool:
        """Whether it ever teaches anything: it has a weight at some time."""
        weight = self.weight
        return weight.start > 0 or weight.end > 0 if isinstance(weight, Schedule) else weight > 0

    def at(self, epoch: int) -> Self:
        """The same form with every schedule made a number. epoch counts from 0."""
        moved = {name: value.at(epoch) for name, value in self if isinstance(value, Schedule)}
        return self.model_copy(update=moved) if moved else self

    def build(self, context: Context) -> "Callable[[Outputs, Outputs, Batch], Tensor]":
        """What computes the loss: this form itself, or a module with parts that the optimizer then trains."""
        return self

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        """The loss of one batch, a scalar without the weight in it; 0 where nothing counts. No gradient
        reaches the teacher."""
        if not self.needs & LOOKS:  # what layers show to other losses is nothing to this one
            student, teacher = Outputs(student.logits), Outputs(teacher.logits)
        student, teacher = student.map(lift), teacher.map(lambda tensor: lift(tensor.detach()))
        student, teacher, batch = self.counted(student, teacher, batch)
        if student.logits is not None and not student.logits.numel():
            return student.logits.sum()
        return self.formula(student, teacher, batch)

    def counted(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Outputs, Outputs, Batch]:
        """What is left when the rows or tokens are gone that the mask excludes.

        A mask of tokens does not concern what a whole row is told by, as the logits (B, C) of a classifier.
        """
        if batch.mask is None:
            return student, teacher, batch
        keep = batch.mask.bool()

        def part(tensor: "Tensor") -> "Tensor":
            return tensor[keep] if tensor.ndim > keep.ndim else tensor

        return student.map(part), teacher.map(part), batch.kept(keep)

    def count(self, batch: Batch, rows: int) -> "Tensor | int":
        """How many rows or tokens the value of a batch is the mean of: parts of a batch are weighted by
        it."""
        tokens = batch.mask is not None and (batch.mask.ndim == 1 or bool(self.needs - {"logits", "labels"}))
        return batch.mask.sum() if tokens and batch.mask is not None else rows

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        raise NotImplementedError


def over_logits(loss: type[Loss]) -> "Callable[..., Tensor]":
    """The loss as `value(student, teacher, mask=None, labels=None, **parameters)`, of lists of one tensor."""

    def value(
        student: "list[Tensor]",
        teacher: "list[Tensor]",
        mask: "Tensor | None" = None,
        *,
        labels: "Tensor | None" = None,
        **parameters: Any,
    ) -> "Tensor":
        form = loss(kind=loss.name(), **parameters)
        return form(
            Outputs(student[0]), Outputs(teacher[0] if teacher else None), Batch(labels=labels, mask=mask)
        )

    value.__doc__ = loss.__doc__
    return value


# ---- what goes into a model


def _is_none(value: Any) -> bool:
    return value is None


@dataclass(frozen=True)
class Vocabulary:
    """Token ids. lost: stands for a token that is not known. special: those that are no part of the text."""

    lost: int
    special: frozenset[int]


class Input(Frozen):
    """The shape of one encoded row: image (channels, height, width), vector (features,) or text (tokens,)."""

    modality: Literal["image", "vector", "text"]
    shape: tuple[PositiveInt, ...]
    vocabulary: PositiveInt | None = Field(
        None, exclude_if=_is_none, description="of a text: every token id is below it"
    )
    pad: NonNegativeInt | None = Field(
        None, exclude_if=_is_none, description="of a text: the token id that fills a row up"
    )


class Column(Frozen):
    """What a dataset's profile says of one column of one split."""

    type: Literal["image", "number", "category", "text"]
    missing: int = 0
    mean: float | None = None  # of numbers, also where they are the label; std is the population's
    std: float | None = None
    counts: dict[str, int] | None = None  # rows by class name, where there are at most 1,000 distinct values
    distinct: int | None = None  # values of a column of numbers, where there are at most 1,000


class Task(Plugin):
    """A kind of work: how a raw row becomes an input and an output an answer, in training as in serving."""

    gives: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    modality: ClassVar[Literal["image", "vector", "text"]]
    metric: ClassVar[str] = "accuracy"  # what early stopping watches where the spec does not say
    answer: ClassVar[Literal["class", "number"]] = "class"  # what the logits stand for
    own_loss: ClassVar[str] = "cross_entropy"  # of labels alone; what the control learns by

    def input_columns(self, columns: Mapping[str, Column], label: str | None) -> list[str]:
        """The columns that a model of this task reads, in order. Raises InvalidData where there are none."""
        raise NotImplementedError

    def preprocessing(
        self, columns: Mapping[str, Column], inputs: Sequence[str], teacher: "Mapping[str, Any] | None"
    ) -> Frozen:
        """The student's own preprocessing, from the data's profile and the first teacher's preprocessing."""
        raise NotImplementedError

    def with_target(self, preprocessing: Any, target: Column) -> Frozen:
        """The student's preprocessing once it is known what it is to answer. target: the label's column."""
        return cast("Frozen", preprocessing)

    def parse_preprocessing(self, value: Mapping[str, Any]) -> Frozen:
        """The stored form of a preprocessing, back as an object."""
        raise NotImplementedError

    def imported_preprocessing(
        self, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, input: Input | None
    ) -> Frozen:
        """A teacher's own preprocessing. Raises Invalid naming the key that cannot be honored.

        Of a folder: its config.json, its preprocessor_config.json or preprocessing.json (None: not there; of
        a text: what app.intake.tokenizer found), and no input. Of an ONNX file: {}, what the user says in
        this task's own schema (None: nothing), and its input.
        """
        raise NotImplementedError

    def bind(self, preprocessing: Any, columns: Mapping[str, Column], inputs: Sequence[str]) -> Frozen:
        """A teacher's preprocessing tied to the data's columns, ready for `encode`. Raises ShapeMismatch."""
        return cast("Frozen", preprocessing)

    def decided(self, preprocessing: Any) -> Self:
        """The same form with every `auto` made what the student's preprocessing says."""
        return self

    def sidecars(self, preprocessing: Any) -> dict[str, Any]:
        """JSON files, by name, beside a student's weights, so that others prepare its input the same way."""
        raise NotImplementedError

    def input(self, preprocessing: Any) -> Input:
        """The shape of one encoded row."""
        raise NotImplementedError

    def encode(self, raw: Any, preprocessing: Any) -> "NDArray[Any]":
        """One raw row as the array that training stores: uint8 pixels (C, H, W) or float32 features (F,).

        Raises InvalidData, naming what is wrong with the row. Whoever encodes asks for an `encoder`.
        """
        raise NotImplementedError

    def files(self, preprocessing: Any) -> dict[str, str]:
        """The sha256 of each file that the preprocessing needs, by the name under which it leaves."""
        return {}

    def encoder(self, preprocessing: Any, opened: Opened) -> "Callable[[Any], NDArray[Any]]":
        """`encode` with this preprocessing. A task whose preprocessing names files opens them here: of a text
        come int32 token ids (T,)."""
        return partial(self.encode, preprocessing=preprocessing)

    def normalize(self, encoded: Any, preprocessing: Any) -> Any:
        """A batch of encoded rows, numpy array or tensor alike, as the input of a model: float32, or int64
        token ids (B, T), T being no more than the batch's longest row needs."""
        raise NotImplementedError

    def imitation(self, temperature: float) -> dict[str, Any]:
        """The form of the loss that stands for the teacher in Hinton's pair."""
        return {"kind": "kd", "temperature": temperature}

    def in_units(self, logits: Any, preprocessing: Any) -> Any:
        """A model's outputs, numpy array or tensor alike, in the units of the data; a classifier's have none.

        preprocessing: the model's own.
        """
        return logits

    def standardized(self, values: Any, preprocessing: Any) -> Any:
        """The way back from `in_units`: what the model of this preprocessing should put out."""
        return values

    def token_mask(self, normalized: Any, preprocessing: Any) -> Any:
        """(B, T), True: the token counts, of a normalized batch; None: rows have no tokens."""
        return None

    def source(self, preprocessings: Sequence[Any]) -> Any:
        """The preprocessing of the rows that are augmented once for the models of all these. Raises Invalid.

        `fitted` makes of them what each model takes.
        """
        if any(one != preprocessings[0] for one in preprocessings):
            raise Invalid("Rows can be augmented for models that read them alike, and these do not")
        return preprocessings[0]

    def fitted(self, rows: "Tensor", preprocessing: Any) -> "Tensor":
        """Augmented rows of a `source` as encoded rows of a model, for its `normalize`."""
        return rows

    def vocabulary(self, preprocessing: Any, opened: Opened) -> Vocabulary | None:
        """What an augmentation of texts must know; None: rows are no texts. Raises TeacherLoadFailed."""
        return None

    def decode(
        self, logits: "NDArray[np.float32]", labels: Sequence[str], *, top_k: int
    ) -> list[dict[str, Any]]:
        """One answer a row of `in_units(logits)`, (B, C)."""
        raise NotImplementedError


# ---- students, schemes, exports


class Architecture(Plugin):
    """A student family: a typed schema that is costed without torch."""

    exports: ClassVar[frozenset[str]] = frozenset()  # export kinds that were verified for this family
    quantization: ClassVar[Literal["static", "dynamic"]] = "static"  # by onnx_int8
    gives: ClassVar[frozenset[str]] = frozenset({"logits"})
    format: ClassVar[str] = "huggingface"

    def resolve(self, teacher: "Mapping[str, Any] | None", parameters: int) -> "Architecture":
        """The form with everything filled in that depends on the first teacher: its config.json (None: it has
        none) and its count of learned numbers. Raises Invalid where the teacher gives no form."""
        return self

    def accepts(self, input: Input) -> str | None:
        """Why this student cannot take such an input, in one sentence with the way out; None when it can."""
        raise NotImplementedError

    def parameters(self, input: Input, classes: int) -> int:
        """Learned numbers of the whole student, head included, in closed form."""
        raise NotImplementedError

    def work(self, input: Input, classes: int) -> Work:
        """What a row costs, about; of a vector there is one place, of a text its tokens."""
        shape = (1,) if input.modality == "vector" else input.shape
        return by_size(self.parameters(input, classes), shape)

    def build(self, input: Input, labels: Sequence[str]) -> "nn.Module":
        """A freshly initialized student; the caller seeds torch. Its forward makes of a batch an object with
        `.logits`; its `save_pretrained(folder)` writes config.json and model.safetensors."""
        raise NotImplementedError

    def load(self, folder: Path) -> "nn.Module":
        """What a student's `save_pretrained` wrote, in eval mode."""
        raise NotImplementedError


class Scheme(Plugin):
    """How teachers and students are arranged in time."""

    teaches_itself: ClassVar[bool] = False  # True: a job may have no teacher at all

    def hops(self, student: Architecture) -> "list[list[tuple[str, Architecture]]]":
        """Who is trained, together with whom, and after whom, by the names of their columns; the job's own,
        `student`, is the last of the last hop. Every other student becomes a model version of its own."""
        return [[("student", student)]]

    def students(self, student: Architecture) -> "list[tuple[str, Architecture]]":
        """All of them, in order."""
        return [one for hop in self.hops(student) for one in hop]

    def map(self, change: "Callable[[str, Architecture], Architecture]") -> "Scheme":
        """The same with each architecture of its own changed, which is told where in the scheme it stands."""
        return self

    def misfit(self, sizes: Sequence[int]) -> str | None:
        """Why students of so many parameters do not go together, None when they do. sizes: of `students`."""
        return None

    def ensembles(self) -> dict[str, list[str]]:
        """Columns that are the mean of the probabilities of others."""
        return {}

    def about(self, name: str) -> str:
        """What the student of that name is, for the report."""
        return "the distilled student"


Chance = Callable[[int], "Tensor"]  # n -> (B, n): the first n numbers of [0, 1), float64, of each row


class Augmentation(Plugin):
    """A change of a training row that leaves its meaning: drawn anew for each epoch, or for each stored view.

    It is a pure function of (seed, epoch or view, row), computed for a whole batch on its device.
    """

    modality: ClassVar[Literal["image", "text"]] = "image"
    mixes: ClassVar[bool] = False  # True: with another row, whose label then counts too

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        """rows: pixels (B, C, H, W) from 0 to 255 in float32, or token ids (B, T), which have a vocabulary.

        A row that is not meant to change stays as it is to the last bit.
        """
        raise NotImplementedError


class Export(Plugin):
    """A format in which the student leaves."""

    serves: ClassVar[bool] = False  # whether the API process can serve this file
    tolerance: ClassVar[float | None] = (
        1e-4  # largest accepted difference of a logit from torch; None: lossy, judged by accuracy
    )

    def sample_rows(self) -> int:
        """How many rows of `Bundle.sample` this format makes use of."""
        return 2

    def write(self, bundle: "Bundle", folder: Path) -> list[str]:
        """Writes the file or files into `folder` and returns their names there."""
        raise NotImplementedError

    def run(self, bundle: "Bundle", folder: Path) -> "Callable[[NDArray[np.float32]], NDArray[np.float32]]":
        """The written files opened again, from a normalized batch to logits: what their user computes."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bundle:
    """What an export gets: the trained student on the CPU in eval mode, and what belongs to it."""

    student: "nn.Module"
    architecture: Architecture
    task: Task
    preprocessing: Any
    input: Input
    labels: Sequence[str]
    sample: "NDArray[Any]"  # a normalized batch of real rows, for tracing and calibration
    files: Path | None = None  # where the files that the preprocessing names lie, each called by its sha256

    def write_files(self, folder: Path) -> list[str]:
        """Copies what whoever prepares a row for the student needs, and returns the names."""
        for name, sha256 in self.task.files(self.preprocessing).items():
            assert self.files is not None
            shutil.copyfile(self.files / sha256, folder / name)
        return list(self.task.files(self.preprocessing))
