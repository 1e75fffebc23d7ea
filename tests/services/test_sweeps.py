"""A sweep on both databases: what it refuses, what it tries, when it gives up and how it ends."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from sqlalchemy import select, text

from app.catalog.spec import JobSpec
from app.catalog.sweep import SweepSpec
from app.db.session import Sessions
from app.db.tables import Job, ModelVersion, Sweep, SweepTrial
from app.errors import IdempotencyKeyReused, Invalid, NotFound, StateConflict
from app.ports.blobs import Blobs
from app.ports.parts import Parts
from app.ports.predictor import Predictor
from app.services import (
    aliases,
    claims,
    job_records,
    jobs,
    lineage,
    models,
    search,
    submission,
    sweep_plan,
    sweep_steps,
    sweeps,
)
from app.services.aliases import Condition
from app.services.jobs import Point
from app.services.phases import PHASES
from app.services.search import Tried
from app.settings import Settings
from tests import orders

PROJECT = orders.PROJECT
TEMPERATURE = {"kind": "float", "low": 1, "high": 8, "log": True}
RATIO = {"kind": "float", "low": 0, "high": 2}
MLP = {"kind": "mlp"}
FAMILIES = {
    "kind": "choice",
    "values": [{"kind": "mlp", "hidden_sizes": [4]}, {"kind": "mlp", "hidden_sizes": [16]}],
}


def order(space: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The smallest sweep, as it is sent."""
    spec = orders.spec(losses={"preset": "hinton"}, output={"model": "tiny", "alias": "candidate"})
    return {"spec": spec, "space": space or {"/losses/temperature": TEMPERATURE}, **changes}


class Bell:
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, job_id: str, accelerator: str = "auto") -> None:
        self.rung.append(job_id)

    def close(self) -> None: ...


class Shop:
    """A service without workers: the tests do what a worker would tell of its trials."""

    def __init__(self, sessions: Sessions, blobs: Blobs) -> None:
        self.bell = Bell()
        self.parts = Parts(Settings(), sessions, blobs, self.bell, cast("Predictor", None))
        with sessions.write() as session:
            orders.stock(session)

    def ordered(self, key: str | None = None, **changes: Any) -> str:
        return sweeps.submit(self.parts, PROJECT, SweepSpec.model_validate(order(**changes)), key)

    def step(self) -> None:
        sweep_steps.advance(self.parts)

    def sweep(self, sweep_id: str) -> Sweep:
        with self.parts.sessions.read() as session:
            return sweeps.get(session, PROJECT, sweep_id).sweep

    def trials(self, sweep_id: str) -> list[SweepTrial]:
        with self.parts.sessions.read() as session:
            return sweeps.trials(session, PROJECT, sweep_id)

    def statuses(self, sweep_id: str) -> list[str]:
        return [trial.status for trial in self.trials(sweep_id)]

    def claimed(self) -> Job:
        with self.parts.sessions.write() as session:
            job = claims.claim(session, "worker", ("cpu",), 600.0)
        assert job is not None
        return job

    def answered(self, job: Job) -> None:
        """The job gets as far as the end of its signals."""
        with self.parts.sessions.write() as session:
            for phase in PHASES[: PHASES.index("train")]:
                jobs.start_phase(session, job.id, job.attempt, phase)
                jobs.end_phase(session, job.id, job.attempt, phase)

    def learned(self, job: Job, curve: Sequence[float], metric: str = "accuracy") -> None:
        """The job reports a validation metric, an epoch each 10 steps."""
        points = [Point(metric, "validation", 10 * epoch, value) for epoch, value in enumerate(curve, 1)]
        best = {"metric": metric, "value": max(curve), "step": 10 * (1 + curve.index(max(curve)))}
        with self.parts.sessions.write() as session:
            jobs.start_phase(session, job.id, job.attempt, "train")
            jobs.report_progress(
                session, job.id, job.attempt, phase="train", fraction=0.5, best=best, points=points
            )

    def done(self, job: Job, size: int = 1000, p50_ms: float = 0.5) -> None:
        report = {
            "split": "test",
            "columns": [
                {"name": "student", "n": 60, "metrics": {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}}
            ],
            "exports": [
                {"files": [{"size": size}, {"size": 40}], "runtime": "torch", "latency": []},
                {
                    "files": [{"size": size + 7}],
                    "runtime": "onnxruntime",
                    "latency": [{"batch": 1, "p50_ms": p50_ms}],
                },
            ],
        }
        blob = self.parts.blobs.put([json.dumps(report).encode()])
        artifact = {"name": "report.json", "sha256": blob.sha256, "size": blob.size}
        with self.parts.sessions.write() as session:
            jobs.succeed(
                session,
                job.id,
                job.attempt,
                checkpoint=orders.student(job),
                manifest="a" * 64,
                artifacts=[artifact],
                outcome={},
                usage={},
            )

    def failed(self, job: Job) -> None:
        with self.parts.sessions.write() as session:
            jobs.fail(session, job.id, job.attempt, {"code": "numeric_divergence", "detail": "it broke"})

    def carried_out(self, curve: Sequence[float], **measured: Any) -> Job:
        job = self.claimed()
        self.answered(job)
        self.learned(job, curve)
        self.done(job, **measured)
        self.step()
        return job


