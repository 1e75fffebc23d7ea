"""The sweep: a job spec, a space over its fields and a budget; what is looked for is the best of its trials.

A field is named by its JSON pointer into the spec. `spec_at` puts values there: a trial's spec is plain JSON,
which is then read as any other.
"""

from collections.abc import Mapping
from copy import deepcopy
from decimal import Decimal
from math import inf, prod
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from app.catalog.base import Frozen, parse
from app.catalog.spec import JobSpec, Text, with_ending

MOST_TRIALS = 500
MOST_LABELS = 30  # a job has 32, and a trial's job needs two for itself

Json = dict[str, Any]
Pointer = Annotated[str, StringConstraints(pattern="^(/[^/]+)+$", max_length=300)]
Against = Literal["parameters", "bytes", "latency_ms"]


class FloatRange(Frozen):
    """Any number from low to high, both included."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = Field(False, description="drawn evenly over the logarithm, for what spans powers of ten")
    step: PositiveFloat | None = Field(None, description="only low, low + step, low + 2 * step ...")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together; leave one of them out")
        return self

    def count(self) -> float:
        """How many values there are."""
        return inf if self.step is None else round((self.high - self.low) / self.step) + 1

    def holds(self, value: Any) -> bool:
        """Whether it is one of them."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-8

    def ends(self) -> dict[str, Any]:
        """The values that a spec is tried with, by their place in this form."""
        return {"low": self.low, "high": self.high}

    def inside(self) -> float | None:
        """A value between the ends, which no whole number is; None where all are steps."""
        return None if self.step is not None else self.low + (self.high - self.low) / 3**0.5


