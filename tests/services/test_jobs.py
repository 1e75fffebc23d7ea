"""The life of a job on both databases: every transition, and every race that its guards decide."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text, update

from app.api.job_views import render
from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Event, Job, MetricPoint, ModelVersion, Project
from app.errors import IdempotencyKeyReused, LeaseLost, NotFound, StateConflict
from app.services import checkpoints, claims, job_records, jobs, models
from app.services.jobs import Point
from app.services.places import Waiting
from app.settings import Settings
from tests import orders

LEASE_S = 60.0
PROJECT = orders.PROJECT


@pytest.fixture
def shop(sessions: Sessions) -> Sessions:
    with sessions.write() as session:
        orders.stock(session)
    return sessions


def submitted(shop: Sessions, **changes: Any) -> str:
    with shop.write() as session:
        return orders.submit(session, Settings(), **changes).id


def claimed(shop: Sessions, owner: str = "worker-1", **kw: Any) -> Job | None:
    with shop.write() as session:
        return claims.claim(session, owner, kw.get("accelerators", ("cpu",)), LEASE_S)


def seen(shop: Sessions, job_id: str) -> Job:
    with shop.read() as session:
        return job_records.get(session, PROJECT, job_id).job


def events(shop: Sessions, job_id: str) -> list[Event]:
    with shop.read() as session:
        return job_records.events(session, PROJECT, job_id, 0, 1000)


def silence(shop: Sessions, job_id: str) -> None:
    """The worker stops renewing, and the lease runs out."""
    with shop.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=db_now(-1.0)))


def crash(shop: Sessions, job_id: str, attempt: int, limit: int = 3) -> None:
    with shop.write() as session:
        jobs.crash(session, job_id, attempt, "it was killed", limit)
        session.execute(text("UPDATE jobs SET available_at = created_at"))  # the delay is over


def finished(shop: Sessions, job: Job, *, gates: Sequence[bool] = ()) -> None:
    with shop.write() as session:
        jobs.succeed(
            session,
            job.id,
            job.attempt,
            checkpoint=orders.student(job),
            manifest="a" * 64,
            artifacts=[],
            outcome={"gates": [{"passed": passed} for passed in gates]},
            usage={},
        )


def test_a_submitted_job_waits_with_every_default_resolved(shop: Sessions) -> None:
    job = seen(shop, submitted(shop))
    assert (job.status, job.desired, job.attempt, job.version, job.last_seq) == ("queued", "run", 0, 1, 1)
    assert job.resolved["spec"]["output"]["model"] == "botanist-mlp"
    assert [loss["kind"] for loss in job.resolved["spec"]["losses"]] == ["kd", "cross_entropy"]
    assert job.resolved["teachers"][0]["reference"] == "model:botanist@1"
    assert job.spec == orders.spec()


def test_the_same_key_gives_the_same_job_and_another_body_is_refused(shop: Sessions) -> None:
    first = submitted(shop, key="k1")
    assert submitted(shop, key="k1") == first
    assert submitted(shop, key="k2") != first
    with pytest.raises(IdempotencyKeyReused):
        submitted(shop, key="k1", name="another")


def test_a_key_is_forgotten_after_a_day(shop: Sessions) -> None:
    first = submitted(shop, key="k1")
    with shop.write() as session:
        session.execute(
            text("UPDATE idempotency SET created_at = :then"), {"then": "2020-01-01 00:00:00.000000"}
        )
    assert submitted(shop, key="k1", name="another") != first


@pytest.mark.parametrize("most", [None, 1])
def test_many_submits_under_one_key_at_once_make_one_job(shop: Sessions, most: int | None) -> None:
    """Also where the first one fills the project's quota."""
    with shop.write() as session:
        session.execute(update(Project).where(Project.id == orders.PROJECT).values(max_queued_jobs=most))
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: submitted(shop, key="one"), range(8)))
    assert len(ids) == 1
    with shop.read() as session:
        assert len(session.scalars(select(Job.id)).all()) == 1