@pytest.fixture
def shop(sessions: Sessions, blobs: Blobs) -> Shop:
    return Shop(sessions, blobs)


# ---- what is refused


@pytest.mark.parametrize(
    ("space", "pointer", "said"),
    [
        ({"/losses/alpa": TEMPERATURE}, "/space/~1losses~1alpa", "alpha"),
        ({"/losses/0/temperature": TEMPERATURE}, "/space/~1losses~10~1temperature", "preset"),
        (
            {"/training/early_stopping/patience": {"kind": "int", "low": 1, "high": 5}},
            "/space/~1training~1early_stopping~1patience",
            "into spec first",
        ),
        ({"/losses/alpha": RATIO}, "/space/~1losses~1alpha/high", "/losses/alpha Input"),
        (
            {"/student/architecture": {"kind": "choice", "values": [MLP, MLP | {"hidden": 3}]}},
            "/space/~1student~1architecture/values/1",
            "/student/architecture/hidden ",
        ),
        (
            {"/teachers/0/model": {"kind": "choice", "values": ["model:botanist", "model:nobody"]}},
            "/space/~1teachers~10~1model/values/1",
            "no model 'nobody'",
        ),
        (
            {"/teachers/0/model": {"kind": "choice", "values": ["model:botanist@1", "model:botanist"]}},
            "/space/~1teachers~10~1model/values/1",
            "both are '\"model:botanist@1\"'",
        ),
        (
            {"/student/architecture": {"kind": "choice", "values": [{"kind": "resnet"}]}},
            "/space/~1student~1architecture/values/0",
            "cannot",
        ),
        (
            {"/training/epochs": {"kind": "float", "low": 2, "high": 4}},
            "/space/~1training~1epochs",
            "/training/epochs Input should be a valid integer",
        ),
        ({"/teachers/3/weight": RATIO}, "/space/~1teachers~13~1weight", "there is entry 0 alone"),
        (
            {"/resources/max_runtime_s": {"kind": "float", "low": 10, "high": 20}},
            "/space/~1resources~1max_runtime_s",
            "no part of the method",
        ),
        ({"/training/seed": {"kind": "int", "low": 0, "high": 9}}, "/space/~1training~1seed", "held out"),
        ({"/data": {"kind": "choice", "values": [{}]}}, "/space/~1data", "measured by"),
        ({"/output/model": {"kind": "choice", "values": ["a", "b"]}}, "/space/~1output~1model", "no part"),
    ],
)  # fmt: skip
def test_a_space_that_leads_nowhere_is_refused_with_the_value_and_the_way_out(
    shop: Shop, space: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(Invalid) as refused:
        shop.ordered(space=space)
    faults = {fault.pointer: fault for fault in refused.value.faults}
    assert pointer in faults
    assert said in f"{faults[pointer].detail} {faults[pointer].fix}"
    assert faults[pointer].fix
    with shop.parts.sessions.read() as session:
        assert session.scalars(select(Sweep)).all() == []


def test_values_that_only_together_are_too_much_are_refused(shop: Shop) -> None:
    spec = orders.spec(student={"architecture": {"kind": "mlp", "hidden_sizes": [4, 4]}})
    width = {"kind": "int", "low": 4, "high": 1000}
    settings = Settings(max_parameters=300_000)
    shop.parts = Parts(settings, shop.parts.sessions, shop.parts.blobs, shop.bell, shop.parts.predictor)
    shop.ordered(spec=spec, space={"/student/architecture/hidden_sizes/0": width})
    both = {f"/student/architecture/hidden_sizes/{place}": width for place in (0, 1)}
    with pytest.raises(Invalid) as refused:
        shop.ordered(spec=spec, space=both)
    assert {fault.pointer for fault in refused.value.faults} == {"/space"}
    assert "hidden_sizes/0 = '1000', /student/architecture/hidden_sizes/1 = '1000'" in str(refused.value)


def test_the_spec_itself_and_the_objective_are_looked_at_too(shop: Shop) -> None:
    spec = orders.spec(teachers=[{"model": "model:nobody"}], exports=[{"kind": "safetensors"}])
    with pytest.raises(Invalid) as refused:
        shop.ordered(
            spec=spec,
            objective={"metric": "rmse", "against": "latency_ms"},
            space={"/training/epochs": {"kind": "int", "low": 1, "high": 2}},
        )
    assert {fault.pointer for fault in refused.value.faults} >= {
        "/spec/teachers/0/model",
        "/objective/metric",
    }
    with pytest.raises(Invalid) as refused:
        shop.ordered(
            spec=orders.spec(losses={"preset": "hinton"}, exports=[{"kind": "safetensors"}]),
            objective={"against": "latency_ms"},
        )
    assert [fault.pointer for fault in refused.value.faults] == ["/objective/against"]
    exports = [[{"kind": "onnx"}], [{"kind": "safetensors"}]]
    with pytest.raises(Invalid, match="none of safetensors can be served"):
        shop.ordered(
            objective={"against": "latency_ms"}, space={"/exports": {"kind": "choice", "values": exports}}
        )


def test_an_objective_that_no_trial_could_measure_is_refused(shop: Shop) -> None:
    alone = orders.spec(
        teachers=[], scheme={"kind": "self_ema"}, losses=[{"kind": "cross_entropy"}, {"kind": "kd"}]
    )
    weight = {"/losses/1/weight": RATIO}
    shop.ordered(spec=alone, space=weight)
    with pytest.raises(Invalid) as refused:
        shop.ordered(spec=alone, space=weight, objective={"metric": "kl"})
    assert [(fault.pointer, fault.code) for fault in refused.value.faults] == [
        ("/objective/metric", "no_teacher")
    ]
    with shop.parts.sessions.write() as session:
        data = {"train": "dataset:iris#train", "validation": orders.unlabeled(session)}
    bare = orders.spec(losses={"preset": "hinton"}, data=data)
    shop.ordered(spec=bare, objective={"metric": "kl"})
    with pytest.raises(Invalid, match="accuracy needs labels, and no row of dataset:bare@1#train has one"):
        shop.ordered(spec=bare, objective={"metric": "accuracy"})


def test_a_plan_tells_the_trials_and_what_is_wrong(shop: Shop) -> None:
    with shop.parts.sessions.read() as session:
        good = SweepSpec.model_validate(
            order(space={"/losses/temperature": TEMPERATURE, "/student/architecture": FAMILIES})
        )
        told = sweep_plan.plan(session, shop.parts.settings, PROJECT, good)
        assert (told.ok, told.trials) == (True, 20)
        assert told.estimate is not None
        two = SweepSpec.model_validate(order(space={"/student/architecture": FAMILIES}))
        assert sweep_plan.plan(session, shop.parts.settings, PROJECT, two).trials == 2
        bad = SweepSpec.model_validate(order(space={"/losses/nothing": TEMPERATURE}))
        told = sweep_plan.plan(session, shop.parts.settings, PROJECT, bad)
        assert (told.ok, told.estimate) == (False, None)


# ---- what is tried


def test_the_first_trial_is_the_spec_itself_and_an_ordinary_job(shop: Shop) -> None:
    sweep_id = shop.ordered(labels={"team": "a"}, name="warmth")
    shop.step()
    trial = shop.trials(sweep_id)[0]
    assert (trial.number, trial.parameters, trial.status) == (0, {"/losses/temperature": 4.0}, "running")
    assert shop.bell.rung == [trial.job_id]
    with shop.parts.sessions.read() as session:
        job = session.get_one(Job, trial.job_id)
        narrowed = job_records.Filters(labels={"sweep": sweep_id, "trial": "0", "team": "a"})
        assert [record.job.id for record in job_records.list_(session, PROJECT, narrowed, None, 9)] == [
            job.id
        ]
    spec = job.resolved["spec"]
    assert spec["evaluation"]["compare"] == ["teacher"]
    assert spec["output"] == {"model": f"tiny-{sweep_id}", "alias": None}
    assert (job.name, trial.student_parameters) == ("warmth, trial 0", job.resolved["parameters"])


def test_the_longest_name_leaves_room_for_the_sweeps(shop: Shop) -> None:
    long = orders.spec(losses={"preset": "hinton"}, output={"model": "t" * 100})
    sweep_id = shop.ordered(spec=long)
    shop.step()
    model = shop.claimed().resolved["spec"]["output"]["model"]
    assert (len(model), model) == (100, f"{'t' * 69}-{sweep_id}")


def test_a_control_that_the_spec_names_is_trained(shop: Shop) -> None:
    gate = {"metric": "accuracy", "versus": "control", "min_difference": 0.1}
    spec = orders.spec(losses={"preset": "hinton"})
    shop.ordered(spec=spec | {"evaluation": {"gates": [gate]}})
    shop.ordered(spec=spec | {"evaluation": {"compare": ["teacher", "control"], "gates": [gate]}})
    shop.step()
    found = [shop.claimed().resolved["spec"]["evaluation"] for _ in range(2)]
    assert [(one["compare"], len(one["gates"])) for one in found] == [
        (["teacher"], 0),
        (["teacher", "control"], 1),
    ]


def test_the_first_trial_runs_alone_until_the_teachers_answers_are_stored(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 8, "parallel": 3})
    shop.step()
    job = shop.claimed()
    shop.step()
    assert shop.statuses(sweep_id) == ["running"]
    shop.answered(job)
    shop.step()
    assert shop.statuses(sweep_id) == ["running"] * 3
    shop.learned(job, [0.5])
    shop.done(job)
    shop.step()
    assert shop.statuses(sweep_id) == ["succeeded", "running", "running", "running"]


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("/teachers/0/model", {"kind": "choice", "values": ["model:botanist", "model:gardener"]}),
        ("/training/seed", {"kind": "int", "low": 0, "high": 99}),
        ("/training", {"kind": "choice", "values": [{"batch_size": size} for size in range(8, 16)]}),
    ],
)
def test_where_trials_need_other_answers_one_at_a_time_asks_for_them(
    shop: Shop, place: str, form: dict[str, Any]
) -> None:
    with shop.parts.sessions.write() as session:
        orders.teacher(session, name="gardener")
    data = {"train": "dataset:iris#train", "validation": "dataset:iris#test"}
    sweep_id = shop.ordered(
        spec=orders.spec(losses={"preset": "hinton"}, data=data),
        space={place: form, "/losses/temperature": TEMPERATURE},
        budget={"trials": 8, "parallel": 3},
    )
    for running in (1, 2, 3):
        shop.step()
        shop.step()
        assert len(shop.trials(sweep_id)) == running
        shop.answered(shop.claimed())


