"""Students that teach students: in the loop against plain torch, and as whole jobs."""

import json
import threading
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select
from torch import Tensor, nn

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Input, Loss, Outputs
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.losses.kd import KD
from app.catalog.spec import SGD, LearningRateSchedule, Training
from app.db.tables import Job, JobReference, ModelVersion
from app.errors import LeaseLost
from app.services import claims, jobs, lineage, models
from tests.worker.classroom import CPU, Notes, inputs, learner
from tests.worker.workshop import DIGITS, PROJECT, Stop, Workshop, digits, order, table
from worker.engine import hops
from worker.engine.company import Average, Peers
from worker.engine.device import Rows, seed_everything
from worker.engine.distill import Company, Lesson, Progress, Stage, distill
from worker.engine.ensemble import Ensemble
from worker.engine.judging.classes import truth_metrics
from worker.engine.schedule import batches
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Heard, Teaching
from worker.run import run

X, Y = digits()
FEATURES = ((X - 8) / 6).astype(np.float32)[:400]
LABELS = Y[:400].astype(np.int64)
ALL = np.arange(320)
TERMS: list[Loss] = [KD(temperature=1.0), CrossEntropy()]
CONSTANT = LearningRateSchedule(kind="constant")


def student(hidden: int = 16, dropout: float = 0.1, seed: int = 7) -> nn.Module:
    seed_everything(seed)
    return MLP(hidden_sizes=(hidden,), dropout=dropout).build(Input(modality="vector", shape=(64,)), DIGITS)


def lesson(company: Company, teaching: Teaching | None = None, epochs: int = 1) -> Lesson:
    def validate(module: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            logits = module.eval()(torch.from_numpy(FEATURES[320:])).logits.numpy()
        return truth_metrics(logits, LABELS[320:])

    stages = [Stage(epochs, [0, 1], ALL, 320)]
    return Lesson(TERMS, stages, inputs(FEATURES, LABELS), teaching, validate, "accuracy", company)


# ---- in the loop


def test_peers_teach_each_other_as_in_a_plain_loop() -> None:
    training = Training(epochs=1, batch_size=64, seed=7, optimizer=SGD(lr=0.1), schedule=CONSTANT)
    ours = [student(hidden, 0.0, seed) for seed, hidden in enumerate((16, 8, 4))]
    plain = [deepcopy(one) for one in ours]
    made = lesson(Peers())
    learners = [learner(one, made, training) for one in ours]
    trained = distill(learners, made, training, watch=Notes(), finish=threading.Event())

    optimizers = [torch.optim.SGD(one.parameters(), 0.1, 0.9, weight_decay=0.0005) for one in plain]
    for rows in batches(ALL, 320, 64, (7, 0)):
        x, y = torch.from_numpy(FEATURES)[rows], torch.from_numpy(LABELS[rows])
        said = [one(x).logits for one in plain]
        for place, logits in enumerate(said):
            others = [other.detach() for other in said if other is not logits]
            kl = [
                nn.functional.kl_div(logits.log_softmax(-1), other.softmax(-1), reduction="batchmean")
                for other in others
            ]
            loss = nn.functional.cross_entropy(logits, y) + (kl[0] + kl[1]) / 2
            optimizers[place].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
    for one, expected, result in zip(ours, plain, trained, strict=True):
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], tensor, rtol=0, atol=1e-6)
            assert torch.equal(result.state[name], one.state_dict()[name])


def test_a_peer_counts_as_much_as_a_teacher_of_weight_one() -> None:
    answers, others = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    heard = Heard(Ensemble("each", [1.0, 3.0]), answers, {}, step=0).beside(others)
    pairs = heard.pairs(KD(), Outputs(torch.zeros(4, 3)))
    assert [share for share, _, _ in pairs] == pytest.approx([1 / 6, 3 / 6, 1 / 6, 1 / 6])
    for (_, _, teacher), logits in zip(pairs, [*answers.unbind(1), *others.unbind(1)], strict=True):
        assert teacher.logits is not None
        assert torch.equal(teacher.logits, logits)
    alone = Heard.nothing(0).beside(others).pairs(KD(), Outputs(torch.zeros(4, 3)))
    assert [share for share, _, _ in alone] == [0.5, 0.5]


