"""Which workers are there, and what a job may take of one."""

from pathlib import Path

import pytest
from sqlalchemy import update

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Job, Project, Worker
from app.errors import Misconfigured
from app.ports import gpus
from app.ports.gpus import Gpu
from app.services import claims, workers
from app.services.workplace import Places, Workplace
from app.settings import Settings
from tests import orders

SMI = """#!/bin/sh
echo "0, GPU-aaaa, NVIDIA H100 80GB HBM3"
echo "1, GPU-bbbb, NVIDIA H100 80GB HBM3"
"""
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver with two GPUs says."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def job(accelerator: str = "auto", devices: int = 1) -> Job:
    return Job(accelerator=accelerator, devices=devices)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_found_without_torch_and_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus.find(None) == [Gpu("0", H100), Gpu("1", H100)]
    assert gpus.find(["GPU-bbbb"]) == [Gpu("GPU-bbbb", H100)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus.find(None) == [Gpu("1", H100)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.find(None) == []


@pytest.mark.usefixtures("two_gpus")
def test_each_job_has_gpus_of_its_own_and_a_cpu_job_has_none() -> None:
    place = Workplace(Settings(slots=3))
    assert (list(place.accelerators), place.slots) == (["cuda", "cpu"], 3)
    assert place.room().free == {"auto": 2, "cuda": 2, "cpu": 3}
    cpu, first = place.take(job("cpu")), place.take(job())
    assert (cpu, cpu.visible) == (Places((), 1, computes_on_gpus=False), "")
    assert (first.visible, place.room().free) == ("0", {"auto": 1, "cuda": 1, "cpu": 1})
    second = place.take(job("cpu"))
    assert (second.gpus, second.visible, place.room().any_free) == (("1",), "", False)
    for places in (second, first, cpu):
        place.give(places)
    assert place.room() == Workplace(Settings(slots=3)).room()
    assert place.take(job("cuda", 2)).visible == "0,1"


def test_without_a_gpu_there_is_a_cpu_slot_and_cuda_cannot_be_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    place = Workplace(Settings())
    assert (place.accelerators, place.room().whole) == (("cpu",), {"auto": 1, "cpu": 1})
    with pytest.raises(Misconfigured, match="no GPU"):
        Workplace(Settings(accelerators=("cuda",)))


def test_a_worker_is_ready_then_lost_then_forgotten(sessions: Sessions) -> None:
    place, other = Workplace(Settings()), Workplace(Settings())
    with sessions.write() as session:
        workers.beat(session, place, 60.0)
    with sessions.write() as session:
        workers.beat(session, place, 60.0)
        [seen] = workers.list_(session, "prj_default")
        assert (seen.worker.id, seen.status, seen.worker.slots) == (place.id, "ready", 1)
        session.execute(update(Worker).values(expires_at=db_now(-1.0)))
        assert workers.live(session) == []
        assert [seen.status for seen in workers.list_(session, "prj_default")] == ["lost"]
        session.execute(update(Worker).values(expires_at=db_now(-2 * workers.FORGOTTEN_S)))
        workers.beat(session, other, 60.0)
        assert [seen.worker.id for seen in workers.list_(session, "prj_default")] == [other.id]


def test_a_worker_that_leaves_is_not_counted_on_and_then_gone(sessions: Sessions) -> None:
    place = Workplace(Settings())
    with sessions.write() as session:
        workers.beat(session, place, 60.0)
        workers.leave(session, place)
        assert workers.live(session) == []
        assert [seen.status for seen in workers.list_(session, "prj_default")] == ["leaving"]
        session.execute(update(Worker).values(expires_at=db_now(-1.0)))
        assert workers.list_(session, "prj_default") == []


def test_a_project_sees_its_own_jobs_on_a_worker_alone(sessions: Sessions) -> None:
    place = Workplace(Settings())
    with sessions.write() as session:
        session.add(Project(id="prj_other", name="other"))
        orders.stock(session)
        mine = orders.submit(session, Settings()).id
        workers.beat(session, place, 60.0)
        claims.claim(session, f"{place.id}/1", ("cpu",), 60.0)
        assert workers.list_(session, orders.PROJECT)[0].jobs == [mine]
        assert workers.list_(session, "prj_other")[0].jobs == []