def test_a_value_that_was_not_planned_and_is_none_does_not_stop_the_search() -> None:
    first, second = FAMILIES["values"]
    values = [{"kind": "mlp", "width": 3}, second, first]
    form = SweepSpec.model_validate(
        order(space={"/student/architecture": {"kind": "choice", "values": values}})
    )
    assert search.suggest(form, [], None) == {"/student/architecture": first}


def test_whoever_steps_at_once_makes_no_trial_twice(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 8, "parallel": 8})
    shop.step()
    shop.answered(shop.claimed())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: shop.step(), range(12)))
    found = shop.trials(sweep_id)
    assert [trial.number for trial in found] == list(range(8))
    with shop.parts.sessions.read() as session:
        assert sorted(session.scalars(select(Job.id))) == sorted(str(trial.job_id) for trial in found)
    assert len({json.dumps(trial.parameters) for trial in found}) == 8


def test_the_same_seed_tries_the_same_and_another_one_does_not(shop: Shop) -> None:
    def tried(seed: int) -> list[Any]:
        sweep_id = shop.ordered(seed=seed, budget={"trials": 6, "parallel": 1})
        shop.step()
        for value in (0.3, 0.5, 0.4, 0.6, 0.2, 0.7):
            shop.carried_out([value])
        assert shop.sweep(sweep_id).status == "succeeded"
        return [trial.parameters for trial in shop.trials(sweep_id)]

    first = tried(1)
    assert tried(1) == first
    assert tried(2) != first


