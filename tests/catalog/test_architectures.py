"""Families: what they cost, what they take, and that both are true of what is built."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.catalog.base import Architecture, Input
from app.catalog.spec import ARCHITECTURES
from app.errors import Invalid

RGB = Input(modality="image", shape=(3, 32, 32))
ROW = Input(modality="vector", shape=(7,))
TEXT = Input(modality="text", shape=(16,), vocabulary=50, pad=0)
TEXTUAL = ("bert", "distilbert")
LABELS = ["one", "two", "three"]


def family(kind: str, form: Mapping[str, Any] | None = None) -> Architecture:
    return ARCHITECTURES[kind].model_validate(form or {})


def learned(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def input_of(architecture: Architecture) -> Input:
    return {"mlp": ROW, "bert": TEXT, "distilbert": TEXT}.get(architecture.kind, RGB)


def batch_for(row: Input, rows: int) -> torch.Tensor:
    """Normalized rows; texts of different lengths."""
    if row.modality != "text":
        return torch.randn(rows, *row.shape)
    assert row.vocabulary
    ids = torch.randint(1, row.vocabulary, (rows, *row.shape))
    ids[1:, row.shape[0] // 2 :] = row.pad or 0
    return ids


def drawn(kind: str, draw: st.DrawFn) -> dict[str, Any]:
    """A small form of a family, every field that matters for its count drawn."""
    width, depth, flag = st.integers(1, 40), st.integers(1, 3), st.booleans()
    stages = draw(st.integers(1, 4))
    several = [[draw(one) for _ in range(stages)] for one in (width, depth)]
    match kind:
        case "resnet":
            layer_type = draw(st.sampled_from(["basic", "bottleneck"]))
            sizes = [size + 4 for size in several[0]]
            return {
                "embedding_size": draw(width), "hidden_sizes": sizes, "depths": several[1],
                "layer_type": layer_type, "downsample_in_first_stage": draw(flag),
            }  # fmt: skip
        case "convnext":
            return {
                "patch_size": draw(st.integers(1, 4)), "hidden_sizes": several[0], "depths": several[1],
                "layer_scale_init_value": draw(st.sampled_from([0.0, 1e-6])),
            }  # fmt: skip
        case "vit":
            heads = draw(st.integers(1, 4))
            return {
                "patch_size": draw(st.sampled_from([2, 4, 8])),
                "hidden_size": heads * draw(st.integers(1, 8)),
                "num_attention_heads": heads, "num_hidden_layers": draw(depth),
                "intermediate_size": draw(width), "qkv_bias": draw(flag),
            }  # fmt: skip
        case "mobilenet_v2":
            return {
                "depth_multiplier": draw(st.floats(0.05, 2)), "depth_divisible_by": draw(st.integers(1, 12)),
                "min_depth": draw(st.integers(1, 24)), "expand_ratio": draw(st.floats(1, 7)),
                "output_stride": draw(st.sampled_from([8, 16, 32])),
                "first_layer_is_expansion": draw(flag), "finegrained_output": draw(flag),
            }  # fmt: skip
        case "bert":
            heads = draw(st.integers(1, 4))
            return {
                "hidden_size": heads * draw(st.integers(1, 8)), "num_attention_heads": heads,
                "num_hidden_layers": draw(depth), "intermediate_size": draw(width),
                "type_vocab_size": draw(depth), "max_position_embeddings": draw(st.integers(32, 64)),
            }  # fmt: skip
        case "distilbert":
            heads = draw(st.integers(1, 4))
            return {
                "dim": heads * draw(st.integers(1, 8)), "n_heads": heads, "n_layers": draw(depth),
                "hidden_dim": draw(width), "max_position_embeddings": draw(st.integers(32, 64)),
            }  # fmt: skip
        case _:
            return {"hidden_sizes": draw(st.lists(width, max_size=4))}


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - {"like_teacher"}))
def test_the_closed_form_counts_what_is_built(kind: str) -> None:
    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        architecture = family(kind, data.draw(st.composite(lambda draw: drawn(kind, draw))()))
        row = Input(modality="image", shape=(data.draw(st.sampled_from([1, 3])), 32, 48))
        if kind == "mlp":
            row = Input(modality="vector", shape=(data.draw(st.integers(1, 9)),))
        elif kind in TEXTUAL:
            row = Input(modality="text", shape=(32,), vocabulary=data.draw(st.integers(2, 99)), pad=1)
        labels = [str(place) for place in range(data.draw(st.integers(2, 5)))]
        with torch.device("meta"):
            student = architecture.build(row, labels)
        assert architecture.parameters(row, len(labels)) == learned(student)

    check()


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - {"like_teacher"}))
def test_a_student_as_it_comes_is_small_and_computes_one_logit_a_label(kind: str, tmp_path: Path) -> None:
    architecture = family(kind)
    row = input_of(architecture)
    assert architecture.accepts(row) is None
    assert architecture.parameters(row, 10) < 4_000_000
    student = architecture.build(row, LABELS)
    batch = batch_for(row, 4)
    assert student.train()(batch).logits.shape == (4, 3)
    student.eval()
    student.save_pretrained(tmp_path)  # type: ignore[operator]
    assert torch.equal(architecture.load(tmp_path)(batch).logits, student(batch).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == kind
    assert config["id2label"] == {"0": "one", "1": "two", "2": "three"}
    assert kind == "mlp" or config["architectures"] == [type(student).__name__]


HUGE: dict[str, dict[str, Any]] = {
    "resnet": {"hidden_sizes": [131_072] * 8, "depths": [200] * 8},
    "vit": {"hidden_size": 131_072, "num_attention_heads": 1, "num_hidden_layers": 200, "patch_size": 1},
    "convnext": {"hidden_sizes": [131_072] * 8, "depths": [200] * 8},
    "mobilenet_v2": {"depth_multiplier": 1000.0, "expand_ratio": 16.0},
    "mlp": {"hidden_sizes": [1_000_000] * 64},
    "bert": {"hidden_size": 131_072, "num_hidden_layers": 200},
    "distilbert": {"dim": 131_072, "n_layers": 200},
}


@pytest.mark.parametrize("kind", HUGE)
def test_an_absurd_student_is_costed_at_once_and_never_built(kind: str) -> None:
    architecture = family(kind, HUGE[kind])
    started = time.perf_counter()
    assert architecture.parameters(input_of(architecture), 1000) > 10**12
    assert time.perf_counter() - started < 0.05


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("resnet", {"hidden_sizes": [8, 8], "depths": [1]}),
        ("resnet", {"hidden_sizes": [2], "depths": [1], "layer_type": "bottleneck"}),
        ("resnet", {"hidden_sizes": [], "depths": []}),
        ("resnet", {"hidden_sizes": [10**6], "depths": [1]}),
        ("resnet", {"depth": [1]}),
        ("convnext", {"hidden_sizes": [8, 8], "depths": [1]}),
        ("vit", {"hidden_size": 10, "num_attention_heads": 3}),
        ("vit", {"num_hidden_layers": 10**9}),
        ("mobilenet_v2", {"depth_multiplier": 0}),
        ("mobilenet_v2", {"depth_multiplier": float("nan")}),
        ("mlp", {"hidden_sizes": [1] * 65}),
        ("mlp", {"activation": "sigmoidal"}),
        ("bert", {"hidden_size": 10, "num_attention_heads": 3}),
        ("bert", {"max_position_embeddings": 7}),
        ("distilbert", {"dim": 10, "n_heads": 3}),
        ("distilbert", {"hidden_size": 10}),
    ],
)
def test_a_form_that_makes_no_student_is_refused(kind: str, form: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        family(kind, form)


def sizes(architecture: Architecture, edges: Sequence[int]) -> list[int]:
    return [
        edge for edge in edges if architecture.accepts(Input(modality="image", shape=(3, edge, edge))) is None
    ]


def test_an_input_that_does_not_fit_is_refused_with_the_way_out() -> None:
    edges = (4, 8, 12, 16, 17, 28, 32, 48)
    assert sizes(family("resnet"), edges) == [17, 28, 32, 48]
    assert sizes(family("resnet", {"hidden_sizes": [8], "depths": [1]}), edges) == list(edges)
    assert sizes(family("convnext"), edges) == [32, 48]
    assert sizes(family("mobilenet_v2"), edges) == [17, 28, 32, 48]
    assert sizes(family("vit"), edges) == [16, 32, 48]
    small = Input(modality="image", shape=(1, 8, 8))
    assert "at least 17 pixels" in str(family("resnet").accepts(small))
    assert "set patch_size to one of 1, 2, 4, 8" in str(family("vit").accepts(small))
    assert "choose mlp" in str(family("vit").accepts(ROW))
    assert "choose resnet" in str(family("mlp").accepts(RGB))
    assert "choose bert" in str(family("mlp").accepts(TEXT))
    assert "choose bert" in str(family("resnet").accepts(TEXT))
    assert "bert reads texts and this task gives images" in str(family("bert").accepts(RGB))
    short = family("distilbert", {"max_position_embeddings": 15})
    assert "has 15 positions and the task reads 16 tokens" in str(short.accepts(TEXT))


@pytest.mark.parametrize("kind", ["resnet", "convnext", "mobilenet_v2"])
def test_the_smallest_accepted_image_is_computed(kind: str) -> None:
    architecture = family(kind)
    edge = next(edge for edge in itertools.count(1) if sizes(architecture, [edge]))
    student = architecture.build(Input(modality="image", shape=(1, edge, edge)), LABELS).train()
    assert student(torch.randn(2, 1, edge, edge)).logits.isfinite().all()


def test_mobilenet_s_running_statistics_remember_more_than_the_last_batch() -> None:
    student = family("mobilenet_v2").build(RGB, LABELS)
    assert {module.momentum for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {
        0.1
    }


# ---- like_teacher


def config_of(model: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.config.to_json_string())
    return config | {"architectures": [type(model).__name__]}  # as save_pretrained writes it


def deit() -> Any:
    from transformers import DeiTConfig, DeiTForImageClassification

    config = DeiTConfig(
        image_size=16, patch_size=8, num_channels=1, hidden_size=12, num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=9, id2label={0: "a", 1: "b", 2: "c"}, dtype="float16",
    )  # fmt: skip
    return DeiTForImageClassification(config)


def test_like_teacher_builds_the_teacher_s_own_shape_afresh() -> None:
    teacher = deit()
    form = family("like_teacher").resolve(config_of(teacher), learned(teacher))
    again = ARCHITECTURES["like_teacher"].model_validate_json(form.model_dump_json())
    assert {form, again} == {form}
    gray = Input(modality="image", shape=(1, 16, 16))
    assert form.accepts(gray) is None
    student: Any = form.build(gray, LABELS)
    assert type(student) is type(teacher)
    assert form.parameters(gray, 3) == learned(student)
    assert student.config.id2label == dict(enumerate(LABELS))
    assert {tensor.dtype for tensor in student.state_dict().values()} == {torch.float32}
    assert form.quantization == "dynamic"
    assert "leave task.image_size out" in str(form.accepts(Input(modality="image", shape=(1, 32, 32))))
    assert "leave task.channels out" in str(form.accepts(RGB))
    assert "choose mlp" in str(form.accepts(ROW))


def test_like_teacher_takes_a_student_of_ours_for_what_it_is() -> None:
    mlp = family("mlp", {"hidden_sizes": [5, 4], "activation": "tanh"})
    config = mlp.build(ROW, LABELS).config
    assert isinstance(config, dict)
    for teacher in (config, mlp.model_dump(mode="json")):
        assert family("like_teacher").resolve(teacher, 10) == mlp


def test_like_teacher_needs_a_config() -> None:
    for teacher in (None, {}, {"file": "model.onnx"}):
        with pytest.raises(Invalid, match="black box") as refused:
            family("like_teacher").resolve(teacher, 10)
        assert refused.value.faults[0].pointer == "/student/architecture/kind"
    assert "config_of_teacher" not in ARCHITECTURES["like_teacher"].model_json_schema()["properties"]


def text_config(kind: str) -> Any:
    """A tiny classifier of three classes, of six layers."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 6, "num_attention_heads": 2,
        "intermediate_size": 20, "id2label": {0: "a", 1: "b", 2: "c"}, "pad_token_id": 1,
        "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip
    if kind == "distilbert":
        sizes |= {"dim": 12, "n_layers": 6, "n_heads": 2, "hidden_dim": 20}
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            sizes.pop(name)
    return transformers.AutoConfig.for_model(kind, **sizes)


