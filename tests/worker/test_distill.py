"""The loop against plain torch, and what stops it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from app.catalog.architectures.mlp import MLP
from app.catalog.base import Batch, Context, Input, Loss, Outputs
from app.catalog.losses.cross_entropy import CrossEntropy
from app.catalog.losses.fitnet import FitNet
from app.catalog.losses.kd import KD
from app.catalog.losses.logit_mse import LogitMSE
from app.catalog.spec import SGD, AdamW, EarlyStopping, Training, steps_of
from app.errors import NumericDivergence
from tests.worker.classroom import CPU, ONE, Notes, inputs, learner, teach, through
from tests.worker.workshop import DIGITS, digits
from worker.engine.course import control_lesson, stages
from worker.engine.device import Device, Rows, seed_everything
from worker.engine.distill import Lesson, Progress, Stage, distill, timetable
from worker.engine.judging.classes import truth_metrics
from worker.engine.learner import Best, Learner
from worker.engine.ranks import OneRank
from worker.engine.schedule import batches, learning_rate
from worker.engine.teachers import WhiteBox
from worker.engine.teaching import Teaching

TERMS: list[Loss] = [KD(temperature=4.0, weight=0.9), CrossEntropy(weight=0.1)]
X, Y = digits()
FEATURES = ((X - 8) / 6).astype(np.float32)[:400]
LABELS = Y[:400].astype(np.int64)


def student(hidden: int = 16, dropout: float = 0.1) -> nn.Module:
    seed_everything(7)
    return MLP(hidden_sizes=(hidden,), dropout=dropout).build(Input(modality="vector", shape=(64,)), DIGITS)


def lesson(expert: nn.Module, **changes: Any) -> Lesson:
    """The first 320 digits to learn from, 80 to be measured on."""
    answers = WhiteBox(expert)(torch.from_numpy(FEATURES)).logits

    def validate(module: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            logits = module.eval()(torch.from_numpy(FEATURES[320:])).logits.numpy()
        return truth_metrics(logits, LABELS[320:])

    assert answers is not None
    made = Lesson(
        terms=TERMS,
        stages=[Stage(1, range(len(changes.get("terms", TERMS))), np.arange(320), 320)],
        inputs=inputs(FEATURES, LABELS),
        teaching=Teaching(ONE, Rows(answers[:, None].numpy(), CPU)),
        validate=validate,
        metric="accuracy",
    )
    return replace(made, **changes)


def test_cached_answers_give_the_weights_of_a_plain_loop_that_runs_the_teacher_every_step(
    expert: nn.Module,
) -> None:
    training = Training(epochs=3, batch_size=64, seed=7)
    cached = student()
    teach(cached, lesson(expert), training)

    plain = student().train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.001, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15)
    for epoch in range(3):
        order = np.random.default_rng((7, epoch)).permutation(320)
        for start in range(0, 320, 64):
            rows = order[start : start + 64]
            x, y = torch.from_numpy(FEATURES[rows]), torch.from_numpy(LABELS[rows])
            with torch.no_grad():
                taught = expert(x).logits
            logits = plain(x).logits
            kd = nn.functional.kl_div(
                (logits / 4).log_softmax(-1), (taught / 4).softmax(-1), reduction="batchmean"
            )
            optimizer.zero_grad()
            (0.9 * 16 * kd + 0.1 * nn.functional.cross_entropy(logits, y)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        plain.eval()
        plain.train()

    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], tensor, rtol=0, atol=1e-5)


class Several(OneRank):
    """Says what went wrong where all ranks are told of it."""

    def __init__(self) -> None:
        self.told_of: list[str] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except MemoryError as error:
            self.told_of.append(str(error))
            raise


@pytest.mark.parametrize("where", ["step", "best"])
def test_memory_that_runs_out_beside_the_gradients_is_told_to_all_ranks(
    expert: nn.Module, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def exhausts(*_: Any) -> None:
        raise MemoryError(where)

    monkeypatch.setattr(*{"step": (Learner, "step"), "best": (Best, "replaced_by")}[where], exhausts)
    training = Training(epochs=1, batch_size=64)
    made, ranks = through(lesson(expert), training), Several()
    pupil = learner(student(), made, training, CPU)
    with pytest.raises(MemoryError):
        distill([pupil], made, training, watch=Notes(), finish=threading.Event(), ranks=ranks)
    assert ranks.told_of == [where]


def test_the_same_order_gives_the_same_weights_bit_for_bit(expert: nn.Module) -> None:
    training = Training(epochs=2, batch_size=50, seed=3)
    first, second = (teach(student(), lesson(expert), training) for _ in range(2))
    assert all(torch.equal(first.state[name], tensor) for name, tensor in second.state.items())
    assert first.best == second.best


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ({"kind": "sgd", "lr": 0.1, "nesterov": True}, {}),
        ({"kind": "adamw", "lr": 0.01}, {"clip_norm": 1.0, "precision": "bfloat16"}),
    ],
)
def test_every_optimizer_lowers_the_loss(expert: nn.Module, optimizer: Any, more: dict[str, Any]) -> None:
    notes = Notes()
    training = Training.model_validate({"epochs": 4, "batch_size": 32, "optimizer": optimizer, **more})
    half = Device(torch.device("cpu"), torch.bfloat16 if "precision" in more else torch.float32)
    teach(student(), lesson(expert), training, notes, device=half)
    losses = [values["loss"] for split, _, values in notes.readings if split == "train"]
    assert losses[-1] < 0.8 * losses[0]


def test_each_term_is_read_by_its_name_and_the_loss_is_their_weighted_sum(expert: nn.Module) -> None:
    notes = Notes()
    terms = [KD(weight=0.5), KD(temperature=1.0, weight=0.25), LogitMSE(weight=2.0)]
    teach(student(), lesson(expert, terms=terms), Training(epochs=1, batch_size=64), notes)
    split, step, values = notes.readings[0]
    assert (split, step) == ("train", 5)
    assert list(values) == ["loss", "kd", "kd_2", "logit_mse"]
    assert values["loss"] == pytest.approx(
        0.5 * values["kd"] + 0.25 * values["kd_2"] + 2 * values["logit_mse"]
    )


def test_what_each_term_pulls_is_its_weighted_gradient_at_the_weights_in_the_first_batch(
    expert: nn.Module,
) -> None:
    terms: list[Loss] = [CrossEntropy(weight=3.0), KD(temperature=4.0, weight=0.0)]
    module = student(dropout=0.0)
    before = deepcopy(module)
    trained = teach(module, lesson(expert, terms=terms), Training(epochs=1, batch_size=64))
    rows = next(iter(batches(np.arange(320), 320, 64, (0, 0))))
    logits = before(torch.from_numpy(FEATURES)[rows]).logits
    nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)[rows]).backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.get_total_norm(one.grad for one in before.parameters() if one.grad is not None)
    assert trained.pulls == {"cross_entropy": pytest.approx(3 * float(norm), rel=1e-5), "kd": 0.0}


def test_a_loss_that_is_no_number_is_named_before_the_optimizer_moves(expert: nn.Module) -> None:
    module = student()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    answers = np.full((400, 1, 10), np.inf, np.float32)
    with pytest.raises(NumericDivergence, match=r"step 0 .*kd = nan\. ") as raised:
        teach(module, lesson(expert, teaching=Teaching(ONE, Rows(answers, CPU))), Training(epochs=1))
    assert "cross_entropy" not in raised.value.detail
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_early_stopping_ends_when_the_metric_stands_still_and_keeps_the_best_step(expert: nn.Module) -> None:
    accuracies = iter([0.3, 0.6, 0.5, 0.6, 0.4, 0.9])
    states: list[Tensor] = []

    def validate(module: nn.Module) -> dict[str, float]:
        states.append(next(module.parameters()).detach().clone())
        return {"accuracy": next(accuracies), "log_loss": 1.0}

    training = Training(epochs=6, batch_size=64, early_stopping=EarlyStopping(patience=3))
    trained = teach(student(), lesson(expert, validate=validate), training)
    assert (trained.stopped_by, trained.steps, trained.total_steps, trained.best_step) == (
        "early_stopping",
        25,
        30,
        10,
    )
    assert torch.equal(next(iter(trained.state.values())), states[1])


def test_equal_metrics_are_told_apart_by_log_loss(expert: nn.Module) -> None:
    losses = iter([0.5, 0.4, 0.45])
    trained = teach(
        student(),
        lesson(expert, validate=lambda _: {"accuracy": 0.5, "log_loss": next(losses)}),
        Training(epochs=3, batch_size=64),
    )
    assert trained.best == {"accuracy": 0.5, "log_loss": 0.4}
    assert trained.stopped_by == "epochs"


def test_a_lower_log_loss_is_better(expert: nn.Module) -> None:
    losses = iter([0.5, 0.4, 0.45])
    changes: dict[str, Any] = {"validate": lambda _: {"log_loss": next(losses)}, "metric": "log_loss"}
    assert teach(student(), lesson(expert, **changes), Training(epochs=3, batch_size=64)).best_step == 10


def test_finish_is_honored_between_two_steps_and_the_weights_so_far_are_measured(expert: nn.Module) -> None:
    finish = threading.Event()
    notes = Notes(lambda step: finish.set() if step == 7 else None)
    training = Training(epochs=9, batch_size=64)
    trained = teach(student(), lesson(expert), training, notes, finish=finish)
    assert (trained.stopped_by, trained.steps) == ("user", 7)
    assert trained.best_step in (5, 7)
    assert [step for split, step, _ in notes.readings if split == "validation"] == [5, 7]


def test_the_control_takes_as_many_steps_on_its_few_labeled_rows(expert: nn.Module) -> None:
    labels = LABELS.copy()
    labels[30:] = -100
    whole = lesson(expert, inputs=inputs(FEATURES, labels))
    alone = control_lesson(whole, CrossEntropy(), np.arange(30))
    assert (alone.teaching, [term.kind for term in alone.terms]) == (None, ["cross_entropy"])
    spec = Training(epochs=2, batch_size=64)
    taught, control = teach(student(), whole, spec), teach(student(), alone, spec)
    assert control.steps == taught.steps == 10
    seen = torch.cat([moment.index for moment in timetable(alone.stages, spec, 0)])
    assert sorted(set(seen.tolist())) == list(range(30))
    assert len(seen) == 320


class Scaled(nn.Module):
    """A loss with a learned part."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        assert outputs.logits is not None
        return (self.scale * outputs.logits - 1).square().mean()


