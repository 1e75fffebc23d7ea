"""Tables of text: CSV and JSON Lines. They are read twice, first to learn what their columns are."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from app.errors import InvalidData, shown
from app.intake.json_object import parse_object
from app.intake.rows import RawRow, refusal, weigh, weigh_text

MAX_COLUMNS = 4096
MAX_LINE = 16 * 1024**2  # bytes of a JSON line, characters of a CSV cell
DELIMITERS = ",;\t"


class CsvSource:
    """A header and rows; comma, semicolon or tab between cells. What is not UTF-8 spoils its row alone."""

    def __init__(self, path: Path, pointer: str) -> None:
        csv.field_size_limit(MAX_LINE)
        self._path, self._pointer = path, pointer
        self._delimiter, self._header = self._read_header()

    def columns(self) -> dict[str, "Counter[str]"]:
        votes: list[Counter[str]] = [Counter() for _ in self._header]
        for row in self.rows():
            for vote, cell in zip(votes, row.values.values(), strict=False):
                if kind := weigh_text(cell):
                    vote[kind] += 1
        return dict(zip(self._header, votes, strict=True))

    def rows(self) -> Iterator[RawRow]:
        with self._open() as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            number = 0
            try:
                next(reader)
                for cells in reader:
                    if cells:  # a blank line is no row
                        number += 1
                        yield self._row(number, cells)
            except csv.Error:
                reason = f"row {number + 1} of the CSV has a quote that does not end or an endless cell"
                raise refusal(self._pointer, reason, "quote cells as RFC 4180 says") from None

    def _row(self, number: int, cells: list[str]) -> RawRow:
        if len(cells) != len(self._header):
            return RawRow(number, reason=f"the row has {len(cells)} cells, the header {len(self._header)}")
        return RawRow(number, dict(zip(self._header, cells, strict=True)))

    def _open(self) -> TextIO:
        return self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _read_header(self) -> tuple[str, list[str]]:
        """The delimiter that makes the most of the first row; blanks around a name are no part of it."""
        found = {delimiter: self._first_row(delimiter) for delimiter in DELIMITERS}
        best = max(DELIMITERS, key=lambda delimiter: len(found[delimiter]))
        names = [name.strip() for name in found[best]]
        if doubled := [name for name, times in Counter(names).items() if times > 1]:
            raise refusal(self._pointer, f"the header names {shown(doubled[0])} twice", "rename one")
        return best, names

    def _first_row(self, delimiter: str) -> list[str]:
        with self._open() as file:
            try:
                return next(csv.reader(file, delimiter=delimiter, strict=True), [])
            except csv.Error:
                return []


class JsonLinesSource:
    """One flat JSON object a line. A key that a line lacks is a missing value."""

    def __init__(self, path: Path, pointer: str) -> None:
        self._path, self._pointer = path, pointer

    def columns(self) -> dict[str, "Counter[str]"]:
        votes: dict[str, Counter[str]] = {}
        for row in self.rows():
            for name, value in row.values.items():
                vote = votes.setdefault(name, Counter())
                if kind := weigh(value):
                    vote[kind] += 1
            if len(votes) > MAX_COLUMNS:
                reason = f"its lines have more than {MAX_COLUMNS:,} different keys"
                raise refusal(self._pointer, reason, "give every line the same keys")
        return votes

    def rows(self) -> Iterator[RawRow]:
        for number, line in self._lines():
            if len(line) > MAX_LINE:
                yield RawRow(number, reason=f"the line is longer than {MAX_LINE:,} bytes")
                continue
            try:
                values: dict[str, Any] = parse_object(line, "the line")
            except InvalidData as error:
                yield RawRow(number, reason=error.detail)
                continue
            nested = [name for name, value in values.items() if isinstance(value, dict | list)]
            reason = f"key {shown(nested[0])} holds a list or an object, not one value" if nested else None
            yield RawRow(number, {} if nested else values, reason)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, with their numbers; one that is too long is cut after the limit."""
        with self._path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield number, line.removeprefix(b"\xef\xbb\xbf")
                while not line.endswith(b"\n") and len(line) > MAX_LINE:
                    line = file.readline(MAX_LINE + 1)
