"""Teachers answer the same whatever stands around a row, and nothing that is asked changes them."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from app.catalog.spec import PinnedModel
from app.errors import TeacherLoadFailed
from tests.worker.classroom import CPU
from tests.worker.test_distill import FEATURES
from tests.worker.workshop import DIGITS
from worker.engine.answers import aligned, ask, create
from worker.engine.lumped import Form
from worker.engine.teachers import Live, WhiteBox, in_order, load


def teacher(**changes: Any) -> PinnedModel:
    fields: dict[str, Any] = {
        "reference": "model:big@1",
        "version_id": "mdl_1",
        "digest": "0" * 64,
        "format": "mlp",
        "family": "mlp",
        "labels": DIGITS,
        "order": [[place] for place in range(10)],
        "preprocessing": {},
        "details": {"config": {"kind": "mlp"}},
        "parameters": 1,
        "weight": 1.0,
    }
    return PinnedModel(**fields | changes)


def asked(answer: Live, rows: NDArray[Any], path: Path) -> NDArray[np.float32]:
    array = create(path, len(rows), len(DIGITS), dtype="float32", form=None)
    ask(answer, teacher(), lambda index: torch.from_numpy(rows)[index], array)
    found: NDArray[np.float32] = np.load(path)
    return found


def logits(answer: Live, inputs: Tensor) -> Tensor:
    found = answer(inputs).logits
    assert found is not None
    return found


def digest(module: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def test_answers_do_not_depend_on_the_rows_around_bit_for_bit(expert: nn.Module, tmp_path: Path) -> None:
    answer = WhiteBox(expert)
    whole = asked(answer, FEATURES[:150], tmp_path / "whole.npy")
    assert whole.shape == (150, 10)
    part = asked(answer, FEATURES[64:150], tmp_path / "part.npy")
    assert (part == whole[64:]).all()
    live = logits(answer, torch.from_numpy(FEATURES[:150]))
    np.testing.assert_allclose(whole, live.numpy(), atol=1e-5)


def test_a_teacher_with_batch_norm_and_dropout_is_unchanged_by_what_it_is_asked() -> None:
    torch.manual_seed(0)
    config = MobileNetV2Config(
        num_channels=1, depth_multiplier=0.1, classifier_dropout_prob=0.5, id2label=dict(enumerate(DIGITS))
    )
    module = MobileNetV2ForImageClassification(config).train()
    before = digest(module)
    images = torch.randn(4, 1, 32, 32)
    answer = WhiteBox(module)
    assert torch.equal(logits(answer, images), logits(answer, images))
    assert digest(module) == before
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_answers_that_are_no_numbers_are_refused(expert: nn.Module, tmp_path: Path) -> None:
    rows = FEATURES[:10].copy()
    rows[7] = np.inf
    with pytest.raises(TeacherLoadFailed, match="model:big@1 answers some rows with NaN"):
        asked(WhiteBox(expert), rows, tmp_path / "answers.npy")


def test_a_logit_too_large_for_half_precision_is_the_largest_that_there_is(
    expert: nn.Module, tmp_path: Path
) -> None:
    array, far = np.empty((10, 10), np.float16), torch.from_numpy(FEATURES[:10]) * 1e5
    ask(WhiteBox(expert), teacher(), lambda index: far[index.clamp(max=9)], array)
    assert np.isfinite(array).all()
    assert np.abs(array).max() == 65504
    form = Form(3, 10, half=True)
    records = create(tmp_path / "records.npy", 10, 10, dtype="float16", form=form)
    ask(WhiteBox(expert), teacher(), lambda index: far[index.clamp(max=9)], records, form=form)
    assert form.unpacked(torch.from_numpy(records)).logits.abs().max() == 65504


def test_as_many_answers_as_labels_are_expected(expert: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(TeacherLoadFailed, match="10 numbers a row, but was imported with 2 labels"):
        ask(
            WhiteBox(expert), teacher(labels=["a", "b"]), lambda index: torch.from_numpy(FEATURES)[index],
            np.empty((10, 2), np.float32),
        )  # fmt: skip


def test_every_teacher_is_read_in_the_jobs_order_of_labels(tmp_path: Path) -> None:
    translate = [partial(in_order, order=[[0], [1]]), partial(in_order, order=[[2], [0]])]
    parts = [
        [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])],
        [np.array([[5.0, 6.0, 7.0]]), np.array([[8.0, 9.0, 10.0]])],
    ]
    found = aligned(translate, parts, tmp_path / "aligned.npy", classes=2)
    assert found.tolist() == [[[1.0, 2.0], [7.0, 5.0]], [[3.0, 4.0], [10.0, 8.0]]]


def test_classes_that_became_one_are_as_likely_as_both_together() -> None:
    answers = torch.tensor([[1.0, 2.0, 3.0, 0.5]])
    merged = in_order(answers, [[3], [0, 2]])
    shares = answers.softmax(-1)[0]
    wanted = torch.stack([shares[3], shares[0] + shares[2]]) / (1 - shares[1])  # the second class was dropped
    torch.testing.assert_close(merged.softmax(-1)[0], wanted)


def test_a_perceptron_whose_files_do_not_fit_together_is_refused(expert: nn.Module, tmp_path: Path) -> None:
    expert.save_pretrained(tmp_path)  # type: ignore[operator]
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace("64", "32"))
    with pytest.raises(TeacherLoadFailed, match="config and its weights do not fit together"):
        load(teacher(), tmp_path, CPU)


def test_a_transformers_folder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = MobileNetV2Config(
        depth_multiplier=0.1,
        id2label=dict(enumerate(DIGITS)),
        architectures=["MobileNetV2ForImageClassification"],
    )
    MobileNetV2ForImageClassification(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherLoadFailed, match=r"its weights lack 'classifier\.weight' and 0 others"):
        load(teacher(format="huggingface", family="mobilenet_v2"), tmp_path, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": "x"}, "transformers does not accept a value in its config. Import it again"),
        ({"hidden_sizes": []}, "its config and its weights do not fit together"),
        ({"architectures": ["logging"]}, "its config and its weights do not fit together"),
        (
            {"architectures": ["TimmWrapperForImageClassification"]},
            "needs a package for 'TimmWrapperForImageClassification' that is not installed here",
        ),
    ],
)
def test_a_config_that_transformers_cannot_use_is_the_users_to_mend(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherLoadFailed, match=message) as raised:
        load(teacher(format="huggingface", family="resnet"), tmp_path, CPU)
    assert raised.value.blame == "user"


def test_an_onnx_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    details = {"file": "model.onnx", "input": "x", "output": "y", "output_kind": "logits"}
    with pytest.raises(TeacherLoadFailed, match="onnxruntime does not take its file"):
        load(teacher(format="onnx", family="onnx", details=details), tmp_path, CPU)
