"""What the demo shows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.digits.outside import Measured
from examples.digits.rows import Digit
from examples.digits.service import Json

console = Console(highlight=False)


def hands(dealt: dict[str, list[Digit]]) -> None:
    counts = ", ".join(f"{name} {len(digits)}" for name, digits in dealt.items())
    console.print(f"[bold]Handwritten digits[/], no two hands hold the same one: {counts}", soft_wrap=True)


def doing(what: str) -> AbstractContextManager[object]:
    return console.status(what)


@contextmanager
def bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar that is told how far it is, 0 to 1."""
    with _progress() as progress:
        task = progress.add_task(what, total=1.0, told="")
        yield lambda fraction: progress.update(task, completed=fraction)


def dataset(made: Json) -> None:
    splits = ", ".join(f"{split['split']} {split['rows']}" for split in made["splits"])
    console.print(f"[bold]{made['reference']}[/] {splits} rows")


def model(made: Json) -> None:
    console.print(f"[bold]{made['reference']}[/] {made['family']}, {made['parameters']:,} parameters")
    for warning in made["warnings"]:
        console.print(f"  [yellow]{escape(warning)}[/]")


def plan(planned: Json) -> None:
    if cost := planned["estimate"]:
        size = f"{cost['student_parameters']:,} parameters, {cost['times_smaller']:.0f} times fewer"
        console.print(f"[bold]Plan[/] a student of {size} than its teacher; {cost['total_steps']} steps")
    for check in planned["checks"]:
        if check["status"] != "ok":
            console.print(f"  [yellow]{escape(str(check['detail']))}[/]")


def follow(job: Json, events: Iterable[Json]) -> None:
    """A bar for each phase, as the events tell it."""
    console.print(f"[bold]{job['id']}[/] {escape(job['name'])}")
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}
        for event in events:
            phase, data = event["phase"], event["data"]
            if event["type"] == "phase.started":
                tasks[phase] = progress.add_task(phase, total=1.0, told="")
            elif event["type"] == "phase.progress":
                progress.update(tasks[phase], completed=data["fraction"], told=_told(data))
            elif event["type"] == "phase.ended":
                progress.update(tasks[phase], completed=1.0)
            elif event["level"] != "info":
                progress.console.print(f"  [yellow]{escape(event['message'])}[/]")


def report(found: Json, measured: dict[str, Measured]) -> None:
    """measured: of teacher and student; the control is the student's network with other weights."""
    columns = {column["name"]: column for column in found["columns"]}
    table = Table("", "accuracy (95 %)", "parameters", "as ONNX", "1 image", "32 images", title="The report")
    for name in ("teacher", "control", "student"):
        accuracy = _interval(columns[name]["metrics"]["accuracy"])
        told = _measured(measured["teacher" if name == "teacher" else "student"])
        table.add_row(name, accuracy, f"{columns[name]['parameters']:,}", *told)
    console.print(table)
    console.print(escape(found["verdict"]), soft_wrap=True)
    if found["gap_recovered"]:
        console.print(f"Recovered of the gap from control to teacher: {_interval(found['gap_recovered'])}")
    _exports(found["exports"])


def seeds(reports: Sequence[Json]) -> None:
    table = Table("seed", "teacher", "control", "student", title="Accuracy over seeds")
    rows = [[_accuracy(one, name) for name in ("teacher", "control", "student")] for one in reports]
    for seed, row in enumerate(rows):
        table.add_row(str(seed), *(f"{value:.1%}" for value in row))
    columns = list(zip(*rows, strict=True))
    table.add_section()
    table.add_row("mean", *(f"{sum(column) / len(column):.1%}" for column in columns))
    table.add_row("range", *(f"{min(column):.1%} to {max(column):.1%}" for column in columns))
    console.print(table)


def answers(found: Sequence[Json], truth: Sequence[str]) -> None:
    told = ", ".join(
        f"a {label} is called {one['label']} ({one['probability']:.1%})"
        for one, label in zip(found, truth, strict=True)
    )
    console.print(f"[bold]POST /predict[/] {told}", soft_wrap=True)


def agreement(
    accuracies: dict[str, float], difference: float, accepted: float, folder: Path, files: Sequence[Json]
) -> None:
    table = Table("the same student, opened by", "accuracy", title="Inside and outside of the service")
    for name, accuracy in accuracies.items():
        table.add_row(name, f"{accuracy:.1%}")
    console.print(table)
    verdict = "[green]They agree" if difference <= accepted else "[red]They do not agree"
    console.print(f"{verdict}[/]: the largest difference of a probability is {difference:.1e}.")
    names = ", ".join(file["path"] for file in files)
    console.print(f"The student is yours: {folder} ({names})", soft_wrap=True)


def invite(url: str, image: Path) -> None:
    console.print(f"\nThe service is still there, {url}/docs shows all it does; Ctrl-C ends it. Try:")
    ask = f"curl -H 'Content-Type: image/png' --data-binary @{image} '{url}/predict?model=digits-student'"
    console.print(f"  {ask}", soft_wrap=True, markup=False)


def sorry(message: str) -> None:
    console.print(f"[red]{escape(message)}[/]", soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("  {task.description:<22}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
    )


def _told(data: Json) -> str:
    if "step" not in data:
        return ""
    return f"step {data['step']}/{data['total_steps']}, {data['samples_per_s']:,.0f} samples/s"


def _measured(file: Measured) -> list[str]:
    return [_kib(file.size), f"{file.one_ms:.2f} ms", f"{file.many_ms:.2f} ms"]


def _kib(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"


def _exports(exports: Sequence[Json]) -> None:
    table = Table("file", "size", "same answers", "1 image", "32 images", title="The student's files")
    for one in exports:
        times = [f"{latency['p50_ms']:.2f} ms" for latency in one["latency"]]
        table.add_row(one["kind"], _kib(one["size"]), f"{one['likeness']:.1%}", *times)
    console.print(table)


def _accuracy(found: Json, name: str) -> float:
    return next(
        float(column["metrics"]["accuracy"]["value"]) for column in found["columns"] if column["name"] == name
    )


def _interval(one: Json) -> str:
    bounds = "" if one["low"] is None else f" ({one['low'] * 100:.1f}–{one['high'] * 100:.1f})"
    return f"{one['value']:.1%}{bounds}"