@pytest.mark.parametrize(
    "kind",
    ["albert", "bert", "camembert", "distilbert", "electra", "ernie", "mpnet", "roberta", "xlm-roberta"],
)
def test_a_thinner_copy_of_a_text_teacher_is_counted_as_it_is_built(kind: str) -> None:
    import transformers

    auto: Any = transformers.AutoModelForSequenceClassification
    teacher = auto.from_config(text_config(kind))
    row = Input(modality="text", shape=(16,), vocabulary=50, pad=1)
    for layers in (None, 6, 2):
        form = family("like_teacher", {"layers": layers}).resolve(config_of(teacher), learned(teacher))
        assert form.accepts(row) is None
        assert "choose mlp" in str(form.accepts(ROW))
        student = form.build(row, LABELS)
        assert type(student) is type(teacher)
        assert form.parameters(row, 3) == learned(student)
    assert learned(student) < learned(teacher) or kind == "albert"
    batch = batch_for(row, 3)
    batch[batch == 0] = 1
    assert student(batch).logits.shape == (3, 3)


def test_a_thinner_copy_of_a_vision_transformer_is_counted_as_it_is_built() -> None:
    gray = Input(modality="image", shape=(1, 16, 16))
    teacher = family("vit", {"patch_size": 8, "num_hidden_layers": 3, "qkv_bias": False}).build(gray, LABELS)
    for built in (teacher, deit()):
        form = family("like_teacher", {"layers": 1}).resolve(config_of(built), learned(built))
        assert form.parameters(gray, 3) == learned(form.build(gray, LABELS))