class Normed(nn.Module):
    """With batch norm, whose buffers are floats and a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, features: Tensor) -> Any:
        return Outputs(self.linear(self.norm(features)))


def test_the_average_follows_the_weights_and_buffers_without_a_gradient() -> None:
    seed_everything(0)
    module = Normed()
    company = Average(module, 0.7, leaves=False)
    training = Training(epochs=2, batch_size=64, optimizer=SGD(lr=0.1))
    steps = [deepcopy(module.state_dict())]
    notes = Notes(lambda step: steps.append(deepcopy(module.state_dict())))
    made = lesson(company, epochs=2)
    averaged, trained = distill(
        [learner(module, made, training)], made, training, watch=notes, finish=threading.Event()
    )
    expected = steps[0]
    for step, state in enumerate(steps[1:], 1):
        decay = min(0.7, 1 - 1 / (step + 1))  # 1/2, 2/3, then 0.7
        expected = {
            name: decay * expected[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    found = company.module.state_dict()
    assert found["norm.num_batches_tracked"] == 10
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert not any(one.requires_grad for one in company.module.parameters())
    assert not torch.equal(averaged.state["linear.weight"], trained.state["linear.weight"])
    assert averaged.best_step in (5, 10)
    assert averaged.pulls == {}


def test_the_one_that_leaves_is_the_last_and_decides_when_to_stop() -> None:
    module = student()
    company = Average(module, 0.9, leaves=True)
    assert list(company.students([module])) == [module, company.module]
    assert list(Average(module, 0.9, leaves=False).students([module]))[-1] is module


def test_the_average_teaches_beside_a_teacher(expert: nn.Module) -> None:
    module = student(dropout=0.5).train()
    company = Average(module, 0.9, leaves=False)
    made = lesson(company)
    seen = made.inputs(torch.arange(8), 0)
    answers = WhiteBox(expert)(seen.student).logits
    assert answers is not None
    heard = Teaching(Ensemble(None, [1.0]), Rows(answers[:, None].numpy(), CPU)).hear(seen, 0)
    (told,) = company.heard(heard, [], seen)
    first, second = told.pairs(KD(), Outputs(torch.zeros(8, 10)))
    assert (first[0], second[0]) == (0.5, 0.5)
    assert second[2].logits is not None
    assert torch.equal(second[2].logits, module.eval()(seen.student).logits)  # without dropout


@pytest.mark.parametrize("kind", ["mutual", "self_ema"])
@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_a_resumed_company_ends_with_the_very_same_weights(kind: str, stop_at: int) -> None:
    training = Training(epochs=3, batch_size=64, seed=7)

    def begin() -> tuple[list[Any], Lesson]:
        modules = [student(seed=1), student(8, seed=2)]
        company: Company = Peers() if kind == "mutual" else Average(modules[-1], 0.9, leaves=False)
        made = lesson(company, epochs=3)
        return [learner(one, made, training) for one in (modules if kind == "mutual" else modules[1:])], made

    kept: dict[str, Any] = {}
    learners, made = begin()

    def keep(progress: Progress) -> None:
        if progress.step == stop_at:
            states = [one.state_dict() for one in learners]
            company = made.company.state_dict()
            kept.update(deepcopy({"progress": progress, "states": states, "company": company}))
            kept["rng"] = torch.get_rng_state()

    straight = distill(learners, made, training, watch=Notes(), finish=threading.Event(), keep=keep)
    again, anew = begin()
    for one, state in zip(again, kept["states"], strict=True):
        one.load_state_dict(state)
    anew.company.load_state_dict(kept["company"])
    torch.set_rng_state(kept["rng"])
    resumed = distill(
        again, anew, training, watch=Notes(), finish=threading.Event(), resumed=kept["progress"]
    )
    assert len(resumed) == len(straight) == 2
    for first, second in zip(straight, resumed, strict=True):
        assert first.best == second.best
        assert all(torch.equal(first.state[name], tensor) for name, tensor in second.state.items())


# ---- as jobs

QUICK = {"epochs": 3, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 0.01}}
PLAIN = {"training": QUICK, "exports": [{"kind": "safetensors"}]}
BOTH = {"training": QUICK, "exports": [{"kind": "safetensors"}, {"kind": "onnx"}]}


def made(workshop: Workshop, job: Job) -> dict[str, ModelVersion]:
    """The versions that the job made on its way, by role."""
    with workshop.parts.sessions.read() as session:
        roles = select(JobReference).where(JobReference.job_id == job.id)
        found = {
            one.role: session.get(ModelVersion, one.target_id)
            for one in session.scalars(roles)
            if one.role != "teacher"
        }
    return {role: version for role, version in found.items() if version is not None}


def columns(workshop: Workshop, job: Job) -> list[str]:
    return [one["name"] for one in json.loads(workshop.artifact(job, "report.json"))["columns"]]


def origin(workshop: Workshop, version_id: str | None) -> dict[str, Any]:
    with workshop.parts.sessions.read() as session:
        return lineage.lineage(session, session.get_one(ModelVersion, version_id))


def test_generations_are_versions_each_taught_by_the_one_before(
    workshop: Workshop, expert: nn.Module
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    spec = {**PLAIN, "scheme": {"kind": "born_again", "generations": 3, "ensemble": True}}
    job = workshop.carry_out(order([teacher], train, spec=spec))
    assert job.outcome is not None
    assert job.outcome["versions"] == {
        "generation_1": "model:small-generation-1@1",
        "generation_2": "model:small-generation-2@1",
    }
    versions = made(workshop, job)
    assert list(versions) == ["generation-1", "generation-2"]
    assert len({version.digest for version in versions.values()}) == 2
    report = json.loads(workshop.artifact(job, "report.json"))
    about = {one["name"]: one for one in report["columns"]}
    assert list(about) == [
        "teacher", "student_before", "generation_1", "generation_2", "control", "generations", "student",
    ]  # fmt: skip
    assert about["generation_2"]["about"] == (
        "generation 2, which learned from generation 1: model:small-generation-2@1"
    )
    assert about["generations"]["parameters"] == 3 * about["student"]["parameters"]
    mean = about["generations"]["metrics"]["log_loss"]["value"]
    each = [
        about[name]["metrics"]["log_loss"]["value"] for name in ("generation_1", "generation_2", "student")
    ]
    assert mean <= sum(each) / 3  # the logarithm is concave
    assert set(report["training"]) == {"generation_1", "generation_2", "control", "student"}

    told = origin(workshop, job.output_version_id)["lineage"]
    assert [one["reference"] for one in told["teachers"]] == ["model:small-generation-2@1", "model:big@1"]
    (before,) = told["teachers"][0]["lineage"]["teachers"]
    assert before["reference"] == "model:small-generation-1@1"
    assert (before["lineage"]["job"], before["lineage"]["role"]) == (job.id, "generation-1")
    assert [one["reference"] for one in before["lineage"]["teachers"]] == ["model:big@1"]
    assert [one["reference"] for one in origin(workshop, versions["generation-1"].id)["students"]] == [
        "model:small-generation-2@1"
    ]


def test_an_assistant_of_its_own_size_stands_between(workshop: Workshop, expert: nn.Module) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    scheme = {"kind": "teacher_assistant", "assistants": [{"kind": "mlp", "hidden_sizes": [32]}]}
    job = workshop.carry_out(order([teacher], train, spec={**BOTH, "scheme": scheme}))
    (assistant,) = made(workshop, job).values()
    assert [file["path"] for file in assistant.files] == [
        "config.json", "model.onnx", "model.safetensors", "preprocessing.json",
    ]  # fmt: skip
    assert (assistant.parameters, assistant.details["config"]["hidden_sizes"]) == (64 * 32 + 32 + 330, [32])
    assert [one["reference"] for one in origin(workshop, job.output_version_id)["lineage"]["teachers"]] == [
        "model:small-assistant-1@1", "model:big@1",
    ]  # fmt: skip
    assert "assistant_1" in columns(workshop, job)


@pytest.mark.parametrize(
    ("scheme", "others"),
    [
        ({"kind": "mutual", "peers": 2}, ["peer_1", "peer_2"]),
        ({"kind": "mutual", "peers": [{"kind": "mlp", "hidden_sizes": [12]}]}, ["peer_1"]),
        ({"kind": "self_ema", "decay": 0.9}, ["ema"]),
        ({"kind": "self_ema", "decay": 0.9, "leaves": "ema"}, ["trained"]),
    ],
)
def test_students_that_teach_themselves_need_no_teacher(
    workshop: Workshop, scheme: dict[str, Any], others: list[str]
) -> None:
    train = workshop.data(table(X[:300], Y[:300]))
    losses = [{"kind": "kd", "temperature": 1}, {"kind": "cross_entropy"}]
    job = workshop.carry_out(order([], train, spec={**PLAIN, "scheme": scheme, "losses": losses}))
    assert job.status == "succeeded"
    assert job.outcome is not None
    assert list(job.outcome["versions"]) == others
    found = columns(workshop, job)
    assert {*others, "control", "student"} <= set(found)
    assert not any(name.startswith("teacher") for name in found)
    told = origin(workshop, job.output_version_id)["lineage"]
    roles = [one.replace("_", "-") for one in others]
    assert [one["reference"] for one in told["teachers"]] == [f"model:small-{role}@1" for role in roles]


def test_what_leaves_of_a_student_and_its_average_is_what_was_ordered(workshop: Workshop) -> None:
    train, states = workshop.data(table(X[:300], Y[:300])), {}
    for leaves, other in (("student", "ema"), ("ema", "trained")):
        scheme = {"kind": "self_ema", "decay": 0.9, "leaves": leaves}
        job = workshop.carry_out(order([], train, spec={**PLAIN, "scheme": scheme}))
        (beside,) = made(workshop, job).values()
        with workshop.parts.sessions.read() as session:
            own = session.get_one(ModelVersion, job.output_version_id)
        weights = {
            name: next(file["sha256"] for file in one.files if file["path"] == "model.safetensors")
            for name, one in ((other, beside), ("student", own))
        }
        states[leaves] = weights
    assert states["student"]["student"] == states["ema"]["trained"]
    assert states["student"]["ema"] == states["ema"]["student"]


@pytest.mark.parametrize(
    ("scheme", "left"),  # trainings: student and control; the control
    [({"kind": "born_again", "generations": 2}, 2), ({"kind": "mutual", "peers": 1}, 1)],
)
def test_a_second_attempt_goes_on_from_the_hops_that_are_done(
    workshop: Workshop, expert: nn.Module, monkeypatch: pytest.MonkeyPatch, scheme: dict[str, Any], left: int
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    straight = workshop.carry_out(order([teacher], train, spec={**PLAIN, "scheme": scheme}))
    job = workshop.submit(order([teacher], train, spec={**PLAIN, "scheme": scheme}))

    def dies(*_: Any) -> None:
        keep(*_)
        raise KeyboardInterrupt  # as if the power had gone

    keep = hops.keep
    with monkeypatch.context() as patched:
        patched.setattr("worker.engine.hops.keep", dies)
        with pytest.raises(KeyboardInterrupt):
            run(job, job.attempt, workshop.parts, Stop())
    before = made(workshop, job)
    assert len(before) == 1
    with workshop.parts.sessions.write() as session:
        jobs.yield_(session, job.id, job.attempt)
    with workshop.parts.sessions.write() as session:
        again = claims.claim(session, "test", ("cpu",), 600.0)
    assert again is not None
    runs: list[int] = []

    def counted(learners: Any, *given: Any, **named: Any) -> Any:
        runs.append(len(learners))
        return distill(learners, *given, **named)

    monkeypatch.setattr("worker.engine.course.distill", counted)
    run(again, again.attempt, workshop.parts, Stop())
    ended = workshop.look(again)
    assert (ended.status, len(runs)) == ("succeeded", left)
    assert {role: one.id for role, one in made(workshop, ended).items()} == {
        role: one.id for role, one in before.items()
    }
    with workshop.parts.sessions.read() as session:
        digests = {session.get_one(ModelVersion, one.output_version_id).digest for one in (straight, ended)}
    assert len(digests) == 1  # and comes to the same as if nothing had happened


def test_an_attempt_that_lost_its_job_registers_no_generation(
    workshop: Workshop, expert: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    job = workshop.submit(order([teacher], train, spec={**PLAIN, "scheme": {"kind": "born_again"}}))
    keep = hops.keep

    def loses(*given: Any) -> None:
        with workshop.parts.sessions.write() as session:
            jobs.yield_(session, job.id, job.attempt)
        keep(*given)

    monkeypatch.setattr("worker.engine.hops.keep", loses)
    with pytest.raises(LeaseLost):
        run(job, job.attempt, workshop.parts, Stop())
    assert made(workshop, job) == {}
    with workshop.parts.sessions.read() as session:
        assert [model.name for model in models.list_(session, PROJECT, before=None, limit=9)] == ["big"]


def test_who_has_seen_enough_does_not_wait_for_generations_to_come(
    workshop: Workshop, expert: nn.Module
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    stop = Stop()
    stop.finish.set()
    scheme = {"kind": "born_again", "generations": 4, "ensemble": True}
    job = workshop.carry_out(order([teacher], train, spec={**PLAIN, "scheme": scheme}), stop)
    assert (job.status, made(workshop, job)) == ("succeeded", {})
    assert "generations" not in columns(workshop, job)
    missing = "The job was ended early, before these were taught: generation_1, generation_2, generation_3."
    assert missing in json.loads(workshop.artifact(job, "report.json"))["notes"]


def test_a_loss_that_looks_into_the_teacher_looks_into_each_generation(
    workshop: Workshop, expert: nn.Module
) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    losses = [{"kind": "similarity", "pairs": [["layers.0", "layers.0"]]}, {"kind": "kd"}]
    spec = {**PLAIN, "losses": losses, "scheme": {"kind": "born_again", "generations": 2}}
    job = workshop.carry_out(order([teacher], train, spec=spec))
    assert job.status == "succeeded"


def test_several_seeds_teach_the_last_hop_alone_anew(workshop: Workshop, expert: nn.Module) -> None:
    train, teacher = workshop.data(table(X[:300], Y[:300])), workshop.perceptron(expert, (64, 64))
    spec = {**PLAIN, "scheme": {"kind": "born_again", "generations": 2}, "evaluation": {"seeds": 2}}
    job = workshop.carry_out(order([teacher], train, spec=spec))
    assert list(made(workshop, job)) == ["generation-1"]
