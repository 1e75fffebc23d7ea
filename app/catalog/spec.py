"""The job spec: what a user orders. Every part has a default, and an unknown field is an error.

`JobSpec` is what is sent; `Resolved` is what the row keeps: every default filled in and every reference
pinned, so that a later change of a default or of an alias never changes an old job.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from app.catalog.base import (
    Augmentation,
    Export,
    Frozen,
    Input,
    Loss,
    Scheme,
    Task,
    discover,
    one_of,
)
from app.catalog.families import ARCHITECTURES as ARCHITECTURES  # noqa: PLC0414  (it stands with the others)
from app.catalog.families import AnyArchitecture

LOSSES = discover("app.catalog.losses", Loss)
TASKS = discover("app.catalog.tasks", Task)
SCHEMES = discover("app.catalog.schemes", Scheme)
EXPORTS = discover("app.catalog.exports", Export)
AUGMENTATIONS = discover("app.catalog.augmentations", Augmentation)

if TYPE_CHECKING:
    AnyLoss = Loss
    AnyTask = Task
    AnyScheme = Scheme
    AnyExport = Export
    AnyAugmentation = Augmentation
else:
    AnyLoss, AnyTask, AnyScheme, AnyExport, AnyAugmentation = map(
        one_of, (LOSSES, TASKS, SCHEMES, EXPORTS, AUGMENTATIONS)
    )

MOST_LETTERS = 100  # of a name
NAME = rf"[a-z0-9][a-z0-9._-]{{0,{MOST_LETTERS - 1}}}"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
AliasName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,63}$")]
Text = Annotated[str, StringConstraints(max_length=200)]
_PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB = f"hf:{_PART}/{_PART}(@[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}})?"
JOB = "job:job_[0-9a-z]{1,40}/checkpoint@(best|last)"
SPLIT = "(#[a-z0-9_-]{1,32})?"
ModelReference = Annotated[
    str,
    StringConstraints(pattern=f"^model:{NAME}(@[A-Za-z0-9._-]{{1,64}})?$|^{HUB}$|^{JOB}$"),
    Field(
        description="model:NAME, model:NAME@VERSION or model:NAME@ALIAS; a bare name means its newest "
        "version. hf:ORG/REPO@COMMIT means what was imported from there, and job:ID/checkpoint@best what "
        "a job has made"
    ),
]
DatasetReference = Annotated[
    str,
    StringConstraints(pattern=f"^dataset:{NAME}(@[0-9]{{1,9}})?{SPLIT}$|^{HUB}{SPLIT}$"),
    Field(
        description="dataset:NAME[@VERSION][#SPLIT]; without a split the dataset's only one, or `train`. "
        "hf:ORG/REPO@COMMIT[#SPLIT] means what was imported from there"
    ),
]


class Teacher(Frozen):
    model: ModelReference
    weight: PositiveFloat = Field(
        1.0, description="share among several teachers; the shares are divided by their sum"
    )
    label_map: dict[str, str | None] | None = Field(
        None,
        max_length=100_000,
        description="its class names to the job's; null drops a class, several may become one, and a name "
        "that is not mentioned stays",
    )


class RandomInitialization(Frozen):
    """Fresh weights from the family's own initializer, drawn from training.seed."""

    kind: Literal["random"] = "random"


class FromTeacherLayers(Frozen):
    """The first teacher's own weights: embeddings and head, and those of its layers that are chosen."""

    kind: Literal["teacher_layers"] = "teacher_layers"
    layers: Literal["spread"] | Annotated[int, Field(ge=1)] | list[NonNegativeInt] = Field(
        "spread",
        description="of the teacher, counted from 0: a list, every n-th, or spread evenly from first to last",
    )


