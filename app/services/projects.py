"""Projects, which share nothing but the machine, and what each may take. Made by the operator alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.tables import Project
from app.errors import Fault, NotFound, StateConflict, sentence, shown

QUOTAS = ("max_running_jobs", "max_queued_jobs", "max_gpu_s", "max_bytes", "max_parameters")


def create(session: Session, name: str, quotas: Mapping[str, Any]) -> Project:
    """quotas: by column; what is left out has no limit. Raises StateConflict for a name that is taken."""
    project = Project(id=new_id("prj"), name=name, **quotas)
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError:
        taken = f"there is a project named {shown(name)} already"
        fault = Fault("/name", "taken", taken, "take another name")
        raise StateConflict(f"{sentence(taken)} Take another name.", fault) from None
    session.refresh(project)
    return project


def list_(session: Session, *, before: str | None, limit: int) -> Sequence[Project]:
    query = select(Project).order_by(Project.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Project.id < before)).all()


def get(session: Session, project_id: str) -> Project:
    """Raises NotFound."""
    project = session.get(Project, project_id)
    if project is None:
        raise NotFound(f"There is no project {shown(project_id)}.")
    return project


def change(session: Session, project_id: str, quotas: Mapping[str, Any]) -> Project:
    """Sets the quotas that are given; None takes a limit away. Raises NotFound."""
    project = get(session, project_id)
    for name, value in quotas.items():
        setattr(project, name, value)
    session.flush()
    return project
