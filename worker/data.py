"""From canonical Parquet to the arrays that batches are gathered from, encoded once, in bounded memory."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from app.catalog.base import UNLABELED, Frozen, Task, Vocabulary
from app.catalog.labels import label_name
from app.catalog.spec import PinnedData, Resolved
from app.errors import DataUnusable, InvalidData, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray


READ_ROWS = 1000  # at once; a canonical row group is no larger where rows are images
LABELS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Split:
    """Rows for one purpose: positions in the rows of `pins` laid end to end, to which `labels` belong.

    labels: places among the job's, int64, or numbers in the student's unit, float32; of a row without any
    UNLABELED or NaN.
    """

    name: str
    pins: tuple[PinnedData, ...]
    rows: "NDArray[np.int64]"
    labels: "NDArray[Any]"

    @property
    def labeled(self) -> "NDArray[np.int64]":
        """Those of the rows that have a label."""
        labeled: NDArray[np.int64] = self.rows[have_labels(self.labels[self.rows])]
        return labeled


class Tables:
    """The job's data files, as fetched: `folder/SHA256`."""

    def __init__(self, resolved: Resolved, folder: Path, threads: int) -> None:
        self._resolved, self._folder, self._threads = resolved, folder, threads
        self._files: dict[str, Any] = {}

    def splits(self, seed: int) -> tuple[Split, Split, Split]:
        """Training, validation and report rows. Without a test set the report reads the validation rows."""
        data = self._resolved.data
        pins = (data.train, *data.unlabeled)
        none = np.nan if self._resolved.spec.task.answer == "number" else UNLABELED
        own = self._labels(data.train)
        labels = np.concatenate([own, *(np.full(pin.rows, none, own.dtype) for pin in data.unlabeled)])
        if isinstance(data.validation, PinnedData):
            training = Split("training", pins, np.arange(len(labels)), labels)
            validation = self._whole("validation", data.validation)
        else:
            held = holdout(labels[: data.train.rows], data.validation.holdout, seed)
            training = Split("training", pins, np.setdiff1d(np.arange(len(labels)), held), labels)
            validation = Split("validation", pins, held, labels)
        return training, validation, validation if data.test is None else self._whole("test", data.test)

    def encoded(self, pin: PinnedData, task: Task, preprocessing: Frozen) -> "NDArray[Any]":
        """Every row of the file, (N, ...), memory-mapped. Raises DataUnusable, naming the row."""
        path = self._place([pin], task, preprocessing)
        if not path.exists():
            self._encode(pin, task, preprocessing, path)
        return open_rows(path)

    def sample(self, pin: PinnedData, task: Task, preprocessing: Frozen, rows: int) -> "NDArray[Any]":
        """The first encoded rows of a file."""
        raws = itertools.islice(itertools.chain.from_iterable(self._raw(pin, task)), rows)
        return np.stack([*map(task.encoder(preprocessing, self._opened), raws)])

    def vocabulary(self, task: Task, preprocessing: Frozen) -> Vocabulary | None:
        """What an augmentation of texts must know."""
        return task.vocabulary(preprocessing, self._opened)

    def laid_end_to_end(self, split: Split, task: Task, preprocessing: Frozen) -> "NDArray[Any]":
        """The encoded rows of all the split's files, by position."""
        path = self._place(split.pins, task, preprocessing)
        parts = [self.encoded(pin, task, preprocessing) for pin in split.pins]
        return open_rows(path) if path.exists() else joined(parts, path)

    def column(self, split: Split, name: str) -> list[str | None]:
        """A column's values as text, of the split's rows; `label` is the label's where none is called so."""
        found: list[str | None] = []
        for pin in split.pins:
            file = pq.ParquetFile(self._file(pin))
            there = file.schema_arrow.names
            column = name if name in there or name != "label" else self._resolved.data.label
            values = file.read([column]).column(0).to_pylist() if column in there else [None] * pin.rows
            found += [label_name(value) for value in values]
        return [found[row] for row in split.rows]

    def _place(self, pins: Sequence[PinnedData], task: Task, preprocessing: Frozen) -> Path:
        return (
            self._folder
            / f"{digest([pin.sha256 for pin in pins], task.kind, preprocessing.model_dump(mode='json'))}.npy"
        )

    def _whole(self, name: str, pin: PinnedData) -> Split:
        labels = self._labels(pin)
        found = np.flatnonzero(have_labels(labels))
        return Split(name, (pin,), found if len(found) else np.arange(len(labels)), labels)

    def _labels(self, pin: PinnedData) -> "NDArray[Any]":
        if self._resolved.spec.task.answer == "number":
            return self._numbers(pin)
        place = {name: index for index, name in enumerate(self._resolved.labels)} | {None: UNLABELED}
        found = [np.empty(0, np.int64)]
        for told in self._told(pin):
            names = [label_name(name) for name in told]
            if strange := set(names) - set(place):
                known = ", ".join(self._resolved.labels[:10])
                label = shown(min(map(str, strange)))
                raise DataUnusable(f"{pin.reference} has the label {label}; the job's labels are {known}.")
            found.append(np.array([place[name] for name in names], np.int64))
        return np.concatenate(found)

    def _numbers(self, pin: PinnedData) -> "NDArray[np.float32]":
        """The label column, which is kept as text, in the student's unit; NaN where it is empty."""
        found = [np.empty(0)]
        try:
            for told in self._told(pin):
                found.append(np.array([np.nan if one in (None, "") else float(one) for one in told]))
        except ValueError:
            label = shown(self._resolved.data.label)
            raise DataUnusable(f"{pin.reference} has values in {label} that are no numbers.") from None
        values = np.concatenate(found)
        task = self._resolved.spec.task
        own = task.parse_preprocessing(self._resolved.preprocessing)
        return np.asarray(task.standardized(values, own), np.float32)

    def _told(self, pin: PinnedData) -> Iterator[list[Any]]:
        """The label column, some rows at a time."""
        file = pq.ParquetFile(self._file(pin))
        for batch in file.iter_batches(LABELS_AT_ONCE, columns=[self._resolved.data.label]):
            yield batch.column(0).to_pylist()

    def _encode(self, pin: PinnedData, task: Task, preprocessing: Frozen, path: Path) -> None:
        unfinished, written = path.with_suffix(".part"), 0
        encode = task.encoder(preprocessing, self._opened)
        array = None
        with ThreadPoolExecutor(self._threads) as pool:
            for raws in self._raw(pin, task):
                try:
                    rows = np.stack(
                        list(pool.map(encode, raws) if task.modality == "image" else map(encode, raws))
                    )
                except InvalidData as error:
                    where = f"rows {written + 1} to {written + len(raws)}"
                    raise DataUnusable(
                        f"{pin.reference}, {where}: {error.detail} Upload the data without it."
                    ) from error
                if array is None:
                    array = np.lib.format.open_memmap(
                        unfinished, "w+", rows.dtype, (pin.rows, *rows.shape[1:])
                    )
                array[written : written + len(rows)] = rows
                written += len(rows)
        if array is None or written != pin.rows:
            raise DataUnusable(f"{pin.reference} has {written} rows, not {pin.rows}: upload it again.")
        unfinished.rename(path)

    def _raw(self, pin: PinnedData, task: Task) -> Iterator[list[Any]]:
        """Rows as `task.encode` takes them: an image's bytes, or a mapping from column to value."""
        inputs = None if task.modality == "vector" else self._resolved.data.inputs
        file = pq.ParquetFile(self._file(pin))
        for batch in file.iter_batches(READ_ROWS, columns=inputs):
            image = task.modality == "image"
            yield batch.column(0).field("bytes").to_pylist() if image else batch.to_pylist()

    def _opened(self, sha256: str, open_bytes: Callable[[bytes], Any]) -> Any:
        """A file that a preprocessing names, opened once for all that encode by it."""
        if sha256 not in self._files:
            self._files[sha256] = open_bytes((self._folder / sha256).read_bytes())
        return self._files[sha256]

    def _file(self, pin: PinnedData) -> Path:
        return self._folder / pin.sha256


