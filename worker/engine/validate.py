"""The first phase: the order is read back from the row, and checked against itself and this worker."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from app.catalog.base import Architecture, Frozen, Task
from app.catalog.spec import PinnedModel, Resolved
from app.db.tables import Job
from app.errors import TeacherLoadFailed
from app.ports.parts import Parts
from worker.engine.adjusting import Adjustments
from worker.engine.device import Device, choose, seed_everything
from worker.engine.ensemble import Ensemble
from worker.engine.initialize import Inherited, inherited
from worker.engine.teachers import Translation, in_order
from worker.journal import Journal


@dataclass(frozen=True)
class Order:
    """What every phase is given: the job, the place where it works, and whom it tells.

    checkpoint_step: of the newest one that an earlier attempt kept; 0: none.
    """

    job_id: str
    project_id: str
    resolved: Resolved
    device: Device
    folder: Path
    parts: Parts
    journal: Journal
    adjustments: Adjustments
    spec_digest: str
    checkpoint_step: int

    @property
    def task(self) -> Task:
        return self.resolved.spec.task

    @property
    def seed(self) -> int:
        return self.resolved.spec.training.seed

    @cached_property
    def preprocessing(self) -> Frozen:
        """The student's own."""
        return self.task.parse_preprocessing(self.resolved.preprocessing)

    def preprocessing_of(self, teacher: int) -> Frozen:
        """A teacher's, by its place."""
        return self.task.parse_preprocessing(self.resolved.teachers[teacher].preprocessing)

    @cached_property
    def source(self) -> Frozen:
        """Of the rows that are augmented, for the student and for all teachers."""
        places = range(len(self.resolved.teachers))
        source: Frozen = self.task.source([self.preprocessing, *map(self.preprocessing_of, places)])
        return source

    def shown(self, rows: Tensor, preprocessing: Frozen) -> Tensor:
        """Augmented rows as a model's normalized batch."""
        batch: Tensor = self.task.normalize(self.task.fitted(rows, preprocessing), preprocessing)
        return batch

    @property
    def ensemble(self) -> Ensemble:
        weights = [teacher.weight for teacher in self.resolved.teachers]
        return Ensemble(self.resolved.spec.ensemble, weights, self.seed)

    def token_mask(self, normalized: Tensor) -> Tensor | None:
        mask: Tensor | None = self.task.token_mask(normalized, self.preprocessing)
        return mask

    def translation(self, teacher: PinnedModel) -> Translation:
        """What makes of a teacher's logits those of the job: its labels in order, its numbers in the
        student's unit."""
        own, task = self.task.parse_preprocessing(teacher.preprocessing), self.task

        def translate(logits: Tensor) -> Tensor:
            told: Tensor = task.in_units(in_order(logits, teacher.order), own)
            wanted: Tensor = task.standardized(told, self.preprocessing)
            return wanted

        return translate

    def in_the_jobs_order(self, teacher: PinnedModel) -> bool:
        """Whether its logits are those of the job as they are."""
        own = [[place] for place in range(len(teacher.labels))]
        return self.task.answer == "class" and teacher.order == own

    def normalize(self, encoded: Any) -> Any:
        return self.task.normalize(encoded, self.preprocessing)

    def new_student(self, architecture: Architecture | None = None, seed: int | None = None) -> nn.Module:
        """On the device, always with the same first weights for the same seed.

        architecture: of a student that starts from nothing; None: the job's own, which starts as ordered.
        """
        start = self.inherited if architecture is None else None
        seed_everything(self.seed if seed is None else seed)
        ordered = architecture or self.resolved.spec.student.architecture
        student = ordered.build(self.resolved.input, self.resolved.labels)
        if start is not None:
            start.into(student)
        return student.to(self.device.on)

    @cached_property
    def inherited(self) -> Inherited | None:
        """What the job's own student starts with of another model. Raises NothingInherited."""
        model, student = self.resolved.initialize, self.resolved.spec.student
        if model is None:
            return None
        fresh = student.architecture.build(self.resolved.input, self.resolved.labels)
        folder = self.folder / model.version_id
        return inherited(student.initialize, model, folder, fresh, student.architecture)


def validate(job: Job, folder: Path, parts: Parts, journal: Journal) -> Order:
    """Raises NoSuchDevice, TeacherLoadFailed."""
    resolved = Resolved.model_validate(job.resolved)
    spec = resolved.spec
    for teacher in resolved.teachers:
        _check_order(teacher.reference, teacher.order, len(resolved.labels), len(teacher.labels))
    device = choose(spec.resources.accelerator, spec.training.precision, parts.settings.threads)
    journal.note(f"computing on {device.described()}")
    return Order(
        job_id=job.id,
        project_id=job.project_id,
        resolved=resolved,
        device=device,
        folder=folder,
        parts=parts,
        journal=journal,
        adjustments=Adjustments(journal, spec, job.adjustments),
        spec_digest=job.spec_digest,
        checkpoint_step=job.checkpoint_step,
    )


def _check_order(reference: str, order: list[list[int]], labels: int, outputs: int) -> None:
    """Each of the job's labels has places of its own among the teacher's logits."""
    places = [place for several in order for place in several]
    sound = len(order) == labels and all(order) and len(set(places)) == len(places)
    if not sound or not all(0 <= place < outputs for place in places):
        raise TeacherLoadFailed(
            f"The teacher {reference} has {outputs} logits, in which the job's {labels} labels do not all "
            "have places of their own. "
            "Import it again with its labels in the order of its logits, and plan the job again."
        )
