"""The fifth phase: the students are taught as the scheme has it, and then the controls, which lack nothing
but the teacher."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from app.catalog.base import Scheme
from app.services.jobs import Json
from worker.engine.checkpoint import Checkpoints, Stop
from worker.engine.course import Course
from worker.engine.distill import Trained
from worker.engine.fetch import Material
from worker.engine.hops import versions
from worker.engine.learner import Metrics
from worker.engine.ranks import ONE_RANK
from worker.engine.schemes import ARRANGE
from worker.engine.validate import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.engine.ranks import OneRank, Ranks

    Array = NDArray[Any]

DOMINATES = 0.99  # share of one weighted term in the gradients, from which on the others hardly count
OVERFITS = 1.2  # times the lowest validation log loss, at the end


@dataclass(frozen=True)
class Taught:
    """students: by column, `student`, the job's own, last; of it there is one a seed, of the others one.

    controls: one a seed; none, and `why` says why. notes: for the report. ensembles: columns that are the
    mean of the probabilities of others. versions: {version_id, reference, digest} of the model versions
    that students on the way have become, by column.
    """

    students: dict[str, list[Trained]]
    controls: list[Trained]
    why: str
    notes: list[str] = field(default_factory=list)
    ensembles: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)

    @property
    def student(self) -> Trained:
        """The one that leaves."""
        return self.students["student"][0]

    @property
    def control(self) -> Trained | None:
        """Of the same seed."""
        return self.controls[0] if self.controls else None


def train(
    order: Order,
    material: Material,
    answers: "dict[str, Array]",
    stop: Stop,
    ranks: "Ranks | OneRank" = ONE_RANK,
) -> Taught:
    """Goes on from where an earlier attempt was. Raises NumericDivergence, OutOfMemory and Left."""
    spec, why = order.resolved.spec, _no_control(order, material)
    seeds = range(order.seed, order.seed + spec.evaluation.seeds)
    before = len(spec.scheme.hops(spec.student.architecture)) - 1
    runs = before + len(seeds) * (1 if why else 2)
    checkpoints = Checkpoints(order, stop, keeps=ranks.first)
    checkpoints.load()
    course = Course(order, material, answers, stop.finish, runs=runs, checkpoints=checkpoints, ranks=ranks)
    course.notes += [order.inherited.told] if order.inherited else []
    arranged = ARRANGE[spec.scheme.kind](course, spec.scheme)
    students = {name: [one] for name, one in arranged.before.items()}
    controls: list[Trained] = []
    for seed in seeds:
        if course.is_enough() and "student" in students and not course.has_begun("student", seed):
            break
        taught = arranged.teach(seed)
        if seed == order.seed:
            _diagnose(order, taught["student"].pulls, course.log_losses)
            students |= {name: [one] for name, one in taught.items()}
        else:
            students["student"].append(taught["student"])
    for seed in seeds if not why else []:
        if course.is_enough() and not course.has_begun("control", seed):
            why, controls = "the job was ended early, before the control was trained", []
            break
        controls.append(_control(course, seed))
    missing = [name for name, _ in spec.scheme.students(spec.student.architecture) if name not in students]
    if missing:
        course.notes.append(f"The job was ended early, before these were taught: {', '.join(missing)}.")
    if controls and controls[-1].stopped_by == "user":
        why, controls = "the job was ended early, before the control had trained as long", []
    notes = course.notes + order.adjustments.told
    return Taught(students, controls, why, notes, _ensembles(spec.scheme, students), versions(order))


def _ensembles(scheme: Scheme, students: dict[str, list[Trained]]) -> dict[str, list[str]]:
    """Those of the scheme whose students are all there: who ends a job early has not all of them."""
    return {name: of for name, of in scheme.ensembles().items() if set(of) <= set(students)}


def _control(course: Course, seed: int) -> Trained:
    student = course.order.new_student(seed=seed)
    (trained,) = course.teach([student], course.control_lesson(), name="control", seed=seed)
    return replace(trained, architecture=course.spec.student.architecture, seed=seed)


def _no_control(order: Order, material: Material) -> str:
    if "control" not in order.resolved.spec.evaluation.compare:
        return "evaluation.compare does not name it"
    return "" if len(material.training.labeled) else "no training row has a label"


def _diagnose(order: Order, pulls: Metrics, losses: list[float]) -> None:
    # A term without any gradient on this one batch, as of labels that none of its rows has, tells nothing.
    felt = {name: norm for name, norm in pulls.items() if norm > 0}
    name = max(felt, key=lambda term: felt[term], default="")
    if len(felt) > 1 and (share := felt[name] / sum(felt.values())) > DOMINATES:
        order.journal.warn(
            "loss_term_dominates",
            f"{name} made {share:.1%} of the gradients at first: the other losses hardly count. "
            "Lower its weight.",
            term=name,
            share=share,
        )
    if losses and losses[-1] > OVERFITS * min(losses):
        order.journal.warn(
            "overfitting",
            f"The validation log loss rose from {min(losses):.4f} to {losses[-1]:.4f}. The best step was "
            "kept; "
            "train for fewer epochs, or add unlabeled rows.",
            lowest=min(losses),
            last=losses[-1],
        )
