"""Which files a checkpoint's folder may hold, and which keys its JSON files may not.

Whatever is not on the list is refused, and so is every key by which transformers would fetch or run something
else.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.errors import InvalidData, UnsafeFormat, pointer, shown
from app.intake.json_object import parse_object
from app.intake.refusals import refusal

MAX_JSON_BYTES = 32 * 1024**2
FORBIDDEN_KEYS = frozenset({
    "auto_map", "attn_implementation", "_attn_implementation", "experts_implementation",
    "quantization_config", "use_timm_backbone", "backbone", "use_pretrained_backbone", "custom_pipelines",
})  # fmt: skip
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREPROCESSOR, PREPROCESSING = "preprocessor_config.json", "preprocessing.json"  # of Hugging Face, and our own
VOCABULARIES = frozenset(
    {"tokenizer.json", "vocab.json", "added_tokens.json"}
)  # tables of tokens with their numbers
ALLOWED = VOCABULARIES | {
    CONFIG, WEIGHTS, INDEX, PREPROCESSOR, PREPROCESSING,
    "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt",
}  # fmt: skip
_NO_LIMIT = str(int(1e30)).encode()  # how transformers writes that a tokenizer has no longest input
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_TEXT = re.compile(r"(README|LICENSE|NOTICE)(\.md|\.txt)?")
_LEFT_OUT = re.compile(r"\.DS_Store|\.gitattributes|\._.*|.*\.onnx")
_CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".ipynb"})
_RISKY = frozenset({
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".hdf5", ".keras", ".msgpack",
    ".npy", ".npz", ".pb",
})  # fmt: skip


def check_files(folder: Path) -> list[Path]:
    """The files that are kept, sorted. Raises UnsafeFormat when there is one that is not on the list."""
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and not _LEFT_OUT.fullmatch(path.name)
    )
    strange = [name for path in paths if not allowed(name := path.relative_to(folder).as_posix())]
    if strange:
        raise _refused(min(strange, key=lambda name: Path(name).suffix.lower() not in _CODE | _RISKY))
    return paths


def allowed(name: str) -> bool:
    """Whether a checkpoint's folder may hold a file of this name."""
    return name in ALLOWED or bool(_SHARD.fullmatch(name) or _TEXT.fullmatch(name))


def left_out(folder: Path) -> list[str]:
    """The names of the ONNX files, which are imported by themselves or not at all."""
    return sorted(path.name for path in folder.rglob("*.onnx"))


def read_documents(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """The JSON files by name. Raises InvalidData for broken JSON, UnsafeFormat for a forbidden key."""
    return {path.name: _document(path) for path in paths if path.suffix == ".json"}


def _refused(name: str) -> UnsafeFormat:
    suffix = Path(name).suffix.lower()
    if suffix in _CODE:
        reason = "a model's own code is never run"
        fix = "Leave it out; the model must be of a family that transformers itself has."
    elif suffix in _RISKY:
        reason = "loading its format can run code"
        fix = "Write the weights with save_pretrained(folder), as model.safetensors, and leave this file out."
    else:
        reason = "it is not one of the files of a checkpoint"
        fix = f"Leave it out; allowed are {', '.join(sorted(ALLOWED))}, shards, README and LICENSE."
    return refusal(UnsafeFormat, f"the file {shown(name)} is refused: {reason}", fix)


def _document(path: Path) -> dict[str, Any]:
    """null and false under a forbidden key ask for nothing; a vocabulary may hold the word as a token."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise refusal(
            InvalidData,
            f"{path.name} has more than {MAX_JSON_BYTES:,} bytes",
            "Leave out what is not the model's.",
        )
    raw = path.read_bytes()
    if path.name == "tokenizer_config.json":
        raw = raw.replace(_NO_LIMIT, b"null")
    document = parse_object(raw, path.name)
    for place, key, value in _walk(document):
        token = path.name in VOCABULARIES and type(value) is int
        if key in FORBIDDEN_KEYS and not (value is None or value is False or token):
            detail = f"{path.name} holds {shown(place, 200)}, by which other code or weights would be loaded"
            raise refusal(
                UnsafeFormat,
                detail,
                f"Remove the key {key} and save the model as plain weights of its family.",
            )
    return document


def _walk(value: Any, here: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every (JSON pointer, key, value) of the objects in `value`, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place = here + pointer(key)
            yield place, key, inner
            yield from _walk(inner, place)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, here + pointer(index))
