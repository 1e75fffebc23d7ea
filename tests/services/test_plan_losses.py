"""What a plan says of losses: whom they need, what they cannot have, and what is known to go wrong."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.orm import Session

from app.catalog.spec import ARCHITECTURES, LOSSES, JobSpec, PinnedModel
from app.db.tables import ModelLayers, ModelVersion
from app.errors import Invalid
from app.services.planning.checks import Check, Checks
from app.services.planning.loss_advice import _about_families
from app.services.planning.loss_plan import _check_heads, _check_maps
from app.services.planning.plan import plan, resolve
from app.settings import Settings
from tests import orders

NUMBERS = [{"name": name, "kind": "number", "mean": 0.0, "std": 1.0} for name in orders.FEATURES]
STAGE: dict[str, Any] = {"kind": "fitnet", "stage_epochs": 2}
NAMED: dict[str, Any] = {"kind": "fitnet", "weight": 100, "pairs": [["layers.0", "layers.1"]]}


@pytest.fixture
def shop(shop: Session) -> Session:
    network(shop, "net", "mlp", parameters=300)
    network(shop, "convnet", "resnet", parameters=300)
    network(shop, "encoder", "bert", "attentions", "values", parameters=300)
    return shop


def network(session: Session, name: str, family: str, *gives: str, **changes: Any) -> str:
    """A teacher whose layers can be seen; its version's id."""
    fields: dict[str, Any] = {
        "format": "mlp" if family == "mlp" else "huggingface",
        "family": family,
        "gives": sorted({"features", "logits", *gives}),
        "preprocessing": {"features": NUMBERS},
        "details": {"config": {"kind": "mlp", "hidden_sizes": [8, 8]}},
    }
    return orders.teacher(session, name=name, **fields | changes).id


def spec(*losses: Any, teachers: str = "net", **changes: Any) -> JobSpec:
    named = [{"model": f"model:{name}"} for name in teachers.split()]
    more = {"ensemble": "mean_logits"} if len(named) > 1 else {}
    return JobSpec.model_validate(orders.spec(teachers=named, losses=list(losses), **more | changes))


def checked(shop: Session, *losses: Any, **changes: Any) -> list[Check]:
    """Everything that is not well."""
    found = plan(shop, Settings(), orders.PROJECT, spec(*losses, **changes)).checks
    return [check for check in found if check.status != "ok"]


def refused(shop: Session, *losses: Any, **changes: Any) -> tuple[str, str, str]:
    """The only fault: where, what, and the way out."""
    with pytest.raises(Invalid) as caught:
        resolve(shop, Settings(), orders.PROJECT, spec(*losses, **changes))
    (fault,) = caught.value.faults
    return fault.pointer, fault.detail, fault.fix


KD = {"kind": "kd"}
ATTENTION = {"kind": "attention_mse"}


def test_a_loss_over_layers_of_a_network_is_accepted(shop: Session) -> None:
    assert checked(shop, KD, NAMED) == []
    assert checked(shop, KD, NAMED | {"teacher": 1}, teachers="botanist net") == []


@pytest.mark.parametrize(
    ("losses", "teachers", "pointer", "detail", "fix"),
    [
        ([NAMED], "botanist", "/losses/0", "an ONNX file: a black box", "import its"),
        ([KD, NAMED], "botanist net", "/losses/1/teacher", "features of the teacher model:botanist", "kd"),
        ([KD, ATTENTION], "convnet", "/losses/1", "resnet, has no attention", "name a transformer"),
        ([KD, {"kind": "minilm", "teacher": 1}], "encoder convnet", "/losses/1/teacher",
         "attentions and values", "transformer"),
        ([KD, NAMED | {"teacher": 2}], "net convnet", "/losses/1/teacher", "there are 2", "from 0 to 1"),
        ([KD, ATTENTION], "encoder", "/losses/1", "and mlp shows none", "a student that attends"),
        ([KD, {"kind": "ab", "stage_epochs": 30}], "net", "/losses/1/stage_epochs", "30 epochs", "shorten"),
        ([STAGE], "net", "/losses", "no loss left to train by", "add a loss"),
        ([STAGE, KD | {"weight": 0}], "net", "/losses", "no loss left", "add a loss"),
        ([KD, STAGE | {"weight": 0}], "net", "/losses/1/stage_epochs", "no weight", "above 0"),
    ],
)  # fmt: skip
def test_what_a_loss_cannot_have_is_refused_with_the_reason(
    shop: Session, losses: Any, teachers: str, pointer: str, detail: str, fix: str
) -> None:
    at, why, way_out = refused(shop, *losses, teachers=teachers)
    assert at == pointer
    assert detail in why
    assert fix in way_out


