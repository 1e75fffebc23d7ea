"""The order form: what it takes, what it refuses, and that plug-ins find their way into it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.catalog.base import Loss, Plugin, discover
from app.catalog.spec import ARCHITECTURES, AUGMENTATIONS, EXPORTS, LOSSES, SCHEMES, TASKS, JobSpec

SMALLEST: dict[str, Any] = {
    "task": {"kind": "image_classification"},
    "teachers": [{"model": "model:big@champion"}],
    "student": {"architecture": {"kind": "resnet"}},
    "data": {"train": "dataset:leaves@4#train"},
}
NEEDED: dict[str, dict[str, Any]] = {"teacher_assistant": {"assistants": [{"kind": "resnet"}]}}
EVERY_PLUGIN = [
    plugin
    for kinds in (LOSSES, TASKS, ARCHITECTURES, AUGMENTATIONS, SCHEMES, EXPORTS)
    for plugin in dict[str, Any](kinds).values()
]


def with_part(path: str, value: Any) -> dict[str, Any]:
    """The smallest spec with one part, named by its path, replaced."""
    first, _, rest = path.partition("/")
    return SMALLEST | {first: value if not rest else {**SMALLEST[first], rest: value}}


def test_the_smallest_spec_means_hinton_s_pair_and_two_exports() -> None:
    spec = JobSpec.model_validate(SMALLEST)
    kd, labels = spec.terms()
    assert (kd.kind, kd.weight, kd.model_dump()["temperature"]) == ("kd", 0.9, 4.0)
    assert labels.kind == "cross_entropy"
    assert labels.weight == pytest.approx(0.1)
    assert [export.kind for export in spec.exports] == ["safetensors", "onnx"]


def test_a_preset_expands_and_alpha_is_the_teacher_s_share() -> None:
    spec = JobSpec.model_validate(with_part("losses", {"preset": "hinton", "temperature": 2, "alpha": 0.25}))
    kd, labels = spec.terms()
    assert kd == LOSSES["kd"].model_validate({"temperature": 2, "weight": 0.25})
    assert labels.weight == 0.75
    said = JobSpec.model_validate(with_part("losses", [{"kind": "dist"}, {"kind": "kd", "weight": 3}]))
    assert [term.kind for term in said.terms()] == ["dist", "kd"]


def test_the_stored_form_comes_back_the_same() -> None:
    terms = [{"kind": "kd", "weight": {"from": 0, "to": 1, "over_epochs": 2}}] + [
        {"kind": kind} for kind in LOSSES
    ]
    full = SMALLEST | {
        "exports": [{"kind": kind} for kind in EXPORTS],
        "task": {"kind": "image_classification", "image_size": [24, 32]},
    }
    several = [full | {"losses": terms[at : at + 16]} for at in range(0, len(terms), 16)]
    for sent in (SMALLEST, *several):
        spec = JobSpec.model_validate(sent)
        stored = spec.model_dump_json()
        again = JobSpec.model_validate_json(stored)
        assert again == spec
        assert again.model_dump_json() == stored
        assert [type(term) for term in again.terms()] == [type(term) for term in spec.terms()]
    for kind, architecture in ARCHITECTURES.items():
        spec = JobSpec.model_validate(with_part("student/architecture", {"kind": kind}))
        assert type(JobSpec.model_validate_json(spec.model_dump_json()).student.architecture) is architecture


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        ("nmae", "typo", ("nmae",)),
        ("task", {"kind": "image_clasification"}, ("task",)),
        ("task", {}, ("task",)),
        (
            "task",
            {"kind": "image_classification", "image_size": 0},
            ("task", "image_classification", "image_size"),
        ),
        ("teachers", [{"model": "model:big"}] * 9, ("teachers",)),
        ("teachers", [{"model": "big"}], ("teachers", 0, "model")),
        (
            "student/architecture",
            {"kind": "resnet", "depht": 3},
            ("student", "architecture", "resnet", "depht"),
        ),
        ("student/architecture", {"kind": "lenet"}, ("student", "architecture")),
        ("losses", [{"kind": "kd", "temperature": 0}], ("losses",)),
        ("losses", [{"kind": "kd", "temprature": 2}], ("losses",)),
        ("losses", [{"kind": "kd", "weight": {"from": 1, "to": 2}}], ("losses",)),
        ("losses", [], ("losses",)),
        ("exports", [{"kind": "onnx"}, {"kind": "onnx"}], ("exports",)),
        (
            "exports",
            [{"kind": "onnx_int8", "calibration_rows": 0}],
            ("exports", 0, "onnx_int8", "calibration_rows"),
        ),
        ("data", {"train": "dataset:Bad Name"}, ("data", "train")),
    ],
)
def test_what_is_not_understood_is_refused_where_it_stands(
    path: str, value: Any, at: tuple[Any, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate(with_part(path, value))
    assert any(error["loc"][: len(at)] == at for error in refused.value.errors()), refused.value.errors()


@pytest.mark.parametrize("plugin", EVERY_PLUGIN, ids=lambda plugin: plugin.name())
def test_a_plug_in_explains_itself(plugin: type[Plugin]) -> None:
    assert plugin.__doc__
    assert plugin.__doc__ != Plugin.__doc__
    assert plugin.__doc__.strip()[0].isupper()
    form = plugin.model_validate({"kind": plugin.name(), **NEEDED.get(plugin.name(), {})})
    assert form.kind == plugin.name()
    assert plugin.model_json_schema()["properties"]["kind"]["const"] == plugin.name()


def test_importing_the_catalog_loads_no_heavy_library() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx", "numpy", "PIL", "safetensors")
    code = f"import app.catalog.spec, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LOSS_FILE = """
from typing import Literal
from app.catalog.base import Loss
from app.catalog.losses.kd import KD  # imported, so not this file's own

class {name}(Loss):
    '''A loss.'''
    kind: Literal["{kind}"] = "{kind}"
"""


def plugin_folder(folder: Path, name: str, kinds: dict[str, str]) -> str:
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    for module, kind in kinds.items():
        (package / f"{module}.py").write_text(LOSS_FILE.format(name=module.title(), kind=kind))
    return name


def test_a_new_file_is_found_and_a_kind_used_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = discover(plugin_folder(tmp_path, "good_losses", {"tvd": "tvd", "akl": "akl"}), Loss)
    assert list(found) == ["akl", "tvd"]
    with pytest.raises(TypeError, match=r"twice_losses\.b and twice_losses\.a both call themselves 'tvd'"):
        discover(plugin_folder(tmp_path, "twice_losses", {"a": "tvd", "b": "tvd"}), Loss)
