"""What a row costs, as it is estimated, against what torch counts and keeps."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from app.catalog.base import Input
from app.catalog.spec import ARCHITECTURES

IMAGE = Input(modality="image", shape=(3, 64, 64))
TEXT = Input(modality="text", shape=(48,), vocabulary=100, pad=0)
ROWS = 4
FORMS: list[tuple[str, dict[str, Any], Input]] = [
    ("mlp", {"hidden_sizes": [64, 32]}, Input(modality="vector", shape=(20,))),
    ("resnet", {}, IMAGE),
    ("resnet", {"layer_type": "bottleneck", "downsample_in_first_stage": True}, IMAGE),
    ("convnext", {"hidden_sizes": [16, 32, 64], "depths": [2, 2, 1]}, IMAGE),
    ("vit", {"patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "intermediate_size": 96}, IMAGE),
    ("mobilenet_v2", {}, IMAGE),
    ("mobilenet_v2", {"output_stride": 8, "depth_multiplier": 1.0}, IMAGE),
    ("bert", {}, TEXT),
    ("distilbert", {"n_layers": 3}, TEXT),
]


@pytest.mark.parametrize(("kind", "form", "row"), FORMS, ids=lambda value: str(value)[:30])
def test_it_is_about_what_is_measured(kind: str, form: dict[str, Any], row: Input) -> None:
    family = ARCHITECTURES[kind].model_validate(form)
    told = family.work(row, 3)
    model = family.build(row, ["a", "b", "c"]).train()
    batch = (
        torch.ones(ROWS, *row.shape, dtype=torch.long)
        if row.modality == "text"
        else torch.randn(ROWS, *row.shape)
    )
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage().nbytes() // tensor.element_size()
            )
        return tensor

    learned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        output = model(batch)
    numbers = sum(size for place, size in kept.items() if place not in learned)
    assert output.logits.shape == (ROWS, 3)
    assert 0.7 < told.operations * ROWS / counter.get_total_flops() < 1.5
    assert 0.5 < told.numbers * ROWS / numbers < 2.0