def test_a_loss_keeps_its_name_in_a_message(shop: Session) -> None:
    with pytest.raises(Invalid) as error:
        resolve(
            shop, Settings(), orders.PROJECT, spec(KD, {"kind": "attention_transfer"}, teachers="botanist")
        )
    assert error.value.detail.startswith("attention_transfer needs features")


@pytest.mark.parametrize("scheme", [{"kind": "mutual"}, {"kind": "self_ema"}])
def test_students_that_know_only_each_other_need_labels(shop: Session, scheme: dict[str, Any]) -> None:
    truth = {"kind": "cross_entropy", "weight": {"from": 1, "to": 0, "over_epochs": 5}}
    assert not [one for one in checked(shop, KD, truth, teachers="", scheme=scheme) if one.status == "fail"]
    for losses in ([KD], [KD, {"kind": "cross_entropy", "weight": 0}]):
        at, why, way_out = refused(shop, *losses, teachers="", scheme=scheme)
        assert (at, "labels" in why, "cross_entropy" in way_out) == ("/losses", True, True)


def test_labels_that_nobody_gave_cannot_teach(shop: Session) -> None:
    data = {"train": orders.unlabeled(shop), "test": "dataset:iris#test", "validation": "dataset:iris#test"}
    at, why, _ = refused(shop, KD, {"kind": "cross_entropy"}, data=data)
    assert at == "/losses/1"
    assert why == "cross_entropy needs labels, and no training row has one"


def test_a_wrong_path_of_a_teacher_whose_layers_are_listed_is_refused(shop: Session) -> None:
    version = network(shop, "listed", "mlp", parameters=300)
    wrong = NAMED | {"pairs": [["layers.0", "layers.0"], ["layers.1", "layer.1"]]}
    assert checked(shop, KD, wrong, teachers="listed") == []  # nobody has listed them: the job will tell
    shape = {"type": "Linear", "shape": [8], "kind": "features", "stage": True}
    listed = [{"path": f"layers.{place}", **shape} for place in range(2)]
    shop.add(ModelLayers(version_id=version, layers=listed))
    shop.flush()
    at, why, _ = refused(shop, KD, wrong, teachers="listed")
    assert (at, why) == ("/losses/1/pairs/1/1", "There is no layer 'layer.1'; there are layers.1, layers.0")
    at, _, _ = refused(shop, KD, {"kind": "rkd", "layer": ["layers.0", "head"]}, teachers="listed")
    assert at == "/losses/1/layer/1"


def test_losses_over_layers_need_a_teacher_of_their_own_in_every_scheme(shop: Session) -> None:
    chain = {"scheme": {"kind": "born_again", "generations": 2}}
    assert checked(shop, KD, NAMED, **chain) == []
    assert (
        checked(shop, KD, {"kind": "fitnet", "weight": 100}, teachers="convnet", **chain)[0].code
        == "unlike_families"
    )
    at, _, fix = refused(shop, KD, NAMED, teachers="convnet", **chain)
    assert (at, fix[:12]) == ("/losses/1", "leave pairs,")
    alone = JobSpec.model_validate(
        orders.spec(teachers=[], losses=[{"kind": "cross_entropy"}, NAMED], scheme={"kind": "self_ema"})
    )
    with pytest.raises(Invalid) as caught:
        resolve(shop, Settings(), orders.PROJECT, alone)
    assert "this job has no teacher" in str(caught.value.faults[0].detail)


def test_losses_over_every_class_are_refused_where_some_are_lumped(shop: Session) -> None:
    few = {"signals": {"top_k": 2}}
    assert checked(shop, KD | {"temperature": 1}, {"kind": "cross_entropy"}, **few) == []
    for loss in ({"kind": "dist"}, {"kind": "kd", "standardize": True}, {"kind": "logit_mse"}):
        at, why, fix = refused(shop, loss, **few)
        assert at == "/losses/0"
        assert "of 3 the answers keep 2" in why
        assert fix.startswith('set signals.top_k to "all", or choose one of')


# ---- advice


def test_unlike_families_are_warned_of_with_what_was_measured(shop: Session) -> None:
    (warning,) = checked(shop, KD, {"kind": "attention_transfer", "weight": 1000}, teachers="convnet")
    assert (warning.code, warning.pointer) == ("unlike_families", "/losses/1")
    assert "mlp from resnet" in warning.detail
    assert "59.4 against 64.6" in warning.evidence
    assert checked(shop, KD, {"kind": "similarity", "weight": 3000}, teachers="convnet") == []


