"""What is allowed and yet unwise: each warning says why, and what would be better."""

from collections.abc import Sequence

from app.catalog.spec import JobSpec, PinnedModel, steps_of
from app.services.planning.checks import Checks
from app.services.planning.data_plan import Tables
from app.services.planning.loss_advice import advise_losses

FEW_STEPS = 100  # a student that starts from nothing learns little in fewer


def advise(
    spec: JobSpec,
    teachers: Sequence[PinnedModel],
    tables: Tables,
    parameters: int,
    checks: Checks,
) -> None:
    """spec: with every default filled in. parameters: of the student."""
    _about_the_student(spec, teachers, parameters, checks)
    _about_the_rows(spec, tables, checks)
    advise_losses(spec, teachers, parameters, checks)


def _about_the_student(
    spec: JobSpec, teachers: Sequence[PinnedModel], parameters: int, checks: Checks
) -> None:
    if teachers and parameters >= teachers[0].parameters > 0:
        detail = f"the student has {parameters:,} parameters, the first teacher {teachers[0].parameters:,}"
        fix = "order a smaller student, if size matters"
        checks.warn("size", "not_smaller", "/student/architecture", detail, fix)
    if not any(export.serves for export in spec.exports):
        detail = "none of the exports can be served at /predict"
        checks.warn("exports", "not_served", "/exports", detail, "add onnx")
    if f"model:{spec.output.model}" in {teacher.reference.partition("@")[0] for teacher in teachers}:
        detail = "the student becomes the newest version of its own teacher's name"
        fix = "choose another name, or point at versions"
        checks.warn("output", "teachers_name", "/output/model", detail, fix)


def _about_the_rows(spec: JobSpec, tables: Tables, checks: Checks) -> None:
    rows = tables.learned_rows(spec.data.validation)
    steps = spec.training.epochs * steps_of(rows, spec.training.batch_size)
    if steps < FEW_STEPS:
        detail = f"the student would take {steps} optimizer steps in all"
        checks.warn("steps", "few_steps", "/training", detail, "order more epochs or a smaller batch_size")
    if spec.data.test is None:
        detail = "the report will stand on the validation rows, which also chose the best step"
        checks.warn("test", "no_test_rows", "/data/test", detail, "hold rows out as a test split")
    for table in tables.judging:
        if (table.pin.dataset_id, table.pin.split) == (tables.train.pin.dataset_id, tables.train.pin.split):
            detail = f"{table.pin.reference} is what the student trains on, so it proves nothing"
            checks.warn("rows", "training_rows", table.pointer, detail, "name another split, as in #test")
    judged = {(one.pin.dataset_id, one.pin.split) for one in tables.judging}
    for table in tables.unlabeled:
        if (table.pin.dataset_id, table.pin.split) in judged:
            detail = (
                f"{table.pin.reference} judges the student, which trains on its rows without their labels"
            )
            fix = "take other rows, or read the report as one on rows that were seen"
            checks.warn("rows", "judged_rows", table.pointer, detail, fix)
    if not tables.labeled:
        detail = "no training row has a label, so there is no control and no share of the truth"
        checks.warn("labels", "no_labels", "/data/train", detail, "label a few rows")