def test_later_trials_lie_where_earlier_ones_were_good(shop: Shop) -> None:
    """Against chance: the same number of uniform draws over the logarithm of 1e-4 to 1."""
    space = {"/training/optimizer/lr": {"kind": "float", "low": 1e-4, "high": 1, "log": True}}
    sweep_id = shop.ordered(space=space, budget={"trials": 24, "parallel": 1}, pruning=None)
    shop.step()
    for _ in range(24):
        lr = shop.trials(sweep_id)[-1].parameters["/training/optimizer/lr"]
        shop.carried_out([1 - abs(lr - 0.01) ** 0.25])
    late = [trial.parameters["/training/optimizer/lr"] for trial in shop.trials(sweep_id)[12:]]
    near = sum(0.002 < lr < 0.05 for lr in late)  # a third of the range
    assert near >= 8


def test_a_small_space_is_tried_whole_and_nothing_twice(shop: Shop) -> None:
    space = {
        "/student/architecture": FAMILIES,
        "/training/optimizer/beta1": {"kind": "float", "low": 0, "high": 0.5, "step": 0.5},
    }
    sweep_id = shop.ordered(space=space, budget={"trials": 50, "parallel": 1})
    shop.step()
    for _ in range(4):
        shop.carried_out([0.5])
    assert shop.sweep(sweep_id).status == "succeeded"
    tried = [json.dumps(trial.parameters) for trial in shop.trials(sweep_id)]
    assert (len(tried), len(set(tried))) == (4, 4)


