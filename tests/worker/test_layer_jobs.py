"""Whole jobs whose losses look into layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import select

from app.catalog.base import Input
from app.catalog.huggingface import classifier
from app.catalog.spec import PinnedModel
from app.catalog.tasks.image_classification.preprocessing import plain
from app.db.tables import Event, Job, MetricPoint, ModelVersion
from app.errors import Invalid, ShapeMismatch, UnknownLayer
from tests.worker.workshop import DIGITS, Workshop, digits, images, order

X, Y = digits()
ROW = Input(modality="image", shape=(1, 8, 8))
RESNET = {
    "kind": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "layer_type": "basic",
}
VIT = {
    "kind": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "patch_size": 2,
}
TEACHERS: dict[str, dict[str, Any]] = {
    "resnet": {"num_channels": 1, "embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1],
               "layer_type": "basic"},
    "vit": {"num_channels": 1, "image_size": 8, "patch_size": 2, "hidden_size": 12, "num_hidden_layers": 4,
            "num_attention_heads": 2, "intermediate_size": 16},
}  # fmt: skip


def teacher(workshop: Workshop, folder: Path, family: str) -> PinnedModel:
    torch.manual_seed(0)
    module = classifier(family, TEACHERS[family], DIGITS, "image")
    module.save_pretrained(folder / family)  # type: ignore[operator]
    return workshop.teacher(
        folder / family, family, format="huggingface", family=family, task="image_classification",
        input=ROW.model_dump(mode="json"), preprocessing=plain(1, (8, 8)).model_dump(mode="json"),
        details={"config": {}}, gives=["features", "logits"],
    )  # fmt: skip


def job(workshop: Workshop, teachers: list[PinnedModel], losses: list[Any], **changes: Any) -> Job:
    spec: dict[str, Any] = {
        "task": {"kind": "image_classification"},
        "student": {"architecture": RESNET},
        "training": {"epochs": 2, "batch_size": 32, "optimizer": {"kind": "adamw", "lr": 0.003}},
        "exports": [{"kind": "safetensors"}],
        "losses": losses,
        **changes,
    }
    return workshop.carry_out(order(teachers, workshop.data(images(X[:160], Y[:160])), spec=spec))


def told(workshop: Workshop, one: Job) -> list[str]:
    with workshop.parts.sessions.read() as session:
        said = select(Event.message).where(Event.job_id == one.id, Event.type == "log").order_by(Event.seq)
        return list(session.scalars(said))


def points(workshop: Workshop, one: Job, name: str) -> list[float]:
    with workshop.parts.sessions.read() as session:
        found = select(MetricPoint.value).where(
            MetricPoint.job_id == one.id, MetricPoint.name == name, MetricPoint.split == "train"
        )
        return list(session.scalars(found.order_by(MetricPoint.step)))


def weights(workshop: Workshop, one: Job, folder: Path) -> dict[str, torch.Tensor]:
    with workshop.parts.sessions.read() as session:
        version = session.get_one(ModelVersion, one.output_version_id)
    file = next(file for file in version.files if file["path"] == "model.safetensors")
    workshop.parts.blobs.fetch(file["sha256"], folder / "student.safetensors")
    return load_file(folder / "student.safetensors")


def test_features_are_matched_by_depth_and_their_projectors_stay_behind(
    workshop: Workshop, tmp_path: Path
) -> None:
    losses = [
        {"kind": "kd", "weight": 0.5},
        {"kind": "fitnet", "weight": 10.0},
        {"kind": "attention_transfer", "weight": 100.0,
         "pairs": [["stages.0", "resnet.encoder.stages.1"], ["stages.1", "encoder.stages.2"]]},
        {"kind": "rkd"},
    ]  # fmt: skip
    done = job(workshop, [teacher(workshop, tmp_path, "resnet")], losses)
    pairs = (
        "fitnet compares resnet.encoder.stages.0 with resnet.encoder.stages.1, resnet.encoder.stages.1 with "
        "resnet.encoder.stages.2 (student with teacher), which stand at like depths."
    )
    assert pairs in told(workshop, done)
    assert pairs in json.loads(workshop.artifact(done, "report.json"))["notes"]
    form = {key: value for key, value in RESNET.items() if key != "kind"}
    plain_student = classifier("resnet", form | {"num_channels": 1}, DIGITS, "image")
    assert set(weights(workshop, done, tmp_path)) == set(plain_student.state_dict())
    hints = points(workshop, done, "fitnet")
    assert 0 < hints[-1] < hints[0]


def test_fitnets_two_stages_train_hints_alone_and_then_none(workshop: Workshop, tmp_path: Path) -> None:
    losses = [{"kind": "kd"}, {"kind": "fitnet", "weight": 10.0, "stage_epochs": 2}]
    training = {"epochs": 4, "batch_size": 32}
    done = job(workshop, [teacher(workshop, tmp_path, "resnet")], losses, training=training)
    assert len(points(workshop, done, "fitnet")) == len(points(workshop, done, "kd")) == 2
    assert len(points(workshop, done, "loss")) == 4


def test_attention_is_learned_head_by_head_from_a_vision_transformer(
    workshop: Workshop, tmp_path: Path
) -> None:
    big = teacher(workshop, tmp_path, "vit")
    losses = [
        {"kind": "minilm"},
        {"kind": "attention_mse"},
        {"kind": "hidden_mse"},
        {"kind": "cross_entropy"},
    ]
    done = job(workshop, [big], losses, student={"architecture": VIT})
    assert any(
        "minilm compares vit.layers.1.attention with vit.layers.3.attention" in one
        for one in told(workshop, done)
    )
    assert all(value > 0 for value in points(workshop, done, "attention_mse"))


def test_each_loss_looks_into_its_own_teacher(workshop: Workshop, tmp_path: Path) -> None:
    two = [teacher(workshop, tmp_path, "vit"), teacher(workshop, tmp_path, "resnet")]
    losses = [
        {"kind": "kd"},
        {"kind": "fitnet", "pairs": [["resnet.encoder.stages.0", "vit.layers.1"]]},
        {"kind": "fitnet", "teacher": 1, "pairs": [["resnet.encoder.stages.0", "resnet.encoder.stages.0"]]},
    ]
    done = job(workshop, two, losses, ensemble="mean_logits")
    assert points(workshop, done, "fitnet")
    assert points(workshop, done, "fitnet_2")


@pytest.mark.parametrize(
    ("loss", "pointer", "said"),
    [
        ({"kind": "fitnet", "pairs": [["stages.0", "stages.0"], ["stages.9", "stages.1"]]},
         "/losses/1/pairs/1/0", "no layer 'stages.9'; there are resnet.encoder.stages"),
        ({"kind": "fitnet", "pairs": [["stages.0", "layer4"]]}, "/losses/1/pairs/0/1", "no layer 'layer4'"),
        ({"kind": "rkd", "layer": ["nothing", "classifier"]}, "/losses/1/layer/0", "no layer 'nothing'"),
        ({"kind": "attention_mse"}, "/losses/1/pairs", "No stage of the student has an attention module"),
        ({"kind": "attention_transfer", "pairs": [["resnet.pooler", "classifier.0"]]}, "/losses/1",
         "shows one vector a row"),
    ],
)  # fmt: skip
def test_what_does_not_fit_fails_in_the_first_minute_and_says_where(
    workshop: Workshop, tmp_path: Path, loss: Any, pointer: str, said: str
) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        job(workshop, [teacher(workshop, tmp_path, "resnet")], [{"kind": "kd"}, loss])
    assert isinstance(refused.value, UnknownLayer | ShapeMismatch)
    assert refused.value.faults[0].pointer == pointer
    assert refused.value.faults[0].fix
