"""Imports as rows, on both databases: who may carry one out, and what a stale worker cannot do."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Delivery, Import, Webhook
from app.errors import (
    IdempotencyKeyReused,
    LeaseLost,
    NotFound,
    Overloaded,
    SourceAway,
    SourceCorrupt,
    StateConflict,
    UnknownReference,
)
from app.services import datasets, import_leases, import_orders, models
from app.services.sources import DatasetOrder, ModelOrder
from app.settings import Settings
from tests import orders
from tests.orders import PROJECT

SOURCE = "hf:org/insects@main"
COMMIT = "hf:org/insects@" + "a" * 40


def submit(session: Session, key: str | None = None, **texts: Any) -> Import:
    order = ModelOrder.model_validate({"name": "insects", "source": SOURCE, **texts})
    return import_orders.submit(session, Settings(), PROJECT, order, key)


def claimed(sessions: Sessions, lease_s: float = 60.0) -> Import:
    with sessions.write() as session:
        one = import_leases.claim(session, lease_s)
    assert one is not None
    return one


def test_one_of_many_gets_an_import(sessions: Sessions) -> None:
    with sessions.write() as session:
        submit(session)
    found: list[Import | None] = []

    def claim() -> None:
        with sessions.write() as session:
            found.append(import_leases.claim(session, 60))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.attempt for one in found if one is not None] == [1]


WRITES: list[Callable[[Session, str, int], object]] = [
    partial(import_leases.renew, lease_s=60, came=5),
    partial(import_leases.settle, pinned=COMMIT, files=[], total=0),
    partial(import_leases.release, error=SourceAway("."), wait_s=0),
    import_leases.hand_back,
    partial(import_leases.fail, error=SourceCorrupt(".")),
    partial(import_leases.succeed, target_id="mdl_1", result={}),
]


def test_a_stale_worker_writes_nothing(sessions: Sessions) -> None:
    with sessions.write() as session:
        one = submit(session).id
    assert claimed(sessions, lease_s=-1).attempt == 1
    assert claimed(sessions).attempt == 2
    for write in WRITES:
        with sessions.write() as session, pytest.raises(LeaseLost):
            write(session, one, 1)
    with sessions.write() as session:
        import_orders.cancel(session, PROJECT, one)
    for write in WRITES:
        with sessions.write() as session, pytest.raises(LeaseLost):
            write(session, one, 2)


def test_tries_count_until_bytes_come(sessions: Sessions) -> None:
    with sessions.write() as session:
        one = submit(session).id
    for _ in range(import_leases.MAX_TRIES - 1):
        assert claimed(sessions).tries
        with sessions.write() as session:
            attempt = session.get_one(Import, one).attempt
            assert import_leases.release(session, one, attempt, SourceAway("."), 0)
    key = (one, claimed(sessions).attempt)
    with sessions.write() as session:
        import_leases.renew(session, *key, 60, came=5)
        assert session.get_one(Import, one).tries == 0
        assert import_leases.release(session, *key, SourceAway("."), 0)


def test_an_import_that_kills_every_worker_is_given_up(sessions: Sessions) -> None:
    with sessions.write() as session:
        one = submit(session).id
    for _ in range(import_leases.MAX_TRIES):
        claimed(sessions, lease_s=-1)
    with sessions.write() as session:
        assert import_leases.claim(session, 60) is None
        assert import_leases.due(session)
        assert import_leases.bury(session) == [one]
        assert not import_leases.due(session)
        dead = session.get_one(Import, one, populate_existing=True)
        assert (dead.status, (dead.error or {})["code"]) == ("failed", "poison")


def test_an_import_whose_time_is_over_is_given_up(sessions: Sessions) -> None:
    with sessions.write() as session:
        one = submit(session).id
        session.execute(update(Import).values(deadline_at=db_now(-1)))
        assert import_leases.claim(session, 60) is None
        assert import_leases.bury(session) == [one]


def test_an_import_whose_time_is_over_while_it_goes_on_ends(sessions: Sessions) -> None:
    with sessions.write() as session:
        one = submit(session).id
    attempt = claimed(sessions).attempt
    with sessions.write() as session:
        assert import_leases.renew(session, one, attempt, 60, came=1)
        session.execute(update(Import).values(deadline_at=db_now(-1)))
        assert not import_leases.renew(session, one, attempt, 60, came=2)
    with sessions.write() as session:
        late = session.get_one(Import, one)
        assert (late.status, (late.error or {})["code"]) == ("failed", "source_away")
        with pytest.raises(LeaseLost):
            import_leases.renew(session, one, attempt, 60, came=3)


def test_webhooks_are_told_of_its_end_when_it_is_committed(sessions: Sessions) -> None:
    wanted = {"all": [], "successes": ["import.succeeded"], "jobs": ["job.ended"], "disabled": []}
    with sessions.write() as session:
        for hook, types in wanted.items():
            row = Webhook(id=hook, project_id=PROJECT, url="", description="", types=types, secrets=[])
            row.enabled = hook != "disabled"
            session.add(row)
        data = orders.dataset(session)
        _done(session, DatasetOrder, data.id, "dataset:iris@1")
        for _ in range(2):
            submit(session)
    failed, poisoned = claimed(sessions), claimed(sessions, lease_s=0)
    with sessions.write() as session:
        import_leases.fail(session, failed.id, 1, SourceCorrupt("It is another file."))
        session.execute(update(Import).where(Import.id == poisoned.id).values(tries=import_leases.MAX_TRIES))
        assert import_leases.bury(session) == [poisoned.id]
        import_orders.cancel(session, PROJECT, submit(session).id)
    with pytest.raises(LeaseLost), sessions.write() as session:
        import_leases.succeed(session, failed.id, 1, target_id=data.id, result={})
    with sessions.read() as session:
        rows = session.scalars(select(Delivery)).all()
    assert sorted((row.webhook_id, row.type) for row in rows) == [
        ("all", "import.failed"), ("all", "import.failed"), ("all", "import.succeeded"),
        ("successes", "import.succeeded"),
    ]  # fmt: skip
    told = {row.payload["data"]["import_id"]: row.payload["data"] for row in rows}
    assert told[failed.id]["error"]["code"] == "source_corrupt"
    assert told[poisoned.id]["error"]["code"] == "poison"
    (done,) = [one for one in told.values() if one["error"] is None]
    assert (done["reference"], done["pinned"], done["source"]) == ("dataset:iris@1", COMMIT, SOURCE)


def test_the_same_key_orders_the_same_import(sessions: Sessions) -> None:
    with sessions.write() as session:
        first = submit(session, "monday")
        assert submit(session, "monday").id == first.id
        assert submit(session, "tuesday").id != first.id
        with pytest.raises(IdempotencyKeyReused):
            submit(session, "monday", alias="champion")
        data = DatasetOrder.model_validate({"name": "insects", "source": SOURCE})
        with pytest.raises(IdempotencyKeyReused):
            import_orders.submit(session, Settings(), PROJECT, data, "monday")


def test_a_project_may_not_queue_without_end(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_orders, "MOST_UNFINISHED", 2)
    with sessions.write() as session:
        first, _ = submit(session), submit(session)
        with pytest.raises(Overloaded):
            submit(session)
        import_orders.cancel(session, PROJECT, first.id)
        submit(session)


def test_another_project_sees_none_of_it(sessions: Sessions) -> None:
    with sessions.write() as session:
        one = submit(session).id
        for look in (import_orders.get, import_orders.cancel):
            with pytest.raises(NotFound):
                look(session, "prj_other", one)
        assert not import_orders.list_(session, "prj_other", status=(), before=None, limit=9)


def test_a_spec_may_name_what_was_imported_by_its_commit(sessions: Sessions) -> None:
    with sessions.write() as session:
        teacher, data = orders.teacher(session), orders.dataset(session)
        with pytest.raises(UnknownReference) as error:
            models.find(session, PROJECT, COMMIT)
        assert "POST /v1/models" in error.value.faults[0].fix
        _done(session, ModelOrder, teacher.id, "model:botanist@1")
        _done(session, DatasetOrder, data.id, "dataset:iris@1")
        assert models.find(session, PROJECT, COMMIT) is teacher
        assert datasets.find(session, PROJECT, COMMIT + "#test") == (data, "test")
        with pytest.raises(UnknownReference) as error:
            models.find(session, PROJECT, SOURCE)
        assert COMMIT in error.value.faults[0].fix
        with pytest.raises(UnknownReference):
            models.find(session, "prj_other", COMMIT)

        datasets.delete(session, PROJECT, "iris", 1)
        with pytest.raises(UnknownReference, match="nothing was imported"):
            datasets.find(session, PROJECT, COMMIT)


def _done(session: Session, form: type[ModelOrder | DatasetOrder], target_id: str, reference: str) -> None:
    order = form.model_validate({"name": "iris", "source": SOURCE})
    one = import_orders.submit(session, Settings(), PROJECT, order)
    claimed = import_leases.claim(session, 60)
    assert claimed is not None
    import_leases.settle(session, one.id, 1, pinned=COMMIT, files=[], total=0)
    import_leases.succeed(session, one.id, 1, target_id=target_id, result={"reference": reference})
    with pytest.raises(StateConflict):
        import_orders.cancel(session, PROJECT, one.id)