class Learned(Loss):
    kind: Literal["learned"] = "learned"
    module: Any = None

    def build(self, context: Context) -> Scaled:
        assert context.rows == 320
        return self.module  # type: ignore[no-any-return]


def test_what_a_loss_learns_is_trained_and_never_leaves_with_the_student(expert: nn.Module) -> None:
    module = Scaled()
    trained = teach(
        student(), lesson(expert, terms=[Learned(module=module)]), Training(epochs=1, batch_size=64)
    )
    assert module.scale.item() != 1.0
    assert not any("scale" in name for name in trained.state)


@pytest.mark.parametrize("micro", [16, 24])
def test_gradients_of_small_parts_add_up_to_those_of_the_batch(expert: nn.Module, micro: int) -> None:
    labels = LABELS.copy()
    labels[np.random.default_rng(0).random(400) < 0.7] = -100  # parts differ in how many labels they have
    whole = lesson(expert, inputs=inputs(FEATURES, labels))
    training = Training(epochs=1, batch_size=64, optimizer=SGD(lr=0.1))
    at_once, added = student(dropout=0.0), student(dropout=0.0)
    teach(at_once, whole, training)
    notes = Notes()
    teach(added, whole, training.model_copy(update={"micro_batch_size": micro}), notes)
    for name, tensor in at_once.state_dict().items():
        torch.testing.assert_close(added.state_dict()[name], tensor, rtol=0, atol=1e-6)
    read = notes.readings[0][2]
    assert read["loss"] == pytest.approx(0.9 * read["kd"] + 0.1 * read["cross_entropy"], rel=1e-5)