def test_what_moves_meanwhile_does_not_move_the_sweep(shop: Shop) -> None:
    shop.ordered(budget={"trials": 4, "parallel": 1})
    shop.step()
    shop.carried_out([0.5])
    with shop.parts.sessions.write() as session:
        orders.teacher(session, name="botanist", parameters=7)
        orders.dataset(session, rows=90)
    later = shop.claimed().resolved
    assert later["teachers"][0]["reference"] == "model:botanist@1"
    assert later["data"]["train"]["reference"] == "dataset:iris@1#train"


# ---- what is given up


def test_a_trial_below_the_median_is_pruned_and_says_why(shop: Shop) -> None:
    sweep_id = shop.ordered(
        budget={"trials": 9, "parallel": 1},
        pruning={"kind": "median", "startup_trials": 3, "warmup_epochs": 2},
    )
    shop.step()
    for curve in ([0.5, 0.6, 0.7, 0.7], [0.5, 0.7, 0.8, 0.8], [0.4, 0.5, 0.6, 0.9]):
        shop.carried_out(curve)
    job = shop.claimed()
    shop.answered(job)
    shop.learned(job, [0.2, 0.3])
    shop.step()
    assert shop.statuses(sweep_id)[-1] == "running"  # two epochs are for warming up
    with shop.parts.sessions.write() as session:
        points = [Point("accuracy", "validation", 30, 0.35)]
        jobs.report_progress(session, job.id, 1, phase="train", fraction=0.6, points=points)
    shop.step()
    pruned = shop.trials(sweep_id)[3]
    assert pruned.pruned is not None
    reason = pruned.pruned.pop("reason")
    assert pruned.pruned == {"epoch": 3, "step": 30, "value": 0.35, "median": 0.7}
    assert "0.35" in reason
    assert (pruned.status, pruned.value) == ("pruned", 0.35)
    with shop.parts.sessions.write() as session:
        assert jobs.renew(session, job.id, 1, 60.0).desired == "cancel"
    assert shop.statuses(sweep_id)[3:] == ["pruned", "running"]  # its place was given on
    assert "trial 3" not in str(sweeps.best(shop.trials(sweep_id), "accuracy", None))