class IntRange(Frozen):
    """A whole number from low to high, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = Field(False, description="drawn evenly over the logarithm")
    step: PositiveInt = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step)
        if self.log and self.step != 1:
            raise ValueError("log and a step do not go together; leave one of them out")
        return self

    def count(self) -> float:
        return (self.high - self.low) // self.step + 1

    def holds(self, value: Any) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def ends(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}


class Choice(Frozen):
    """One of some values, whole objects included: student families, optimizers, lists of losses."""

    kind: Literal["choice"] = "choice"
    values: list[JsonValue] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(value in self.values[:place] for place, value in enumerate(self.values)):
            raise ValueError("a value stands here twice; leave one of them out")
        return self

    def count(self) -> float:
        return len(self.values)

    def holds(self, value: Any) -> bool:
        return value in self.values

    def ends(self) -> dict[str, Any]:
        return {f"values/{place}": value for place, value in enumerate(self.values)}


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if low >= high:
        raise ValueError("low has to be below high")
    if log and low <= 0:
        raise ValueError("a range that is drawn over the logarithm has to begin above 0; raise low")
    if step is not None and (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
        raise ValueError("high has to be low plus a multiple of step; change one of the three")


def _no_overlap(space: Mapping[str, Any]) -> Mapping[str, Any]:
    for inner in space:
        for outer in space:
            if inner.startswith(f"{outer}/"):
                raise ValueError(
                    f"{inner} is a part of {outer}; put what varies inside into the values of {outer}"
                )
    return space


Space = Annotated[
    dict[Pointer, Annotated[FloatRange | IntRange | Choice, Field(discriminator="kind")]],
    Field(
        min_length=1, max_length=16, description="what may vary, by the JSON pointer of its field in the spec"
    ),
    AfterValidator(_no_overlap),
]


class Budget(Frozen):
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 20
    max_hours: Annotated[float, Field(gt=0, le=720)] | None = Field(
        None,
        description="after which no trial begins, and those that run stop training and keep their best step",
    )
    parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="trials at once, as soon as the teachers' answers are stored"
    )


class Objective(Frozen):
    """What is best. The quality is measured on the validation rows alone: the test rows choose nothing."""

    metric: Literal[
        "auto",
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "log_loss",
        "ece",
        "agreement",
        "kl",
        "rmse",
        "mae",
        "r2",
        "rmse_to_teacher",
    ] = Field(
        "auto",
        description="of the validation rows, at the step that is kept; auto: the one that chooses that step",
    )
    against: Against | None = Field(
        None,
        description="what the quality is weighed against: the student's parameters, the bytes of its largest "
        "exported file, or the median milliseconds for one row of its fastest; None: quality alone counts",
    )


class MedianRule(Frozen):
    """Ends a trial whose best validation metric so far is worse than the median of what finished trials had
    at the same epoch (Golovin et al., 2017).

    With `objective.against` only trials with no more parameters count: to be worse than a larger student is
    no reason to end a smaller one.
    """

    kind: Literal["median"] = "median"
    startup_trials: PositiveInt = Field(4, description="finished trials that there have to be first")
    warmup_epochs: NonNegativeInt = Field(3, description="epochs in which no trial is ended")


class SweepSpec(Frozen):
    """A search. Its trials are jobs; its answer is the front of quality against size or latency, and the best
    spec, ready to submit."""

    name: Text = ""
    labels: dict[Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]{1,64}$")], Text] = Field(
        {}, max_length=MOST_LABELS, description="of the sweep and of its trials' jobs"
    )
    spec: JobSpec = Field(
        description="the job whose fields vary. Trials have no control unless its evaluation.compare asks "
        "for one, and take no alias"
    )
    space: Space
    budget: Budget = Budget()
    objective: Objective = Objective()
    pruning: MedianRule | None = Field(MedianRule(), description="null: every trial is trained to its end")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="of the search; training.seed is the trials'"
    )

    def combinations(self) -> float:
        """How many different trials there can be."""
        return prod(one.count() for one in self.space.values())

    def spec_with(self, parameters: Mapping[str, Any]) -> JobSpec:
        """The job that was ordered, with these values in it. Raises Invalid."""
        return parse(JobSpec, spec_at(self.spec, parameters), "The spec with these values")

    def trial(self, sweep_id: str, number: int, parameters: Mapping[str, Any]) -> JobSpec:
        """The job that tries these values: its student stays among the sweep's own. Raises Invalid."""
        sent = spec_at(self.spec, parameters)
        sent["name"] = f"{self.name or self.spec.name or sweep_id}, trial {number}"[-200:]
        sent["labels"] = {**self.spec.labels, **self.labels, "sweep": sweep_id, "trial": str(number)}
        model = self.spec.output.model
        sent["output"] = {"model": with_ending(model, f"-{sweep_id}") if model else sweep_id}
        evaluation = sent.get("evaluation", {})
        if "compare" not in evaluation:
            gates = [gate for gate in evaluation.get("gates", []) if gate.get("versus") != "control"]
            sent["evaluation"] = {**evaluation, "compare": ["teacher"], "gates": gates}
        return parse(JobSpec, sent, "The spec with these values")


# ---- pointers


def parts_of(pointer: str) -> list[str]:
    """The keys of a JSON pointer (RFC 6901)."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def overlaps(one: str, other: str) -> bool:
    """Whether two pointers are the same, or one leads into what the other points at."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def value_at(spec: JobSpec, pointer: str) -> Any:
    """What stands there, defaults included. Raises LookupError, with the keys that there are instead."""
    node = spec.model_dump(mode="json")
    for part in parts_of(pointer):
        known = (
            list(node)
            if isinstance(node, dict)
            else list(map(str, range(len(node))))
            if isinstance(node, list)
            else []
        )
        if part not in known:
            raise LookupError(part, known)
        node = node[int(part) if isinstance(node, list) else part]
    return node


def spec_at(spec: JobSpec, values: Mapping[str, Any]) -> Json:
    """The spec as it was sent, with other values at some pointers; what stands around them by default is
    written out. The pointers are those that `value_at` finds."""
    sent, whole = spec.model_dump(mode="json", exclude_unset=True), spec.model_dump(mode="json")
    for pointer, value in values.items():
        *around, last = parts_of(pointer)
        node: Any = sent
        known: Any = whole
        for part in around:
            key = int(part) if isinstance(node, list) else part
            if isinstance(node, dict) and key not in node:
                node[key] = deepcopy(known[key])
            node, known = node[key], known[key]
        node[int(last) if isinstance(node, list) else last] = deepcopy(value)
    return sent
