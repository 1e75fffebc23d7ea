"""How a job's students are taught one after the other, or together."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.catalog.base import Scheme
from worker.engine.course import Course
from worker.engine.distill import Trained


@dataclass(frozen=True)
class Arranged:
    """before: students that were taught first, by name. teach: the job's own with a seed, and those that
    learn with it, by name; it is the last of them."""

    teach: Callable[[int], dict[str, Trained]]
    before: dict[str, Trained] = field(default_factory=dict)


def offline(course: Course, scheme: Scheme) -> Arranged:  # noqa: ARG001
    """Finished teachers, one student."""
    order = course.order
    architecture = order.resolved.spec.student.architecture

    def teach(seed: int) -> dict[str, Trained]:
        student = order.new_student(seed=seed)
        (trained,) = course.teach([(architecture, student)], course.lesson(), name="student", seed=seed)
        return {"student": trained}

    return Arranged(teach)


ARRANGE: dict[str, Callable[[Course, Scheme], Arranged]] = {"offline": offline}