def test_against_size_only_students_that_are_as_small_set_the_bar() -> None:
    rule = {"kind": "median", "startup_trials": 3, "warmup_epochs": 0}
    finished = [
        Tried(n, {}, "succeeded", 0.9, float(size), [0.8, 0.9], size) for n, size in enumerate((16, 17, 18))
    ]
    small, large = (Tried(3, {}, "running", curve=[0.5, 0.6], size=size) for size in (4, 64))
    both = SweepSpec.model_validate(order(objective={"against": "parameters"}, pruning=rule))
    assert search.give_up(both, small, finished, "accuracy") is None
    assert search.give_up(both, large, finished, "accuracy") is not None
    assert search.give_up(both, large, finished[1:], "accuracy") is None  # two are no three
    assert search.give_up(both, large, finished, "log_loss") is None  # of which less is better
    alone = SweepSpec.model_validate(order(pruning=rule))
    assert search.give_up(alone, small, finished, "accuracy") is not None


def test_without_pruning_every_trial_goes_to_its_end(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 9, "parallel": 1}, pruning=None)
    shop.step()
    for _ in range(5):
        shop.carried_out([0.9] * 9)
    job = shop.claimed()
    shop.answered(job)
    shop.learned(job, [0.1] * 9)
    shop.step()
    assert shop.statuses(sweep_id)[-1] == "running"


# ---- how it ends


def test_a_failed_trial_is_counted_and_the_sweep_goes_on(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 3, "parallel": 1})
    shop.step()
    shop.failed(shop.claimed())
    shop.step()
    shop.carried_out([0.5])
    shop.failed(shop.claimed())
    shop.step()
    sweep = shop.sweep(sweep_id)
    assert (sweep.status, sweep.error) == ("succeeded", None)
    assert shop.statuses(sweep_id) == ["failed", "succeeded", "failed"]


def test_three_failures_at_the_start_end_it_with_the_first_error(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 9, "parallel": 1})
    shop.step()
    for _ in range(3):
        shop.failed(shop.claimed())
        shop.step()
    sweep = shop.sweep(sweep_id)
    assert sweep.status == "failed"
    assert sweep.error is not None
    assert sweep.error.pop("log_tail")
    assert sweep.error == {"code": "numeric_divergence", "detail": "it broke", "trial": 0}
    assert shop.statuses(sweep_id) == ["failed"] * 3


def test_a_trial_whose_spec_is_refused_has_failed(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 5, "parallel": 1})
    with shop.parts.sessions.write() as session:
        session.execute(text("UPDATE datasets SET name = 'moved'"))
    for _ in range(5):
        shop.step()
    sweep = shop.sweep(sweep_id)
    assert (sweep.status, shop.statuses(sweep_id)) == ("failed", ["failed"] * 3)
    assert sweep.error is not None
    assert sweep.error["code"] == "unknown_reference"


