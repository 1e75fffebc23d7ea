"""Where a queued job stands, and why it does not run yet."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import Select, Subquery, and_, bindparam, case, func, or_, select
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Job, Project, Worker
from app.services import quotas, workers
from app.services.claims import QUEUED, no_gpu_left, running_jobs

OUT_OF_GPU = "the project's GPU seconds of this month are used up; the next one begins anew (UTC)"

Reason = Literal["capacity", "quota", "preempted", "retry"]


@dataclass(frozen=True)
class Waiting:
    """Why a queued job is not running. ahead: how many jobs would be claimed before it, as things stand;
    None: nobody has counted.

    detail: what more there is to say, such as that no worker offers what it needs.
    """

    reason: Reason
    ahead: int | None
    detail: str | None = None


def waiting(session: Session, jobs: Sequence[Job]) -> dict[str, Waiting]:
    """By id, of those that are queued."""
    alike: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for job in jobs:
        if job.status == "queued":
            alike[job.accelerator, job.devices].append(job.id)
    if not alike:
        return {}
    there, barred = workers.live(session), quotas.without_gpu(session)
    found = {}
    for (accelerator, devices), ids in alike.items():
        given = {"ids": ids, "barred": barred}
        for row in session.execute(_standing(_rivals(there, accelerator, devices)), given):
            detail = OUT_OF_GPU if row.barred else missing(there, accelerator, devices)
            found[row.id] = Waiting(_reason(row), row.ahead, detail)
    return found


def uncounted(session: Session, job: Job) -> Waiting:
    """Of a job that has just been submitted: its place takes a look at the whole queue."""
    return Waiting("capacity", None, missing(workers.live(session), job.accelerator, job.devices))


def ahead_of_new(session: Session, project_id: str, priority: int, accelerator: str, devices: int) -> int:
    """How many jobs would be claimed before one that is submitted now."""
    line = _line(_rivals(workers.live(session), accelerator, devices))
    own = func.coalesce(func.sum(case((line.c.project_id == project_id, line.c.available), else_=0)), 0)
    running = running_jobs()
    here = select(running.c.count).where(running.c.project_id == project_id).scalar_subquery()
    first = select(own + func.coalesce(here, 0)).where(line.c.priority >= priority)
    barred = {"barred": quotas.without_gpu(session)}
    turn = session.scalar(first, barred) or 0
    before = or_(line.c.priority > priority, and_(line.c.priority == priority, line.c.turn <= turn))
    return session.scalar(select(func.count()).where(line.c.passes == 1, before), barred) or 0


def missing(there: Iterable[Worker], accelerator: str, devices: int) -> str | None:
    """What no worker has that is there; None: one could carry such a job out."""
    most = workers.most_slots(there, accelerator)
    offers = "" if accelerator == "auto" else f" that offers {accelerator}"
    if most == 0:
        return f"no worker{offers} is there"
    if most < devices:
        return f"no worker{offers} has {devices} devices for one job: the largest has {most}"
    return None


def _rivals(there: Sequence[Worker], accelerator: str, devices: int) -> frozenset[str]:
    """The accelerators of the jobs that take slots which a job like this could have."""
    fit = [worker for worker in there if workers.most_slots([worker], accelerator) >= devices]
    return frozenset({"auto", accelerator}.union(*(worker.accelerators for worker in fit)))


@cache  # they take longer to build than to run
def _standing(rivals: frozenset[str]) -> Select[*tuple[Any, ...]]:
    line = _line(rivals)
    return select(line).where(line.c.id.in_(bindparam("ids", expanding=True)))


@cache
def _line(rivals: frozenset[str]) -> Subquery:
    """All queued jobs in the order of claims, each with how many go before it; services.claims has the rule.

    The place that a job has within its project is how many claims its project gets before its turn comes.
    """
    barred = no_gpu_left(Job)
    available = and_(Job.available_at <= db_now(), Job.accelerator.in_(sorted(rivals)), ~barred)
    one = case((available, 1), else_=0)
    own = func.sum(one).over(
        partition_by=Job.project_id,
        order_by=(Job.priority.desc(), Job.created_at, Job.id),
        rows=(None, -1),
    )
    running = running_jobs()
    count = func.coalesce(running.c.count, 0)
    queued = (
        select(
            Job.id, Job.project_id, Job.priority, Job.created_at, Job.attempt, Job.preempted,
            one.label("available"), barred.label("barred"), (Job.available_at > db_now()).label("delayed"),
            count.label("running"), Project.max_running_jobs.label("quota"),
            (count + func.coalesce(own, 0)).label("turn"),
        )
        .join(Project, Project.id == Job.project_id)
        .outerjoin(running, running.c.project_id == Job.project_id)
        .where(Job.status == QUEUED)
        .subquery("queued")
    )  # fmt: skip
    allowed = or_(queued.c.quota.is_(None), queued.c.turn < queued.c.quota)
    passes = case((and_(queued.c.available == 1, allowed), 1), else_=0)
    before = func.sum(passes).over(
        order_by=(queued.c.priority.desc(), queued.c.turn, queued.c.created_at, queued.c.id), rows=(None, -1)
    )
    return select(queued, passes.label("passes"), func.coalesce(before, 0).label("ahead")).subquery("line")


def _reason(row: Any) -> Reason:
    if row.attempt > 0 and row.delayed:
        return "retry"
    if row.barred or (row.quota is not None and row.running >= row.quota):
        return "quota"
    return "preempted" if row.preempted else "capacity"
