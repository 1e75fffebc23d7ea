"""What a plan says of augmentation, of views, and of how teachers' answers are stored."""

from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.catalog.spec import JobSpec, Resolved
from app.catalog.tasks.image_classification.preprocessing import plain
from app.errors import Invalid, InvalidSpec
from app.intake.profile import Profile
from app.services import datasets, models
from app.services.datasets import Prepared, StoredSplit
from app.services.models import Checkpoint
from app.services.planning.checks import Checks
from app.services.planning.plan import Plan, plan, resolve
from app.services.planning.signal_plan import check_augmentation, check_store, decided
from app.settings import Settings
from tests import orders

MANY = [*orders.CLASSES, *(f"other {number}" for number in range(1500))]
CROP = {"kind": "random_crop"}
RESNET = {"kind": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}


@pytest.fixture
def shop(shop: Session) -> Session:
    orders.teacher(shop, name="erudite", labels=MANY)
    pictures(shop)
    painter(shop)
    return shop


def pictures(session: Session, rows: int = 60) -> None:
    label = {"type": "category", "counts": dict.fromkeys(orders.CLASSES, rows // 3)}
    columns = {"image": {"type": "image"}, "species": label}
    split = {"rows": rows, "columns": columns, "bad_rows": {}, "duplicates": 0}
    profile = Profile.model_validate(
        {"label": "species", "splits": {"train": split, "test": split}, "leaks": []}
    )
    stored = StoredSplit(sha256=sha256(b"pictures").hexdigest(), size=1000, rows=rows)
    prepared = Prepared(digest=stored.sha256, files={"train": stored, "test": stored}, profile=profile)
    datasets.create(session, orders.PROJECT, "pictures", prepared)


def painter(session: Session) -> None:
    fields: dict[str, Any] = {
        "source": "import", "format": "huggingface", "family": "resnet", "task": "image_classification",
        "labels": orders.CLASSES, "input": {"modality": "image", "shape": [3, 32, 32]},
        "preprocessing": plain(3, (32, 32)).model_dump(mode="json"), "gives": ["logits", "features"],
        "details": {"config": {"model_type": "resnet"}}, "parameters": 100_000,
        "files": [{"path": "model.safetensors", "sha256": "0" * 64, "size": 10}],
    }  # fmt: skip
    models.register(session, orders.PROJECT, "painter", Checkpoint(**fields))


def of_pictures(**changes: Any) -> dict[str, Any]:
    data = {"train": "dataset:pictures#train", "test": "dataset:pictures#test", **changes.pop("data", {})}
    return {
        "task": {"kind": "image_classification"},
        "teachers": [{"model": "model:painter"}],
        "student": {"architecture": RESNET},
        "data": data,
        **changes,
    }


def planned(shop: Session, **changes: Any) -> Plan:
    return plan(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))


def resolved(shop: Session, **changes: Any) -> Resolved:
    return resolve(shop, Settings(), orders.PROJECT, JobSpec.model_validate(orders.spec(**changes)))


def refused(shop: Session, **changes: Any) -> tuple[str, str]:
    """The pointer and the code of the only fault."""
    with pytest.raises(Invalid) as caught:
        resolved(shop, **changes)
    (fault,) = caught.value.faults
    assert fault.fix
    return fault.pointer, fault.code


def warned(found: Plan) -> set[str]:
    assert found.ok, found.checks
    return {check.code for check in found.checks if check.status == "warn"}


def test_only_what_the_task_reads_can_be_augmented(shop: Session) -> None:
    data = {**orders.spec()["data"], "augment": [CROP]}
    assert refused(shop, data=data) == ("/data/augment/0", "other_modality")
    both = of_pictures(data={"augment": [CROP, {"kind": "token_dropout"}]})
    assert refused(shop, **both) == ("/data/augment/1", "other_modality")


def test_views_need_something_to_view(shop: Session) -> None:
    assert refused(shop, **of_pictures(data={"views": 2})) == ("/data/views", "nothing_to_view")


def test_augmentation_is_warned_of_by_what_it_costs_and_views_are_not(shop: Session) -> None:
    live = planned(shop, **of_pictures(data={"augment": [CROP, {"kind": "mixup"}]}))
    assert "teachers_each_step" in warned(live)
    (told,) = [check for check in live.checks if check.code == "teachers_each_step"]
    assert "1.6 to 10 times" in told.evidence
    assert "data.views" in told.fix
    assert "teachers_each_step" not in warned(
        planned(shop, **of_pictures(data={"augment": [CROP], "views": 4}))
    )
    assert "unused_views" in warned(planned(shop, **of_pictures(data={"augment": [CROP], "views": 64})))


def test_up_to_a_thousand_classes_are_stored_whole_and_more_with_their_tail(shop: Session) -> None:
    assert resolved(shop).spec.signals.model_dump() == {"dtype": "float32", "top_k": "all"}
    teachers = [{"model": "model:erudite"}]
    many = resolved(shop, teachers=teachers)
    assert many.spec.signals.model_dump() == {"dtype": "float32", "top_k": 50}
    chosen = resolved(shop, teachers=teachers, signals={"top_k": "all", "dtype": "float16"})
    assert chosen.spec.signals.model_dump() == {"dtype": "float16", "top_k": "all"}
    assert resolved(shop, signals={"top_k": 2}).spec.signals.top_k == 2


def test_several_teachers_are_stored_whole(shop: Session) -> None:
    orders.teacher(shop, name="second", labels=MANY)
    several: dict[str, Any] = {
        "teachers": [{"model": "model:erudite"}, {"model": "model:second"}],
        "ensemble": "mean_logits",
    }
    assert resolved(shop, **several).spec.signals.top_k == "all"
    assert refused(shop, **several, signals={"top_k": 20}) == ("/signals/top_k", "not_lumped")


def test_a_map_that_joins_classes_needs_all_of_them(shop: Session) -> None:
    joined = [{"model": "model:erudite", "label_map": {"other 0": "setosa"}}]
    assert resolved(shop, teachers=joined).spec.signals.top_k == "all"
    assert refused(shop, teachers=joined, signals={"top_k": 20}) == ("/signals/top_k", "not_lumped")


def test_a_loss_that_looks_at_every_class_is_refused_where_they_are_lumped(shop: Session) -> None:
    order: dict[str, Any] = {"teachers": [{"model": "model:erudite"}]}
    for loss in ({"kind": "dist"}, {"kind": "kd", "standardize": True}):
        assert refused(shop, **order, losses=[loss]) == ("/losses/0", "lumped_classes")
        assert resolved(shop, **order, losses=[loss], signals={"top_k": "all"})
    (told,) = [check for check in planned(shop, **order).checks if check.code == "softened_tail"]
    assert "0.9 at 4" in told.evidence
    assert "softened_tail" not in warned(planned(shop, **order, losses=[{"kind": "kd", "temperature": 1}]))


def test_more_than_a_gibibyte_of_answers_is_stored_in_half_precision(shop: Session) -> None:
    order = resolved(shop, teachers=[{"model": "model:erudite"}], signals={"top_k": "all"})
    asked = order.spec.model_copy(update={"signals": order.spec.signals.model_copy(update={"dtype": "auto"})})
    rows = (1 << 30) // (4 * len(MANY))
    assert decided(asked, order.teachers, rows).dtype == "float32"
    assert decided(asked, order.teachers, rows + 1).dtype == "float16"
    views = asked.model_copy(update={"data": asked.data.model_copy(update={"views": 2})})
    assert decided(views, order.teachers, rows // 2 + 1).dtype == "float16"


def test_a_number_has_no_classes_to_leave_out(shop: Session) -> None:
    order = resolved(shop, signals={"top_k": 2})
    task = JobSpec.model_validate(orders.spec(task={"kind": "tabular_regression"})).task
    checks = Checks()
    check_store(order.spec.model_copy(update={"task": task}), order.teachers, checks)
    with pytest.raises(InvalidSpec, match="has no classes"):
        checks.demand()


def test_a_text_is_changed_for_models_that_read_it_alike(shop: Session) -> None:
    spec = orders.spec(task={"kind": "text_classification"})
    spec["data"]["augment"] = [{"kind": "token_dropout"}]
    order = JobSpec.model_validate(spec)
    read = {"tokenizer": "0" * 64, "vocabulary": 10, "pad": 0, "max_length": 16}
    (known,) = resolved(shop).teachers
    alike = known.model_copy(update={"preprocessing": read})
    otherwise = known.model_copy(update={"preprocessing": read | {"tokenizer": "1" * 64}})
    checks = Checks()
    check_augmentation(order, order.task.parse_preprocessing(read), [alike, otherwise], checks)
    failed = [(check.pointer, check.code) for check in checks.all if check.status == "fail"]
    assert failed == [("/teachers/1", "reads_otherwise")]
