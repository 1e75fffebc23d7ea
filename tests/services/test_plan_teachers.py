"""What a plan makes of teachers' classes, of jobs without teachers, of first weights and of schemes."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog.spec import JobSpec, Resolved
from app.db.tables import JobReference
from app.errors import Invalid, InvalidSpec, LabelMismatch, ShapeMismatch, UnknownReference, WillNotFit
from app.services.planning.plan import Plan, plan, resolve
from app.settings import Settings
from tests import orders

MUTUAL = {"kind": "mutual"}
EMA = {"kind": "self_ema"}
ALONE: dict[str, Any] = {"teachers": [], "scheme": MUTUAL}


def planned(shop: Session, **changes: Any) -> Plan:
    return plan(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))


def resolved(shop: Session, **changes: Any) -> Resolved:
    return resolve(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))


def refused(shop: Session, **changes: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        resolved(shop, **changes)
    assert all(fault.pointer.startswith("/") and fault.fix for fault in caught.value.faults)
    assert not planned(shop, **changes).ok
    return caught.value


def pointers(error: Invalid) -> list[str]:
    return [fault.pointer for fault in error.faults]


# ---- label maps


def test_classes_are_renamed_merged_and_dropped(shop: Session) -> None:
    orders.teacher(shop, name="fine", labels=["rose", "setosa", "blue", "violet", "virginica"])
    mapped = {"blue": "versicolor", "violet": "versicolor", "rose": None}
    teachers = [{"model": "model:fine", "label_map": mapped}, {"model": "model:botanist"}]
    found = resolved(shop, teachers=teachers, ensemble="mean_probabilities")
    assert found.labels == ["setosa", "versicolor", "virginica"]
    assert [one.order for one in found.teachers] == [[[1], [2, 3], [4]], [[0], [1], [2]]]
    assert found.teachers[0].labels[0] == "rose"


def test_the_second_teacher_is_mapped_to_the_classes_of_the_first(shop: Session) -> None:
    orders.teacher(shop, name="latin", labels=["c", "b", "a", "other"])
    mapped = {"a": "setosa", "b": "versicolor", "c": "virginica", "other": None}
    both = [{"model": "model:botanist"}, {"model": "model:latin", "label_map": mapped}]
    assert resolved(shop, teachers=both, ensemble="each").teachers[1].order == [[2], [1], [0]]


@pytest.mark.parametrize(
    ("label_map", "told"),
    [
        ({"rose": "setosa"}, "no class 'rose'"),
        ({"setosa": "versicolor"}, "no class for 'setosa'"),
        ({"setosa": None}, "no class for 'setosa'"),
        ({"setosa": "rose"}, "no class for 'setosa'"),
    ],
)
def test_a_map_that_leaves_the_classes_unlike_is_refused_with_names(
    shop: Session, label_map: dict[str, Any], told: str
) -> None:
    orders.teacher(shop, name="second")
    both = [{"model": "model:botanist"}, {"model": "model:second", "label_map": label_map}]
    error = refused(shop, teachers=both, ensemble="mean_logits")
    assert isinstance(error, LabelMismatch)
    assert pointers(error) == ["/teachers/1/label_map"]
    assert told in error.faults[0].detail


def test_a_class_that_the_first_teacher_drops_must_not_be_in_the_data(shop: Session) -> None:
    error = refused(shop, teachers=[{"model": "model:botanist", "label_map": {"setosa": None}}])
    assert (type(error), pointers(error)) == (LabelMismatch, ["/teachers/0/label_map"])
    assert "'setosa'" in error.faults[0].detail


def test_a_map_that_leaves_one_class_is_no_classification(shop: Session) -> None:
    dropped = {"setosa": None, "versicolor": None}
    error = refused(shop, teachers=[{"model": "model:botanist", "label_map": dropped}])
    assert "leaves 1 classes" in error.faults[0].detail


# ---- no teachers


@pytest.mark.parametrize("scheme", [MUTUAL, EMA])
def test_students_that_teach_themselves_need_no_teacher(shop: Session, scheme: dict[str, Any]) -> None:
    found = planned(shop, teachers=[], scheme=scheme)
    assert found.ok
    assert found.resolved is not None
    assert found.estimate is not None
    assert found.resolved.labels == orders.CLASSES
    assert found.resolved.spec.output.model == "iris-mlp"
    assert (found.estimate.teacher_parameters, found.estimate.times_smaller) == (0, None)
    assert type(found.resolved).model_validate(found.resolved.model_dump(mode="json")) == found.resolved


@pytest.mark.parametrize("kind", ["offline", "born_again"])
def test_other_schemes_need_one(shop: Session, kind: str) -> None:
    error = refused(shop, teachers=[], scheme={"kind": kind})
    assert (type(error), pointers(error)) == (InvalidSpec, ["/teachers"])
    assert kind in error.faults[0].detail


def test_without_teachers_there_must_be_labels_to_learn_from_and_to_be_measured_by(shop: Session) -> None:
    bare = orders.unlabeled(shop)
    losses = [{"kind": "kd", "temperature": 1}, {"kind": "cross_entropy"}]
    assert "/teachers" in pointers(refused(shop, **ALONE, losses=losses, data={"train": bare}))
    data = {"train": "dataset:iris#train", "validation": bare}
    error = refused(shop, **ALONE, losses=losses, data=data)
    assert pointers(error) == ["/teachers"]
    assert "dataset:bare@1#train" in error.faults[0].detail


def test_a_student_like_its_teacher_needs_one(shop: Session) -> None:
    error = refused(shop, **ALONE, student={"architecture": {"kind": "like_teacher"}})
    assert pointers(error) == ["/student/architecture/kind"]


# ---- students of schemes


def test_every_student_of_a_scheme_is_looked_at(shop: Session) -> None:
    peers = [{"kind": "mlp"}, {"kind": "resnet"}]
    error = refused(shop, teachers=[], scheme={"kind": "mutual", "peers": peers})
    assert (type(error), pointers(error)) == (ShapeMismatch, ["/scheme/peers/1"])
    huge = {"kind": "mlp", "hidden_sizes": [1_000_000, 1_000_000]}
    error = refused(shop, scheme={"kind": "teacher_assistant", "assistants": [huge]})
    assert (type(error), pointers(error)) == (WillNotFit, ["/scheme/assistants/0"])


@pytest.mark.parametrize(
    ("sizes", "told"), [([[8], [16]], "assistant 1 has"), ([[8], [2]], "assistant 2 has")]
)
def test_assistants_go_from_large_to_small(shop: Session, sizes: list[list[int]], told: str) -> None:
    assistants = [{"kind": "mlp", "hidden_sizes": one} for one in sizes]
    error = refused(shop, scheme={"kind": "teacher_assistant", "assistants": assistants})
    assert pointers(error) == ["/scheme"]
    assert told in error.faults[0].detail


def test_an_assistant_like_the_teacher_is_filled_in(shop: Session) -> None:
    config = {"kind": "mlp", "hidden_sizes": [50], "activation": "tanh", "dropout": 0.0}
    orders.teacher(shop, name="net", format="mlp", family="mlp", details={"config": config}, parameters=303)
    scheme = {"kind": "teacher_assistant", "assistants": [{"kind": "like_teacher"}]}
    found = resolved(shop, teachers=[{"model": "model:net"}], scheme=scheme)
    ((_, assistant),), _ = found.spec.scheme.hops(found.spec.student.architecture)
    assert assistant.model_dump() == {**config, "hidden_sizes": (50,)}


@pytest.mark.parametrize(
    ("scheme", "evaluation", "times"),
    [
        ({"kind": "offline"}, {"compare": ["teacher"]}, 1),
        ({"kind": "offline"}, {"seeds": 3}, 6),
        ({"kind": "born_again", "generations": 4}, {}, 5),
        (MUTUAL, {}, 2),
    ],
)
def test_the_steps_of_all_trainings_are_estimated(
    shop: Session, scheme: dict[str, Any], evaluation: dict[str, Any], times: int
) -> None:
    training = {"batch_size": 18, "epochs": 10, "finetune": {"epochs": 2}}
    found = planned(shop, scheme=scheme, training=training, evaluation=evaluation)
    assert found.estimate is not None
    # 54 of the 60 rows are learned from, all of which have labels: 3 steps an epoch
    assert found.estimate.total_steps == times * (10 * 3 + 2 * 3)
    assert found.estimate.labeled_rows == 54


# ---- the last stage


def test_a_last_stage_on_labels_needs_labels(shop: Session) -> None:
    training = {"batch_size": 16, "finetune": {"epochs": 1}}
    data = {"train": orders.unlabeled(shop)}
    error = refused(shop, training=training, losses=[{"kind": "kd"}], data=data)
    assert pointers(error) == ["/training/finetune/epochs"]


# ---- first weights


@pytest.fixture
def net(shop: Session) -> str:
    """A perceptron with three layers."""
    config = {"kind": "mlp", "hidden_sizes": [8, 8, 8], "activation": "relu", "dropout": 0.0}
    orders.teacher(shop, name="net", format="mlp", family="mlp", details={"config": config}, parameters=300)
    return "model:net"


def started(**initialize: Any) -> dict[str, Any]:
    return {"architecture": {"kind": "mlp", "hidden_sizes": [8, 8]}, "initialize": initialize}


def test_the_model_that_a_student_starts_from_is_pinned_and_referred_to(shop: Session, net: str) -> None:
    found = resolved(shop, teachers=[{"model": net}], student=started(kind="teacher_layers", layers=[0, 2]))
    assert found.initialize == found.teachers[0]
    found = resolved(shop, student=started(kind="checkpoint", model=net))
    assert found.initialize is not None
    assert (found.initialize.reference, found.teachers[0].reference) == ("model:net@1", "model:botanist@1")
    job = orders.submit(shop, Settings(), student=started(kind="checkpoint", model=net))
    roles = {one.role for one in shop.scalars(select(JobReference).where(JobReference.job_id == job.id))}
    assert roles == {"teacher", "initialize", "train", "test"}


@pytest.mark.parametrize(
    ("layers", "told"),
    [([0, 3], "no layer 3"), ([0], "1 layers are chosen and the student has 2"), (1, "3 layers are chosen")],
)
def test_layers_that_are_not_there_or_too_many(shop: Session, net: str, layers: Any, told: str) -> None:
    error = refused(shop, teachers=[{"model": net}], student=started(kind="teacher_layers", layers=layers))
    assert pointers(error) == ["/student/initialize/layers"]
    assert told in error.faults[0].detail


def test_weights_of_a_black_box_or_of_nobody(shop: Session) -> None:
    error = refused(shop, student=started(kind="teacher_layers"))
    assert pointers(error) == ["/student/initialize/kind"]
    assert "ONNX" in error.faults[0].detail
    error = refused(shop, **ALONE, student=started(kind="teacher_layers"))
    assert pointers(error) == ["/student/initialize/kind"]
    error = refused(shop, student=started(kind="checkpoint", model="model:nobody"))
    assert (type(error), pointers(error)) == (UnknownReference, ["/student/initialize/model"])
    error = refused(shop, student=started(kind="checkpoint", model="model:botanist"))
    assert pointers(error) == ["/student/initialize/model"]


def test_weights_of_another_family(shop: Session) -> None:
    config = {"model_type": "resnet", "depths": [1], "hidden_sizes": [8]}
    orders.teacher(
        shop,
        name="eye",
        format="huggingface",
        family="resnet",
        task="image_classification",
        details={"config": config},
    )
    error = refused(shop, student=started(kind="checkpoint", model="model:eye"))
    assert pointers(error) == ["/student/initialize/model"]
    assert "family resnet" in error.faults[0].detail
