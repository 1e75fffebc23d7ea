"""The report as text for people."""

from collections.abc import Sequence

from worker.engine.metrics import Interval
from worker.engine.report import Column, ExportRow, Report

SHARES = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "ece", "agreement"}
WORST_CLASSES = 10


def markdown(report: Report) -> str:
    """Everything that the report says, in tables; of the classes the worst ones only."""
    parts = [
        f"# Report on {report.job}, {report.date}",
        "",
        report.verdict,
        "",
        *_comparison(report),
        *_exports(report.exports),
        *_training(report),
    ]
    student = next(column for column in report.columns if column.name == "student")
    parts += _classes(student)
    parts += [
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
    return [
        f"## Columns ({report.rows} rows of {report.split}, 95 % intervals)",
        *_table(["", *names], rows),
        *(f"- {column.name}: {column.about}" for column in report.columns),
        "",
        "## Differences over the same rows, percentages in points",
        *_table(["", *metrics], gaps),
        *recovered,
    ]


def _exports(exports: Sequence[ExportRow]) -> list[str]:
    rows = []
    for one in exports:
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
                f"{one.agreement:.1%}",
                "" if one.accuracy is None else f"{one.accuracy:.1%}",
                *speeds,
            ]
        )
    batches = [f"batch {speed.batch}: p50 / p95" for speed in exports[0].latency]
    return [
        "## Files",
        *_table(["", "size", "runtime", "largest difference", "same answer", "accuracy", *batches], rows),
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
        f"- job {report.job}, seed {told['seeds'][0]}",
        f"- {told['device']}",
        f"- {versions}",
        *teachers,
        *data,
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["", *("| " + " | ".join(cells) + " |" for cells in lines), ""]


def _interval(metric: str, one: Interval | None, *, signed: bool = False) -> str:
    """Shares in percent, the rest as numbers."""
    if one is None:
        return ""
    shape = ("+" if signed else "") + (".1%" if metric in SHARES else ".4f")
    bounds = "" if one.low is None else f" ({one.low:{shape}} to {one.high:{shape}})"
    return f"{one.value:{shape}}{bounds}"
