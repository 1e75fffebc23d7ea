"""Layers that losses look at: found by path, captured by forward hooks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from app.catalog.base import Outputs
from app.errors import UnknownLayer, shown
from worker.engine.attention import in_the_open, values_of
from worker.engine.layer_paths import find

AUTO = "auto"  # the input of the classifier
KINDS = ("features", "attentions", "values")

Key = tuple[str, str]  # of KINDS, and a path


@dataclass(frozen=True)
class Taps:
    """Layer paths to capture."""

    features: frozenset[str] = frozenset()
    attentions: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    @classmethod
    def of(cls, paths: Iterable[str], needs: frozenset[str]) -> "Taps":
        there = frozenset(paths)
        return cls(**{kind: there for kind in KINDS if kind in needs})

    def __or__(self, other: "Taps") -> "Taps":
        return Taps(
            self.features | other.features, self.attentions | other.attentions, self.values | other.values
        )

    def __bool__(self) -> bool:
        return bool(self.features or self.attentions or self.values)

    def all(self) -> set[Key]:
        return {(kind, path) for kind in KINDS for path in getattr(self, kind)}


class Tapped:
    """A module that, when called, gives Outputs with what its taps captured; called otherwise it captures
    nothing. Of a layer that runs several times the last run counts.

    Raises UnknownLayer for a path that the module does not have, and for a layer that shows nothing.
    """

    def __init__(self, module: nn.Module, taps: Taps = Taps()) -> None:
        self.module, self.taps = module, Taps()
        self._caught: dict[Key, Tensor] = {}
        self._listens = False
        self._hooks: list[RemovableHandle] = []
        self._undo: list[Callable[[], None]] = []
        self._finds_head = False
        self._wanted: list[Key] = []
        self.tap(taps)

    def tap(self, taps: Taps) -> None:
        """Captures these too. A compiled module is tapped before its first call."""
        wanted = taps.all() - self.taps.all()
        for kind, path in sorted(wanted):
            if path == AUTO:
                self._finds_head = True
            else:
                self._hook(kind, path, find(self.module, path))
        if taps.attentions and not self.taps.attentions:
            self._undo.append(in_the_open(self.module))
        self.taps |= taps
        self._wanted = sorted(self.taps.all())

    def __call__(self, inputs: Tensor) -> Outputs:
        if self._finds_head:
            head, self._finds_head = head_of(self.module, inputs), False
            self._hooks.append(head.register_forward_pre_hook(self._catch_input))
        self._caught.clear()
        self._listens = True
        try:
            logits = self.module(inputs).logits
        finally:
            self._listens = False
        if not self.taps:
            return Outputs(logits)
        self._check(len(inputs), logits)
        caught, self._caught = self._caught, {}
        parts = ({path: one for (of, path), one in caught.items() if of == kind} for kind in KINDS)
        return Outputs(logits, *parts)

    def close(self) -> None:
        """The module is as it was before."""
        for hook in self._hooks:
            hook.remove()
        for undo in self._undo:
            undo()
        self.taps, self._hooks, self._undo = Taps(), [], []

    def _hook(self, kind: str, path: str, layer: nn.Module) -> None:
        key, shows = (kind, path), {"features": first, "attentions": attention}.get(kind)
        if kind == "values":
            layer, heads = values_of(layer, path)

            def shows(output: Any) -> Tensor | None:
                return heads(output)

        assert shows is not None

        def caught(_: nn.Module, __: Any, output: Any) -> None:
            # Not when gradient checkpointing runs the layer once more, nor when the module is measured.
            if self._listens and (tensor := shows(output)) is not None:
                self._caught[key] = tensor

        self._hooks.append(layer.register_forward_hook(caught))

    def _catch_input(self, _: nn.Module, given: Any) -> None:
        if self._listens:
            self._caught["features", AUTO] = vector(given[0])

    def _check(self, rows: int, logits: Tensor) -> None:
        """Nothing that a loss looks at may be silently empty."""
        for key in self._wanted:
            tensor = self._caught.get(key)
            if tensor is None:
                raise UnknownLayer(_nothing(*key))
            if len(tensor) != rows:
                raise UnknownLayer(
                    f"{shown(key[1], 200)} shows a tensor of shape {tuple(tensor.shape)} for {rows} rows; "
                    "choose a layer whose first dimension counts the rows"
                )
            if torch.is_grad_enabled() and logits.requires_grad and not tensor.requires_grad:
                raise UnknownLayer(f"No weight of the student stands before {shown(key[1], 200)}; go deeper")


def _nothing(kind: str, path: str) -> str:
    told = shown(path, 200)
    if kind == "attentions":
        return (
            f"{told} shows no attention weights (B, heads, T, T); name the module that computes the attention"
        )
    return f"{told} did not run, or gave no tensor, when the model answered; name a layer that does"


def first(output: Any) -> Tensor | None:
    """The first tensor of what a layer gives: of a tensor itself, of a tuple or a ModelOutput what stands
    first."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    found = (first(part) for part in parts) if isinstance(output, Mapping | list | tuple) else ()
    return next((one for one in found if one is not None), None)


def attention(output: Any) -> Tensor | None:
    """The weights (B, heads, T, T) among what an attention module gives."""
    parts = output.values() if isinstance(output, Mapping) else output
    many = parts if isinstance(output, Mapping | list | tuple) else [output]
    return next((one for one in many if isinstance(one, Tensor) and one.ndim == 4), None)


def vector(given: Tensor) -> Tensor:
    """What a classifier is given as (B, D), a map averaged over its positions; tokens stay."""
    return given.mean((2, 3)) if given.ndim == 4 else given


@torch.no_grad()
def head_of(module: nn.Module, inputs: Tensor) -> nn.Module:
    """The layer that makes the logits: whose output they are, else the last one with an output a class.

    The module answers once, and its state stays as it is. Raises UnknownLayer.
    """
    inner = getattr(module, "_orig_mod", module)  # what is compiled need not be compiled for this
    ran: list[tuple[nn.Module, Tensor]] = []
    linear = [one for one in inner.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    hooks = [
        one.register_forward_hook(lambda layer, _, output: ran.append((layer, output))) for one in linear
    ]
    training = module.training
    try:
        logits = inner.eval()(inputs).logits
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    for layer, output in reversed(ran):
        if output.data_ptr() == logits.data_ptr() and output.numel() == logits.numel():
            return layer
    for layer, output in reversed(ran):
        width = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
        if width == logits.shape[-1]:
            return layer
    raise UnknownLayer(
        "No layer of this model makes one number a class, so its input cannot be told; name a layer"
    )


@torch.no_grad()
def shapes(
    tapped: Callable[[Tensor], Outputs], module: nn.Module, inputs: Tensor
) -> dict[Key, tuple[int, ...]]:
    """Of all that is captured of one batch; the module's state stays as it is."""
    training = module.training
    module.eval()
    try:
        outputs = tapped(inputs)
    finally:
        module.train(training)
    return {
        (kind, path): tuple(tensor.shape) for kind in KINDS for path, tensor in getattr(outputs, kind).items()
    }
