"""Writes docs/losses.md, from the catalog and the runs of the reference implementations.

python -m tests.catalog.losses_table
"""

import inspect
import math
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.catalog.base import Loss
from app.catalog.features import FeatureLoss, RepresentationLoss
from app.catalog.spec import LOSSES
from tests.catalog.golden import CASES, Golden, difference

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"
SAID_ONCE = {"kind", "weight", "pairs", "layer", "teacher"}  # what is the same for all stands in the head
FLOOR = 1e-12  # a difference below it is rounding, and another machine's is another

HEAD = """# Losses

Made by `make docs` from the catalog itself and from runs of public implementations; do not edit it.

A loss is an entry of a job's `losses`: its `kind` and its parameters, with a `weight` (a number, or a
schedule `{"from": 0, "to": 0.9, "over_epochs": 5}`; so may a temperature be). Losses over pairs of layers
take `pairs`, a list of [student layer, teacher layer] or `"auto"`; those over one representation of each
row take `layer`, such a pair or `"auto"`, the input of the classifier. With several teachers `teacher` says
whose layers they are.

In the formulas `zs` and `zt` are the logits of student and teacher (B rows, C classes), `p = softmax(zt /
T)` and `q = softmax(zs / T)` with the temperature T, `KL(a ; b) = sum a (log a - log b)`, `Fs` and `Ft` the
features of a layer, and `mean_b` the mean over rows, or over the tokens that count. Values are summed in at
least float32, no gradient reaches a teacher, and what a mask excludes may be anything.

"""


def page() -> str:
    """The whole of docs/losses.md."""
    rows = [f"| [`{kind}`](#{kind}) | {needs(loss)} | {loss.paper} |" for kind, loss in LOSSES.items()]
    table = "\n".join(["| kind | needs | paper |", "|---|---|---|", *rows])
    return HEAD + table + "\n" + "".join(section(kind, loss) for kind, loss in LOSSES.items())


def section(kind: str, loss: type[Loss]) -> str:
    told = escaped(inspect.cleandoc(loss.__doc__ or ""))
    fields = {name: field for name, field in loss.model_fields.items() if name not in SAID_ONCE}
    notes = [f"Formula: `{loss.definition.replace('`', '')}`"]
    if loss.paper:
        notes.append(f"Paper: {loss.paper}")
    notes.append(f"Needs: {needs(loss)}")
    notes += [
        f"`{name}` ({default(field)}): {escaped(field.description or '')}" for name, field in fields.items()
    ]
    if loss.batch_statistic:
        notes.append("A statistic of the batch: accumulated over parts of a batch it has another value.")
    if loss.lumps:
        notes.append("Holds as well where a teacher's many unlikely classes are stored as one.")
    if loss.across_families:
        notes.append(f"Between unlike architectures it can hurt: {loss.across_families}.")
    notes += agreements(kind)
    return f"\n## {kind}\n\n{told}\n\n" + "".join(f"- {note}\n" for note in notes)


def escaped(text: str) -> str:
    """So that Markdown reads a star as a star."""
    return text.replace("*", r"\*")


def needs(loss: type[Loss]) -> str:
    of = ""
    if issubclass(loss, FeatureLoss):
        of = " of pairs of layers"
    elif issubclass(loss, RepresentationLoss):
        of = " of one layer"
    return ", ".join(sorted(loss.needs)) + of


def default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is PydanticUndefined:
        return "required"
    return str(value).lower() if isinstance(value, bool) else str(value)


def agreements(kind: str) -> list[str]:
    """One note for each file of a reference implementation that the loss was compared with."""
    files: dict[tuple[str, str, str], list[Golden]] = {}
    for case in CASES:
        if any(kind == term for term, _, _ in case.terms):
            files.setdefault((case.repo, case.commit, case.file), []).append(case)
    if not files:
        return ["Compared with no reference implementation."]
    return [
        f"Agrees with {repo} at {commit}, `{file}`, {runs(len(cases))}: value and gradient within "
        f"{rounded(max(map(difference, cases))):.0e}"
        for (repo, commit, file), cases in files.items()
    ]


def runs(count: int) -> str:
    return "one run" if count == 1 else f"{count} runs"


def rounded(largest: float) -> float:
    """The next power of ten."""
    return float(10.0 ** math.ceil(math.log10(max(largest, FLOOR))))


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
