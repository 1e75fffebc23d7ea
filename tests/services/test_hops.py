"""Students on the way of a job, on both databases: registered under the attempt's token, and found again."""

from typing import Any

import pytest
from sqlalchemy import select

from app.db.session import Sessions
from app.db.tables import Job, ModelVersion
from app.errors import LeaseLost
from app.services import claims, hops, job_records, jobs, models
from app.services.hops import Hop
from app.settings import Settings
from tests import orders

ARTIFACT = {"name": "hop-1.json", "sha256": "a" * 64, "size": 2, "media_type": "application/json"}


@pytest.fixture
def shop(sessions: Sessions) -> Sessions:
    with sessions.write() as session:
        orders.stock(session)
    return sessions


@pytest.fixture
def job(shop: Sessions) -> Job:
    with shop.write() as session:
        orders.submit(session, Settings(), scheme={"kind": "born_again"})
    with shop.write() as session:
        claimed = claims.claim(session, "worker-1", ("cpu",), 60.0)
    assert claimed is not None
    return claimed


def finish(shop: Sessions, job: Job, attempt: int) -> None:
    hop = Hop({"generation_1": orders.student(job)}, ARTIFACT)
    with shop.write() as session:
        hops.finish(session, job.id, attempt, "small", hop)


def seen(shop: Sessions, job: Job) -> tuple[dict[str, Any], str | None]:
    with shop.read() as session:
        return hops.made(session, job.id), hops.artifact(session, job.id, "hop-1.json")


def test_a_finished_hop_is_a_version_a_reference_an_event_and_found_again(shop: Sessions, job: Job) -> None:
    assert seen(shop, job) == ({}, None)
    finish(shop, job, job.attempt)
    made, told = seen(shop, job)
    assert made["generation-1"]["reference"] == "model:small-generation-1@1"
    assert told == "a" * 64
    with shop.read() as session:
        found = models.find(session, orders.PROJECT, "model:small-generation-1")
        events = job_records.events(session, orders.PROJECT, job.id, 0, 100)
    assert found.id == made["generation-1"]["version_id"]
    assert [event.message for event in events if event.type == "artifact.ready"] == [
        "generation-1 is model:small-generation-1@1"
    ]


def test_what_an_attempt_finished_outlives_it_and_a_stale_one_finishes_nothing(
    shop: Sessions, job: Job
) -> None:
    finish(shop, job, job.attempt)
    before = seen(shop, job)
    with shop.write() as session:
        jobs.yield_(session, job.id, job.attempt)
    with shop.write() as session:
        again = claims.claim(session, "worker-2", ("cpu",), 60.0)
    assert again is not None
    assert seen(shop, again) == before
    with pytest.raises(LeaseLost):
        finish(shop, job, job.attempt)
    with shop.read() as session:
        assert len(session.scalars(select(ModelVersion).where(ModelVersion.source == "job")).all()) == 1


def test_a_long_name_leaves_room_for_the_role() -> None:
    assert hops.model_of("small", "peer_1") == "small-peer-1"
    assert hops.model_of("x" * 100, "generation_12") == "x" * 86 + "-generation-12"
