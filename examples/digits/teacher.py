"""The teacher: a ResNet of transformers, trained by plain torch, as its owner would have done it; and others
of other families, for jobs with several."""

import io
import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    PreTrainedConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTImageProcessorPil,
)

from examples.digits.rows import LABELS, Digit

EDGE = 32  # pixels; the images are enlarged, for a ResNet halves them twice before its first stage
EPOCHS, BATCH, LR, WEIGHT_DECAY = 12, 64, 0.002, 0.05
SHIFT = 4  # pixels that an image is moved at most, at random

_NAMES: dict[str, Any] = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: n for n, label in enumerate(LABELS)},
}
RESNET = ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic", **_NAMES)
VIT = ViTConfig(
    image_size=EDGE,
    patch_size=8,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=128,
    **_NAMES,
)
CONVNEXT = ConvNextConfig(
    patch_size=2,
    hidden_sizes=[32, 64, 128],
    depths=[2, 2, 2],
    num_stages=3,
    layer_scale_init_value=1.0,
    **_NAMES,
)
TEACHERS: dict[str, PreTrainedConfig] = {
    "digits-teacher": RESNET,
    "digits-vit": VIT,
    "digits-convnext": CONVNEXT,
}


def train(
    digits: list[Digit],
    folder: Path,
    watch: Callable[[float], None],
    *,
    config: PreTrainedConfig = RESNET,
    epochs: int = EPOCHS,
) -> None:
    """Writes the checkpoint into `folder`, whole or not at all. watch: is told how far it is, 0 to 1."""
    torch.manual_seed(0)
    processor = ViTImageProcessorPil(size={"height": EDGE, "width": EDGE}, do_convert_rgb=True)
    inputs = pixel_values(processor, digits)
    labels = torch.tensor([digit.label for digit in digits])
    model = AutoModelForImageClassification.from_config(config)  # type: ignore[no-untyped-call]
    steps = epochs * -(-len(digits) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        for index in torch.randperm(len(digits)).split(BATCH):  # type: ignore[no-untyped-call]
            loss = functional.cross_entropy(model(_shifted(inputs[index])).logits, labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        watch((epoch + 1) / epochs)
    unfinished = folder.with_suffix(".unfinished")
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    unfinished.rename(folder)


def pixel_values(processor: Any, digits: list[Digit]) -> Tensor:
    """A batch as a processor of transformers makes it, (B, 3, H, W)."""
    images = [Image.open(io.BytesIO(digit.png)).convert("RGB") for digit in digits]
    values: Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
    return values


def packed(folder: Path) -> bytes:
    """The checkpoint as a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return file.getvalue()


def write_onnx(folder: Path, file: Path) -> None:
    """The checkpoint as ONNX, for measuring how quick it is where the student is measured."""
    model = ResNetForImageClassification.from_pretrained(folder)
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nobody needs here
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, EDGE, EDGE),),
            file,
            input_names=["pixel_values"],
            dynamic_shapes={"pixel_values": {0: batch}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _shifted(inputs: Tensor) -> Tensor:
    """The batch moved by a few pixels, black coming in at the edges."""
    padded = functional.pad(inputs, (SHIFT,) * 4, value=-1.0)
    top, left = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    return padded[:, :, top : top + EDGE, left : left + EDGE]
