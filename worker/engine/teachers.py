"""Teachers opened from their stored files: in eval mode, without gradients, in their own precision."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from app.catalog.spec import ARCHITECTURES
from app.errors import TeacherLoadFailed, shown

if TYPE_CHECKING:
    from app.catalog.spec import PinnedModel
    from worker.engine.device import Device

Answer = Callable[[Tensor], Tensor]  # a normalized batch (B, ...) -> raw logits (B, C), both float32
SMALLEST_PROBABILITY = 1e-6  # of a black box that gives probabilities; its logits are their logarithms
UNFIT = (  # what opening a folder raises whose files are well formed, but do not belong together
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError
)  # fmt: skip


def load(teacher: "PinnedModel", folder: Path, device: "Device") -> Answer:
    """folder: the teacher's files, as imported. Raises TeacherLoadFailed."""
    if teacher.format == "onnx":
        return _black_box(teacher, folder)
    module = _huggingface(teacher, folder) if teacher.format == "huggingface" else _own(teacher, folder)
    return as_answer(module.to(device.on))


def as_answer(module: nn.Module) -> Answer:
    """A module with `.logits` as a teacher: nothing that is asked of it changes its weights or buffers."""
    module.eval().requires_grad_(False)
    dtype = next(module.parameters()).dtype

    @torch.no_grad()
    def answer(inputs: Tensor) -> Tensor:
        logits: Tensor = module(inputs.to(dtype)).logits
        return logits.float()

    return answer


def _huggingface(teacher: "PinnedModel", folder: Path) -> nn.Module:
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    name = json.loads((folder / "config.json").read_bytes())["architectures"][0]
    try:
        family = getattr(transformers, name, None)
        if family is None:
            raise _refused(teacher, f"transformers {transformers.__version__} has no {shown(name)}")
        module, loaded = family.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
        )
    except ImportError as error:
        why = f"transformers needs a package for {shown(name)} that is not installed here"
        raise TeacherLoadFailed(
            f"The teacher {teacher.reference} cannot be used: {why}. Import it as ONNX instead."
        ) from error
    except StrictDataclassError as error:
        raise _refused(teacher, "transformers does not accept a value in its config") from error
    except UNFIT as error:
        raise _refused(teacher, "its config and its weights do not fit together") from error
    wrong = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    if wrong:
        raise _refused(teacher, f"its weights lack {shown(min(wrong))} and {len(wrong) - 1} others")
    assert isinstance(module, nn.Module)
    return module


def _own(teacher: "PinnedModel", folder: Path) -> nn.Module:
    """A student of ours of a family that transformers does not have."""
    architecture = ARCHITECTURES[teacher.family].model_validate(teacher.details["config"])
    try:
        return architecture.load(folder)
    except UNFIT as error:
        raise _refused(teacher, "its config and its weights do not fit together") from error


def _black_box(teacher: "PinnedModel", folder: Path) -> Answer:
    """An imported ONNX file, which runs here in the job's own process and nowhere else."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    refusals = tuple(
        one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    details = teacher.details
    try:
        session = onnxruntime.InferenceSession(
            str(folder / details["file"]), options, providers=["CPUExecutionProvider"]
        )
    except refusals as error:
        raise _refused(teacher, "onnxruntime does not take its file") from error
    dtype = torch.float64 if session.get_inputs()[0].type == "tensor(double)" else torch.float32

    def answer(inputs: Tensor) -> Tensor:
        try:
            (scores,) = session.run([details["output"]], {details["input"]: inputs.to("cpu", dtype).numpy()})
        except refusals as error:
            raise _refused(
                teacher, f"onnxruntime cannot run it on rows of shape {tuple(inputs.shape[1:])}"
            ) from error
        logits = torch.from_numpy(scores).to(inputs.device, torch.float32)
        return (
            logits.clamp(min=SMALLEST_PROBABILITY).log()
            if details["output_kind"] == "probabilities"
            else logits
        )

    return answer


def _refused(teacher: "PinnedModel", why: str) -> TeacherLoadFailed:
    return TeacherLoadFailed(
        f"The teacher {teacher.reference} cannot be used: {why}. Import it again, as its library saves it."
    )
