"""What a reader must know before believing the numbers."""

from collections.abc import Sequence

from app.catalog.spec import PinnedData, ResolvedData
from worker.engine.fetch import Material
from worker.engine.judging.evaluate import Findings
from worker.engine.judging.gates import GateResult
from worker.engine.train import Taught
from worker.engine.validate import Order

FEW_SEEDS = 5  # of a bootstrap over them, from which on it says little of their spread


def notes(order: Order, material: Material, findings: Findings, taught: Taught) -> list[str]:
    said = [_of_the_seeds(seeds(taught))]
    if material.report.name == "validation":
        said.append(
            "There is no test set: these are the validation rows, which chose the best step, "
            "so the student looks a little too good."
        )
    else:
        said += _of_the_test(order.resolved.data)
    if taught.why:
        said.append(f"There is no control: {taught.why}.")
    elif findings.labeled and findings.gap is None and findings.teacher:
        said.append("No gap recovered is given: the teacher is not clearly better than the control.")
    if len(order.resolved.spec.evaluation.slices):
        said.append(
            "The slices were not corrected for being many: of 20 differences without a cause, about one "
            "interval excludes 0."
        )
    if not findings.labeled:
        said.append(
            "The rows have no labels: all that can be said is how well the student imitates its teacher."
        )
    return said


def _of_the_seeds(given: list[int]) -> str:
    if len(given) == 1:
        return (
            "One seed: the intervals tell how much the rows could vary, not how much another training would."
        )
    told = (
        f"{len(given)} seeds: values are means over their trainings, and the intervals tell how much rows "
        f"and trainings vary together. The student that leaves is that of seed {given[0]}."
    )
    return told + (" Of so few seeds the intervals are rather too narrow." if len(given) < FEW_SEEDS else "")


def of_the_gates(order: Order, gates: Sequence[GateResult]) -> list[str]:
    alias = order.resolved.spec.output.alias
    if all(gate.passed for gate in gates) or alias is None:
        return []
    return [f"A gate was not passed, so the alias {alias} was not moved to this version."]


def _of_the_test(data: ResolvedData) -> list[str]:
    """Whether the test rows are new to the student; files are compared whole, by their sha256."""
    assert data.test is not None
    seen = []
    if data.test.sha256 in {pin.sha256 for pin in (data.train, *data.unlabeled)}:
        seen.append("The test rows are also training rows: these figures say nothing about new data.")
    if isinstance(data.validation, PinnedData) and data.test.sha256 == data.validation.sha256:
        seen.append(
            "The test rows are also the validation rows, which chose the best step, "
            "so the student looks a little too good."
        )
    return seen or ["The test set was read once, after everything was decided."]


def seeds(taught: Taught) -> list[int]:
    """Of the student's trainings; the first one's leaves."""
    return [run.seed for run in taught.students["student"]]