def test_unlike_families_within_a_chain_are_warned_of_too() -> None:
    form = {"kind": "attention_transfer", "weight": 1000}
    chain = spec(
        form,
        task={"kind": "image_classification"},
        student={"architecture": {"kind": "resnet"}},
        scheme={"kind": "teacher_assistant", "assistants": [{"kind": "convnext"}]},
    )
    checks = Checks()
    teacher = cast("PinnedModel", SimpleNamespace(family="resnet"))
    _about_families(chain, chain.terms()[0], "/losses/0", [teacher], checks)
    (warning,) = checks.all
    assert "convnext from resnet" in warning.detail


@pytest.mark.parametrize(
    ("weight", "beside", "said"),
    [(1.0, 1.0, "hardly count"), (1000.0, 1.0, ""), (1000.0, 0.001, "drown"),
     ({"from": 0, "to": 1000, "over_epochs": 5}, 1.0, ""), (0.0, 1.0, "")],
)  # fmt: skip
def test_a_weight_far_from_the_usual_one_is_told(
    shop: Session, weight: Any, beside: float, said: str
) -> None:
    loss = {"kind": "attention_transfer", "weight": weight, "pairs": NAMED["pairs"]}
    found = checked(shop, KD | {"weight": beside}, loss)
    assert [check.code for check in found] == (["unusual_weight"] if said else [])
    assert all(said in check.detail and "RepDistiller" in check.evidence for check in found)


def test_a_wide_gap_suggests_an_assistant_or_dist(shop: Session) -> None:
    network(shop, "giant", "mlp", parameters=27 * 25)
    (warning,) = checked(shop, KD, teachers="giant")
    assert (warning.code, warning.pointer) == ("capacity_gap", "/student/architecture")
    assert "25 times" in warning.detail
    assert "teacher_assistant" in warning.fix
    assert "Mirzadeh" in warning.evidence
    assert checked(shop, {"kind": "dist"}, teachers="giant") == []
    between = {"kind": "teacher_assistant", "assistants": [{"kind": "mlp", "hidden_sizes": [16]}]}
    assert checked(shop, KD, teachers="giant", scheme=between) == []
    (again,) = checked(shop, KD, teachers="giant", scheme={"kind": "born_again"})
    assert again == warning


def test_parts_of_a_batch_are_not_the_batch_for_every_loss(shop: Session) -> None:
    parts = {"training": {"batch_size": 16, "micro_batch_size": 4}}
    assert checked(shop, KD, **parts) == []
    (warning,) = checked(shop, {"kind": "dist"}, **parts)
    assert (warning.code, warning.pointer) == ("parts_differ", "/training/micro_batch_size")
    assert "dist compares the rows of a batch" in warning.detail


def test_attention_of_other_heads_is_refused_before_anything_runs(shop: Session) -> None:
    wanted = frozenset({"attentions", "values"})
    encoder = network(
        shop, "heads", "bert", "attentions", "values", details={"config": {"num_attention_heads": 4}}
    )
    version = shop.get_one(ModelVersion, encoder)
    form = LOSSES["minilm"].model_validate({"kind": "minilm"})
    _check_heads(form, wanted, ARCHITECTURES["distilbert"](n_heads=4, dim=64), [version])  # type: ignore[call-arg]
    with pytest.raises(Invalid, match="has 2 heads and its teacher 4"):
        _check_heads(form, wanted, ARCHITECTURES["bert"](num_attention_heads=2), [version])  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", ["mgd", "factor_transfer", "review"])
def test_a_loss_over_maps_is_refused_for_texts(kind: str) -> None:
    texts = spec({"kind": kind}, KD, task={"kind": "text_classification"})
    with pytest.raises(Invalid, match=f"{kind} compares maps"):
        _check_maps(texts, texts.terms()[0])
    _check_maps(spec({"kind": kind}, KD, task={"kind": "image_classification"}), texts.terms()[0])
    _check_maps(texts, LOSSES["cwd"].model_validate({"kind": "cwd"}))


def test_what_several_devices_cannot_do_is_refused(shop: Session) -> None:
    two = {"accelerator": "cpu", "devices": 2}
    at, why, way_out = refused(shop, KD, resources=two, training={"batch_size": 3})
    assert (at, "3 rows" in why, "4 or more" in way_out) == ("/resources/devices", True, True)
    at, why, _ = refused(shop, KD, {"kind": "crd"}, resources=two)
    assert (at, "remembers" in why) == ("/losses/1", True)


def test_several_devices_hold_parts_of_a_batch(shop: Session) -> None:
    found = checked(shop, {"kind": "dist"}, resources={"accelerator": "cpu", "devices": 2})
    (warning,) = [one for one in found if one.code == "parts_differ"]
    assert (warning.pointer, "dist compares" in warning.detail) == ("/resources/devices", True)
