"""The data part of a plan: which splits, columns and class names, and whether there is enough of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.catalog.base import Column, Task
from app.catalog.labels import ordered
from app.catalog.spec import Data, Holdout, PinnedData, ResolvedData
from app.db.tables import Dataset
from app.errors import DatasetTooSmall, Fault, InvalidData, LabelMismatch, shown
from app.intake.profile import Profile
from app.services import datasets
from app.services.planning.checks import Checks

LEAST_TRAINING_ROWS = 10
LEAST_JUDGING_ROWS = 2  # validation and test: an interval needs more than one row


@dataclass(frozen=True)
class Table:
    """One split that the job reads."""

    pointer: str
    pin: PinnedData
    columns: dict[str, Column]
    label: str | None  # the label column that the dataset itself names


@dataclass(frozen=True)
class Tables:
    train: Table
    judging: list[Table]  # validation and test, where they are datasets
    unlabeled: list[Table]
    inputs: list[str]
    label: str
    labels: list[str]  # class names that occur, in order; of numbers the column's own name
    labeled: int  # training rows that have one

    @property
    def training_rows(self) -> int:
        return self.train.pin.rows + sum(table.pin.rows for table in self.unlabeled)

    def held_out(self, share: float) -> int:
        """How many training rows a share of them is, at least one being left: of the labeled, if any is."""
        rows = self.labeled or self.train.pin.rows
        return min(round(rows * share), rows - 1)

    @property
    def validation(self) -> Table:
        """What the rows are taken from by which a step is chosen: validation, else training."""
        return next((table for table in self.judging if table.pointer == "/data/validation"), self.train)

    @property
    def report(self) -> Table:
        """What the report's rows are taken from: test, else those of the validation."""
        return next((table for table in self.judging if table.pointer == "/data/test"), self.validation)

    @property
    def report_labeled(self) -> bool:
        """Whether any of the report's rows may have a label."""
        return self.labeled_in(self.report) > 0

    def labeled_in(self, table: Table) -> int:
        """Rows of one of the tables that have a label."""
        return _filled(table, table.columns[self.label])

    def learned_rows(self, validation: object) -> int:
        """Training rows that are left when those held out are taken away."""
        return self.training_rows - self._held(validation)

    def learned_labels(self, validation: object) -> int:
        """How many of `learned_rows` have a label."""
        return self.labeled - self._held(validation) if self.labeled else 0

    def _held(self, validation: object) -> int:
        return self.held_out(validation.holdout) if isinstance(validation, Holdout) else 0

    def pinned(self, data: Data) -> ResolvedData:
        by_pointer = {table.pointer: table.pin for table in self.judging}
        return ResolvedData(
            train=self.train.pin,
            validation=by_pointer.get("/data/validation") or data.validation,
            test=by_pointer.get("/data/test"),
            unlabeled=[table.pin for table in self.unlabeled],
            inputs=self.inputs,
            label=self.label,
        )


def look(session: Session, project_id: str, data: Data, task: Task, checks: Checks) -> Tables | None:
    """What the data is; None when a check failed."""
    wanted = {"/data/train": data.train}
    wanted |= {} if isinstance(data.validation, Holdout) else {"/data/validation": data.validation}
    wanted |= {} if data.test is None else {"/data/test": data.test}
    wanted |= {f"/data/unlabeled/{place}": one for place, one in enumerate(data.unlabeled)}
    found = [
        checks.run("reference", pointer, _table, session, project_id, pointer, one)
        for pointer, one in wanted.items()
    ]
    tables = [table for table in found if table is not None]
    if len(tables) < len(found):
        return None
    label = checks.run("label column", "/data/columns/label", _label, data, tables[0])
    inputs = checks.run("input columns", "/data/columns/input", _inputs, data, tables[0], task, label)
    if label is None or inputs is None:
        return None
    return checks.run("rows", "/data/train", _tables, data, tables, inputs, label, task)


def _table(session: Session, project_id: str, pointer: str, reference: str) -> Table:
    dataset, split = datasets.find(session, project_id, reference)
    profile = Profile.model_validate(dataset.profile)
    columns = next(one.columns for name, one in profile.splits.items() if name == split)
    return Table(pointer, _pin(dataset, split), columns, profile.label)


def _pin(dataset: Dataset, split: str) -> PinnedData:
    reference = f"dataset:{dataset.name}@{dataset.version}#{split}"
    return PinnedData(reference=reference, dataset_id=dataset.id, split=split, **dataset.files[split])


def _label(data: Data, train: Table) -> str:
    label = data.columns.label or train.label
    if label is None:
        fault = Fault(
            "/data/columns/label", "no_label_column", "none is named and the dataset has none", "name one"
        )
        raise InvalidData(f"{train.pin.reference} names no label column of its own", fault)
    _has(train, label, "/data/columns/label")
    return label


