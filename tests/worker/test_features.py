"""Layers of real models: found under every wrapper, captured, matched by depth, and let go again."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.catalog.base import Loss
from app.catalog.features import FeatureLoss
from app.catalog.huggingface import classifier
from app.catalog.losses.attention_mse import AttentionMSE
from app.catalog.losses.fitnet import FitNet
from app.catalog.losses.fsp import FSP
from app.catalog.losses.hidden_mse import HiddenMSE
from app.catalog.losses.minilm import MiniLM
from app.errors import ShapeMismatch, UnknownLayer
from tests.worker.workshop import DIGITS, taught
from worker.engine.features import AUTO, Tapped, Taps, head_of
from worker.engine.layer_paths import find
from worker.engine.stages import Model, by_depth, paired, stages
from worker.engine.teachers import WhiteBox

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 3, 0, 0]])
WIDTHS: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet": {"depths": [1, 1, 1], "hidden_sizes": [8, 12, 16], "embedding_size": 8, "layer_type": "basic"},
    "convnext": {"depths": [1, 2], "hidden_sizes": [8, 12], "num_stages": 2},
    "mobilenet_v2": {"depth_multiplier": 0.2},
    "vit": {**WIDTHS, "image_size": 32, "patch_size": 8},
    "dinov2": {**WIDTHS, "image_size": 32, "patch_size": 8},
    "bert": {**WIDTHS, "vocab_size": 20},
    "roberta": {**WIDTHS, "vocab_size": 20, "pad_token_id": 0},
    "electra": {**WIDTHS, "vocab_size": 20, "embedding_size": 8},
    "distilbert": {"vocab_size": 20, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24},
}
LAYERS = {  # of which the attention modules are
    "vit": "vit.layers",
    "dinov2": "dinov2.encoder.layer",
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "electra": "electra.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
}
TEXTS = {"bert", "roberta", "electra", "distilbert"}


def made(family: str, **changes: Any) -> nn.Module:
    torch.manual_seed(1)
    modality = "text" if family in TEXTS else "image"
    if modality == "text":
        changes = {"pad_token_id": 0, **changes}
    return classifier(family, {**CONFIGS[family], **changes}, DIGITS, modality)


def rows(family: str) -> Tensor:
    return IDS if family in TEXTS else IMAGES


def features(*paths: str) -> Taps:
    return Taps(features=frozenset(paths))


# ---- finding a layer


@pytest.mark.parametrize(
    "path", ["resnet.encoder.stages.1", "encoder.stages.1", "module.resnet.encoder.stages.1"]
)
def test_a_layer_is_found_as_it_is_named_or_as_its_only_ending(path: str) -> None:
    model = made("resnet")
    assert find(model, path) is model.get_submodule("resnet.encoder.stages.1")


def test_a_layer_is_found_under_wrappers_by_the_name_that_it_has_without_them() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module, name: str) -> None:
            super().__init__()
            self.add_module(name, inner)

    model = made("bert")
    wrapped = Wrapper(Wrapper(model, "_orig_mod"), "module")
    assert find(wrapped, "classifier") is model.get_submodule("classifier")
    assert find(wrapped, "bert.encoder.layer.0") is model.get_submodule("bert.encoder.layer.0")
    query = model.get_submodule("bert.encoder.layer.0.attention.self")
    adapted = Wrapper(query.get_submodule("query"), "base_layer")
    query.query = adapted  # as an adapter stands around a layer
    nested = Wrapper(Wrapper(model, "model"), "base_model")
    assert find(nested, "bert.encoder.layer.0.attention.self.query") is adapted


def test_a_path_that_is_not_there_or_not_clear_names_what_is() -> None:
    with pytest.raises(
        UnknownLayer, match=r"no layer 'resnet.encoder.stage.1'; there are resnet.encoder.stages.1"
    ):
        find(made("resnet"), "resnet.encoder.stage.1")
    with pytest.raises(UnknownLayer, match=r"'attention' may be any of bert.encoder.layer.0.attention"):
        find(made("bert"), "attention")
    with pytest.raises(UnknownLayer, match=r"is a list of layers.*resnet.encoder.stages.0, resnet"):
        find(made("resnet"), "resnet.encoder.stages")


# ---- capturing


def test_a_layer_of_a_tuple_shows_its_first_tensor_and_leaves_no_hook_behind() -> None:
    model = made("vit").eval()
    before = model(IMAGES).logits
    tapped = Tapped(model, features("vit.layers.1", "vit.layers.1.attention", "vit"))
    shown = tapped(IMAGES)
    assert {path: tuple(one.shape) for path, one in shown.features.items()} == {
        "vit.layers.1": (4, 17, 16),
        "vit.layers.1.attention": (4, 17, 16),
        "vit": (4, 17, 16),
    }
    tapped.close()
    assert torch.equal(model(IMAGES).logits, before)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_a_layer_that_does_not_run_is_an_error_and_never_a_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = made("resnet"), nn.Linear(2, 2)

        def forward(self, batch: Tensor) -> Any:
            return self.used(batch)

    with pytest.raises(UnknownLayer, match="'unused' did not run"):
        Tapped(Idle(), features("unused"))(IMAGES)


def test_a_layer_before_every_weight_cannot_teach_the_student() -> None:
    model = taught((8,), steps=0).train()
    model.layers = nn.Sequential(nn.Sequential(nn.Dropout(0.0)), *model.get_submodule("layers").children())
    tapped = Tapped(model, features("layers.0"))
    with pytest.raises(UnknownLayer, match=r"No weight of the student stands before 'layers.0'"):
        tapped(torch.randn(3, 64))


def test_what_runs_again_in_the_backward_pass_or_is_measured_is_not_captured() -> None:
    model = made("vit").train()
    model.activation_checkpointing_enable()  # type: ignore[operator]
    tapped = Tapped(model, features("vit.layers.0", "vit.layers.0.mlp.fc1"))
    shown = tapped(IMAGES)
    (sum(one.sum() for one in shown.features.values()) + shown.logits.sum()).backward()  # type: ignore[union-attr]
    model(IMAGES)
    assert tapped._caught == {}
    assert model.get_parameter("vit.layers.0.mlp.fc1.weight").grad.abs().sum() > 0  # type: ignore[union-attr]


# ---- attentions and values


@pytest.mark.parametrize("family", LAYERS)
def test_attentions_sum_to_one_and_values_are_the_projections_by_head(family: str) -> None:
    model, inputs = made(family).eval(), rows(family)
    inner = ".self" if family in ("bert", "roberta", "electra") else ""
    path, tokens = f"{LAYERS[family]}.2.attention{inner}", 5 if family in TEXTS else 17
    before = model(inputs).logits
    tapped = Tapped(model, Taps(attentions=frozenset({path}), values=frozenset({path})))
    shown = tapped(inputs)
    weights, values = shown.attentions[path], shown.values[path]
    assert weights.shape == (len(inputs), 2, tokens, tokens)
    assert values.shape == (len(inputs), 2, tokens, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(inputs), 2, tokens))
    torch.testing.assert_close(shown.logits, before)
    if family in TEXTS:
        assert weights[1, :, :, 3:].abs().max() == 0  # padding is not looked at
    owner = model.get_submodule(path)
    assert any(getattr(owner, name, None) is not None for name in ("value", "v_proj", "v_lin"))
    tapped.close()
    assert model.config._attn_implementation == "sdpa"  # type: ignore[union-attr]


def test_attentions_are_shown_before_dropout_which_still_works() -> None:
    model = made("bert", attention_probs_dropout_prob=0.5).train()
    path = "bert.encoder.layer.0.attention.self"
    tapped = Tapped(model, Taps(attentions=frozenset({path})))
    first, second = tapped(IDS), tapped(IDS)
    torch.testing.assert_close(first.attentions[path].sum(-1), torch.ones(2, 2, 5))
    assert first.logits is not None
    assert second.logits is not None
    assert not torch.equal(first.logits, second.logits)


def test_what_is_no_attention_has_no_attentions_and_no_values() -> None:
    with pytest.raises(UnknownLayer, match=r"'vit.layers.0.mlp' shows no attention weights"):
        Tapped(made("vit"), Taps(attentions=frozenset({"vit.layers.0.mlp"})))(IMAGES)
    with pytest.raises(UnknownLayer, match="has no projection of values"):
        Tapped(made("vit"), Taps(values=frozenset({"vit.layers.0.mlp"})))


# ---- the input of the classifier


@pytest.mark.parametrize(
    ("family", "head", "width"),
    [("resnet", "classifier.1", 16), ("mobilenet_v2", "classifier", 1280), ("vit", "classifier", 16),
     ("roberta", "classifier.out_proj", 16), ("distilbert", "classifier", 16)],
)  # fmt: skip
def test_auto_is_what_the_classifier_is_given(family: str, head: str, width: int) -> None:
    model = made(family).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert head_of(model, rows(family)) is model.get_submodule(head)
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    shown = Tapped(model.eval(), features(AUTO))(rows(family))
    assert shown.features[AUTO].shape == (len(rows(family)), width)
    torch.testing.assert_close(model.get_submodule(head)(shown.features[AUTO]), shown.logits)


def test_auto_of_a_convolutional_head_is_its_map_averaged() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 10, 1)

        def forward(self, batch: Tensor) -> Any:
            class Answer:
                logits = self.head(self.body(batch)).mean((2, 3))

            return Answer()

    model = Squeeze()
    shown = Tapped(model, features(AUTO))(IMAGES)
    torch.testing.assert_close(shown.features[AUTO], model.body(IMAGES).mean((2, 3)))


# ---- wrappers that run


def test_taps_fire_under_ddp(tmp_path: Any) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(made("resnet"))
        tapped = Tapped(model, features("resnet.encoder.stages.2", AUTO))
        shown = tapped(IMAGES)
        assert shown.features["resnet.encoder.stages.2"].shape[:2] == (4, 16)
        assert shown.features[AUTO].shape == (4, 16)
        shown.features[AUTO].sum().backward()  # type: ignore[no-untyped-call]
    finally:
        torch.distributed.destroy_process_group()


def test_taps_fire_under_compile() -> None:
    plain = made("vit").eval()
    paths = ("vit.layers.1", AUTO)
    there = Tapped(plain, features(*paths))
    wanted = there(IMAGES)
    there.close()
    tapped = Tapped(torch.compile(plain, backend="eager"), features(*paths))  # type: ignore[arg-type]
    for _ in range(2):
        shown = tapped(IMAGES)
        for path in paths:
            torch.testing.assert_close(shown.features[path], wanted.features[path])


# ---- pairs by depth


@pytest.mark.parametrize(
    ("s", "t", "to"), [(3, 3, [1, 2, 3]), (2, 4, [2, 4]), (3, 12, [4, 8, 12]), (4, 3, [1, 2, 3]), (1, 6, [6])]
)
def test_stages_meet_at_like_depths_and_the_last_meets_the_last(s: int, t: int, to: list[int]) -> None:
    pairs = by_depth([f"s{i}" for i in range(1, s + 1)], [f"t{i}" for i in range(1, t + 1)])
    assert [other for _, other in pairs] == [f"t{i}" for i in to]
    assert pairs[-1][0] == f"s{s}"


def model_of(family: str, whose: str = "student", **changes: Any) -> Model:
    module = made(family, **changes)
    ask = WhiteBox(module) if whose == "teacher" else Tapped(module)
    return Model(whose, module, ask, rows(family)[:2])


@pytest.mark.parametrize(
    ("family", "paths"),
    [
        ("resnet", [f"resnet.encoder.stages.{i}" for i in range(3)]),
        ("convnext", [f"convnext.encoder.stages.{i}" for i in range(2)]),
        ("mobilenet_v2", [f"mobilenet_v2.layer.{i}" for i in (1, 4, 11, 15)]),
        ("vit", [f"vit.layers.{i}" for i in range(3)]),
        ("bert", [f"bert.encoder.layer.{i}" for i in range(3)]),
        ("distilbert", [f"distilbert.transformer.layer.{i}" for i in range(3)]),
    ],
)
def test_the_stages_of_each_family(family: str, paths: list[str]) -> None:
    model = model_of(family)
    found = stages(model)
    assert found[-1] == paths[-1]
    assert family == "mobilenet_v2" or found == paths
    assert len(found) < 8
    assert model.module.training


def test_a_perceptron_has_its_layers_as_stages_and_a_lone_linear_layer_has_none() -> None:
    module = taught((16, 8), steps=0)
    assert stages(Model("student", module, Tapped(module), torch.randn(2, 64))) == ["layers.0", "layers.1"]
    lone = taught((16,), steps=0)
    assert stages(Model("student", lone, Tapped(lone), torch.randn(2, 64))) == ["layers.0"]
    linear = taught((), steps=0)
    with pytest.raises(
        UnknownLayer, match=r"student has no list of layers to match by depth: name the layers"
    ):
        stages(Model("student", linear, Tapped(linear), torch.randn(2, 64)))


def test_auto_becomes_pairs_of_layers_or_of_their_attention_modules() -> None:
    forms: list[Loss] = [HiddenMSE(), AttentionMSE(), MiniLM()]
    student = model_of("distilbert", n_layers=2)
    found = paired(forms, student, {0: model_of("bert", "teacher", num_hidden_layers=4)})
    layer, attention = "distilbert.transformer.layer", "bert.encoder.layer.{}.attention.self"
    pairs = [form.pairs for form in found if isinstance(form, FeatureLoss)]
    assert pairs == [
        [(f"{layer}.0", "bert.encoder.layer.1"), (f"{layer}.1", "bert.encoder.layer.3")],
        [(f"{layer}.0.attention", attention.format(1)), (f"{layer}.1.attention", attention.format(3))],
        [(f"{layer}.1.attention", attention.format(3))],
    ]


def test_auto_that_finds_too_little_points_at_the_pairs() -> None:
    teacher = {0: model_of("resnet", "teacher")}
    with pytest.raises(UnknownLayer, match="No stage of the student has an attention module") as refused:
        paired([FitNet(), AttentionMSE()], model_of("resnet"), teacher)
    assert refused.value.faults[0].pointer == "/losses/1/pairs"
    one = taught((16,), steps=0)
    alone = Model("student", one, Tapped(one), torch.randn(2, 64))
    with pytest.raises(ShapeMismatch, match="needs 2 pairs") as few:
        paired([FSP()], alone, {0: alone})
    assert few.value.faults[0].pointer == "/losses/0/pairs"
