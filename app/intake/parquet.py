"""Parquet files as others write them, Hugging Face datasets among them; streamed, one small batch at a time.

Images are plain binary columns or `struct<bytes, path>`. A ClassLabel column becomes its names. Nested
columns are refused by name.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import InvalidData, shown
from app.intake.rows import Image, Kind, RawRow, UnusableRow, refusal

PANDAS_INDEX = "__index_level_"  # how pandas stores an index that it was not told to leave out
BATCH_ROWS, IMAGE_BATCH_ROWS = 4096, 16


@dataclass(frozen=True)
class _Column:
    """kind: what it speaks for; None: nothing, it is empty. convert: of a value that is there."""

    kind: Kind | None
    convert: Callable[[Any], Any] = lambda value: value
    cast_to_text: bool = False

    def values(self, column: Any) -> list[Any]:
        import pyarrow as pa

        return (column.cast(pa.string()) if self.cast_to_text else column).to_pylist()  # type: ignore[no-any-return]


class ParquetSource:
    """Types are declared, so that `columns` needs the footer alone."""

    def __init__(self, path: Path, pointer: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pointer = pointer
        try:
            self._file = pq.ParquetFile(path, buffer_size=1024**2, pre_buffer=False)
        except (pa.ArrowException, OSError):
            raise self._damaged() from None
        schema = self._file.schema_arrow
        if len(set(schema.names)) < len(schema.names):
            raise refusal(pointer, "a column name stands twice in the Parquet file", "rename one")
        names = _class_names(schema.metadata or {})
        fields = [field for field in schema if not field.name.startswith(PANDAS_INDEX)]
        self._columns = {field.name: self._column(field, names.get(field.name)) for field in fields}

    def columns(self) -> dict[str, "Counter[str]"]:
        return {name: Counter([column.kind] if column.kind else []) for name, column in self._columns.items()}

    def rows(self) -> Iterator[RawRow]:
        import pyarrow as pa

        images = any(column.kind == "image" for column in self._columns.values())
        number = 0
        try:
            for batch in self._file.iter_batches(
                IMAGE_BATCH_ROWS if images else BATCH_ROWS, use_threads=False
            ):
                values = [column.values(batch.column(name)) for name, column in self._columns.items()]
                for row in zip(*values, strict=True):
                    number += 1
                    yield self._row(number, row)
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            raise self._damaged() from None

    def _row(self, number: int, row: tuple[Any, ...]) -> RawRow:
        try:
            return RawRow(
                number,
                {
                    name: None if value is None else column.convert(value)
                    for value, (name, column) in zip(row, self._columns.items(), strict=True)
                },
            )
        except UnusableRow as unusable:
            return RawRow(number, reason=str(unusable))

    def _column(self, field: Any, names: list[str] | None) -> _Column:
        """Raises InvalidData for a nested type."""
        import pyarrow as pa

        type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if names is not None and pa.types.is_integer(type_):
            return _Column("text", lambda value: _name(value, names))
        if _is_image(type_):
            return _Column("image", _image)
        if pa.types.is_null(type_):
            return _Column(None)
        if pa.types.is_integer(type_):
            return _Column("number" if type_ == pa.uint64() else "integer")
        if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
            return _Column("number", float)
        if pa.types.is_nested(type_):
            reason = f"column {shown(field.name)} is nested ({shown(type_)})"
            raise refusal(self._pointer, reason, "flatten it or leave it out")
        plain = pa.types.is_boolean(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_)
        return _Column("text", cast_to_text=not plain)

    def _damaged(self) -> InvalidData:
        reason = "the Parquet file is damaged, encrypted, or in a form that is not read here"
        return refusal(self._pointer, reason, "write it again")


def _is_image(type_: Any) -> bool:
    """Binary, or the struct that Hugging Face's Image feature has."""
    import pyarrow as pa

    if pa.types.is_struct(type_):
        fields = {field.name: field.type for field in type_}
        return set(fields) == {"bytes", "path"} and _is_binary(fields["bytes"])
    return _is_binary(type_)


def _is_binary(type_: Any) -> bool:
    import pyarrow as pa

    tests = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_binary_view,
    )
    return any(test(type_) for test in tests)


def _image(value: Any) -> Image:
    if isinstance(value, bytes):
        return Image(value, None)
    if not value["bytes"]:
        raise UnusableRow("the image is not in the file, only a path to it; embed its bytes")
    path = value["path"]
    return Image(value["bytes"], path.rsplit("/", 1)[-1] if isinstance(path, str) else None)


def _name(value: int, names: list[str]) -> str | None:
    """A ClassLabel's name; -1 is Hugging Face's mark of a missing one."""
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise UnusableRow(f"the label {value} has no name among the {len(names)} of its ClassLabel")
    return names[value]


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of each ClassLabel column, from what Hugging Face writes into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {
            column: feature["names"]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        column: names
        for column, names in found.items()
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
    }
