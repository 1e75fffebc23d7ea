"""Which files of a source are fetched: those that a checkpoint or a dataset is made of. All else that lies
there, code and pickles above all, is never asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

from app.errors import Fault, Invalid, InvalidData, UnsafeFormat, pointer, shown
from app.intake.checkpoint_folder import CONFIG, INDEX, WEIGHTS, allowed
from app.intake.profile import Split
from app.ports.origin import RemoteFile

Field = Split | Literal["file"]  # of a dataset's form

PACKED = (".zip", ".tar", ".tar.gz", ".tgz")
FORMATS = ((".parquet",), (".csv",), (".jsonl", ".ndjson"), PACKED)  # the first that there is any of
MAX_FILES = 256
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_WORDS: dict[str, Split] = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "validation", "unlabeled": "unlabeled", "unsupervised": "unlabeled",
}  # fmt: skip


@dataclass(frozen=True)
class Pick:
    """file: at the source. path: of it there, as a user sees it. field: where a form would have it."""

    file: RemoteFile
    path: str
    field: Field = "file"

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def is_packed(self) -> bool:
        """Whether it is a whole model by itself."""
        return self.path.endswith((*PACKED, ".onnx"))


def of_model(files: Mapping[str, RemoteFile]) -> list[Pick]:
    """files: by path. One archive or ONNX file, or a checkpoint's folder. Raises Invalid."""
    if len(files) == 1 and (only := next(iter(files))).endswith((*PACKED, ".onnx")):
        return [Pick(files[only], only)]
    names = {path for path in files if allowed(path)}
    if WEIGHTS in names:
        names = {name for name in names if name == WEIGHTS or not name.endswith(".safetensors")} - {INDEX}
    if CONFIG not in names:
        raise _refused(InvalidData, f"it has no {CONFIG} at its top", "name the folder of a checkpoint")
    if not any(name.endswith(".safetensors") for name in names):
        raise _without_weights(files)
    return _bounded([Pick(files[name], name) for name in sorted(names)])


def of_dataset(
    files: Mapping[str, RemoteFile], patterns: Mapping[Field, Sequence[str]] | None = None
) -> list[Pick]:
    """patterns: paths with * and ? in them, by field. Raises Invalid."""
    usable = {path: file for path, file in files.items() if path.lower().endswith(sum(FORMATS, ()))}
    if not usable:
        raise _refused(InvalidData, "it has no Parquet, CSV, JSON Lines or zip", "convert its data first")
    if patterns is not None:
        return _bounded(_matching(usable, patterns))
    chosen = next(
        found for format_ in FORMATS if (found := [one for one in usable if one.lower().endswith(format_)])
    )
    splits = {path: _split_named_by(path) for path in chosen}
    if len(set(splits.values())) > 1 and None in splits.values():
        nameless = next(path for path, split in splits.items() if split is None)
        reason = f"the name of {shown(nameless)} says no split, and those of others do"
        raise _refused(Invalid, reason, f"say which files are meant in `files`; there are {_some(chosen)}")
    return _bounded([Pick(usable[path], path, split or "file") for path, split in sorted(splits.items())])


def _matching(files: Mapping[str, RemoteFile], patterns: Mapping[Field, Sequence[str]]) -> list[Pick]:
    picks: dict[str, Pick] = {}
    for field, wanted in patterns.items():
        for place, pattern in enumerate(wanted):
            found = sorted(path for path in files if fnmatchcase(path, pattern))
            where = pointer("files", field, place)
            if not found:
                fix = f"name what is there: {_some(sorted(files))}"
                raise _refused(Invalid, f"{shown(pattern)} matches none of its files", fix, where)
            for path in found:
                if picks.get(path, Pick(files[path], path, field)).field != field:
                    raise _refused(Invalid, f"{shown(path)} is in two splits", "name it in one", where)
                picks[path] = Pick(files[path], path, field)
    return sorted(picks.values(), key=lambda pick: (pick.field, pick.path))


def _split_named_by(path: str) -> Split | None:
    """By the file's own name, else by that of a folder, the innermost first."""
    for part in reversed(PurePosixPath(path).parts):
        named = {_WORDS[word] for word in re.split("[^a-z]+", part.lower()) if word in _WORDS}
        if len(named) == 1:
            return named.pop()
    return None


def _without_weights(files: Mapping[str, RemoteFile]) -> Invalid:
    pickled = sorted(path for path in files if path.endswith(_PICKLED))
    if not pickled:
        return _refused(InvalidData, f"it has no {WEIGHTS} at its top", "name the folder of a checkpoint")
    reason = f"its weights are in {shown(pickled[0])} alone, and loading that format can run code"
    return _refused(UnsafeFormat, reason, "import a revision that has them as safetensors, or convert it")


def _bounded(picks: list[Pick]) -> list[Pick]:
    if len(picks) > MAX_FILES:
        raise _refused(Invalid, f"it has {len(picks):,} files", f"name {MAX_FILES} at most in `files`")
    return picks


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(shown(path) for path in paths[:5]) + more


def _refused(kind: type[Invalid], reason: str, fix: str, where: str = "/source") -> Invalid:
    return kind(f"The source cannot be used: {reason}; {fix}.", Fault(where, kind.code, reason, fix))