class FromCheckpoint(Frozen):
    """The weights of a model: every tensor whose name and shape are the student's own."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: ModelReference


Initialization = Annotated[
    RandomInitialization | FromTeacherLayers | FromCheckpoint, Field(discriminator="kind")
]


class Limits(Frozen):
    """What the device that the student is for can take; looked at in the plan and in the report."""

    max_parameters: PositiveInt | None = None
    max_bytes: PositiveInt | None = Field(None, description="of the largest exported file")
    max_latency_ms: PositiveFloat | None = Field(
        None, description="median of one row, of the fastest exported file on the serving path"
    )


class Student(Frozen):
    architecture: AnyArchitecture = Field(description="a student family with its sizes")
    initialize: Initialization = Field(
        RandomInitialization(),
        description="of the job's own student and its control; other students of the scheme start at random",
    )
    limits: Limits = Limits()


class Holdout(Frozen):
    """Rows taken from the labeled training rows, the same share of each class."""

    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Columns(Frozen):
    input: str | list[str] | None = Field(
        None, description="the column or columns to read; None: what the task finds"
    )
    label: str | None = Field(
        None, description="the column with the label; None: the dataset's own label column"
    )


class Data(Frozen):
    train: DatasetReference = Field(
        description="labeled rows; rows without a label are used as unlabeled ones"
    )
    validation: DatasetReference | Holdout = Holdout()
    test: DatasetReference | None = Field(
        None, description="rows for the report alone; None: the validation rows, and the report says so"
    )
    unlabeled: list[DatasetReference] = Field(
        [], max_length=16, description="more rows for the teacher to answer; labels in them are ignored"
    )
    columns: Columns = Columns()
    augment: list[AnyAugmentation] = Field(
        [],
        max_length=16,
        description="changes of the training rows, one after the other, the same for all models",
    )
    views: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None,
        description="augmented views of each row, whose answers are stored; None: drawn anew in each epoch, "
        "with the teachers at hand",
    )


class SignalStore(Frozen):
    """How the teachers' answers are stored."""

    dtype: Literal["auto", "float32", "float16"] = Field(
        "auto", description="auto: float32, but float16 where the answers would take more than 1 GiB"
    )
    top_k: Literal["auto", "all"] | Annotated[int, Field(ge=1, le=1000)] = Field(
        "auto",
        description="classes kept a row, the others' mass is one more outcome; auto: all to 1,000, else 50",
    )


class Hinton(Frozen):
    """Hinton's pair: alpha * kd + (1 - alpha) * cross_entropy. alpha is the teacher's share.

    For numbers it is alpha * logit_mse + (1 - alpha) * task, which have no temperature.
    """

    preset: Literal["hinton"] = "hinton"
    temperature: PositiveFloat = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9

    def expand(self, task: Task) -> list[Loss]:
        forms = [
            task.imitation(self.temperature) | {"weight": self.alpha},
            {"kind": task.own_loss, "weight": 1 - self.alpha},
        ]
        return [LOSSES[form["kind"]].model_validate(form) for form in forms]


class AdamW(Frozen):
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 0.001
    weight_decay: NonNegativeFloat = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


class SGD(Frozen):
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 0.0005
    nesterov: bool = False


class LearningRateSchedule(Frozen):
    """The learning rate rises in a line for `warmup_steps`, then falls to zero (cosine, linear) or stays."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 0


class EarlyStopping(Frozen):
    """Stop after `patience` epochs in which the validation metric did not improve."""

    metric: Literal["auto", "accuracy", "macro_f1", "log_loss", "rmse", "mae", "r2"] = Field(
        "auto",
        description="accuracy, macro_f1 or log_loss of classes; rmse, mae or r2 of numbers; auto: the task's",
    )
    patience: PositiveInt = 10


class Finetune(Frozen):
    """A last stage on the labels alone, after training.epochs; its optimizer is the same, begun anew."""

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    lr: PositiveFloat | None = Field(None, description="constant; None: a tenth of the optimizer's")


class Training(Frozen):
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 30
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        None, description="rows at once on the device, whose gradients are added up; None: the whole batch"
    )
    optimizer: Annotated[AdamW | SGD, Field(discriminator="kind")] = AdamW()
    schedule: LearningRateSchedule = LearningRateSchedule()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device is built for it"
    )
    clip_norm: PositiveFloat | None = Field(
        None, description="largest norm of the gradient; None: not clipped"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="None: train all epochs; the best step is kept either way"
    )
    finetune: Finetune = Finetune()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


def with_ending(name: str, ending: str) -> str:
    """A model's name with an ending, for which a long one makes room."""
    return name[: MOST_LETTERS - len(ending)] + ending


def steps_of(rows: int, batch_size: int) -> int:
    """Optimizer steps of an epoch. A last batch of one row is left out: batch norm cannot take it."""
    whole, rest = divmod(rows, batch_size)
    return max(whole + (rest > 1), 1)


class Gate(Frozen):
    """A bar that the student must clear: the worse bound of the 95 % interval is held against it.

    Exactly one of min, max, min_ratio and min_difference is the bar; the last two compare with `versus`. Of a
    metric that is better when lower they are mirrored: min_ratio 0.9 lets an error be at most 1 / 0.9 of the
    other's, and min_difference -2 lets it be at most 2 higher.
    """

    metric: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "accuracy"
    versus: Literal["teacher", "control"] | None = Field(None, description="None: the bar is a number")
    min_ratio: PositiveFloat | None = Field(None, description="least share of the other's value")
    min_difference: float | None = Field(None, description="least value minus the other's")
    min: float | None = Field(None, description="the interval's lower bound must reach it")
    max: float | None = Field(None, description="the interval's upper bound must not exceed it")

    @model_validator(mode="after")
    def _one_bar(self) -> Self:
        bars = [
            name for name in ("min", "max", "min_ratio", "min_difference") if getattr(self, name) is not None
        ]
        if len(bars) != 1:
            told = " and ".join(bars) or "none"
            raise ValueError(
                f"a gate needs exactly one of min, max, min_ratio and min_difference; it has {told}"
            )
        if (self.versus is None) != (bars[0] in ("min", "max")):
            other = "leave `versus` out" if self.versus else "name `versus`: teacher or control"
            raise ValueError(f"{bars[0]} does not go with this `versus`: {other}")
        return self


