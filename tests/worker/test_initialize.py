"""A student that starts with weights of another model: which ones, by which names, and what is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select
from torch import Tensor, nn

from app.catalog.base import Architecture, Input
from app.catalog.inheritance import Misfit, check_families, chosen, config_of, depths, source
from app.catalog.spec import ARCHITECTURES, FromCheckpoint, FromTeacherLayers, PinnedModel
from app.db.tables import Event, Job
from app.errors import NothingInherited
from tests.worker.workshop import Workshop, digits, order, table
from worker.engine.initialize import Inherited, inherited

X, Y = digits()
IMAGE = Input(modality="image", shape=(1, 32, 32))
TEXT = Input(modality="text", shape=(16,), vocabulary=60, pad=0)
LABELS = ["a", "b", "c"]
BERT = {
    "kind": "bert",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
DISTILBERT = {"kind": "distilbert", "dim": 16, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32}
VIT = {"kind": "vit", "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
RESNET = {"kind": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16]}


def form(fields: dict[str, Any], **more: Any) -> Architecture:
    return ARCHITECTURES[fields["kind"]].model_validate(fields | more)


def built(architecture: Architecture, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return architecture.build(TEXT if "bert" in architecture.kind else IMAGE, LABELS).eval()


def saved(architecture: Architecture, folder: Path) -> tuple[nn.Module, PinnedModel]:
    """A teacher of that form as its files, whose every tensor differs from every other."""
    module = built(architecture, seed=1)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_()
    module.save_pretrained(folder)  # type: ignore[operator]
    config = json.loads((folder / "config.json").read_text())
    return module, PinnedModel(
        reference="model:big@1", version_id="mdl_1", digest="0" * 64, format="huggingface",
        family=architecture.kind, labels=LABELS, order=[[0], [1], [2]], preprocessing={"pad": 0},
        details={"config": config}, parameters=1, weight=1.0,
    )  # fmt: skip


def started(
    teacher: dict[str, Any], student: dict[str, Any], layers: Any, folder: Path
) -> tuple[Any, Any, Inherited]:
    """The weights of teacher and student, and what was taken over."""
    whole, model = saved(form(teacher), folder)
    own = form(student)
    fresh = built(own)
    found = inherited(FromTeacherLayers(layers=layers), model, folder, fresh, own)
    found.into(fresh)
    return whole.state_dict(), fresh.state_dict(), found


SMALL: dict[str, dict[str, Any]] = {
    "bert": BERT, "distilbert": DISTILBERT, "vit": VIT | {"num_hidden_layers": 3},
    "resnet": RESNET | {"depths": [2, 3]},
    "convnext": {"hidden_sizes": [8, 16], "depths": [2, 3]},
}  # fmt: skip


# ---- which layers


@pytest.mark.parametrize(
    ("layers", "teacher", "student", "expected"),
    [
        ("spread", 12, 6, [0, 2, 4, 7, 9, 11]),  # as the authors of DistilBERT chose them
        ("spread", 12, 1, [0]),
        ("spread", 3, 3, [0, 1, 2]),
        (2, 6, 3, [0, 2, 4]),
        (3, 12, 4, [0, 3, 6, 9]),
        ([5, 0], 6, 2, [5, 0]),
    ],
)
def test_layers_are_chosen_as_ordered(layers: Any, teacher: int, student: int, expected: list[int]) -> None:
    theirs, own = (
        {"model_type": "bert", "num_hidden_layers": teacher},
        {"kind": "bert", "num_hidden_layers": student},
    )
    assert chosen(layers, theirs, own) == expected


def test_each_stage_gives_layers_of_its_own() -> None:
    theirs, own = {"model_type": "resnet", "depths": [3, 4, 6]}, {"kind": "resnet", "depths": [2, 1, 3]}
    assert chosen("spread", theirs, own) == [0, 2, 3, 7, 10, 12]


@pytest.mark.parametrize(
    ("layers", "teacher", "student", "message"),
    [
        ([0, 9], {"num_hidden_layers": 6}, {"num_hidden_layers": 2}, "6 layers, 0 to 5, and no layer 9"),
        (2, {"num_hidden_layers": 6}, {"num_hidden_layers": 2}, "3 layers are chosen and the student has 2"),
        ("spread", {"num_hidden_layers": 2}, {"num_hidden_layers": 4}, "the student has 4 layers"),
        ("spread", {"depths": [1, 1]}, {"depths": [1]}, "2 stages of layers, the student 1"),
        (2, {}, {}, "not numbered"),
    ],
)
def test_layers_that_are_not_there_are_told(layers: Any, teacher: Any, student: Any, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        chosen(layers, {"model_type": "some", **teacher}, {"kind": "some", **student})


def test_families_must_fit_but_a_distilbert_takes_over_a_bert() -> None:
    check_families({"model_type": "bert", "hidden_size": 8}, {"kind": "distilbert", "dim": 8})
    with pytest.raises(Misfit, match="family resnet"):
        check_families({"model_type": "resnet"}, {"kind": "vit"})
    with pytest.raises(Misfit, match="768 wide"):
        check_families({"model_type": "bert", "hidden_size": 768}, {"kind": "distilbert", "dim": 128})


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - {"like_teacher", "mobilenet_v2", "mlp"}))
def test_the_names_of_every_family_lead_to_the_layer_that_was_chosen(kind: str) -> None:
    """A family whose layers are called otherwise in a new version of its library fails here."""
    own = form({**SMALL.get(kind, {}), "kind": kind})
    config = config_of(own)
    several = depths(config)
    assert several is not None
    names = list(built(own).state_dict())
    backwards = [number for stage in _places(several) for number in stage[::-1]]
    moved = {name: source(name, backwards, config, config) for name in names}
    assert len([name for name, other in moved.items() if name != other]) > 8 * len(several)
    alike = set(moved.values()) & set(names)  # all but what the first layer of a stage has alone
    assert len(alike) > 0.8 * len(names)


def _places(several: list[int]) -> list[list[int]]:
    ends = np.cumsum(several)
    return [list(range(end - depth, end)) for depth, end in zip(several, ends, strict=True)]


# ---- whose weights


def test_a_thinner_bert_starts_with_every_other_layer_the_embeddings_and_the_head(tmp_path: Path) -> None:
    theirs, own, found = started(
        BERT | {"num_hidden_layers": 4}, BERT | {"num_hidden_layers": 2}, 2, tmp_path
    )
    assert found.skipped == []
    assert found.parameters[0] == found.parameters[1]
    for name, tensor in own.items():
        other = name.replace("layer.1.", "layer.2.")
        assert torch.equal(tensor, theirs[other]), name
    assert found.told.startswith(
        f"The student starts with {len(own)} of its {len(own)} tensors from model:big@1"
    )


def test_a_distilbert_with_all_layers_of_a_bert_computes_what_the_bert_computes(tmp_path: Path) -> None:
    whole, model = saved(form(BERT, num_hidden_layers=2), tmp_path)
    own = form(DISTILBERT, n_layers=2)
    student = built(own)
    found = inherited(FromTeacherLayers(), model, tmp_path, student, own)
    found.into(student)
    assert found.skipped == ["pre_classifier.weight", "pre_classifier.bias"]
    ids = torch.randint(5, 60, (3, 12))
    with torch.no_grad():
        theirs = whole.bert(ids).last_hidden_state  # type: ignore[operator]
        ours = student.distilbert(ids).last_hidden_state  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_vit_starts_with_the_layers_of_a_list(tmp_path: Path) -> None:
    theirs, own, found = started(
        VIT | {"num_hidden_layers": 4}, VIT | {"num_hidden_layers": 2}, [3, 1], tmp_path
    )
    assert found.skipped == []
    assert torch.equal(own["vit.layers.0.mlp.fc1.weight"], theirs["vit.layers.3.mlp.fc1.weight"])
    assert torch.equal(own["vit.layers.1.mlp.fc1.weight"], theirs["vit.layers.1.mlp.fc1.weight"])


def test_a_resnet_starts_stage_by_stage_with_its_buffers(tmp_path: Path) -> None:
    theirs, own, found = started(RESNET | {"depths": [3, 2]}, RESNET | {"depths": [2, 1]}, "spread", tmp_path)
    assert found.skipped == []
    norm = "layers.{}.layer.0.normalization.running_var"
    assert torch.equal(
        own[f"resnet.encoder.stages.0.{norm.format(1)}"], theirs[f"resnet.encoder.stages.0.{norm.format(2)}"]
    )
    assert torch.equal(
        own[f"resnet.encoder.stages.1.{norm.format(0)}"], theirs[f"resnet.encoder.stages.1.{norm.format(0)}"]
    )


def test_what_has_another_shape_stays_new_and_is_named(tmp_path: Path) -> None:
    theirs, own, found = started(
        RESNET | {"depths": [1, 1]}, RESNET | {"depths": [1, 1], "hidden_sizes": [8, 4]}, "spread", tmp_path
    )
    assert torch.equal(
        own["resnet.embedder.embedder.convolution.weight"],
        theirs["resnet.embedder.embedder.convolution.weight"],
    )
    assert "classifier.1.weight" in found.skipped
    assert found.parameters[0] < found.parameters[1]
    assert "New are resnet.encoder.stages.1" in found.told
    assert found.data["of_tensors"] == len(own)


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NothingInherited, match="no tensor has the same name and shape"):
        started(
            VIT | {"num_hidden_layers": 1},
            VIT | {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8},
            "spread",
            tmp_path,
        )


def test_a_checkpoint_gives_every_tensor_of_the_same_name_and_shape(tmp_path: Path) -> None:
    whole, model = saved(form(VIT, num_hidden_layers=3), tmp_path)
    own = form(VIT, num_hidden_layers=2)
    student = built(own)
    found = inherited(FromCheckpoint(model="model:big"), model, tmp_path, student, own)
    assert found.skipped == []
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in found.tensors.items())


# ---- as jobs

QUICK = {"epochs": 1, "batch_size": 64, "optimizer": {"kind": "sgd", "lr": 1e-9}}


def report(workshop: Workshop, job: Job) -> dict[str, Any]:
    return dict(json.loads(workshop.artifact(job, "report.json")))


def accuracy(report: dict[str, Any], column: str) -> float:
    return float(
        next(one for one in report["columns"] if one["name"] == column)["metrics"]["accuracy"]["value"]
    )


@pytest.mark.parametrize("kind", ["teacher_layers", "checkpoint"])
def test_student_and_control_start_alike_and_the_report_says_with_what(
    workshop: Workshop, expert: nn.Module, kind: str
) -> None:
    train, test = (
        workshop.data(table(X[:300], Y[:300])),
        workshop.data(table(X[1200:], Y[1200:]), split="test"),
    )
    teacher = workshop.perceptron(expert, (64, 64))
    initialize = {"kind": kind} | ({"model": teacher.reference} if kind == "checkpoint" else {})
    spec = {
        "training": QUICK,
        "exports": [{"kind": "safetensors"}],
        "student": {"architecture": {"kind": "mlp", "hidden_sizes": [64, 64]}, "initialize": initialize},
    }
    given = order([teacher], train, spec=spec, test=test).model_copy(update={"initialize": teacher})
    workshop.carry_out(
        order([teacher], train, spec={**spec, "student": {"architecture": {"kind": "mlp"}}}, test=test)
    )
    job = workshop.carry_out(
        given
    )  # the teacher's answers are stored by now; its weights are fetched all the same
    found = report(workshop, job)
    told = "The student starts with 6 of its 6 tensors from model:big@1: 8,970 of 8,970 parameters."
    assert told in found["notes"]
    with workshop.parts.sessions.read() as session:
        events = session.scalars(select(Event).where(Event.job_id == job.id, Event.message == told)).all()
    assert [event.data["tensors"] for event in events] == [6]
    for column in ("student_before", "control", "student"):
        assert accuracy(found, column) == accuracy(found, "teacher") > 0.9


def test_tensors_are_copies(tmp_path: Path) -> None:
    whole, model = saved(form(VIT, num_hidden_layers=1), tmp_path)
    own = form(VIT, num_hidden_layers=1)
    fresh = built(own)
    before: dict[str, Tensor] = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    found = inherited(FromTeacherLayers(), model, tmp_path, fresh, own)
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())
    found.into(fresh)
    with torch.no_grad():
        next(fresh.parameters()).add_(1)
    again = built(own, seed=5)
    found.into(again)
    assert np.allclose(next(again.parameters()).detach(), next(whole.parameters()).detach())
