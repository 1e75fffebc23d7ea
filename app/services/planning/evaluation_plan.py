"""The evaluation part of a plan: whether what is to be measured, cut and demanded is there to be had."""

from app.catalog.base import Column
from app.catalog.measures import AGAINST_LABELS, AGAINST_TEACHER, MAY_BE_NEGATIVE, SHARES, measures
from app.catalog.spec import Gate, Hinton, JobSpec, Limits
from app.errors import Fault, InvalidSpec, WillNotFit, shown
from app.services.planning.checks import Checks
from app.services.planning.data_plan import Table, Tables

MOST_SLICES = 50  # values of one column
BYTES_A_WEIGHT = {"onnx_int8": 1}  # of an exported file; float32 else


def check_evaluation(spec: JobSpec, tables: Tables, checks: Checks) -> None:
    """Metrics, gates and slices, against the task and against the rows that the report stands on."""
    checks.run("metrics", "/training/early_stopping/metric", _check_watched, spec, tables)
    checks.run("losses", "/losses", _check_preset, spec)
    checks.run("signals", "/signals/dtype", _check_store, spec)
    for place, gate in enumerate(spec.evaluation.gates):
        checks.run("gates", f"/evaluation/gates/{place}", _check_gate, spec, gate, tables, place)
    for place, name in enumerate(spec.evaluation.slices):
        checks.run("slices", f"/evaluation/slices/{place}", _check_slice, name, tables, place)


def check_limits(spec: JobSpec, parameters: int, checks: Checks) -> None:
    """What can be said beforehand of the device's limits. parameters: of the student."""
    limits = spec.student.limits
    checks.run("limits", "/student/limits", _check_limits, spec, limits, parameters)
    size = parameters * max(BYTES_A_WEIGHT.get(export.kind, 4) for export in spec.exports)
    if limits.max_bytes is not None and size > limits.max_bytes:
        detail = f"the largest file will have about {size:,} bytes, {limits.max_bytes:,} are allowed"
        fix = "order a smaller student, or the export onnx_int8 alone"
        checks.warn("limits", "too_large", "/student/limits/max_bytes", detail, fix)


def slice_column(name: str, table: Table, label: str) -> tuple[str, Column]:
    """The column that a slice means; `label` is the label's where no column is called so.

    Raises InvalidSpec.
    """
    column = name if name in table.columns or name != "label" else label
    if column not in table.columns:
        there = ", ".join(sorted(table.columns)[:20])
        detail = f"{table.pin.reference} has no column {shown(name)} to cut the report by"
        raise InvalidSpec(detail, Fault("", "unknown_column", detail, f"name one of {there}"))
    return column, table.columns[column]


def check_measured(spec: JobSpec, tables: Tables, metric: str) -> None:
    """Whether the validation rows tell the metric. Raises InvalidSpec."""
    answer, validation = spec.task.answer, tables.validation
    if metric in AGAINST_LABELS[answer] and not tables.labeled_in(validation):
        detail = f"{metric} needs labels, and no row of {validation.pin.reference} has one"
        fix = "use auto, which asks the teachers instead, or give labeled validation rows"
        raise InvalidSpec(detail, Fault("", "no_labels", detail, fix))
    if metric in AGAINST_TEACHER[answer] and not spec.teachers:
        detail = f"{metric} compares with a teacher, and the job has none"
        raise InvalidSpec(detail, Fault("", "no_teacher", detail, "use auto, or name a teacher"))


def _check_watched(spec: JobSpec, tables: Tables) -> None:
    stopping = spec.training.early_stopping
    known = AGAINST_LABELS[spec.task.answer]
    if stopping is None:
        return
    if stopping.metric not in ("auto", *known):
        detail = f"{spec.task.kind} has no {stopping.metric}"
        fix = f"choose auto, or one of {', '.join(known)}"
        raise InvalidSpec(detail, Fault("", "unknown_metric", detail, fix))
    check_measured(spec, tables, stopping.metric)


def _check_preset(spec: JobSpec) -> None:
    preset = spec.losses
    if (
        spec.task.answer == "number"
        and isinstance(preset, Hinton)
        and "temperature" in preset.model_fields_set
    ):
        detail = "a number has no temperature, so the preset cannot soften it"
        raise InvalidSpec(detail, Fault("/losses/temperature", "no_temperature", detail, "leave it out"))


