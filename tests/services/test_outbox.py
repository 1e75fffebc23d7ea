"""Events leave their transactions once each, in order, whoever hands them on."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select

from app.db.session import Sessions
from app.db.tables import Event, Job, Outbox
from app.services import jobs, outbox
from app.settings import Settings
from tests import orders

PROJECT = orders.PROJECT


def submitted(sessions: Sessions, count: int) -> list[str]:
    with sessions.write() as session:
        orders.stock(session)
    ids = []
    for _ in range(count):
        with sessions.write() as session:
            ids.append(orders.submit(session, Settings()).id)
    return ids


def handed_on(sessions: Sessions) -> int:
    with sessions.write() as session:
        return outbox.hand_on(session)


def places(sessions: Sessions) -> list[tuple[int, str, int]]:
    with sessions.read() as session:
        found = outbox.stream(session, PROJECT, 0, 1000)
    return [(one.place, one.event.job_id, one.event.seq) for one in found]


def test_every_event_gets_one_place_in_order(sessions: Sessions) -> None:
    first, second = submitted(sessions, 2)
    with sessions.write() as session:
        jobs.cancel(session, PROJECT, first, "discard")
    assert places(sessions) == []
    assert handed_on(sessions) == 4
    assert handed_on(sessions) == 0
    assert places(sessions) == [(1, first, 1), (2, second, 1), (3, first, 2), (4, first, 3)]
    with sessions.write() as session:
        jobs.cancel(session, PROJECT, second, "discard")
    handed_on(sessions)
    assert [place for place, *_ in places(sessions)] == [1, 2, 3, 4, 5, 6]


def test_a_stream_is_taken_up_behind_a_place_and_narrowed_by_type(sessions: Sessions) -> None:
    (job,) = submitted(sessions, 1)
    with sessions.write() as session:
        jobs.cancel(session, PROJECT, job, "discard")
    handed_on(sessions)
    with sessions.read() as session:
        behind = outbox.stream(session, PROJECT, 1, 10)
        ended = outbox.stream(session, PROJECT, 0, 10, ["job.ended"])
        assert outbox.stream(session, "prj_other", 0, 10) == []
        assert outbox.newest_place(session, PROJECT) == 3
    assert [one.place for one in behind] == [2, 3]
    assert [(one.place, one.event.type) for one in ended] == [(3, "job.ended")]


def test_an_event_whose_transaction_fails_never_leaves(sessions: Sessions) -> None:
    submitted(sessions, 1)
    try:
        with sessions.write() as session:
            orders.submit(session, Settings())
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with sessions.read() as session:
        assert len(session.scalars(select(Outbox)).all()) == len(session.scalars(select(Event)).all()) == 1


def test_who_dies_while_handing_on_leaves_all_of_it_for_the_next(sessions: Sessions) -> None:
    submitted(sessions, 3)
    try:
        with sessions.write() as session:
            assert outbox.hand_on(session) == 3
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert places(sessions) == []
    assert handed_on(sessions) == 3
    assert [place for place, *_ in places(sessions)] == [1, 2, 3]


def test_several_may_write_and_hand_on_at_once(sessions: Sessions) -> None:
    submitted(sessions, 1)

    def write(_: int) -> None:
        with sessions.write() as session:
            job = orders.submit(session, Settings())
        with sessions.write() as session:
            jobs.cancel(session, PROJECT, job.id, "discard")

    with ThreadPoolExecutor(8) as threads:
        writing = [threads.submit(write, number) for number in range(12)]
        handing = [threads.submit(handed_on, sessions) for _ in range(24)]
        handed = sum(one.result() for one in handing)
        for one in writing:
            one.result()
    handed += handed_on(sessions)
    found = places(sessions)
    assert handed == len(found) == 1 + 12 * 3
    assert [place for place, *_ in found] == list(range(1, len(found) + 1))
    by_job: dict[str, list[int]] = {}
    for _, job_id, seq in found:
        by_job.setdefault(job_id, []).append(seq)
    assert all(seqs == sorted(seqs) for seqs in by_job.values())


def test_a_deleted_job_takes_its_events_out_of_the_stream(sessions: Sessions) -> None:
    first, second = submitted(sessions, 2)
    handed_on(sessions)
    for job_id in (first, second):
        with sessions.write() as session:
            jobs.cancel(session, PROJECT, job_id, "discard")
    with sessions.write() as session:
        jobs.remove(session, PROJECT, first)  # with events that still lie in the outbox
    handed_on(sessions)
    assert {job_id for _, job_id, _ in places(sessions)} == {second}
    with sessions.read() as session:
        assert session.get(Job, first) is None
        assert not outbox.waiting(session)
