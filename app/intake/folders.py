"""Archives of images in folders that are named by class: `class/file`, or `split/class/file`.

One folder around everything is looked through. Under `unlabeled` an image needs no class.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from app.errors import shown
from app.intake.archive import Limits, extract
from app.intake.images import MAX_IMAGE_BYTES
from app.intake.profile import SPLITS
from app.intake.rows import Image, RawRow

COLUMNS = ("image", "label")
JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what desktops add


class FolderSource:
    """Unpacks the archive into `folder`. Rows are in the order of their names, whatever the archive's is."""

    def __init__(self, path: Path, folder: Path, limits: Limits) -> None:
        self._folder = folder
        names = [PurePosixPath(name) for name in extract(path, folder, limits)]
        self._names = [
            name for name in names if not any(part in JUNK or part.startswith(".") for part in name.parts)
        ]
        self._skip = self._wrapping()
        self.has_splits = self._in_splits(self._skip)

    def columns(self) -> dict[str, "Counter[str]"]:
        return {"image": Counter(image=1), "label": Counter(text=1)}

    def rows(self) -> Iterator[RawRow]:
        for number, name in enumerate(self._names, start=1):
            parts = name.parts[self._skip :]
            split = parts[0] if self.has_splits else None
            yield self._row(number, name, parts[1:] if self.has_splits else parts, split)

    def _row(self, number: int, name: PurePosixPath, parts: tuple[str, ...], split: str | None) -> RawRow:
        if len(parts) > 2 or (len(parts) == 1 and split != "unlabeled"):
            depth = "deeper than class/file" if len(parts) > 2 else "in no folder named by its class"
            hint = f"folders above classes may be {', '.join(SPLITS)}"
            return RawRow(number, reason=f"{shown(name)} lies {depth}; {hint}", split=split)
        path = self._folder / name
        if path.stat().st_size > MAX_IMAGE_BYTES:
            return RawRow(
                number, reason=f"{shown(name)} is larger than {MAX_IMAGE_BYTES:,} bytes", split=split
            )
        label = parts[0] if len(parts) == 2 else None
        return RawRow(number, {"image": Image(path.read_bytes(), name.name), "label": label}, split=split)

    def _wrapping(self) -> int:
        """1 when one folder, which is no split, stands around all others."""
        tops = {name.parts[0] for name in self._names}
        deep = all(len(name.parts) >= 3 for name in self._names)
        return int(len(tops) == 1 and deep and not tops <= set(SPLITS))

    def _in_splits(self, skip: int) -> bool:
        parts = [name.parts[skip:] for name in self._names]
        return bool(parts) and all(len(rest) >= 2 and rest[0] in SPLITS for rest in parts)
