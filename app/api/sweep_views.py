"""How a sweep and its trials look."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.job_views import stamp
from app.catalog.sweep import Against, Budget, MedianRule, Objective, Space, SweepSpec
from app.db.dialect import TERMINAL
from app.db.tables import SweepTrial
from app.services import sweeps
from app.services.search import direction
from app.services.sweeps import Counted

Json = dict[str, Any]
SweepStatus = Literal["running", "succeeded", "failed", "cancelled"]
TrialStatus = Literal["running", "succeeded", "failed", "pruned", "cancelled"]


class Trials(BaseModel):
    planned: int = Field(description="the budget, or all combinations that there are")
    begun: int
    running: int = Field(description="queued ones too")
    succeeded: int
    failed: int
    pruned: int
    cancelled: int


class SweepSummary(BaseModel):
    id: str
    object: Literal["sweep"]
    version: int = Field(description="moves when a trial begins or ends; give it to `?wait=`")
    name: str
    labels: dict[str, str]
    status: SweepStatus | Literal["cancelling"]
    terminal: bool = Field(description="whether the status is final")
    metric: str | None = Field(description="that is looked for; null: not known before a trial has measured")
    direction: Literal["maximize", "minimize"]
    against: Against | None
    trials: Trials
    error: Json | None = Field(description="problem details; of the first trial that failed, with its number")
    created_at: datetime
    ended_at: datetime | None
    links: dict[str, str]


class OnTest(BaseModel):
    """What the job's report says of the same metric, with its 95 % interval. It chose nothing."""

    split: str
    rows: int
    metric: str
    value: float
    low: float | None
    high: float | None


class Point(BaseModel):
    trial: int
    job: str | None
    parameters: Json = Field(description="values by their pointer into the spec")
    value: float = Field(description="of the metric over the validation rows, at the step that was kept")
    report: OnTest | None
    student_parameters: int
    bytes: int | None = Field(description="of the largest exported file")
    latency_ms: float | None = Field(description="median of one row, of the fastest exported file")
    spec: Json = Field(description="the job spec with these values, ready for POST /v1/jobs")


class SweepView(SweepSummary):
    spec: Json = Field(description="the job spec as it was sent")
    space: Space
    budget: Budget
    objective: Objective
    pruning: MedianRule | None
    seed: int
    front: list[Point] = Field(
        description="the trials that no other beats in quality and in size or latency at once, cheapest first"
    )
    best: Point | None = Field(description="the one of the highest quality")


class Pruned(BaseModel):
    epoch: int
    step: int = Field(description="of the optimizer")
    value: float = Field(description="best so far")
    median: float
    reason: str


class TrialView(BaseModel):
    number: int
    object: Literal["trial"]
    job: str | None = Field(description="null: its spec was refused, or the job is deleted")
    parameters: Json
    status: TrialStatus
    value: float | None = Field(
        description="of the metric over the validation rows, at the step that was kept"
    )
    report: OnTest | None
    student_parameters: int | None
    bytes: int | None
    latency_ms: float | None
    pruned: Pruned | None
    error: Json | None
    created_at: datetime
    ended_at: datetime | None
    links: dict[str, str]


def render_summary(counted: Counted) -> Json:
    """A sweep as JSON values, in the shape of SweepSummary."""
    sweep, counts = counted.sweep, counted.counts
    order = SweepSpec.model_validate(sweep.resolved)
    link = f"/v1/sweeps/{sweep.id}"
    cancelling = sweep.status == "running" and sweep.desired == "cancel"
    statuses = ("running", "succeeded", "failed", "pruned", "cancelled")
    return {
        "id": sweep.id,
        "object": "sweep",
        "version": sweep.version,
        "name": sweep.name,
        "labels": order.labels,
        "status": "cancelling" if cancelling else sweep.status,
        "terminal": sweep.status in TERMINAL,
        "metric": sweep.metric,
        "direction": direction(sweep.metric),
        "against": order.objective.against,
        "trials": {
            "planned": int(min(order.budget.trials, order.combinations())),
            "begun": sum(counts.values()),
            **{status: counts.get(status, 0) for status in statuses},
        },
        "error": sweep.error,
        "created_at": stamp(sweep.created_at),
        "ended_at": stamp(sweep.ended_at),
        "links": {
            "self": link,
            "trials": f"{link}/trials",
            "jobs": f"/v1/jobs?label.sweep={sweep.id}",
        },
    }


def render(counted: Counted, trials: list[SweepTrial]) -> Json:
    """A sweep with its answer, in the shape of SweepView. trials: all of them."""
    sweep = counted.sweep
    order = SweepSpec.model_validate(sweep.resolved)
    against, metric = order.objective.against, sweep.metric
    best = sweeps.best(trials, metric, against)
    return {
        **render_summary(counted),
        "spec": sweep.spec["spec"],
        **{part: sweep.resolved[part] for part in ("space", "budget", "objective", "pruning", "seed")},
        "front": [_point(order, trial) for trial in sweeps.front(trials, metric, against)],
        "best": None if best is None else _point(order, best),
    }


def render_trial(trial: SweepTrial) -> Json:
    """A trial as JSON values, in the shape of TrialView."""
    link = f"/v1/sweeps/{trial.sweep_id}"
    of_job = {} if trial.job_id is None else {"job": f"/v1/jobs/{trial.job_id}"}
    return {
        "number": trial.number,
        "object": "trial",
        **_found(trial),
        "status": trial.status,
        "pruned": trial.pruned,
        "error": trial.error,
        "created_at": stamp(trial.created_at),
        "ended_at": stamp(trial.ended_at),
        "links": {"sweep": link, **of_job},
    }


def _point(order: SweepSpec, trial: SweepTrial) -> Json:
    spec = order.spec_with(trial.parameters).model_dump(mode="json", exclude_unset=True)
    return {"trial": trial.number, **_found(trial), "spec": spec}


def _found(trial: SweepTrial) -> Json:
    return {
        "job": trial.job_id,
        "parameters": trial.parameters,
        "value": trial.value,
        "report": trial.report,
        "student_parameters": trial.student_parameters,
        "bytes": trial.bytes,
        "latency_ms": trial.latency_ms,
    }