def test_jobs_are_claimed_by_priority_and_then_by_age(shop: Sessions) -> None:
    older, newer = submitted(shop), submitted(shop)
    urgent = submitted(shop, resources={"priority": 90})
    assert [getattr(claimed(shop), "id", None) for _ in range(4)] == [urgent, older, newer, None]


def test_a_job_for_a_gpu_waits_for_a_worker_that_has_one(shop: Sessions) -> None:
    job_id = submitted(shop, resources={"accelerator": "cuda"})
    assert claimed(shop) is None
    job = claimed(shop, accelerators=("cpu", "cuda"))
    assert job is not None
    assert job.id == job_id


def test_a_second_worker_cannot_take_a_running_job(shop: Sessions) -> None:
    for _ in range(12):
        submitted(shop)
    with ThreadPoolExecutor(6) as pool:
        taken = [job.id for job in pool.map(lambda n: claimed(shop, f"w{n}"), range(18)) if job is not None]
    assert len(taken) == len(set(taken)) == 12


def test_a_renewal_keeps_the_lease_and_brings_what_the_user_wants(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    with shop.write() as session:
        assert jobs.renew(session, job.id, 1, LEASE_S) == jobs.Orders("run", overdue=False)
        jobs.cancel(session, PROJECT, job.id, "keep")
        assert jobs.renew(session, job.id, 1, LEASE_S).desired == "finish"
        jobs.cancel(session, PROJECT, job.id, "discard")
        assert jobs.renew(session, job.id, 1, LEASE_S).desired == "cancel"


def test_a_renewal_tells_when_the_deadline_is_over(shop: Sessions) -> None:
    submitted(shop, resources={"max_runtime_s": 0.001})
    job = claimed(shop)
    assert job is not None
    with shop.write() as session:
        assert jobs.renew(session, job.id, 1, LEASE_S).overdue


def test_whoever_lost_its_lease_can_write_nothing(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    silence(shop, job.id)
    with shop.write() as session:
        assert jobs.reap(session, 3) == [job.id]
        session.execute(text("UPDATE jobs SET available_at = created_at"))
    again = claimed(shop, "worker-2")
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 2)
    before = seen(shop, job.id)
    for deed in (
        lambda s: jobs.renew(s, job.id, 1, LEASE_S),
        lambda s: jobs.start_phase(s, job.id, 1, "train"),
        lambda s: jobs.end_phase(s, job.id, 1, "train"),
        lambda s: jobs.report_progress(s, job.id, 1, phase="train", fraction=0.5),
        lambda s: jobs.note(s, job.id, 1, type="log", level="info", phase=None, message="hello"),
        lambda s: jobs.fail(s, job.id, 1, {"code": "x", "detail": "y"}),
        lambda s: jobs.yield_(s, job.id, 1),
        lambda s: jobs.crash(s, job.id, 1, "why", 3),
        lambda s: jobs.cancelled(s, job.id, 1),
        lambda s: jobs.succeed(
            s, job.id, 1, checkpoint=orders.student(job), manifest="", artifacts=[], outcome={}, usage={}
        ),
    ):
        with pytest.raises(LeaseLost), shop.write() as session:
            deed(session)
    assert seen(shop, job.id).version == before.version


def test_a_lease_that_is_over_cannot_be_renewed_even_before_it_is_reaped(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    silence(shop, job.id)
    with pytest.raises(LeaseLost), shop.write() as session:
        jobs.renew(session, job.id, 1, LEASE_S)


@pytest.mark.parametrize(("gates", "moved"), [([], True), ([True], True), ([True, False], False)])
def test_an_alias_moves_only_when_every_gate_was_passed(
    shop: Sessions, gates: list[bool], moved: bool
) -> None:
    job_id = submitted(shop, output={"model": "tiny", "alias": "candidate"})
    job = claimed(shop)
    assert job is not None
    finished(shop, job, gates=gates)
    with shop.read() as session:
        record = job_records.get(session, PROJECT, job_id)
        version = session.get_one(ModelVersion, record.job.output_version_id)
        assert models.entry(session, version).aliases == (["candidate"] if moved else [])
    output = render(record)["output"]
    assert (output["model"], output["alias"]) == ("tiny@1", "candidate" if moved else None)


def test_success_makes_the_model_and_ends_the_job_at_once(shop: Sessions) -> None:
    job_id = submitted(shop, output={"model": "tiny", "alias": "candidate"})
    job = claimed(shop)
    assert job is not None
    finished(shop, job)
    with shop.read() as session:
        record = job_records.get(session, PROJECT, job_id)
    assert (record.job.status, record.output_version) == ("succeeded", 1)
    assert record.job.ended_at is not None


def test_success_told_twice_is_one_success(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    finished(shop, job)
    once = seen(shop, job.id)
    finished(shop, job)
    again = seen(shop, job.id)
    assert (again.version, again.output_version_id) == (once.version, once.output_version_id)


def test_a_cancellation_that_came_first_beats_success(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    with shop.write() as session:
        jobs.cancel(session, PROJECT, job.id, "discard")
    with pytest.raises(LeaseLost):
        finished(shop, job)
    with shop.write() as session:
        jobs.cancelled(session, job.id, 1)
    ended = seen(shop, job.id)
    assert (ended.status, ended.output_version_id) == ("cancelled", None)


def test_a_failure_says_in_which_phase(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    with shop.write() as session:
        jobs.start_phase(session, job.id, 1, "fetch")
        jobs.fail(session, job.id, 1, {"code": "x", "detail": "it broke", "phase": "fetch"})
    ended = seen(shop, job.id)
    assert ended.error is not None
    assert (ended.status, ended.error["detail"], ended.error["phase"]) == ("failed", "it broke", "fetch")
    assert ended.error["log_tail"][-1].endswith(" info fetch started")
    assert [phase["status"] for phase in ended.phases[:3]] == ["pending", "failed", "pending"]


def test_a_waiting_job_is_cancelled_at_once_and_only_once(shop: Sessions) -> None:
    job_id = submitted(shop)
    with shop.write() as session:
        assert jobs.cancel(session, PROJECT, job_id, "keep").status == "cancelled"
    with pytest.raises(StateConflict), shop.write() as session:
        jobs.cancel(session, PROJECT, job_id, "discard")
    assert claimed(shop) is None


def test_asking_twice_to_stop_is_asking_once_and_a_discard_is_not_taken_back(shop: Sessions) -> None:
    job_id = submitted(shop)
    claimed(shop)
    with shop.write() as session:
        first = jobs.cancel(session, PROJECT, job_id, "discard").version
        assert jobs.cancel(session, PROJECT, job_id, "discard").version == first
    with pytest.raises(StateConflict), shop.write() as session:
        jobs.cancel(session, PROJECT, job_id, "keep")


def test_a_yielded_job_is_ready_again_without_penalty(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    with shop.write() as session:
        jobs.yield_(session, job.id, 1)
    again = claimed(shop)
    assert again is not None
    assert (again.attempt, again.interruptions, again.failures, again.no_progress) == (2, 1, 0, 0)


def test_what_an_attempt_lacks_is_waited_for_longer_each_time_and_costs_nothing(shop: Sessions) -> None:
    job_id = submitted(shop)

    def put_off(attempt: int) -> float:
        with shop.write() as session:
            jobs.put_off(session, job_id, attempt, "the store is away")
            session.execute(text("UPDATE jobs SET available_at = created_at"))  # the delay is over
        return told_delay(shop, job_id, attempt)

    waited = []
    for attempt in range(1, 8):
        assert claimed(shop) is not None
        waited.append(put_off(attempt))
    assert waited == [15, 30, 60, 120, 240, 300, 300]
    assert claimed(shop) is not None
    with shop.write() as session:
        checkpoints.save(session, job_id, 8, step=7, manifest="c" * 64, size=1, best=True, metrics={})
    assert put_off(8) == 15
    assert claimed(shop) is not None
    assert put_off(9) == 30
    assert claimed(shop) is not None
    crash(shop, job_id, 10)
    assert claimed(shop) is not None
    assert put_off(11) == 15
    job = seen(shop, job_id)
    assert (job.status, job.interruptions, job.failures, job.no_progress) == ("queued", 10, 1, 1)


def told_delay(shop: Sessions, job_id: str, attempt: int) -> float:
    """Seconds after the attempt until the next one may begin."""
    told = [one.data for one in events(shop, job_id) if one.data.get("attempt") == attempt]
    (delay_s,) = [data["retry_in_s"] for data in told if "cause" in data]
    return float(delay_s)


def test_what_crashes_waits_longer_each_time_up_to_a_while(shop: Sessions) -> None:
    job_id, waited = submitted(shop), []
    for attempt in range(1, 9):
        assert claimed(shop) is not None
        crash(shop, job_id, attempt, limit=100)
        waited.append(told_delay(shop, job_id, attempt))
    assert waited == [5, 10, 20, 40, 80, 160, 300, 300]


def test_a_job_that_is_put_off_waits(shop: Sessions) -> None:
    job_id = submitted(shop)
    assert claimed(shop) is not None
    with shop.write() as session:
        jobs.put_off(session, job_id, 1, "the store is away")
    assert claimed(shop) is None


def test_three_crashes_at_the_same_place_are_poison(shop: Sessions) -> None:
    job_id = submitted(shop)
    for attempt in (1, 2, 3):
        assert claimed(shop) is not None
        with shop.write() as session:
            jobs.start_phase(session, job_id, attempt, "validate")
        crash(shop, job_id, attempt) if attempt < 3 else None
    with shop.write() as session:
        jobs.crash(session, job_id, 3, "it was killed", 3)
    ended = seen(shop, job_id)
    assert (ended.status, ended.failures) == ("failed", 3)
    assert ended.error is not None
    assert (ended.error["code"], ended.error["phase"], ended.error["attempt"]) == ("poison", "validate", 3)


def test_getting_further_than_before_is_progress_and_doing_the_same_again_is_not(shop: Sessions) -> None:
    job_id = submitted(shop)
    expected = {1: 1, 2: 2, 3: 1}  # attempt 3 gets a phase further than the others
    for attempt, no_progress in expected.items():
        assert claimed(shop) is not None
        with shop.write() as session:
            for phase in ("validate", "fetch")[: 2 if attempt == 3 else 1]:
                jobs.start_phase(session, job_id, attempt, phase)
                jobs.end_phase(session, job_id, attempt, phase)
        crash(shop, job_id, attempt)
        assert seen(shop, job_id).no_progress == no_progress


def test_a_crashed_job_waits_before_it_is_tried_again(shop: Sessions) -> None:
    submitted(shop)
    job = claimed(shop)
    assert job is not None
    with shop.write() as session:
        jobs.crash(session, job.id, 1, "it was killed", 3)
    assert claimed(shop) is None
    with shop.read() as session:
        orders.worker(session)
        assert job_records.get(session, PROJECT, job.id).waiting == Waiting("retry", 0)


@pytest.mark.parametrize("mode", ["discard", "keep"])
def test_a_lost_worker_does_not_stop_a_cancellation(shop: Sessions, mode: Any) -> None:
    job_id = submitted(shop)
    claimed(shop)
    with shop.write() as session:
        jobs.cancel(session, PROJECT, job_id, mode)
    silence(shop, job_id)
    with shop.write() as session:
        jobs.reap(session, 3)
    assert seen(shop, job_id).status == "cancelled"


def test_a_new_attempt_starts_its_metrics_over(shop: Sessions) -> None:
    job_id = submitted(shop)
    claimed(shop)
    with shop.write() as session:
        jobs.start_phase(session, job_id, 1, "train")
        points = [Point("loss", "train", 10, 1.5)]
        jobs.report_progress(
            session, job_id, 1, phase="train", fraction=0.1, progress={"step": 10}, points=points
        )
        jobs.yield_(session, job_id, 1)
    claimed(shop)
    job = seen(shop, job_id)
    assert (job.progress, job.phases[4]["status"]) == ({}, "pending")
    with shop.read() as session:
        assert session.scalars(select(MetricPoint)).all() == []


def test_events_are_numbered_without_a_gap_whoever_writes_them(shop: Sessions) -> None:
    job_id = submitted(shop)
    claimed(shop)

    def tell(number: int) -> None:
        with shop.write() as session:
            jobs.note(session, job_id, 1, type="log", level="info", phase=None, message=str(number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(tell, range(24)))
    told = events(shop, job_id)
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    assert sum(event.type == "log" for event in told) == 24
    assert seen(shop, job_id).last_seq == len(told)


def test_an_ended_job_can_be_deleted_and_a_running_one_not(shop: Sessions) -> None:
    job_id = submitted(shop, key="k1")
    claimed(shop)
    with pytest.raises(StateConflict), shop.write() as session:
        jobs.remove(session, PROJECT, job_id)
    with shop.write() as session:
        jobs.fail(session, job_id, 1, {"code": "x", "detail": "y"})
        jobs.remove(session, PROJECT, job_id)
    with pytest.raises(NotFound):
        seen(shop, job_id)


def test_another_project_sees_nothing(shop: Sessions) -> None:
    job_id = submitted(shop)
    with shop.write() as session:
        for deed in (
            lambda: job_records.get(session, "prj_other", job_id),
            lambda: job_records.events(session, "prj_other", job_id, 0, 10),
            lambda: job_records.metrics(session, "prj_other", job_id, None, None),
            lambda: job_records.artifact(session, "prj_other", job_id, "report.json"),
            lambda: jobs.cancel(session, "prj_other", job_id, "discard"),
            lambda: jobs.remove(session, "prj_other", job_id),
        ):
            with pytest.raises(NotFound):
                deed()
        assert job_records.list_(session, "prj_other", job_records.Filters(), None, 10) == []


def test_a_checkpoint_takes_the_place_of_those_that_nobody_can_go_on_from(shop: Sessions) -> None:
    job_id = submitted(shop)
    assert claimed(shop) is not None

    def save(step: int, manifest: str, *void: str) -> None:
        about: dict[str, Any] = {"size": 1, "best": False, "metrics": {}, "void": void}
        with shop.write() as session:
            checkpoints.save(session, job_id, 1, step=step, manifest=manifest, **about)

    save(7, "a" * 64)
    save(8, "b" * 64)
    with pytest.raises(ValueError, match="cannot follow"):
        save(8, "c" * 64)
    with pytest.raises(ValueError, match="cannot follow"):
        save(8, "c" * 64, "a" * 64)  # the newest is none of them
    for _ in range(2):  # as after a lost reply
        save(7, "d" * 64, "a" * 64, "b" * 64)
    with shop.read() as session:
        assert [row.manifest for row in checkpoints.newest_first(session, job_id)] == ["d" * 64]
    job = seen(shop, job_id)
    assert (job.checkpoint_step, job.checkpoint_manifest) == (7, "d" * 64)
    assert events(shop, job_id)[-1].data["instead_of"] == [7, 8]


def test_a_new_checkpoint_is_progress(shop: Sessions) -> None:
    job_id = submitted(shop)
    assert claimed(shop) is not None
    crash(shop, job_id, 1)
    assert seen(shop, job_id).no_progress == 1
    assert claimed(shop) is not None
    with shop.write() as session:
        checkpoints.save(session, job_id, 2, step=7, manifest="c" * 64, size=1, best=True, metrics={})
    job = seen(shop, job_id)
    assert (job.no_progress, job.checkpoint_step, job.checkpoint_manifest) == (0, 7, "c" * 64)