def test_a_cancelled_sweep_cancels_its_trials_and_then_ends(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 9, "parallel": 2})
    shop.step()
    running = shop.claimed()
    shop.answered(running)
    shop.step()
    with shop.parts.sessions.write() as session:
        assert sweeps.cancel(session, PROJECT, sweep_id).desired == "cancel"
    shop.step()
    assert shop.sweep(sweep_id).status == "running"
    with shop.parts.sessions.write() as session:
        assert jobs.renew(session, running.id, 1, 60.0).desired == "cancel"
        jobs.cancelled(session, running.id, 1)
    shop.step()
    shop.step()
    assert (shop.sweep(sweep_id).status, shop.statuses(sweep_id)) == ("cancelled", ["cancelled"] * 2)
    with pytest.raises(StateConflict), shop.parts.sessions.write() as session:
        sweeps.cancel(session, PROJECT, sweep_id)


def test_when_its_hours_are_over_running_trials_keep_what_they_have_and_none_begins(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 9, "parallel": 1, "max_hours": 1})
    shop.step()
    job = shop.claimed()
    shop.answered(job)
    shop.learned(job, [0.5])
    with shop.parts.sessions.write() as session:
        session.execute(text("UPDATE sweeps SET deadline_at = created_at"))
    shop.step()
    with shop.parts.sessions.write() as session:
        assert jobs.renew(session, job.id, 1, 60.0).desired == "finish"
    shop.done(job)
    shop.step()
    assert (shop.sweep(sweep_id).status, shop.statuses(sweep_id)) == ("succeeded", ["succeeded"])


def test_a_trial_whose_job_its_user_cancelled_or_deleted_is_cancelled(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 3, "parallel": 1})
    shop.step()
    for delete in (False, True):
        job_id = str(shop.trials(sweep_id)[-1].job_id)
        with shop.parts.sessions.write() as session:
            jobs.cancel(session, PROJECT, job_id, "discard")
            if delete:
                jobs.remove(session, PROJECT, job_id)
        shop.step()
    shop.carried_out([0.5])
    assert (shop.sweep(sweep_id).status, shop.statuses(sweep_id)) == (
        "succeeded",
        ["cancelled", "cancelled", "succeeded"],
    )


# ---- the answer


def test_the_value_is_the_validation_metric_at_the_step_that_was_kept(shop: Shop) -> None:
    sweep_id = shop.ordered(budget={"trials": 2, "parallel": 1}, objective={"metric": "log_loss"})
    shop.step()
    job = shop.claimed()
    shop.answered(job)
    with shop.parts.sessions.write() as session:
        points = [Point("log_loss", "validation", 10 * n, v) for n, v in enumerate((0.9, 0.4, 0.3), 1)]
        points.append(Point("log_loss", "control_validation", 20, 9.0))
        best = {"metric": "accuracy", "value": 0.8, "step": 20}
        jobs.start_phase(session, job.id, 1, "train")
        jobs.report_progress(session, job.id, 1, phase="train", fraction=1, best=best, points=points)
    shop.done(job)
    shop.step()
    trial = shop.trials(sweep_id)[0]
    assert (trial.value, trial.curve) == (0.4, [0.9, 0.4, 0.3])
    shop.carried_out([0.5])  # which measures accuracy alone
    second = shop.trials(sweep_id)[1]
    assert (second.status, (second.error or {}).get("code")) == ("failed", "not_measured")
    assert shop.sweep(sweep_id).status == "succeeded"


