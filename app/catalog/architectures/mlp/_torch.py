"""The perceptron itself, which knows its own config.json."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Answer(NamedTuple):
    """logits: (B, C)."""

    logits: Tensor


class Perceptron(nn.Module):
    """config: model_type, num_features, id2label and the fields of the form."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        widths = [config["num_features"], *config["hidden_sizes"]]
        hidden = [
            nn.Sequential(
                nn.Linear(before, width), _ACTIVATIONS[config["activation"]](), nn.Dropout(config["dropout"])
            )
            for before, width in pairwise(widths)
        ]
        self.layers = nn.Sequential(*hidden)
        self.classifier = nn.Linear(widths[-1], len(config["id2label"]))

    def forward(self, features: Tensor) -> Answer:
        """features: (B, F)."""
        return Answer(self.classifier(self.layers(features)))

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(self.config, indent=2))
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path) -> Perceptron:
    """What `save_pretrained` wrote, in eval mode."""
    model = Perceptron(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
