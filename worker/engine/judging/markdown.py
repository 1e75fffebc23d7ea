"""The report as text for people."""

from collections.abc import Sequence

from app.catalog.measures import SHARES
from worker.engine.judging.intervals import Interval
from worker.engine.judging.report import Column, Report
from worker.engine.judging.slices import Slice

WORST_CLASSES = 10


def markdown(report: Report) -> str:
    """Everything that the report says, in tables; of the classes the worst ones only."""
    parts = [
        f"# Report on {report.job}, {report.date}",
        "",
        report.verdict,
        "",
        *_comparison(report),
        *_gates(report),
        *_exports(report),
        *_training(report),
    ]
    student = next(column for column in report.columns if column.name == "student")
    parts += [
        *_classes(student),
        *_slices(report),
        "## Notes",
        *(f"- {note}" for note in report.notes),
        "",
        "## Where it comes from",
        *_provenance(report),
    ]
    return "\n".join(parts) + "\n"


def _comparison(report: Report) -> list[str]:
    names = [column.name for column in report.columns]
    metrics = list(dict.fromkeys(metric for column in report.columns for metric in column.metrics))
    rows = [[m, *(_interval(m, column.metrics.get(m)) for column in report.columns)] for m in metrics]
    rows.append(["parameters", *(f"{column.parameters:,}" for column in report.columns)])
    gaps = [
        [f"{gap.column} - {gap.minus}", *(_interval(m, gap.metrics.get(m), signed=True) for m in metrics)]
        for gap in report.differences
    ]
    recovered = (
        []
        if report.gap_recovered is None
        else [f"Gap recovered: {_interval('accuracy', report.gap_recovered)}", ""]
    )
    units = "percentages in points" if set(metrics) & SHARES else "in the unit of the data"
    return [
        f"## Columns ({report.rows} rows of {report.split}, 95 % intervals)",
        *_table(["", *names], rows),
        *(f"- {column.name}: {column.about}" for column in report.columns),
        "",
        f"## Differences over the same rows, {units}",
        *_table(["", *metrics], gaps),
        *recovered,
        *_seeds(report),
        *_inherited(report),
    ]


def _seeds(report: Report) -> list[str]:
    if len(report.seeds) == 1:
        return []
    several = [column for column in report.columns if len(column.seeds) > 1]
    rows = [
        [column.name, *(_value(report.metric, seed.metrics.get(report.metric)) for seed in column.seeds)]
        for column in several
    ]
    return [f"## {report.metric} by seed", *_table(["", *map(str, report.seeds)], rows)]


def _inherited(report: Report) -> list[str]:
    found = report.inherited
    if found is None or found.share is None:
        return []
    control = "" if found.control is None else f", where of the control's errors {found.control:.1%} are"
    return [
        f"Of the {found.errors:.4g} rows that the student has wrong, its teacher has {found.inherited:.4g} "
        f"wrong in the same way ({found.share:.1%}{control}).",
        "",
    ]


def _gates(report: Report) -> list[str]:
    if not report.gates:
        return []
    rows = [
        [
            "passed" if gate.passed else "**not passed**",
            ", ".join(f"{name} {value}" for name, value in gate.gate.items()),
            gate.detail,
        ]
        for gate in report.gates
    ]
    return ["## Gates", *_table(["", "gate", "what was found"], rows)]


def _slices(report: Report) -> list[str]:
    return [
        line
        for column in dict.fromkeys(one.column for one in report.slices)
        for line in _slice([one for one in report.slices if one.column == column], report.metric)
    ]