def have_labels(labels: "NDArray[Any]") -> "NDArray[np.bool_]":
    """Which of them are labels."""
    return np.asarray(~np.isnan(labels) if labels.dtype.kind == "f" else labels != UNLABELED)


def holdout(labels: "NDArray[Any]", share: float, seed: int) -> "NDArray[np.int64]":
    """Positions of a share of each class' labeled rows, or of all rows where none is labeled.

    Rows whose labels are numbers are one class: they are drawn by chance. A class' only row stays in
    training. The same labels, share and seed always give the same rows.
    """
    chance = np.random.default_rng(seed)
    if labels.dtype.kind == "f":
        labels = np.where(have_labels(labels), 0, UNLABELED)
    labeled = np.flatnonzero(labels != UNLABELED)
    labeled = labeled if len(labeled) else np.arange(len(labels))
    turn = np.empty(len(labels))
    for label in np.unique(labels[labeled]):
        members = chance.permutation(labeled[labels[labeled] == label])
        turn[members] = (
            (np.arange(len(members)) + chance.random()) / len(members) if len(members) > 1 else 1.0
        )
    wanted = min(max(round(len(labeled) * share), 1), len(labeled) - 1)
    return np.sort(labeled[np.argsort(turn[labeled], kind="stable")[:wanted]])


def digest(*parts: Any) -> str:
    """The sha256 of JSON values in their canonical form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def joined(parts: "Sequence[NDArray[Any]]", path: Path) -> "NDArray[Any]":
    """The parts one after the other in one memory-mapped file."""
    rows = sum(map(len, parts))
    array, start = np.lib.format.open_memmap(path, "w+", parts[0].dtype, (rows, *parts[0].shape[1:])), 0
    for part in parts:
        array[start : start + len(part)] = part
        start += len(part)
    array.flush()
    return open_rows(path)


def open_rows(path: Path) -> "NDArray[Any]":
    """A memory-mapped array; what is written into it stays in memory, which torch wants to be possible."""
    array: NDArray[Any] = np.load(path, mmap_mode="c")
    return array
