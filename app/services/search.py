"""What a sweep tries next and what it gives up: pure functions of its trials, so that any process may ask.

Optuna samples and prunes; its study is built anew from the trials each time and stored nowhere. It is
imported here alone, and only when a sweep takes a step.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from app.catalog.measures import LOWER_IS_BETTER
from app.catalog.sweep import Choice, FloatRange, IntRange, SweepSpec, value_at
from app.errors import Invalid

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

DRAWS = 20  # for values that no trial has had yet, before the rest of a small space is listed
LISTED = 100_000  # combinations, at most

Json = dict[str, Any]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Tried:
    """A trial as the search sees it. value, cost: None where none was measured. curve: the metric by epoch.

    size: the student's parameters.
    """

    number: int
    parameters: Json
    status: str
    value: float | None = None
    cost: float | None = None
    curve: Sequence[float] = ()
    size: int | None = None


def load() -> None:
    """Imports Optuna, which takes a while, before a transaction is open."""
    import optuna

    optuna.logging.disable_default_handler()


def suggest(order: SweepSpec, tried: Sequence[Tried], metric: str | None) -> Json | None:
    """The next trial's values by pointer, which no trial has had; None: there are no others.

    The first trial is the spec as it stands, where its own values lie in the space. metric: None while no
    trial has measured anything.
    """
    had = [trial.parameters for trial in tried]
    if len(had) >= order.combinations():
        return None
    if not tried and (own := _own(order)):
        return own
    for draw in range(DRAWS):
        chosen = _sampled(order, tried, metric, _seed(order.seed, len(tried), draw))
        if chosen not in had:
            return chosen
    left = [one for one in _all(order) if one not in had]
    return Random(_seed(order.seed, len(tried), DRAWS)).choice(left) if left else chosen  # noqa: S311


def give_up(order: SweepSpec, trial: Tried, others: Sequence[Tried], metric: str) -> Json | None:
    """{epoch, value, median, reason} when the rule of order.pruning ends this running trial, else None."""
    import optuna

    rule = order.pruning
    finished = [one for one in others if one.status == "succeeded" and _comparable(order, trial, one)]
    if rule is None or not trial.curve or len(finished) < rule.startup_trials:
        return None
    study = _study([direction(metric)], 0, 0)
    for one in finished:
        study.add_trial(optuna.create_trial(value=one.value, intermediate_values=_by_epoch(one)))
    pruner = optuna.pruners.MedianPruner(
        rule.startup_trials, rule.warmup_epochs + 1, n_min_trials=rule.startup_trials
    )
    running = optuna.trial.TrialState.RUNNING
    if not pruner.prune(study, optuna.create_trial(state=running, intermediate_values=_by_epoch(trial))):
        return None
    return _reason(trial, finished, metric)


def direction(metric: str | None) -> Direction:
    return "minimize" if metric in LOWER_IS_BETTER else "maximize"


def _reason(trial: Tried, finished: Sequence[Tried], metric: str) -> Json:
    epoch = len(trial.curve)
    reached = [one.curve[epoch - 1] for one in finished if len(one.curve) >= epoch]
    best, middle = (min if metric in LOWER_IS_BETTER else max)(trial.curve), median(reached)
    reason = (
        f"By epoch {epoch} its best {metric} is {best:.4g}; the median of {len(reached)} finished trials at "
        f"that epoch is {middle:.4g}."
    )
    return {"epoch": epoch, "value": best, "median": middle, "reason": reason}


def _comparable(order: SweepSpec, trial: Tried, other: Tried) -> bool:
    return order.objective.against is None or (other.size or 0) <= (trial.size or 0)


def _own(order: SweepSpec) -> Json | None:
    """The spec's own values, if all of them lie in the space."""
    values = {pointer: _own_value(order, pointer) for pointer in order.space}
    return values if all(order.space[pointer].holds(value) for pointer, value in values.items()) else None


def _own_value(order: SweepSpec, pointer: str) -> Any:
    """Of a choice the one that means the same: defaults need not be written out. Not all were planned."""
    value, form = value_at(order.spec, pointer), order.space[pointer]
    if isinstance(form, Choice):
        for one in form.values:
            with suppress(Invalid):
                if value_at(order.spec_with({pointer: one}), pointer) == value:
                    return one
    return value


# ---- sampling


def _sampled(order: SweepSpec, tried: Sequence[Tried], metric: str | None, seed: int) -> Json:
    directions = [direction(metric)]
    if order.objective.against is not None:
        directions.append("minimize")
    study = _study(directions, seed, max(3, min(10, order.budget.trials // 3)))
    distributions = {pointer: _distribution(form) for pointer, form in order.space.items()}
    for trial in tried:
        study.add_trial(_frozen(order, trial, distributions, several=len(directions) > 1))
    found = study.ask(distributions).params
    return {
        pointer: form.values[found[pointer]] if isinstance(form, Choice) else found[pointer]
        for pointer, form in order.space.items()
    }


def _study(directions: Sequence[Direction], seed: int, startup_trials: int) -> "Study":
    """Of Optuna, in memory. seed: of this one draw; a study built anew with the same would draw the same."""
    import optuna

    load()
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup_trials)
    return optuna.create_study(directions=directions, sampler=sampler)


def _frozen(
    order: SweepSpec, trial: Tried, distributions: "dict[str, BaseDistribution]", *, several: bool
) -> "FrozenTrial":
    """A trial for Optuna, to which a running one is a place not to go to again.

    It knows no pruning with several objectives: there a pruned one counts as running for ever.
    """
    import optuna

    state = optuna.trial.TrialState
    values = [trial.value, trial.cost] if several else [trial.value]
    known = {"succeeded": state.COMPLETE, "pruned": state.PRUNED, "running": state.RUNNING}
    found = known.get(trial.status, state.FAIL)
    if several and found == state.PRUNED:
        found = state.RUNNING
    return optuna.create_trial(
        state=found,
        values=[float(value or 0.0) for value in values] if found == state.COMPLETE else None,
        params={pointer: _internal(order, pointer, value) for pointer, value in trial.parameters.items()},
        distributions=distributions,
        intermediate_values=_by_epoch(trial),
    )


def _by_epoch(trial: Tried) -> dict[int, float]:
    return dict(enumerate(map(float, trial.curve), 1))


def _internal(order: SweepSpec, pointer: str, value: Any) -> Any:
    form = order.space[pointer]
    return form.values.index(value) if isinstance(form, Choice) else value


def _distribution(form: FloatRange | IntRange | Choice) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(form, FloatRange):
        return FloatDistribution(form.low, form.high, log=form.log, step=form.step)
    if isinstance(form, IntRange):
        return IntDistribution(form.low, form.high, log=form.log, step=form.step)
    return CategoricalDistribution(list(range(len(form.values))))


def _seed(seed: int, number: int, draw: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{number}/{draw}".encode()).digest()[:4], "big")


def _all(order: SweepSpec) -> Iterator[Json]:
    """Every combination of a small space, and none of a large one."""
    if order.combinations() > LISTED:
        return
    for values in product(*map(_values, order.space.values())):
        yield dict(zip(order.space, values, strict=True))


def _values(form: FloatRange | IntRange | Choice) -> list[Any]:
    if isinstance(form, Choice):
        return form.values
    step = form.step or 0
    return [min(form.low + place * step, form.high) for place in range(int(form.count()))]