def _slice(slices: Sequence[Slice], metric: str) -> list[str]:
    """One column's values; without labels by the first metric that there is."""
    shown = (
        metric if metric in slices[0].metrics["student"] else next(iter(slices[0].metrics["student"]), metric)
    )
    columns, others = list(slices[0].metrics), list(slices[0].differences)
    rows = [
        [
            one.value.replace("|", "\\|"),
            str(one.n),
            *(_interval(shown, one.metrics[name].get(shown)) for name in columns),
            *(_interval(shown, one.differences[name].get(shown), signed=True) for name in others),
            "" if one.inherited is None or one.inherited.share is None else f"{one.inherited.share:.1%}",
        ]
        for one in slices
    ]
    header = ["", "rows", *columns, *(f"student - {name}" for name in others), "errors of the teacher's"]
    return [f"## {shown} by {slices[0].column}", *_table(header, rows)]


def _exports(report: Report) -> list[str]:
    rows, classes = [], report.metric in SHARES
    for one in report.exports:
        size = f"{one.size / 1024:,.0f} KiB"
        parity = f"{one.difference:.1e}" + (
            "" if one.tolerance is None else f" (at most {one.tolerance:.0e})"
        )
        speeds = [f"{s.p50_ms:.2f} / {s.p95_ms:.2f} ms, {s.rows_per_s:,.0f} rows/s" for s in one.latency]
        rows.append(
            [
                one.kind,
                size,
                one.runtime,
                parity,
                f"{one.likeness:.1%}" if classes else f"{one.likeness:.4g}",
                _value(report.metric, one.value),
                *speeds,
            ]
        )
    batches = [f"batch {speed.batch}: p50 / p95" for speed in report.exports[0].latency]
    alike = "same answer" if classes else "rmse to the student"
    cost = report.cost
    return [
        "## Files",
        *_table(["", "size", "runtime", "largest difference", alike, report.metric, *batches], rows),
        f"The student takes {cost.flops:,} FLOPs and {cost.peak_bytes / 1024:,.0f} KiB of memory, of which "
        f"{cost.weight_bytes / 1024:,.0f} KiB are weights ({cost.how}).",
        "",
    ]


def _training(report: Report) -> list[str]:
    rows = [
        [
            name,
            f"{run.steps} of {run.total_steps}",
            str(run.best_step),
            run.stopped_by,
            f"{run.seconds:.1f} s",
            f"{run.samples_per_s:,.0f}",
        ]
        for name, run in report.training.items()
    ]
    counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in report.data.items())
    header = ["", "steps", "best step", "stopped by", "time", "samples/s"]
    return ["## Training", *_table(header, rows), f"Rows: {counts}.", ""]


def _classes(student: Column) -> list[str]:
    if not student.classes:
        return []
    rows = [
        [
            one.label.replace("|", "\\|"),
            str(one.n),
            f"{one.precision:.1%}",
            f"{one.recall:.1%}",
            _interval("macro_f1", one.f1),
        ]
        for one in student.classes[:WORST_CLASSES]
    ]
    return [
        "## The student's classes, worst first",
        *_table(["class", "rows", "precision", "recall", "F1"], rows),
    ]


def _provenance(report: Report) -> list[str]:
    told = report.provenance
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    teachers = [f"- teacher {one['reference']}, sha256 {one['digest']}" for one in told["teachers"]]
    data = [
        f"- {name}: {pin['reference']}, sha256 {pin['sha256']}"
        for name, pin in told["data"].items()
        if "sha256" in pin
    ]
    return [
        f"- job {report.job}, seeds {', '.join(map(str, told['seeds']))}",
        f"- {told['device']}",
        f"- {versions}",
        *teachers,
        *data,
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["", *("| " + " | ".join(cells) + " |" for cells in lines), ""]


def _value(metric: str, value: float | None) -> str:
    return "" if value is None else f"{value:.1%}" if metric in SHARES else f"{value:.4f}"


def _interval(metric: str, one: Interval | None, *, signed: bool = False) -> str:
    """Shares in percent, the rest as numbers."""
    if one is None:
        return ""
    shape = ("+" if signed else "") + (".1%" if metric in SHARES else ".4f")
    bounds = "" if one.low is None else f" ({one.low:{shape}} to {one.high:{shape}})"
    return f"{one.value:{shape}}{bounds}"
