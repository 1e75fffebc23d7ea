"""How fast eight workers claim jobs, against the bare statement of the database.

Eight processes with a connection each claim from a queue of 10,000 jobs in two projects, on a Postgres that
keeps what it commits. In turns with it, they run the same statements with psycopg alone, and nothing but an
UPDATE ... RETURNING whose subselect skips what is locked, on a table of the same rows that has the best index
for it. Promised: at least half the rate of the same statements.
"""

import argparse
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from statistics import median

import psycopg
from sqlalchemy import insert, text
from sqlalchemy.dialects import postgresql

from api import resolved
from app.db.dialect import now
from app.db.session import Sessions
from app.db.tables import Job, Project
from app.services import claims
from app.services.phases import PHASES, pending
from harness.durable import durable_postgres, plain

Counted = tuple[float, float]  # claims a second, and seconds of processor time for each
WORKERS, QUEUED, ROUNDS, SECONDS = 8, 10_000, 5, 3.0
BARE = """
UPDATE bare SET status = 'running', version = version + 1, last_seq = last_seq + 2, attempt = attempt + 1,
    lease_owner = %s, lease_expires_at = clock_timestamp() + make_interval(secs => 60),
    started_at = coalesce(started_at, clock_timestamp())
WHERE status = 'queued' AND id = (
    SELECT id FROM bare
    WHERE status = 'queued' AND available_at <= clock_timestamp() AND accelerator IN ('auto', 'cpu')
    ORDER BY priority DESC, created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *
"""
CLAIM = """
UPDATE jobs SET status = 'running', version = version + 1, last_seq = last_seq + 2, attempt = attempt + 1,
    lease_owner = %s, lease_expires_at = clock_timestamp() + make_interval(secs => 60),
    started_at = coalesce(started_at, clock_timestamp())
WHERE status = 'queued' AND id = (
    SELECT id FROM jobs
    WHERE status = 'queued' AND available_at <= clock_timestamp() AND devices <= 1
        AND project_id = %s AND accelerator = %s AND priority = %s
    ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, last_seq, *
"""
EVENT = """
INSERT INTO events (job_id, seq, id, type, level, at, message, data)
VALUES (%s, %s, %s, 'attempt.started', 'info', clock_timestamp(), 'attempt 1 started', %s)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with durable_postgres() as url, context.Manager() as manager, context.Pool(WORKERS) as pool:
        prepare(url)
        barrier = manager.Barrier(WORKERS)
        rounds, costs = [], defaultdict(list)
        for _ in range(given.rounds + 1):  # the first round warms up
            rates = []
            for claimer in (ours, transaction, statement):
                refill(url)
                asked = [(url, f"worker-{number}", given.seconds, barrier) for number in range(WORKERS)]
                by_worker = pool.starmap(claimer, asked, chunksize=1)
                rates.append(sum(rate for rate, _ in by_worker))
                cost_ms = sum(rate * cost * 1000 for rate, cost in by_worker) / rates[-1]
                costs[claimer.__name__].append(cost_ms)
            rounds.append(rates)
    own, whole, single = (median(column) for column in zip(*rounds[1:], strict=True))
    ratios = [median(rates[0] / rates[place] for rates in rounds[1:]) for place in (1, 2)]
    print(f"{WORKERS} workers, {QUEUED:,} queued jobs: {own:.0f} claims a second")
    print(f"the same statements with psycopg alone: {whole:.0f}/s, ratio {ratios[0]:.2f} (promised: 0.5)")
    print(f"the UPDATE alone, which tells nobody: {single:.0f}/s, ratio {ratios[1]:.2f}")
    cost, bare = (median(costs[claimer.__name__][1:]) for claimer in (ours, transaction))
    print(f"processor time of a worker for a claim: {cost:.1f} ms, with psycopg alone {bare:.1f} ms")
    print(f"(medians of {given.rounds} rounds of {given.seconds:.0f} s)")


def prepare(url: str) -> None:
    """The rows to be claimed as a template, and the bare table."""
    sessions = Sessions(url)
    with sessions.write() as session:
        session.add_all([Project(id=name, name=name) for name in ("prj_a", "prj_b")])
        session.flush()
        session.execute(insert(Job), rows())
        session.execute(text("CREATE TABLE template AS SELECT * FROM jobs"))
        session.execute(text("CREATE TABLE bare (LIKE jobs INCLUDING ALL)"))
        index = "CREATE INDEX ON bare (priority DESC, created_at, id) WHERE status = 'queued'"
        session.execute(text(index))
    sessions.close()


def rows() -> list[dict[str, object]]:
    order, start = resolved(), now() - timedelta(hours=1)
    return [
        {
            "id": f"job_{place:06}",
            "project_id": ("prj_a", "prj_b")[place % 2],
            "name": "",
            "task": "image_classification",
            "spec": {},
            "resolved": order,
            "spec_digest": "0" * 64,
            "phases": [pending(name) for name in PHASES],
            "progress": {},
            "usage": {},
            "artifacts": [],
            "created_at": start + timedelta(milliseconds=place),
            "available_at": start,
            "runtime_left_s": 3600.0,
        }
        for place in range(QUEUED)
    ]


def refill(url: str) -> None:
    """A full queue again, as an idle database would hold it."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute("TRUNCATE jobs, outbox CASCADE")
        connection.execute("TRUNCATE bare")
        connection.execute("INSERT INTO jobs SELECT * FROM template")
        connection.execute("INSERT INTO bare SELECT * FROM template")
        connection.execute("VACUUM ANALYZE jobs, bare")
        connection.execute("CHECKPOINT")


def ours(url: str, owner: str, seconds: float, barrier: Barrier) -> Counted:
    sessions = Sessions(url)

    def claim() -> bool:
        with sessions.write() as session:
            return claims.claim(session, owner, ("cpu",), 60.0) is not None

    count = counted(claim, seconds, barrier)
    sessions.close()
    return count


def statement(url: str, owner: str, seconds: float, barrier: Barrier) -> Counted:
    with psycopg.connect(plain(url)) as connection:

        def claim() -> bool:
            found = connection.execute(BARE, [owner]).fetchone() is not None
            connection.commit()
            return found

        return counted(claim, seconds, barrier)


def transaction(url: str, owner: str, seconds: float, barrier: Barrier) -> Counted:
    """Whose turn it is, the UPDATE and two events, as our own claim has them."""
    look = claims._written(postgresql.dialect(), ((("auto", 1), -1), (("cpu", 1), -1)))  # type: ignore[no-untyped-call]
    with psycopg.connect(plain(url)) as connection:

        def claim() -> bool:
            turn = connection.execute(look).fetchone()
            if turn is None:
                return False
            row = connection.execute(CLAIM, [owner, turn[0], turn[1], turn[3]]).fetchone()
            if row is not None:
                places = [(row[0], row[1] - 1), (row[0], row[1])]
                told = [(*place, f"evt_{place[0]}_{place[1]}", "{}") for place in places]
                connection.cursor().executemany(EVENT, told)
            connection.commit()
            return row is not None or claim()

        return counted(claim, seconds, barrier)


def counted(claim: "Callable[[], bool]", seconds: float, barrier: Barrier) -> Counted:
    """Until the time is over or the queue is empty."""
    for _ in range(3):  # connects, compiles and plans
        claim()
    barrier.wait()
    begun, count, used = time.perf_counter(), 0, time.process_time()
    while (passed := time.perf_counter() - begun) < seconds and claim():
        count += 1
    return count / passed, (time.process_time() - used) / count


if __name__ == "__main__":
    main()
