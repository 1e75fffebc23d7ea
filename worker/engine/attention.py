"""What attention modules show: the probabilities that they compute anyway, and the values that they mix.

Under fused kernels there are no probabilities to see, so a model whose attentions are looked at computes them
in the open, by its own family's code, and shows them as they are before dropout: with it a tenth of them
would be 0, whose logarithm a divergence cannot take.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from app.errors import UnknownLayer, shown

OPEN = "stillhouse_open"  # the name that transformers knows it by
VALUES = ("value", "v_proj", "v_lin", "value_proj", "v_head", "v")
HEADS = ("num_attention_heads", "num_heads", "n_heads", "heads")
WIDTHS = ("attention_head_size", "head_dim", "dim_per_head")


def in_the_open(model: nn.Module) -> Callable[[], None]:
    """From now on the attention of the model, or of what it wraps, can be seen; the answer undoes it.

    Models that are none of transformers stay as they are.
    """
    from transformers import PreTrainedModel

    inner = (one for one in model.modules() if isinstance(one, PreTrainedModel))
    found = next(inner, None)
    if found is None:
        return lambda: None
    if not found._can_set_attn_implementation():
        return _in_its_outputs(found.config)
    _register()
    before = found.config._attn_implementation
    found.set_attn_implementation(OPEN)
    return lambda: found.set_attn_implementation(before)


def _in_its_outputs(config: Any) -> Callable[[], None]:
    """Of families with their own kind of attention: these show it, after dropout, where they are asked to."""
    before = config.output_attentions
    if config._attn_implementation == "eager":
        config.output_attentions = True

    def undo() -> None:
        config.output_attentions = before

    return undo


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(OPEN, _attend)
    AttentionMaskInterface.register(OPEN, eager_mask)


def _attend(
    module: nn.Module, *states: Tensor | None, dropout: float = 0.0, **more: Any
) -> tuple[Tensor, Tensor]:
    """The output (B, T, H, d) with dropout, and the probabilities (B, H, T, T) without."""
    eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    output, shares = eager(module, *states, dropout=dropout, **more)
    if dropout:
        _, shares = eager(module, *states, dropout=0.0, **more)
    return output, shares


def attends(module: nn.Module) -> bool:
    """Whether it computes attention itself, by its own projections."""
    return "attention" in type(module).__name__.lower() and _projection(module) is not None


def values_of(module: nn.Module, path: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The projection of an attention module, or of the one inside it, that makes its values, and what makes
    (B, H, T, d) of its output (B, T, H * d). Raises UnknownLayer."""
    for owner in module.modules():
        if (projection := _projection(owner)) is not None:
            return projection, partial(_heads, owner, path)
    raise UnknownLayer(
        f"{shown(path, 200)} ({type(module).__name__}) has no projection of values by itself "
        f"({', '.join(VALUES)}); name an attention module that has one, or choose another loss"
    )


def _projection(module: nn.Module) -> nn.Module | None:
    children = dict(module.named_children())
    named = (children[name] for name in VALUES if name in children)
    return next((one for one in named if isinstance(one, nn.Linear) or hasattr(one, "base_layer")), None)


def _heads(owner: nn.Module, path: str, flat: Tensor) -> Tensor:
    """(B, T, H * d) -> (B, H, T, d)."""
    heads, width = _whole(owner, HEADS), _whole(owner, WIDTHS)
    if heads is None and width is None:
        heads = _whole(getattr(owner, "config", None), HEADS)
    if flat.ndim == 3 and (heads or width):
        heads = heads if width is None else flat.shape[-1] // width  # fewer where queries share them
        if heads and flat.shape[-1] % heads == 0:
            return flat.view(*flat.shape[:2], heads, -1).transpose(1, 2)
    raise UnknownLayer(
        f"The values of {shown(path, 200)} have the shape {tuple(flat.shape)}, which does not tell the "
        "heads apart; choose a loss over attentions or features"
    )


def _whole(owner: object, names: tuple[str, ...]) -> int | None:
    found = (getattr(owner, name, None) for name in names)
    return next((one for one in found if isinstance(one, int) and one > 0), None)
