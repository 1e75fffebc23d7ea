"""How a job's students are taught one after the other, or together."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from app.catalog.base import Scheme
from app.catalog.schemes.self_ema import SelfEma
from worker.engine.company import Average, Peers
from worker.engine.course import Course
from worker.engine.distill import Trained


@dataclass(frozen=True)
class Arranged:
    """before: students that were taught first, by name. teach: the job's own with a seed, and those that
    learn with it, by name; it is the last of them."""

    teach: Callable[[int], dict[str, Trained]]
    before: dict[str, Trained] = field(default_factory=dict)


def one_by_one(course: Course, scheme: Scheme) -> Arranged:  # noqa: ARG001
    """The first learns from the teachers, each next one from the one before (Furlanello et al., 2018;
    Mirzadeh et al., 2020). Who asks to finish does not wait for those who have not begun."""
    before: dict[str, Trained] = {}
    lesson = course.lesson()
    *early, last = range(len(course.hops))
    for place in early:
        name, seed = course.hops[place][-1][0], course.order.seed
        if course.is_enough() and not course.has_begun(name, course.seed_of(name, seed)):
            break
        done = course.hop(place, course.newcomers(place, seed), lesson, seed)
        before |= done
        lesson = course.lesson_of(*done.values())
    return Arranged(lambda seed: course.hop(last, course.newcomers(last, seed), lesson, seed), before)


def together(course: Course, scheme: Scheme) -> Arranged:  # noqa: ARG001
    """All in lockstep, each hearing the others (Zhang et al., 2018)."""
    lesson = replace(course.lesson(), company=Peers())
    return Arranged(lambda seed: course.hop(0, course.newcomers(0, seed), lesson, seed))


def averaged(course: Course, scheme: SelfEma) -> Arranged:
    """One student, which hears the average of its own weights (Tarvainen & Valpola, 2017)."""
    lesson = course.lesson()

    def teach(seed: int) -> dict[str, Trained]:
        student = course.order.new_student(seed=seed)
        company = Average(student, scheme.decay, leaves=scheme.leaves == "ema")
        return course.hop(0, [student], replace(lesson, company=company), seed)

    return Arranged(teach)


ARRANGE: dict[str, Callable[[Course, Scheme], Arranged]] = {
    "offline": one_by_one,
    "born_again": one_by_one,
    "teacher_assistant": one_by_one,
    "mutual": together,
    "self_ema": averaged,  # type: ignore[dict-item]
}
