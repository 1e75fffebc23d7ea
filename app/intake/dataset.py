"""Turns uploaded files into a dataset: read, checked row by row, written in canonical form, profiled.

A row that cannot be used is left out and named with its reason; a split without a usable row is refused.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, PositiveFloat

from app.catalog.base import Frozen
from app.errors import Fault, InvalidData, shown
from app.intake import images
from app.intake.archive import Limits
from app.intake.canonical import MAX_CATEGORIES, MAX_CATEGORY, Budget, SplitFile, read
from app.intake.columns import find_label, settle_columns
from app.intake.profile import SPLITS, BadRow, BadRows, Profile, Split, SplitProfile
from app.intake.rows import Image, Kind, RawRow, UnusableRow, read_label, read_value
from app.intake.sources import File, Upload, open_all
from app.intake.splits import divide, duplicates, leaks, unlike

MAX_EXAMPLES = 100
MAX_REASON = 300  # characters
FEW = 20  # so few distinct texts are classes, however few rows there are
MAX_COUNTED = 100_000  # distinct texts of all columns; what is beyond counts as prose


class Order(Frozen):
    """label: see find_label. divide: shares of the splits into which the only file goes; they sum to 1."""

    files: list[File] = Field(min_length=1)
    label: str | None
    divide: dict[Split, PositiveFloat] | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    limits: dict[str, int]


@dataclass
class _Losses:
    """The rows of one split that were left out."""

    count: int = 0
    examples: list[BadRow] = field(default_factory=list)

    def add(self, row: int, reason: str, file: str | None) -> None:
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(BadRow(row=row, reason=reason[:MAX_REASON], file=file))


def take(options: dict[str, Any], source: list[Path], out: Path) -> dict[str, Any]:
    """Writes out/SPLIT.parquet for each split and returns the Profile as JSON. options: an Order of `source`.

    Raises Invalid and its children.
    """
    order = Order.model_validate(options)
    limits = Limits(**order.limits)
    uploads = open_all(order.files, source, out, limits)
    _check_columns(uploads)
    if order.divide and uploads[0].names_splits:
        reason = "the folders of the archive already name splits"
        raise InvalidData(
            f"`splits` cannot be used: {reason}.", Fault("/splits", "has_splits", reason, "leave it out")
        )
    label = find_label(uploads, order.label)
    columns = settle_columns(uploads, label)

    def creator() -> Callable[[str], SplitFile]:
        budget = Budget(limits.max_bytes)
        return lambda split: SplitFile(out / f"{split}.parquet", columns, label, budget)

    splits, losses = _write(uploads, creator(), lambda row: _read(row, columns, label, limits.max_pixels))
    if order.divide:
        splits = _divide(splits["train"], columns, order, creator())
        losses = {next(iter(splits)): losses["train"]}
    return _profile(splits, losses, label).model_dump(mode="json")


def _check_columns(uploads: Sequence[Upload]) -> None:
    """A file of which no line can be read shows no column; its reasons say more than that."""
    for upload in uploads:
        if not upload.columns:
            losses = _Losses()
            for row in upload.source.rows():
                losses.add(row.number, row.reason or "the row is empty", None)
            raise _nothing(upload.file.field, losses)


# ---- rows


def _write(
    uploads: Sequence[Upload],
    create: Callable[[str], SplitFile],
    usable: Callable[[RawRow], Mapping[str, Any]],
) -> tuple[dict[Split, SplitFile], dict[Split, _Losses]]:
    """Each split's canonical file, and what was left out. Raises InvalidData for one without a usable row."""
    splits: dict[Split, SplitFile] = {}
    losses: dict[Split, _Losses] = {}
    several = len({upload.file.split for upload in uploads}) < len(uploads)
    with ExitStack() as closing:

        def open_split(split: Split) -> None:
            if split not in splits:
                splits[split], losses[split] = create(split), _Losses()
                closing.callback(splits[split].close)

        for upload in uploads:
            if not upload.names_splits:
                open_split(upload.file.split)
            for row in upload.source.rows():
                split = cast("Split", row.split or upload.file.split)
                open_split(split)
                try:
                    splits[split].add(usable(row))
                except UnusableRow as unusable:
                    file = upload.file.name[:100] if several else None
                    losses[split].add(row.number, str(unusable), file)
    for split, written in splits.items():
        if not written.rows:
            fields = [upload.file.field for upload in uploads if upload.file.split == split]
            raise _nothing(fields[0] if fields else "file", losses[split])
    return _in_order(splits), losses


