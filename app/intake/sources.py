"""Opens uploaded files, each as the format that its content shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.catalog.base import Frozen
from app.intake import archive
from app.intake.archive import Limits
from app.intake.folders import FolderSource
from app.intake.parquet import ParquetSource
from app.intake.profile import Split
from app.intake.rows import Source, refusal
from app.intake.tables import CsvSource, JsonLinesSource

Format = Literal["Parquet", "CSV", "JSON Lines", "images in folders"]


class File(Frozen):
    """field: of the form. split: where its rows go. name: what the client calls it."""

    field: str
    split: Split
    name: str


@dataclass(frozen=True)
class Upload:
    """One file, opened. columns: as in Source. names_splits: its rows say to which split they belong."""

    file: File
    source: Source
    columns: "Mapping[str, Counter[str]]"
    names_splits: bool

    @property
    def pointer(self) -> str:
        return f"/{self.file.field}"


def open_all(files: Sequence[File], paths: Sequence[Path], folder: Path, limits: Limits) -> list[Upload]:
    """folder: where archives are unpacked. Raises InvalidData, UnsafeFormat."""
    formats = [_format(path, f"/{file.field}") for file, path in zip(files, paths, strict=True)]
    if len(set(formats)) > 1:
        reason = f"the files are of different formats ({', '.join(sorted(set(formats)))})"
        raise refusal(f"/{files[-1].field}", reason, "send all in one format")
    uploads = []
    for number, (file, path) in enumerate(zip(files, paths, strict=True)):
        source = _open(formats[0], path, f"/{file.field}", folder / f"unpacked-{number}", limits)
        names_splits = isinstance(source, FolderSource) and source.has_splits
        if names_splits and file.field != "file":
            raise refusal(f"/{file.field}", "its folders already name splits", "send it as `file`")
        uploads.append(Upload(file, source, source.columns(), names_splits))
    return uploads


def _open(format_: Format, path: Path, pointer: str, folder: Path, limits: Limits) -> Source:
    if format_ == "Parquet":
        return ParquetSource(path, pointer)
    if format_ == "CSV":
        return CsvSource(path, pointer)
    if format_ == "JSON Lines":
        return JsonLinesSource(path, pointer)
    folder.mkdir()
    return FolderSource(path, folder, limits)


def _format(path: Path, pointer: str) -> Format:
    """By content, for names and media types say whatever the sender likes."""
    with path.open("rb") as file:
        head = file.read(4096)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise refusal(pointer, "the file is empty", "send rows")
    if head.startswith(b"PAR1"):
        return "Parquet"
    if archive.kind(path):
        return "images in folders"
    if start.startswith(b"{"):
        return "JSON Lines"
    if start.startswith(b"[") or b"\0" in head:
        reason = "it is none of Parquet, CSV in UTF-8, JSON Lines, and an archive of images in folders"
        raise refusal(pointer, reason, "convert it")
    return "CSV"
