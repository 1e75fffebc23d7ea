"""Settles what the columns of an upload are: their names, their types and which one is the label."""

from collections import Counter
from collections.abc import Mapping, Sequence

from app.errors import Fault, InvalidData, shown
from app.intake.rows import Kind, decide, refusal
from app.intake.sources import Upload
from app.intake.tables import MAX_COLUMNS

LABELS = ("label", "labels", "target", "class", "y")  # taken for the label, in upper or lower case
MAX_NAME = 200  # characters


def find_label(uploads: Sequence[Upload], wanted: str | None) -> str | None:
    """The label's column. wanted: None: the first of LABELS there is; empty: none. Raises InvalidData."""
    columns = _widest(uploads).columns
    known = [name for name, votes in columns.items() if not votes["image"]]
    if wanted is None:
        by_lower = {name.lower(): name for name in reversed(known)}
        found = next((by_lower[name] for name in LABELS if name in by_lower), None)
    else:
        found = wanted or None
    if found is not None and found not in known:
        reason = f"there is no column {shown(found)} that could be a label"
        fix = f"name one of {', '.join(map(shown, known[:20])) or 'none'}"
        raise InvalidData(f"{reason.capitalize()}; {fix}.", Fault("/label", "unknown_column", reason, fix))
    if not columns.keys() - {found}:
        raise refusal(
            _widest(uploads).pointer, "there is no column beside the label", "add what a model is to read"
        )
    return found


def settle_columns(uploads: Sequence[Upload], label: str | None) -> dict[str, Kind]:
    """Every column in order, with the type that all files together give it. Raises InvalidData."""
    widest = _widest(uploads)
    _check_names(widest)
    votes: dict[str, Counter[str]] = {name: Counter() for name in widest.columns}
    for upload in uploads:
        odd = set(votes) - set(upload.columns)
        if upload.file.split == "unlabeled":
            odd.discard(label or "")
        odd |= set(upload.columns) - set(votes)
        if odd:
            reason = (
                f"{upload.file.field} and {widest.file.field} do not both have the column {shown(min(odd))}"
            )
            raise refusal(upload.pointer, reason, "give every file the same columns")
        for name, vote in upload.columns.items():
            votes[name] += vote
    return {name: _decided(name, vote, widest.pointer) for name, vote in votes.items()}


def _widest(uploads: Sequence[Upload]) -> Upload:
    return max(uploads, key=lambda upload: len(upload.columns))


def _check_names(upload: Upload) -> None:
    names = list(upload.columns)
    if len(names) > MAX_COLUMNS:
        raise refusal(upload.pointer, f"there are {len(names):,} columns", f"send at most {MAX_COLUMNS:,}")
    for place, name in enumerate(names, start=1):
        if not name or len(name) > MAX_NAME or not name.isprintable():
            fix = f"use 1 to {MAX_NAME} printable characters in UTF-8 (pandas: write with index=False)"
            raise refusal(upload.pointer, f"column {place} is called {shown(name)}", fix)


def _decided(name: str, votes: "Mapping[str, int]", pointer: str) -> Kind:
    counted = Counter(votes)
    if 0 < counted["image"] < counted.total():
        reason = f"column {shown(name)} holds images in one file and something else in another"
        raise refusal(pointer, reason, "send one kind")
    return decide(counted)
