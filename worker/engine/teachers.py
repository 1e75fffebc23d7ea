"""Teachers opened from their stored files: in eval mode, without gradients, in their own precision."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from app.catalog.base import Outputs
from app.catalog.huggingface import reading_ids
from app.catalog.spec import ARCHITECTURES
from app.errors import TeacherLoadFailed, shown
from worker.engine.features import Tapped, Taps

if TYPE_CHECKING:
    from app.catalog.spec import PinnedModel
    from worker.engine.device import Device

Translation = Callable[[Tensor], Tensor]  # raw logits (B, the teacher's) -> those of the job (B, C)
Order = list[list[int]]  # for each of the job's labels, its positions in a teacher's logits
OF_TEXTS = "ForSequenceClassification"
_DTYPES = {"tensor(double)": torch.float64, "tensor(int64)": torch.int64}  # of a black box's input
SMALLEST_PROBABILITY = 1e-6  # of a black box that gives probabilities; its logits are their logarithms
UNFIT = (  # what opening a folder raises whose files are well formed, but do not belong together
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError
)  # fmt: skip


class Live(Protocol):
    """A teacher at hand: from a normalized batch (B, ...) to raw logits (B, C) in float32 and what is
    tapped."""

    @property
    def module(self) -> nn.Module | None:
        """None: a black box, into which nobody looks."""

    def tap(self, taps: Taps) -> None: ...

    def __call__(self, inputs: Tensor) -> Outputs: ...


def load(teacher: "PinnedModel", folder: Path, device: "Device") -> Live:
    """folder: the teacher's files, as imported. Raises TeacherLoadFailed."""
    if teacher.format == "onnx":
        return BlackBox(teacher, folder)
    module = _huggingface(teacher, folder) if teacher.format == "huggingface" else _own(teacher, folder)
    return WhiteBox(module.to(device.on))


class WhiteBox(Tapped):
    """A module with `.logits` as a teacher: nothing that is asked of it changes its weights or buffers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.eval().requires_grad_(False))
        self._dtype = next(module.parameters()).dtype

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Outputs:
        outputs = super().__call__(inputs.to(self._dtype) if inputs.is_floating_point() else inputs)
        assert outputs.logits is not None
        return replace(outputs, logits=outputs.logits.float())


class Translated:
    """A teacher whose logits come as the job has them."""

    def __init__(self, teacher: Live, translate: Translation) -> None:
        self._teacher, self._translate = teacher, translate
        self.module, self.tap = teacher.module, teacher.tap

    def __call__(self, inputs: Tensor) -> Outputs:
        outputs = self._teacher(inputs)
        assert outputs.logits is not None
        return replace(outputs, logits=self._translate(outputs.logits))


def in_order(logits: Tensor, order: Order) -> Tensor:
    """(B, the teacher's classes) -> (B, C). Classes that became one are as likely as both together."""
    if all(len(places) == 1 for places in order):
        return logits[:, [places[0] for places in order]]
    return torch.stack([logits[:, places].logsumexp(-1) for places in order], 1)


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
    return reading_ids(module, teacher.preprocessing["pad"]) if name.endswith(OF_TEXTS) else module


def _own(teacher: "PinnedModel", folder: Path) -> nn.Module:
    """A student of ours of a family that transformers does not have."""
    architecture = ARCHITECTURES[teacher.family].model_validate(teacher.details["config"])
    try:
        return architecture.load(folder)
    except UNFIT as error:
        raise _refused(teacher, "its config and its weights do not fit together") from error


class BlackBox:
    """An imported ONNX file, which runs here in the job's own process and nowhere else."""

    module: None = None

    def __init__(self, teacher: "PinnedModel", folder: Path) -> None:
        import onnxruntime

        self._teacher, self._details = teacher, teacher.details
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / teacher.details["file"]), options, providers=["CPUExecutionProvider"]
            )
        except _refusals() as error:
            raise _refused(teacher, "onnxruntime does not take its file") from error
        self._dtype = _DTYPES.get(self._session.get_inputs()[0].type, torch.float32)

    def tap(self, taps: Taps) -> None:
        raise _refused(self._teacher, "it is an ONNX file, into which a loss cannot look")

    def __call__(self, inputs: Tensor) -> Outputs:
        details, given = self._details, inputs.to("cpu", self._dtype).numpy()
        try:
            (scores,) = self._session.run([details["output"]], {details["input"]: given})
        except _refusals() as error:
            shape = tuple(inputs.shape[1:])
            raise _refused(self._teacher, f"onnxruntime cannot run it on rows of shape {shape}") from error
        logits = torch.from_numpy(scores).to(inputs.device, torch.float32)
        if details["output_kind"] == "probabilities":
            logits = logits.clamp(min=SMALLEST_PROBABILITY).log()
        return Outputs(logits)


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; these have no class of their own in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception))


def _refused(teacher: "PinnedModel", why: str) -> TeacherLoadFailed:
    return TeacherLoadFailed(
        f"The teacher {teacher.reference} cannot be used: {why}. Import it again, as its library saves it."
    )