@pytest.mark.parametrize(
    ("config", "layers", "message"),
    [
        (
            {"model_type": "bert", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4},
            5,
            "at most 4",
        ),
        ({"model_type": "resnet", "depths": [1, 1]}, 1, "leave `layers` out"),
        ({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": "4"}, 2, "cannot be counted"),
    ],
)
def test_layers_that_cannot_be_left_out_are_refused(
    config: dict[str, Any], layers: int, message: str
) -> None:
    with pytest.raises(Invalid, match=message) as refused:
        family("like_teacher", {"layers": layers}).resolve(config, 10)
    assert refused.value.faults[0].pointer == "/student/architecture/layers"


def test_padding_changes_no_text_s_logits_and_the_layers_keep_their_paths(tmp_path: Path) -> None:
    import copy

    form = family("bert", {"hidden_size": 12, "num_hidden_layers": 2})
    student: Any = form.build(TEXT, LABELS).eval()
    ids = torch.randint(1, 50, (2, 16))
    ids[:, 9:] = 0
    with torch.no_grad():
        logits = student(ids).logits
        assert torch.allclose(student(ids[:, :9]).logits, logits, atol=1e-6)
        assert torch.allclose(copy.deepcopy(student)(ids).logits, logits)
        plain = student(input_ids=ids, attention_mask=(ids != 0).long()).logits
        assert torch.equal(plain, logits)
    seen = []
    student.get_submodule("bert.encoder.layer.0").register_forward_hook(lambda *_: seen.append(1))
    student(ids)
    assert seen
    student.save_pretrained(tmp_path)
    assert torch.equal(form.load(tmp_path)(ids).logits, logits)


def test_other_families_need_no_teacher() -> None:
    for kind in set(ARCHITECTURES) - {"like_teacher"}:
        assert family(kind).resolve(None, 0) == family(kind)