@pytest.mark.parametrize(("rows", "micro", "sizes"), [(33, 32, [16, 17]), (64, 32, [32, 32]), (3, None, [3])])
def test_no_part_is_left_with_a_single_row(rows: int, micro: int | None, sizes: list[int]) -> None:
    whole = inputs(FEATURES, LABELS)(torch.arange(rows), 0)
    parts = list(whole.parts(micro))
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([part.positions for part in parts]), whole.positions)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 8, 14])
def test_a_resumed_run_ends_with_the_very_same_weights(expert: nn.Module, stop_at: int) -> None:
    training = Training(epochs=3, batch_size=64, seed=7)
    made = through(lesson(expert, terms=[*TERMS, Learned(module=Scaled())]), training)
    kept: dict[str, Any] = {}

    def keep(progress: Progress) -> None:
        if progress.step == stop_at:
            kept.update(
                deepcopy({"progress": progress, "learner": one.state_dict(), "rng": torch.get_rng_state()})
            )

    one = learner(student(), made, training)
    (straight,) = distill([one], made, training, watch=Notes(), finish=threading.Event(), keep=keep)

    made = replace(made, terms=[*TERMS, Learned(module=Scaled())])
    one = learner(student(), made, training)
    one.load_state_dict(kept["learner"])
    torch.set_rng_state(kept["rng"])
    (resumed,) = distill(
        [one], made, training, watch=Notes(), finish=threading.Event(), resumed=kept["progress"]
    )
    assert resumed.best == straight.best
    assert resumed.steps == straight.steps == 15
    assert all(torch.equal(resumed.state[name], tensor) for name, tensor in straight.state.items())