def test_the_front_holds_what_no_other_trial_beats_and_the_best_is_ready_to_submit(shop: Shop) -> None:
    sweep_id = shop.ordered(
        space={"/losses/temperature": TEMPERATURE},
        budget={"trials": 5, "parallel": 1},
        objective={"against": "bytes"},
        pruning=None,
    )
    shop.step()
    for value, size in ((0.8, 500), (0.9, 900), (0.7, 600), (0.9, 800), (0.6, 100)):
        shop.carried_out([value], size=size)
    found = shop.trials(sweep_id)
    assert [trial.bytes for trial in found] == [507, 907, 607, 807, 107]
    assert [trial.number for trial in sweeps.front(found, "accuracy", "bytes")] == [4, 0, 3]
    best = sweeps.best(found, "accuracy", "bytes")
    assert best is not None
    assert (best.number, best.latency_ms) == (3, 0.5)
    assert best.report == {
        "split": "test",
        "rows": 60,
        "metric": "accuracy",
        "value": 0.7,
        "low": 0.6,
        "high": 0.8,
    }
    resolved = SweepSpec.model_validate(shop.sweep(sweep_id).resolved)
    spec = resolved.spec_with(best.parameters)
    assert spec.evaluation.compare == ["teacher", "control"]
    assert (spec.output.model, spec.output.alias) == ("tiny", "candidate")
    assert spec.losses.temperature == best.parameters["/losses/temperature"]  # type: ignore[union-attr]
    with shop.parts.sessions.write() as session:
        again = JobSpec.model_validate(spec.model_dump(mode="json", exclude_unset=True))
        assert submission.submit(session, Settings(), PROJECT, again).status == "queued"


def test_a_lower_log_loss_is_the_better_one(shop: Shop) -> None:
    found = [
        SweepTrial(number=n, status="succeeded", value=value, student_parameters=size)
        for n, (value, size) in enumerate([(0.5, 10), (0.4, 20), (0.6, 5), (0.7, 30)])
    ]
    assert [trial.number for trial in sweeps.front(found, "log_loss", None)] == [2, 0, 1]


# ---- rows


def test_the_same_key_gives_the_same_sweep_and_another_body_is_refused(shop: Shop) -> None:
    spec = orders.spec(losses={"preset": "hinton"}, teachers=[{"model": "model:botanist@champion"}])
    with shop.parts.sessions.write() as session:
        aliases.set_alias(session, PROJECT, "botanist", "champion", version=1, condition=Condition())
    first = shop.ordered(key="k", spec=spec)
    with shop.parts.sessions.write() as session:
        aliases.delete_alias(session, PROJECT, "botanist", "champion", condition=Condition())
    assert shop.ordered(key="k", spec=spec) == first
    with pytest.raises(IdempotencyKeyReused):
        shop.ordered(key="k", spec=spec, seed=7)
    with pytest.raises(IdempotencyKeyReused), shop.parts.sessions.write() as session:
        orders.submit(session, Settings(), "k")


def test_an_ended_sweep_is_deleted_and_its_students_stay(shop: Shop) -> None:
    sweep_id = shop.ordered(key="k", budget={"trials": 1})
    with pytest.raises(StateConflict), shop.parts.sessions.write() as session:
        sweeps.remove(session, PROJECT, sweep_id)
    shop.step()
    job = shop.carried_out([0.5])
    with shop.parts.sessions.read() as session:
        student = session.get_one(ModelVersion, session.get_one(Job, job.id).output_version_id)
        told = lineage.lineage(session, student)["lineage"]
        assert (told["job"], told["sweep"], told["trial"]) == (job.id, sweep_id, 0)
    with shop.parts.sessions.write() as session:
        sweeps.remove(session, PROJECT, sweep_id)
    with shop.parts.sessions.read() as session:
        assert session.scalars(select(SweepTrial)).all() == []
        output = session.get_one(Job, job.id).output_version_id
        assert models.find(session, PROJECT, f"model:tiny-{sweep_id}").id == output
        version = session.get_one(ModelVersion, output)
        assert "sweep" not in lineage.lineage(session, version)["lineage"]


def test_another_project_sees_nothing(shop: Shop) -> None:
    sweep_id = shop.ordered()
    with shop.parts.sessions.write() as session:
        for deed in (sweeps.get, sweeps.trials, sweeps.cancel, sweeps.remove):
            with pytest.raises(NotFound):
                deed(session, "prj_other", sweep_id)
        assert sweeps.list_(session, "prj_other", sweeps.Filters(), None, 9) == []
