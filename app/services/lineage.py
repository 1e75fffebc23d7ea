"""Where a version comes from, and what came from it.

Teachers may be students themselves: the tree is followed within bounds.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.db.tables import Job, JobReference, Model, ModelVersion, SweepTrial
from app.services.hops import OF_THE_DATA, OF_THE_ORDER

MAX_DEPTH = 16
MAX_VERSIONS = 200
MAX_CANDIDATES = 2_000  # of which a job's other versions, which the one has not taught, are left out

Json = dict[str, Any]


def lineage(session: Session, version: ModelVersion) -> Json:
    """The version's origin as a tree of teachers, and the versions that were distilled from it, newest first.

    `truncated` says that the tree or the list goes on beyond its bounds.
    """
    tree = _Tree(session, version.project_id)
    origin = tree.origin(version, depth=0)
    found = _students(session, version)
    return {
        **origin,
        "students": [tree.brief(student) for student in found[:MAX_VERSIONS]],
        "truncated": tree.truncated or len(found) > MAX_VERSIONS,
    }


def _students(session: Session, version: ModelVersion) -> list[ModelVersion]:
    """Of the jobs that point at the version, what they made that names it as a teacher."""
    jobs = select(JobReference.job_id).where(
        JobReference.target_id == version.id, JobReference.role.not_in(OF_THE_DATA)
    )
    outputs = select(Job.output_version_id).where(Job.id.in_(jobs))
    on_the_way = select(JobReference.target_id).where(
        JobReference.job_id.in_(jobs), JobReference.role.not_in(OF_THE_ORDER)
    )
    made = (
        select(ModelVersion)
        .where(
            or_(ModelVersion.id.in_(outputs), ModelVersion.id.in_(on_the_way)),
            ModelVersion.project_id == version.project_id,
        )
        .order_by(ModelVersion.id.desc())
        .limit(MAX_CANDIDATES)
    )
    named = [
        one
        for one in session.scalars(made)
        if version.id in {teacher["version_id"] for teacher in one.lineage.get("teachers", [])}
    ]
    return named[: MAX_VERSIONS + 1]


class _Tree:
    """Follows teachers to their own. The count bounds the whole tree: a teacher met twice is told twice."""

    def __init__(self, session: Session, project_id: str) -> None:
        self._session, self._project_id, self._left = session, project_id, MAX_VERSIONS
        self.truncated = False

    def origin(self, version: ModelVersion, depth: int) -> Json:
        teachers = [self._teacher(teacher, depth + 1) for teacher in version.lineage.get("teachers", [])]
        told = {key: value for key, value in version.lineage.items() if key != "teachers"}
        return {
            **self.brief(version),
            "lineage": {
                **told,
                **self._trial(told),
                "teachers": [teacher for teacher in teachers if teacher],
            },
        }

    def brief(self, version: ModelVersion) -> Json:
        name = self._session.get_one(Model, version.model_id).name
        return {
            "id": version.id,
            "reference": f"model:{name}@{version.version}",
            "digest": version.digest,
            "source": version.source,
            "family": version.family,
            "parameters": version.parameters,
        }

    def _trial(self, told: Mapping[str, Any]) -> Json:
        """Of which sweep its job was a trial, if of any that is still there."""
        of_job = select(SweepTrial.sweep_id, SweepTrial.number).where(SweepTrial.job_id == told.get("job"))
        row = self._session.execute(of_job).one_or_none() if told.get("job") else None
        return {} if row is None else {"sweep": row[0], "trial": row[1]}

    def _teacher(self, told: Mapping[str, Any], depth: int) -> Json | None:
        version = self._session.get(ModelVersion, told["version_id"])
        if version is None or version.project_id != self._project_id:
            return None
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            self.truncated = True
            return None
        return self.origin(version, depth)