def test_stages_follow_each_other_and_early_stopping_ends_one_alone(expert: nn.Module) -> None:
    rows, accuracies = np.arange(320), iter([0.1, 0.5, 0.4, 0.3, 0.6, 0.7])
    stages = [Stage(1, [1], rows, 320), Stage(5, [0, 1], rows, 320), Stage(2, [2], rows[:64], 64, lr=0.25)]
    training = Training(epochs=6, batch_size=64, early_stopping=EarlyStopping(patience=2))
    terms = [*TERMS, CrossEntropy(weight=0.5)]
    changes: dict[str, Any] = {"validate": lambda _: {"accuracy": next(accuracies), "log_loss": 1.0}}
    made = lesson(expert, terms=terms, stages=stages, **changes)
    notes = Notes()
    one = learner(student(), made, training)
    (trained,) = distill([one], made, training, watch=notes, finish=threading.Event())
    named = [list(values) for split, _, values in notes.readings if split == "train"]
    assert named[0] == ["loss", "cross_entropy"]
    assert named[1:4] == [["loss", "kd", "cross_entropy"]] * 3
    assert named[4:] == [["loss", "cross_entropy_2"]] * 2
    assert one.optimizer.param_groups[0]["lr"] == 0.25
    assert (trained.stopped_by, trained.best["accuracy"], trained.steps) == ("early_stopping", 0.7, 32)


def test_a_first_stage_is_not_ended_by_a_metric_that_it_does_not_move(expert: nn.Module) -> None:
    rows = np.arange(320)
    training = Training(epochs=7, batch_size=64, early_stopping=EarlyStopping(patience=2))
    made = lesson(
        expert,
        stages=stages(training, [FitNet(stage_epochs=4), KD()], rows, rows),
        validate=lambda _: {"accuracy": 0.1, "log_loss": 1.0},
    )
    for one in (made, control_lesson(made, CrossEntropy(), rows[:30])):
        pupil = learner(student(), one, training)
        (trained,) = distill([pupil], one, training, watch=Notes(), finish=threading.Event())
        assert (trained.stopped_by, trained.steps) == ("early_stopping", (4 + 2) * 5)


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.01), SGD(lr=0.01)])
def test_a_stage_learns_nothing_of_the_gradients_before_it(expert: nn.Module, optimizer: AdamW | SGD) -> None:
    """Hints weigh a hundred times what follows them, and would hold the weights for a thousand steps."""
    rows, forms = np.arange(320), [CrossEntropy(weight=1000.0), CrossEntropy()]
    parts = [Stage(1, [0], rows, 320, lr=1e-9), Stage(2, [1], rows, 320, lr=0.01)]
    training = Training(epochs=3, batch_size=64, optimizer=optimizer)

    def moved(stages: Sequence[Stage]) -> float:
        pupil = student(dropout=0.0)
        before = parameters_to_vector(pupil.parameters()).detach()
        made = lesson(expert, terms=forms, stages=stages)
        distill([learner(pupil, made, training)], made, training, watch=Notes(), finish=threading.Event())
        return float((parameters_to_vector(pupil.parameters()).detach() - before).norm())

    assert moved(parts) == pytest.approx(moved(parts[1:]), rel=0.2)


def test_the_order_of_rows_is_a_function_of_seed_and_epoch() -> None:
    rows = np.arange(100, 200)
    first, again, next_epoch = (torch.cat(list(batches(rows, 100, 32, (5, epoch)))) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_epoch)
    assert sorted(first.tolist()) == sorted(next_epoch.tolist()) == rows.tolist()


@pytest.mark.parametrize(("rows", "steps"), [(128, 2), (129, 2), (130, 3), (1, 1), (64, 1)])
def test_a_last_batch_of_one_row_is_left_out(rows: int, steps: int) -> None:
    assert steps_of(rows, 64) == steps == len(list(batches(np.arange(rows), rows, 64, (0, 0))))


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("cosine", [0.5, 1, 1, 0.75, 0.25]),
        ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("constant", [0.5, 1, 1, 1, 1]),
    ],
)
def test_the_rate_rises_in_a_line_and_falls_as_ordered(kind: Any, rates: list[float]) -> None:
    schedule = Training.model_validate({"schedule": {"kind": kind, "warmup_steps": 2}}).schedule
    assert [learning_rate(schedule, 1.0, step, 5) for step in range(5)] == pytest.approx(rates)
