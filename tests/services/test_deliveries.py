"""How many deliveries are sent at once, of one webhook and of one project, by however many processes."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, text, update

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import Delivery, Project, Webhook
from app.services import deliveries
from app.services.deliveries import AT_ONCE, OF_PROJECT, Letter, Reply

PROJECT, OTHER = "prj_default", "prj_other"
TAKEN, SLOW = Reply(204), Reply(None, "it took too long")
WAITING = 20  # deliveries of each webhook


def fill(sessions: Sessions, *hooks: tuple[str, str], waiting: int = WAITING) -> None:
    """Webhooks, each with its project, the one before the next in the queue with all that is due."""
    with sessions.write() as session:
        session.add(Project(id=OTHER, name="other"))
        session.flush()
        for place, (hook, project) in enumerate(hooks):
            made = {"url": "https://hooks.example/", "description": "", "types": [], "secrets": []}
            session.add(Webhook(id=hook, project_id=project, **made))
            session.flush()
            rows = [
                {
                    "id": f"msg_{hook}_{number:05}",
                    "webhook_id": hook,
                    "type": "webhook.test",
                    "payload": {"data": {}},
                }
                for number in range(waiting)
            ]
            session.execute(insert(Delivery), rows)
            longest = {"available_at": db_now(-1000.0 + place)}
            session.execute(update(Delivery).where(Delivery.webhook_id == hook).values(**longest))


def claim(sessions: Sessions) -> Letter | None:
    with sessions.write() as session:
        return deliveries.claim(session)


def claim_all(sessions: Sessions) -> list[Letter]:
    return list(iter(lambda: claim(sessions), None))


def record(sessions: Sessions, letter: Letter, reply: Reply) -> None:
    with sessions.write() as session:
        deliveries.record(session, letter, reply)


def of(letters: Sequence[Letter]) -> Counter[str]:
    """How many of which webhook."""
    return Counter(letter.id.split("_")[1] for letter in letters)


def test_one_webhook_never_has_all_senders(sessions: Sessions) -> None:
    fill(sessions, ("slow", PROJECT), ("quick", OTHER))
    assert of(claim_all(sessions)) == {"slow": AT_ONCE, "quick": AT_ONCE}
    with sessions.read() as session:
        assert not deliveries.waiting(session)


def test_nor_do_all_webhooks_of_one_project(sessions: Sessions) -> None:
    fill(sessions, *((f"slow{number}", PROJECT) for number in range(5)), ("quick", OTHER))
    claimed = of(claim_all(sessions))
    assert claimed.pop("quick") == AT_ONCE
    assert claimed.total() == OF_PROJECT


@pytest.mark.parametrize("reply", [TAKEN, SLOW])
def test_the_next_one_goes_when_one_is_over(sessions: Sessions, reply: Reply) -> None:
    fill(sessions, ("slow", PROJECT))
    first, second = claim_all(sessions)
    record(sessions, first, reply)
    (third,) = claim_all(sessions)
    assert len({first.id, second.id, third.id}) == 3


def test_the_place_of_a_sender_that_died_is_free_again(sessions: Sessions) -> None:
    fill(sessions, ("slow", PROJECT))
    died = claim_all(sessions)
    with sessions.write() as session:
        past = {"sending_until": db_now(-1), "available_at": Delivery.available_at}
        session.execute(update(Delivery).where(Delivery.sending_until.is_not(None)).values(**past))
    assert len(claim_all(sessions)) == AT_ONCE
    record(sessions, died[0], TAKEN)
    assert len(claim_all(sessions)) == 0


def test_what_a_disabled_webhook_had_counts_no_more(sessions: Sessions) -> None:
    fill(sessions, ("slow", PROJECT), ("quick", PROJECT))
    claim(sessions)
    with sessions.write() as session:
        session.execute(update(Webhook).where(Webhook.id == "slow").values(enabled=False))
    assert of(claim_all(sessions)) == {"quick": AT_ONCE}
    with sessions.read() as session:
        left = select(Delivery.id).where(Delivery.webhook_id == "slow", Delivery.sending_until.is_not(None))
        assert len(session.scalars(left).all()) == 1  # the one that is being sent


def test_who_claims_at_the_same_moment_counts_what_the_other_took(sessions: Sessions) -> None:
    fill(sessions, ("slow", PROJECT))
    together = threading.Barrier(6)

    def race(_: int) -> list[Letter]:
        together.wait(30)
        return claim_all(sessions)

    with ThreadPoolExecutor(6) as racers:
        claimed = [letter for letters in racers.map(race, range(6)) for letter in letters]
    assert len({letter.id for letter in claimed}) == len(claimed) == AT_ONCE


def test_a_long_queue_of_a_slow_webhook_is_read_by_its_index(sessions: Sessions) -> None:
    """Postgres counts by itself, and here it is told to; SQLite never does."""
    fill(sessions, ("slow", PROJECT), ("quick", OTHER), waiting=2_000)
    claim_all(sessions)
    explain = "EXPLAIN QUERY PLAN"
    if sessions.engine.dialect.name == "postgresql":
        explain = "EXPLAIN"
        with sessions.write() as session:
            session.execute(text("ANALYZE"))
    turns = deliveries._turns().compile(sessions.engine, compile_kwargs={"literal_binds": True})
    with sessions.read() as session:
        plan = "\n".join(map(str, session.execute(text(f"{explain} {turns}"))))
    assert "ix_deliveries_due" in plan
    assert "SCAN deliveries" not in plan.replace("deliveries USING COVERING INDEX ix_deliveries_sending", "")
    assert "Seq Scan on deliveries" not in plan