class Evaluation(Frozen):
    compare: list[Literal["teacher", "control"]] = Field(
        ["teacher", "control"],
        description="columns beside the student; control: the same student without the teacher",
    )
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = Field(
        2000, description="resamples behind each 95 % interval"
    )
    seeds: Annotated[int, Field(ge=1, le=20)] = Field(
        1,
        description="trainings of student and control, from training.seed on; the first one's student leaves",
    )
    slices: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(
        [], max_length=8, description="columns of the report's rows by whose values the metrics are given too"
    )
    gates: list[Gate] = Field([], max_length=32)


MOST_DEVICES = 8  # of one job


class Resources(Frozen):
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Annotated[int, Field(ge=1, le=MOST_DEVICES)] = Field(
        1, description="of one worker, which the job is trained over"
    )
    priority: Annotated[int, Field(ge=0, le=100)] = Field(50, description="higher goes first")
    max_runtime_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 14_400.0


class Output(Frozen):
    model: Name | None = Field(
        None,
        description="the model that the student becomes a version of; None: named after the first teacher",
    )
    alias: AliasName | None = Field(
        None, description="moved to the new version, but where a gate or a limit was not kept"
    )


EnsembleRule = Literal["mean_probabilities", "mean_logits", "each", "random"]


def _each_kind_once(exports: list[Export]) -> list[Export]:
    kinds = [export.kind for export in exports]
    if len(set(kinds)) < len(kinds):
        raise ValueError("an export kind may stand here once only")
    return exports


def _some_weight(losses: list[Loss]) -> list[Loss]:
    if not any(loss.counts() for loss in losses):
        raise ValueError("at least one loss needs a weight above 0, and a value that is not always 0")
    return losses


class JobSpec(Frozen):
    """What a user orders. The smallest one is task, teachers, student and data."""

    name: Text = ""
    labels: dict[Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]{1,64}$")], Text] = Field(
        {}, max_length=32
    )
    task: AnyTask
    teachers: list[Teacher] = Field(
        [], max_length=8, description="only a scheme that teaches itself needs none"
    )
    ensemble: EnsembleRule | None = Field(
        None,
        description="how several teachers become one target, needed when there are several; each: one term a "
        "teacher; random: one teacher a batch",
    )
    student: Student
    data: Data
    losses: (
        Annotated[list[AnyLoss], Field(min_length=1, max_length=16), AfterValidator(_some_weight)] | Hinton
    ) = Hinton()
    scheme: AnyScheme = SCHEMES["offline"]()  # type: ignore[call-arg]
    training: Training = Training()
    signals: SignalStore = SignalStore()
    evaluation: Evaluation = Evaluation()
    exports: Annotated[list[AnyExport], Field(min_length=1), AfterValidator(_each_kind_once)] = Field(
        default_factory=lambda: [EXPORTS["safetensors"](), EXPORTS["onnx"]()]  # type: ignore[call-arg]
    )
    resources: Resources = Resources()
    output: Output = Output()

    def terms(self) -> list[Loss]:
        """The losses as a list, a preset expanded."""
        return self.losses.expand(self.task) if isinstance(self.losses, Hinton) else self.losses


# ---- the resolved form


class PinnedModel(Frozen):
    """A reference to a model, fixed for good."""

    reference: str
    version_id: str
    digest: str
    format: str
    family: str
    labels: list[str]
    order: list[list[int]] = Field(
        description="for each of the job's labels, its positions in this teacher's logits"
    )
    gives: list[str] = Field(["logits"], description="of logits, features, attentions and values")
    preprocessing: dict[str, Any]
    details: dict[str, Any]
    parameters: int
    weight: float


class PinnedData(Frozen):
    """A split of a dataset, fixed for good."""

    reference: str
    dataset_id: str
    split: str
    sha256: str
    size: int
    rows: int


class ResolvedData(Frozen):
    train: PinnedData
    validation: PinnedData | Holdout
    test: PinnedData | None
    unlabeled: list[PinnedData]
    inputs: list[str] = Field(description="columns that are read, in order")
    label: str = Field(description="column with the label")


class Resolved(Frozen):
    """The order as it will be carried out. The worker reads this and nothing else of the order."""

    spec: JobSpec = Field(
        description="the spec with every default filled in, presets expanded and `auto` decided"
    )
    teachers: list[PinnedModel]
    initialize: PinnedModel | None = Field(
        None, description="the model whose weights the student starts from"
    )
    data: ResolvedData
    labels: list[str] = Field(description="the class names, in the order of the student's logits")
    input: Input
    preprocessing: dict[str, Any]
    parameters: int = Field(description="of the student")