def _read(row: RawRow, columns: Mapping[str, Kind], label: str | None, max_pixels: int) -> dict[str, Any]:
    """The row's values as they are stored. Raises UnusableRow."""
    if row.reason:
        raise UnusableRow(row.reason)
    values: dict[str, Any] = {}
    for name, kind in columns.items():
        reader = read_label if name == label else read_value
        value: Any = reader(name, row.values.get(name), kind)
        if isinstance(value, Image) and (reason := images.defect(value.content, max_pixels)):
            raise UnusableRow(f"{shown(value.path) if value.path else f'column {shown(name)}'}: {reason}")
        values[name] = value
    if all(value is None for name, value in values.items() if name != label):
        raise UnusableRow("the row is empty")
    return values


def _nothing(where: str, losses: _Losses) -> InvalidData:
    reasons = [f"row {bad.row}: {bad.reason}" for bad in losses.examples[:5]] or ["there are no rows"]
    fix = "correct the rows" if losses.count else "send rows"
    faults = [Fault(f"/{where}", "bad_row" if losses.count else "empty", reason, fix) for reason in reasons]
    return InvalidData(f"Nothing in {where} can be used: {'; '.join(reasons[:2])}.", *faults)


def _in_order(splits: Mapping[Split, SplitFile]) -> dict[Split, SplitFile]:
    return {split: splits[split] for split in SPLITS if split in splits}


def _divide(
    whole: SplitFile, columns: Mapping[str, Kind], order: Order, create: Callable[[str], SplitFile]
) -> dict[Split, SplitFile]:
    """The one file's rows, spread over the splits that were asked for; the file itself goes away."""
    assert order.divide
    names = [split for split in SPLITS if split in order.divide]
    numbers = columns.get(whole.label or "") in ("integer", "number")
    labels = unlike(whole.labels) if numbers else whole.labels
    places = divide(whole.hashes, labels, [order.divide[name] for name in names], order.seed)
    source = whole.path.rename(whole.path.with_name("whole.parquet"))
    splits = [create(name) for name in names]
    with ExitStack() as closing:
        for split in splits:
            closing.callback(split.close)
        for place, row in zip(places.tolist(), read(source, columns), strict=True):
            splits[place].add(row)
    source.unlink()
    for name, split in zip(names, splits, strict=True):
        if not split.rows:
            reason = f"{name} would get no row of {whole.rows}"
            fault = Fault(f"/splits/{name}", "empty", reason, "give it a larger share or send more rows")
            raise InvalidData(f"The data cannot be divided so: {reason}.", fault)
    return dict(zip(names, splits, strict=True))


# ---- the profile


def _profile(
    splits: Mapping[Split, SplitFile], losses: Mapping[Split, _Losses], label: str | None
) -> Profile:
    names = next(iter(splits.values())).statistics
    categories = {label} | _categories([name for name in names if name != label], list(splits.values()))
    found: dict[Split, SplitProfile] = {}
    for name, split in splits.items():
        lost = losses.get(name, _Losses())
        found[name] = SplitProfile(
            rows=split.rows,
            columns={
                column: one.column(category=column in categories) for column, one in split.statistics.items()
            },
            bad_rows=BadRows(count=lost.count, examples=lost.examples),
            duplicates=duplicates(split.hashes),
        )
    hashes = {name: split.hashes for name, split in splits.items()}
    return Profile(label=label, splits=found, leaks=leaks(hashes))


def _categories(names: Iterable[str], splits: Sequence[SplitFile]) -> set[str | None]:
    """Columns of few short texts that come again and again, as classes do and prose does not."""
    found: set[str | None] = set()
    room = MAX_COUNTED
    for name in names:
        parts = [split.statistics[name] for split in splits]
        if any(part.kind != "text" or part.counts is None or part.longest > MAX_CATEGORY for part in parts):
            continue
        distinct = len(set[str]().union(*(part.counts or () for part in parts)))
        again = distinct <= FEW or 2 * distinct <= sum(part.filled for part in parts)
        if 0 < distinct <= min(MAX_CATEGORIES, room) and again:
            found.add(name)
            room -= distinct
    return found
