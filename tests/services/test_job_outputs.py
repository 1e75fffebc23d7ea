"""A job as a reference to the model that it made."""

import pytest
from sqlalchemy.orm import Session

from app.catalog.spec import JobSpec
from app.db.session import Sessions
from app.errors import ReferenceNotReady, UnknownReference
from app.services import checkpoints, claims, jobs, models
from app.services.planning.plan import resolve
from app.settings import Settings
from tests import orders

PROJECT = orders.PROJECT


def begun(session: Session) -> str:
    orders.stock(session)
    job_id = orders.submit(session, Settings(), output={"model": "tiny"}).id
    assert claims.claim(session, "me", ("cpu",), 60.0) is not None
    return job_id


def refused(session: Session, reference: str) -> tuple[str, str]:
    with pytest.raises(ReferenceNotReady) as caught:
        models.find(session, PROJECT, reference)
    return caught.value.detail, caught.value.faults[0].fix


def test_the_best_of_a_job_that_succeeded_is_its_model(sessions: Sessions) -> None:
    with sessions.write() as session:
        job_id = begun(session)
        job = jobs.owned(session, job_id, 1)
        version = jobs.succeed(
            session,
            job_id,
            1,
            checkpoint=orders.student(job),
            manifest="a" * 64,
            artifacts=[],
            outcome={},
            usage={},
        )
        best = f"job:{job_id}/checkpoint@best"
        assert models.find(session, PROJECT, best).id == version.id
        spec = orders.spec(teachers=[{"model": best}], output={"model": "tinier"})
        order = resolve(session, Settings(), PROJECT, JobSpec.model_validate(spec))
        assert order.teachers[0].reference == "model:tiny@1"
        why, way = refused(session, f"job:{job_id}/checkpoint@last")
        assert ("is no model" in why, "@best" in way) == (True, True)


def test_a_job_without_a_model_is_refused_with_the_way_out(sessions: Sessions) -> None:
    with sessions.write() as session:
        job_id = begun(session)
        for which in ("best", "last"):
            why, way = refused(session, f"job:{job_id}/checkpoint@{which}")
            assert f"job {job_id} is running" in why
            assert "mode keep" in way
        saved = {"manifest": "b" * 64, "size": 1, "best": True, "metrics": {}}
        checkpoints.save(session, job_id, 1, step=5, **saved)  # type: ignore[arg-type]
        jobs.fail(session, job_id, 1, {"code": "x", "detail": "y"})
        why, way = refused(session, f"job:{job_id}/checkpoint@best")
        assert (f"job {job_id} is failed" in why, "from the checkpoint" in way) == (True, True)


def test_a_job_that_is_not_there_is_unknown(sessions: Sessions) -> None:
    with sessions.write() as session:
        job_id = begun(session)
        for project, reference in ((PROJECT, "job:job_none/checkpoint@best"), ("prj_other", job_id)):
            told = reference if "/" in reference else f"job:{reference}/checkpoint@best"
            with pytest.raises(UnknownReference, match="There is no job"):
                models.find(session, project, told)
