"""Takes in a model: a checkpoint's folder, an archive of one, or one ONNX file, told apart by content."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.catalog.base import Task
from app.catalog.spec import TASKS
from app.errors import Invalid, InvalidData, UnsafeFormat
from app.intake import archive, checkpoint_folder, huggingface, onnx_classifier, own_student, wordpiece
from app.intake.refusals import refusal

Json = dict[str, Any]

ONNX_ONLY = ("preprocessing", "output", "output_kind")
_FIX = (
    "Upload a zip or tar of config.json and model.safetensors, as save_pretrained writes them, or one .onnx."
)
_MAGIC = {  # the first bytes of what is sent by mistake
    **{bytes((0x80, protocol)): "a pickle, and loading a pickle runs code" for protocol in (2, 3, 4, 5)},
    b"\x89HDF": "a Keras or HDF5 file, which can hold code",
    b"\x93NUMPY": "a NumPy file, which can hold a pickle",
}


def take(options: Mapping[str, Any], source: Sequence[Path], out: Path) -> Json:
    """The fields of a Checkpoint but for its files, which lie in out/files, and `warnings` for the user.

    options: limits, and task, labels, preprocessing, output, output_kind, None: not sent. Raises Invalid.
    """
    (path,) = source
    files = out / "files"
    files.mkdir()
    if path.is_dir():
        return _take_folder(path, files, options)
    if not path.stat().st_size:
        raise refusal(InvalidData, "the file is empty", _FIX)
    return (_take_folder if archive.kind(path) else _take_onnx)(path, files, options)


def _take_folder(path: Path, files: Path, options: Mapping[str, Any]) -> Json:
    for field in ONNX_ONLY:
        if options[field] is not None:
            detail = f"`{field}` describes an ONNX file, and a folder describes itself"
            raise refusal(
                Invalid, detail, f"Leave `{field}` out.", pointer=f"/{field}", code="not_for_folders"
            )
    unpacked = files.with_name("unpacked")
    unpacked.mkdir()
    if path.is_dir():
        _link(path, unpacked)
    else:
        archive.extract(path, unpacked, archive.Limits(**options["limits"]))
    folder = _inner(unpacked)
    kept = checkpoint_folder.check_files(folder)
    documents = checkpoint_folder.read_documents(kept)
    if checkpoint_folder.CONFIG not in documents:
        raise refusal(InvalidData, "the archive has no config.json", _FIX)
    config = documents[checkpoint_folder.CONFIG]
    family = own_student.family_of(config)
    task = _task(
        options["task"] or (own_student.task_of(documents) if family else huggingface.task_of(config))
    )
    if family:
        answer = own_student.inspect(family, folder, documents, task, options["labels"])
    else:
        if task.modality == "text" and wordpiece.converts(folder, documents):
            kept.append(wordpiece.convert(folder, documents))
        answer = huggingface.inspect(folder, documents, task, options["labels"])
    for file in kept:
        file.rename(files / file.name)
    if exports := checkpoint_folder.left_out(folder):
        names = ", ".join(exports)[:200]
        answer["warnings"].append(
            f"Left out: {names}. The weights are those in safetensors; an .onnx is imported by itself."
        )
    return {"task": task.kind, **answer}


def _link(folder: Path, unpacked: Path) -> None:
    """The same files, which stay where they are, too."""
    for path in folder.iterdir():
        if not path.is_file() or path.is_symlink():
            raise refusal(UnsafeFormat, "the folder holds more than plain files", _FIX)
        (unpacked / path.name).hardlink_to(path)


def _inner(folder: Path) -> Path:
    """The folder itself, or the only folder in it; what macOS adds beside does not count."""
    entries = [entry for entry in folder.iterdir() if entry.name not in ("__MACOSX", ".DS_Store")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _take_onnx(path: Path, files: Path, options: Mapping[str, Any]) -> Json:
    with path.open("rb") as file:
        head = file.read(9)
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise refusal(UnsafeFormat, f"the file is {what}", _FIX)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        raise refusal(InvalidData, "a safetensors file alone does not say which model it is", _FIX)
    if options["task"] is None:
        fix = f"Send `task`: {' or '.join(TASKS)}."
        raise refusal(Invalid, "an ONNX file does not say its task", fix, pointer="/task", code="missing")
    task = _task(options["task"])
    answer = onnx_classifier.inspect(path, task, options)
    (files / "model.onnx").hardlink_to(path)
    return {"task": task.kind, "warnings": [], **answer}


def _task(kind: str) -> Task:
    if kind not in TASKS:
        raise refusal(
            Invalid,
            "there is no such task",
            f"Send {' or '.join(TASKS)}.",
            pointer="/task",
            code="unknown_task",
        )
    return TASKS[kind](kind=kind)