def _inputs(data: Data, train: Table, task: Task, label: str | None) -> list[str]:
    chosen = data.columns.input
    inputs = (
        task.input_columns(train.columns, label)
        if chosen is None
        else [chosen]
        if isinstance(chosen, str)
        else chosen
    )
    if label in inputs:
        fault = Fault("/data/columns/input", "label_as_input", f"{shown(label)} is the label", "leave it out")
        raise InvalidData("A student that reads the label would learn nothing else", fault)
    for name in inputs:
        _has(train, name, "/data/columns/input")
    return inputs


def _has(table: Table, column: str, pointer: str) -> None:
    if column not in table.columns:
        there = ", ".join(sorted(table.columns)[:20])
        fault = Fault(pointer, "unknown_column", f"there is no {shown(column)}", f"name one of {there}")
        raise InvalidData(f"{table.pin.reference} has no column {shown(column)}; it has {there}", fault)


def _tables(data: Data, tables: Sequence[Table], inputs: list[str], label: str, task: Task) -> Tables:
    train, *others = tables
    judging = [table for table in others if not table.pointer.startswith("/data/unlabeled")]
    for table in others:
        for column in [*inputs, *([label] if table in judging else [])]:
            _has(table, column, table.pointer)
            _same_type(train, table, column)
    if task.answer == "number":
        for table in (train, *judging):
            _check_numbers(table, label)
        labeled, names = _filled(train, train.columns[label]), {label}
    else:
        labeled = sum(_counts(train, label).values())
        names = {name for table in (train, *judging) for name in _counts(table, label)}
    result = Tables(
        train,
        judging,
        [table for table in others if table not in judging],
        inputs,
        label,
        ordered(names),
        labeled,
    )
    _check_size(data, result)
    return result


def _same_type(train: Table, table: Table, column: str) -> None:
    types = train.columns[column].type, table.columns[column].type
    if types[0] != types[1] and "image" in types:
        fault = Fault(
            table.pointer,
            "other_type",
            f"{shown(column)} is {types[1]}, in train {types[0]}",
            "upload it alike",
        )
        raise InvalidData(
            f"{table.pin.reference} and {train.pin.reference} do not agree about {shown(column)}", fault
        )


def _counts(table: Table, label: str) -> dict[str, int]:
    counts = table.columns[label].counts
    if counts is None:
        fault = Fault(
            "/data/columns/label",
            "no_classes",
            f"it holds {table.columns[label].type}s, or more than 1,000 distinct values",
            "name a class column",
        )
        raise InvalidData(f"{shown(label)} of {table.pin.reference} is not a column of classes", fault)
    return counts


def _check_numbers(table: Table, label: str) -> None:
    column = table.columns[label]
    if _filled(table, column) and column.mean is None:
        fault = Fault(
            "/data/columns/label",
            "no_numbers",
            f"it holds values of type {column.type} that are no numbers",
            "name a column of numbers, or order a classification",
        )
        raise InvalidData(f"{shown(label)} of {table.pin.reference} is not a column of numbers", fault)


def _filled(table: Table, column: Column) -> int:
    """Rows that have a value in the column."""
    return table.pin.rows - column.missing if column.counts is None else sum(column.counts.values())


def _check_size(data: Data, tables: Tables) -> None:
    learned = tables.learned_rows(data.validation)
    short = [(tables.train.pointer, learned, LEAST_TRAINING_ROWS, "training rows")]
    short += [(one.pointer, one.pin.rows, LEAST_JUDGING_ROWS, "rows") for one in tables.judging]
    if isinstance(data.validation, Holdout):
        held = tables.held_out(data.validation.holdout)
        short.append(("/data/validation/holdout", held, LEAST_JUDGING_ROWS, "rows held out"))
    for pointer, rows, least, what in short:
        if rows < least:
            fault = Fault(
                pointer, "dataset_too_small", f"{rows} {what}, at least {least} are needed", "give more rows"
            )
            raise DatasetTooSmall(f"There are {rows} {what}; at least {least} are needed", fault)


def check_labels(tables: Tables, teacher_labels: Sequence[str], pointer: str, teacher: str) -> None:
    """Every class of the data must be one that the teacher answers. Raises LabelMismatch."""
    unknown = [name for name in tables.labels if name not in teacher_labels]
    if unknown:
        knows, lacks = (
            ", ".join(shown(name, 30) for name in names[:10]) for names in (teacher_labels, unknown)
        )
        fault = Fault(
            pointer,
            "label_mismatch",
            f"the teacher does not know {lacks}; it knows {knows}",
            "import the teacher with `labels` in the order of its logits, or name the right label column",
        )
        raise LabelMismatch(f"The data has classes that {teacher} does not know: {lacks}", fault)
