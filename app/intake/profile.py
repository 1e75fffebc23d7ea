"""What is known of a dataset: its columns, what had to be left out, and what stands twice."""

from typing import Literal, get_args

from pydantic import Field

from app.catalog.base import Column, Frozen

Split = Literal["train", "validation", "test", "unlabeled"]
SPLITS: tuple[Split, ...] = get_args(Split)


class BadRow(Frozen):
    """A row that was left out."""

    row: int = Field(
        description="counted from 1 in the uploaded file, a CSV's header and blank lines not counted"
    )
    reason: str
    file: str | None = Field(None, description="which file, where the split came in several")


class BadRows(Frozen):
    count: int = 0
    examples: list[BadRow] = Field([], description="the first 100")


class SplitProfile(Frozen):
    rows: int
    columns: dict[str, Column]
    bad_rows: BadRows = Field(description="of an upload that was divided: all stand at its first split")
    duplicates: int = Field(description="rows whose inputs equal those of an earlier row")


class Leak(Frozen):
    """Rows of the second split whose inputs also stand in the first."""

    splits: tuple[Split, Split]
    rows: int


class Profile(Frozen):
    label: str | None = Field(description="the column with the class names; None: there is none")
    splits: dict[Split, SplitProfile]
    leaks: list[Leak]
