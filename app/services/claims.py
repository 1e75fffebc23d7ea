"""Who is next: which queued job a worker takes.

Higher priorities go first; among equals the project with the fewest running jobs, and then the oldest job. A
project at its `max_running_jobs` waits, and so do its jobs for a GPU once its `max_gpu_s` are used up. A
claim finds out whose turn it is by a few index lookups for each project, and takes a job of theirs by one
guarded UPDATE that skips what others hold. Two claims at the same moment may count the same running jobs, but
they never get the same job nor exceed `max_running_jobs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Dialect,
    Float,
    Integer,
    Row,
    Select,
    String,
    Subquery,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from app.db.dialect import db_now
from app.db.tables import Job, MetricPoint, Project
from app.failpoints import failpoint
from app.services import quotas
from app.services.phases import PHASES, pending
from app.services.transitions import Note, change, changing, write_events

TRIES = 3  # looks at whose turn it is, when others were faster each time
TURNS = 16  # projects that one look finds
NOBODY = -1  # below every priority
PATIENCE_S = 60.0  # that a job for several slots lets others pass; then slots are kept free for it
Chance = tuple[tuple[str, int], int]  # an accelerator, slots, and the priority that a job has to be above
_jobs, _projects = Job.__table__, Project.__table__  # a look at these costs less than one at the classes
QUEUED = literal("queued", literal_execute=True)  # the index of queued jobs does not serve a parameter


@dataclass(frozen=True)
class Room:
    """How many slots of a worker a job may take, by its accelerator: those that are free, and all."""

    free: Mapping[str, int]
    whole: Mapping[str, int]

    @classmethod
    def of(cls, accelerators: Sequence[str], slots: int = 1) -> "Room":
        """Free slots which have every accelerator."""
        free = dict.fromkeys(("auto", *accelerators), slots)
        return cls(free, free)

    @property
    def any_free(self) -> bool:
        return any(self.free.values())


def claim(
    session: Session, owner: str, accelerators: Sequence[str], lease_s: float, room: Room | None = None
) -> Job | None:
    """Takes the next job; None when nothing is eligible. room: None means a single slot."""
    room = room or Room.of(accelerators)
    for _ in range(TRIES):
        turns = _turns(session, room)
        for turn in turns:
            device = "cuda" if "cuda" in accelerators and turn.accelerator != "cpu" else "cpu"
            job = _take(session, turn, owner, lease_s, device)
            if job is not None:
                return _begin(session, job)
        if not turns:
            break
    return None


def wanted(session: Session, room: Room) -> set[str]:
    """The accelerators of jobs that could be claimed now."""
    return {turn.accelerator for turn in _turns(session, room)}


def ready(job: Any) -> list[ColumnElement[bool]]:
    """What makes a job one that waits for its turn and a worker only. job: the table, or an alias of it."""
    return [job.status == QUEUED, job.available_at <= db_now()]


def no_gpu_left(job: Any) -> ColumnElement[bool]:
    """Whether it may take a GPU and its project is one of those `barred` from them."""
    return and_(job.accelerator != "cpu", job.project_id.in_(bindparam("barred", expanding=True)))


def running_jobs() -> Subquery:
    """(project_id, count) of the projects that have any."""
    jobs = _jobs.c
    counted = select(jobs.project_id, func.count().label("count")).where(jobs.status == "running")
    return counted.group_by(jobs.project_id).subquery("running")


def _turns(session: Session, room: Room) -> Sequence[Row[Any]]:
    """(project_id, accelerator, slots, priority, quota, gpu_quota) of the jobs that could be claimed, best
    first. slots: that the job may take.
    """
    if not room.any_free:
        return []
    chances = _chances(room, _kept_for(session, room))
    connection = session.connection()
    turns = connection.exec_driver_sql(_written(connection.dialect, chances)).all()
    if all(turn.gpu_quota is None or turn.accelerator == "cpu" for turn in turns):
        return turns
    return session.execute(_look(chances, barring=True), {"barred": quotas.without_gpu(session)}).all()


def _chances(room: Room, kept: Mapping[str, int]) -> tuple[Chance, ...]:
    """What a job may take, and above which priority: what is kept for a job for GPUs is none of the slots
    without."""
    chances = {}
    for name, free in room.free.items():
        beside = {other: free - room.free[other] for other in kept}  # slots of this kind and not of the other
        for slots in {free, *beside.values()}:
            in_the_way = [kept[other] for other in kept if beside[other] < slots]
            if slots > 0:
                chances[name, slots] = max(in_the_way, default=NOBODY)
    return tuple(chances.items())


@lru_cache(256)
def _written(dialect: Dialect, chances: tuple[Chance, ...]) -> str:
    """The look as text, without parameters: Postgres plans it once, and SQLAlchemy has nothing to do."""
    return str(_look(chances, barring=False).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


@lru_cache(256)
def _look(chances: tuple[Chance, ...], *, barring: bool) -> Select[*tuple[Any, ...]]:
    """Whose turn it is among the projects, for a worker with so many free slots by accelerator."""
    head = union_all(*(_heads(*chance, kept) for chance, kept in chances)).subquery("head")
    running = running_jobs()
    count, quota = func.coalesce(running.c.count, 0), _projects.c.max_running_jobs
    quotas_of = quota.label("quota"), _projects.c.max_gpu_s.label("gpu_quota")
    return (
        select(head.c.project_id, head.c.accelerator, head.c.slots, head.c.priority, *quotas_of)
        .join(_projects, _projects.c.id == head.c.project_id)
        .outerjoin(running, running.c.project_id == head.c.project_id)
        .where(head.c.id.is_not(None), head.c.priority > head.c.kept)
        .where(or_(quota.is_(None), count < quota), *([~no_gpu_left(head.c)] if barring else []))
        .order_by(head.c.priority.desc(), count, head.c.created_at, head.c.id)
        .limit(TURNS)
    )


def _heads(accelerator: str, free: int, kept: int) -> Select[*tuple[Any, ...]]:
    """Of each project the job for this accelerator that is first among its own, by index lookups alone."""
    best, oldest = _jobs.alias().c, _jobs.alias().c
    top = select(best.priority).where(best.project_id == _projects.c.id, *_fits(best, accelerator, free))
    top = top.order_by(best.priority.desc()).limit(1).correlate(_projects)
    project = select(_projects.c.id, top.scalar_subquery().label("priority")).subquery()
    eldest = (
        select(oldest.id)
        .where(oldest.project_id == project.c.id, oldest.priority == project.c.priority)
        .where(*_fits(oldest, accelerator, free))
        .order_by(oldest.created_at, oldest.id)
        .limit(1)
        .correlate(project)
    )
    return select(
        project.c.id.label("project_id"),
        literal(accelerator).label("accelerator"),
        literal(free).label("slots"),
        literal(kept).label("kept"),
        project.c.priority,
        eldest.with_only_columns(oldest.created_at).scalar_subquery().label("created_at"),
        eldest.with_only_columns(oldest.id).scalar_subquery().label("id"),
    )


def _fits(job: Any, accelerator: str, free: int) -> list[ColumnElement[bool]]:
    return [*ready(job), job.accelerator == accelerator, job.devices <= free]


def _kept_for(session: Session, room: Room) -> dict[str, int]:
    """By accelerator the priority of a job that waited too long for more slots than are free: up to it,
    nobody takes one of them. A job that waits for its project's quota keeps none.
    """
    large = [
        (Job.accelerator == name) & (Job.devices > free) & (Job.devices <= room.whole[name])
        for name, free in room.free.items()
        if free < room.whole[name]
    ]
    if not large:
        return {}
    waits = Job.status == QUEUED, Job.available_at <= db_now(-PATIENCE_S), or_(*large)
    running, quota = running_jobs(), Project.max_running_jobs
    may_run = or_(quota.is_(None), func.coalesce(running.c.count, 0) < quota)
    most = func.max(Job.priority).label("priority")
    first = select(Job.accelerator, most).group_by(Job.accelerator)
    first = first.join(Project, Project.id == Job.project_id)
    first = first.outerjoin(running, running.c.project_id == Job.project_id)
    barred = {"barred": quotas.without_gpu(session)}
    found = session.execute(first.where(*waits, may_run, ~no_gpu_left(Job)), barred)
    return {row.accelerator: row.priority for row in found}


def _take(session: Session, turn: Row[Any], owner: str, lease_s: float, device: str) -> Job | None:
    """None: others were faster. Claims in a project with a quota go one after the other, for it to hold."""
    given = {
        "the_project": turn.project_id,
        "the_accelerator": turn.accelerator,
        "the_priority": turn.priority,
        "the_room": turn.slots,
        "the_owner": owner,
        "the_lease": lease_s,
        "the_device": device,
    }
    if turn.quota is None:
        return session.execute(_claiming(below_quota=False), given).scalar_one_or_none()
    with session.begin_nested() as savepoint:
        held = select(Project.id).where(Project.id == turn.project_id).with_for_update(key_share=True)
        session.execute(held)
        found = session.execute(_claiming(below_quota=True), given | {"the_quota": turn.quota})
        job = found.scalar_one_or_none()
        if job is None:
            savepoint.rollback()  # lets the project go before another one is held
    return job


@cache
def _claiming(*, below_quota: bool) -> ReturningUpdate[Job]:
    """The UPDATE, with the time that earlier attempts have left and how far the last checkpoint got."""
    project, room = bindparam("the_project", type_=String), bindparam("the_room", type_=Integer)
    accelerator = bindparam("the_accelerator", type_=String)
    candidate = (
        select(Job.id)
        .where(Job.project_id == project, Job.priority == bindparam("the_priority", type_=Integer))
        .where(*ready(Job), Job.accelerator == accelerator, Job.devices <= room)
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    running = select(func.count()).where(Job.project_id == project, Job.status == "running")
    below = running.scalar_subquery() < bindparam("the_quota", type_=Integer)
    goes_on = Job.checkpoint_step > 0
    return changing(
        candidate,
        Job.status == "queued",
        *([below] if below_quota else []),
        events=2,
        status="running",
        attempt=Job.attempt + 1,
        lease_owner=bindparam("the_owner", type_=String),
        lease_expires_at=db_now(bindparam("the_lease", type_=Float)),
        started_at=func.coalesce(Job.started_at, db_now()),
        attempt_started_at=db_now(),
        deadline_at=db_now(Job.runtime_left_s),
        runtime_left_s=None,
        preempted=False,
        device=bindparam("the_device", type_=String),
        phases=[pending(name) for name in PHASES],
        progress=case((goes_on, Job.progress), else_=literal({}, JSON)),
        best=case((goes_on, Job.best), else_=null()),
    )


def _begin(session: Session, job: Job) -> Job | None:
    """Forgets what earlier attempts said after the last checkpoint, and tells of this one."""
    if job.attempt > 1:
        unkept = MetricPoint.step > job.checkpoint_step if job.checkpoint_step else true()
        session.execute(delete(MetricPoint).where(MetricPoint.job_id == job.id, unkept))
    failpoint("claim.before_commit")
    started = Note("attempt.started", f"attempt {job.attempt} started", data={"attempt": job.attempt})
    running = Note("job.status", "running", data={"status": "running", "attempt": job.attempt})
    write_events(session, job.id, job.last_seq - 1, [running, started])
    if job.deadline_at is None:  # it was submitted before its time was a column
        left_s = job.resolved["spec"]["resources"]["max_runtime_s"]
        return change(session, job.id, deadline_at=db_now(left_s))
    return job