def _check_store(spec: JobSpec) -> None:
    """A teacher's numbers are stored in its own unit, in which they may be of any size."""
    if spec.task.answer == "number" and spec.signals.dtype == "float16":
        detail = "float16 keeps three digits of a number and none above 65,504"
        raise InvalidSpec(detail, Fault("", "too_coarse", detail, "use auto or float32"))


def _check_gate(spec: JobSpec, gate: Gate, tables: Tables, place: int) -> None:
    where, answer = f"/evaluation/gates/{place}", spec.task.answer
    if gate.metric not in measures(answer):
        detail = f"{spec.task.kind} has no metric {shown(gate.metric)}"
        fix = f"choose one of {', '.join(measures(answer))}"
        raise InvalidSpec(detail, Fault(f"{where}/metric", "unknown_metric", detail, fix))
    if gate.metric in AGAINST_LABELS[answer] and not tables.report_labeled:
        detail = f"{gate.metric} needs labels, and no row of {tables.report.pin.reference} has one"
        fix = f"gate {' or '.join(AGAINST_TEACHER[answer])}, or give labeled test rows"
        raise InvalidSpec(detail, Fault(f"{where}/metric", "no_labels", detail, fix))
    _check_reach(gate, where)
    if gate.min_ratio is not None and gate.metric in MAY_BE_NEGATIVE:
        detail = f"{gate.metric} may be negative, and a share of that says nothing"
        raise InvalidSpec(detail, Fault(f"{where}/min_ratio", "no_ratio", detail, "use min_difference"))
    if gate.versus is not None:
        _check_versus(spec, gate, tables, where)


def _check_reach(gate: Gate, where: str) -> None:
    """A share lies between 0 and 1, so a bar of 95 is none that anybody clears."""
    for name, low in (("min", 0), ("max", 0), ("min_difference", -1)):
        bar = getattr(gate, name)
        if gate.metric in SHARES and bar is not None and not low <= bar <= 1:
            detail = f"{gate.metric} is a share of 1, and {name} {bar:g} is outside of {low} to 1"
            fix = "give a share of 1: 0.95 is 95 %"
            raise InvalidSpec(detail, Fault(f"{where}/{name}", "out_of_reach", detail, fix))


def _check_versus(spec: JobSpec, gate: Gate, tables: Tables, where: str) -> None:
    lacking = ""
    if gate.versus == "teacher" and not spec.teachers:
        lacking = "the job has no teacher"
    elif gate.versus == "teacher" and gate.metric in AGAINST_TEACHER[spec.task.answer]:
        lacking = f"the teacher has no {gate.metric}, which compares others with it"
    elif gate.versus == "control" and "control" not in spec.evaluation.compare:
        lacking = "evaluation.compare leaves the control out"
    elif gate.versus == "control" and not tables.labeled:
        lacking = "there is no control where no training row has a label"
    if lacking:
        detail = f"the gate cannot be held against the {gate.versus}: {lacking}"
        raise InvalidSpec(
            detail,
            Fault(f"{where}/versus", "nothing_to_compare", detail, "compare with another, or use min or max"),
        )


def _check_slice(name: str, tables: Tables, place: int) -> None:
    column, told = slice_column(name, tables.report, tables.label)
    distinct = told.distinct if told.counts is None else len(told.counts)
    if distinct is None or distinct > MOST_SLICES:
        many = "very many" if distinct is None else str(distinct)
        detail = f"the column {shown(column)} has {many} distinct values; at most {MOST_SLICES} make slices"
        fix = "name a column of few values, or upload one that groups these"
        raise InvalidSpec(detail, Fault(f"/evaluation/slices/{place}", "too_many_values", detail, fix))


def _check_limits(spec: JobSpec, limits: Limits, parameters: int) -> None:
    if limits.max_parameters is not None and parameters > limits.max_parameters:
        detail = f"the student would have {parameters:,} parameters, {limits.max_parameters:,} are its limit"
        fault = Fault("/student/limits/max_parameters", "will_not_fit", detail, "order a smaller student")
        raise WillNotFit(detail.capitalize(), fault)
    if limits.max_latency_ms is not None and not any(export.serves for export in spec.exports):
        detail = "latency is measured on a file that can be served, and none of the exports can"
        raise InvalidSpec(detail, Fault("/student/limits/max_latency_ms", "not_served", detail, "add onnx"))
