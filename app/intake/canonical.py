"""The form in which a dataset is kept: one Parquet file a split, profiled while it is written.

The same rows give the same bytes. Images stand as `struct<bytes, path>` as they were uploaded, numbers as
int64 or float64, everything else and the label as text.
"""

import math
import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.catalog.base import Column
from app.errors import InvalidData
from app.intake.rows import Image, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_ROWS, TABLE_ROWS = 1000, 10_000  # of a row group
GROUP_BYTES = 64 * 1024**2
MAX_CATEGORIES = 1000
MAX_CATEGORY = 200  # characters


class Budget:
    """Bytes that one upload may become."""

    def __init__(self, max_bytes: int) -> None:
        self._max, self._used = max_bytes, 0

    def take(self, size: int) -> None:
        self._used += size
        if self._used > self._max:
            raise InvalidData(
                f"The data unpacks to more than {self._max:,} bytes, the limit; send less at once."
            )


class Statistics:
    """One column of one split: what is missing, the moments of numbers, the counts of texts.

    numbers: whether the values are numbers, as those of a label may be though it is kept as text.
    """

    def __init__(self, kind: Kind, *, numbers: bool) -> None:
        self.kind, self._numbers = kind, numbers
        self.missing, self.filled, self.longest = 0, 0, 0
        self.counts: Counter[str] | None = Counter() if kind == "text" else None
        self._distinct: set[float] | None = set() if kind in ("integer", "number") else None
        self._mean, self._squares = 0.0, 0.0  # squares: the sum of squared distances from the mean

    def add(self, values: list[Any]) -> None:
        present = [value for value in values if value is not None]
        self.missing += len(values) - len(present)
        if not present:
            return
        if self._numbers:
            self._add_moments([float(value) for value in present] if self.kind == "text" else present)
        if self._distinct is not None:
            self._distinct.update(present)
            if len(self._distinct) > MAX_CATEGORIES:
                self._distinct = None
        if self.counts is not None:
            self.counts.update(present)
            self.longest = max(self.longest, *map(len, present))
            if len(self.counts) > MAX_CATEGORIES:
                self.counts = None
        self.filled += len(present)

    def column(self, *, category: bool) -> Column:
        """category: whether a text column's values are classes (the whole dataset decides)."""
        if self.kind == "image":
            return Column(type="image", missing=self.missing)
        if self.kind == "text":
            counts = dict(sorted(self.counts.items())) if category and self.counts is not None else None
            kind: Literal["category", "text"] = "category" if category else "text"
            return Column(type=kind, missing=self.missing, counts=counts, **self._moments())
        distinct = None if self._distinct is None else len(self._distinct)
        return Column(type="number", missing=self.missing, distinct=distinct, **self._moments())

    def _moments(self) -> dict[str, Any]:
        if not self._numbers or not self.filled:
            return {}
        return {"mean": self._mean, "std": math.sqrt(self._squares / self.filled)}

    def _add_moments(self, values: list[float]) -> None:
        """Chan's way to join two samples, which loses no digits to large means."""
        import numpy as np

        sample = np.array(values, np.float64)
        mean, total = float(sample.mean()), self.filled + len(sample)
        apart = mean - self._mean
        self._squares += float(np.square(sample - mean).sum()) + apart**2 * self.filled * len(sample) / total
        self._mean += apart * len(sample) / total


class SplitFile:
    """Takes the rows of one split, writes them in groups and keeps what the profile and a division need."""

    def __init__(self, path: Path, columns: Mapping[str, Kind], label: str | None, budget: Budget) -> None:
        import pyarrow.parquet as pq

        self.path, self.label, self._budget = path, label, budget
        self._kinds: dict[str, Kind] = {
            name: "text" if name == label else kind for name, kind in columns.items()
        }
        self.statistics = {
            name: Statistics(kind, numbers=columns[name] in ("integer", "number"))
            for name, kind in self._kinds.items()
        }
        self.rows = 0
        self._hashes, self._labels = array("Q"), array("i")
        self._classes: dict[str | None, int] = {None: -1}
        self._schema = _schema(self._kinds)
        self._pending: list[Mapping[str, Any]] = []
        self._pending_bytes = 0
        self._group_rows = IMAGE_ROWS if "image" in self._kinds.values() else TABLE_ROWS
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=[name for name, kind in self._kinds.items() if kind == "text"],
            write_statistics=False,
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """row: every column's value, from read_value or read_label. Raises InvalidData: too much."""
        inputs = b"".join(_content(value) for name, value in row.items() if name != self.label)
        size = len(inputs) + len(row)
        self._budget.take(size)
        self._hashes.append(int.from_bytes(blake2b(inputs, digest_size=8).digest(), "little"))
        if self.label is not None:
            self._labels.append(self._classes.setdefault(row[self.label], len(self._classes) - 1))
        self.rows += 1
        self._pending.append(row)
        self._pending_bytes += size
        if len(self._pending) == self._group_rows or self._pending_bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Finishes the file; also called when something failed."""
        if self._pending:
            self._flush()
        self._writer.close()

    @property
    def hashes(self) -> "NDArray[np.uint64]":
        """Of each row's inputs (N,): equal inputs have equal ones."""
        import numpy as np

        return np.array(self._hashes, np.uint64)

    @property
    def labels(self) -> "NDArray[np.int32]":
        """Of each row (N,), classes numbered as they came; -1: it has none."""
        import numpy as np

        return np.array(self._labels if self.label is not None else [-1] * self.rows, np.int32)

    def _flush(self) -> None:
        import pyarrow as pa

        arrays = []
        for field in self._schema:
            values = [row[field.name] for row in self._pending]
            self.statistics[field.name].add(values)
            if self._kinds[field.name] == "image":
                values = [
                    None if value is None else {"bytes": value.content, "path": value.path}
                    for value in values
                ]
            arrays.append(pa.array(values, field.type))
        self._writer.write_table(
            pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(self._pending)
        )
        self._pending, self._pending_bytes = [], 0


def read(path: Path, columns: Mapping[str, Kind]) -> Iterator[dict[str, Any]]:
    """The rows of a canonical file, as `SplitFile.add` took them."""
    import pyarrow.parquet as pq

    images = [name for name, kind in columns.items() if kind == "image"]
    with pq.ParquetFile(path, buffer_size=1024**2, pre_buffer=False) as file:
        for batch in file.iter_batches(16 if images else 4096, use_threads=False):
            for row in batch.to_pylist():
                for name in images:
                    row[name] = Image(row[name]["bytes"], row[name]["path"])
                yield row


def _schema(kinds: Mapping[str, Kind]) -> Any:
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = {"image": image, "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}
    return pa.schema([(name, types[kind]) for name, kind in kinds.items()])


def _content(value: Any) -> bytes:
    """A value as bytes that no other value of its column has."""
    if value is None:
        return b"-"
    if isinstance(value, int):
        return struct.pack("<cq", b"i", value)
    if isinstance(value, float):
        return struct.pack("<cd", b"n", value + 0.0)  # -0.0 becomes 0.0
    raw = value.content if isinstance(value, Image) else value.encode()
    return struct.pack("<cQ", b"t", len(raw)) + raw
