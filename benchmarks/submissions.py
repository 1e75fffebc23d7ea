"""How many jobs a second are acknowledged durably over HTTP.

The same small order is posted over 16 keep-alive connections to the service, whose Postgres keeps what it
commits. In turns with it, 16 connections insert rows like those of a job, its event and its place in the
outbox, with psycopg alone, a transaction each. Promised: 200 a second, or the measured reason why not.
"""

import argparse
import json
import threading
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psycopg
from psycopg import sql

from app.db.session import Sessions
from app.services.access import DEFAULT_PROJECT
from app.settings import Settings
from harness.durable import durable_postgres, plain
from harness.load import post, put_under_load
from harness.servers import free_port, service
from tests import orders

CONNECTIONS, ROUNDS, SECONDS = 16, 5, 4.0
PROMISED = 200
COPIED = ("jobs", "job_references", "events", "outbox")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    with TemporaryDirectory() as folder, durable_postgres() as url:
        settings = Settings(
            database_url=url,
            blobs_url=f"file://{folder}/blobs",
            work_dir=Path(folder) / "work",
            queue_url="redis://127.0.0.1:1/0",  # nobody listens: no job is carried out
            port=free_port(),
        )
        request = post("/v1/jobs", json.dumps(orders.spec()).encode(), "application/json")
        rates: list[tuple[float, float]] = []
        with service(settings) as running:
            stock(url)
            for _ in range(given.rounds + 1):  # the first round warms up
                asked = {"connections": CONNECTIONS, "seconds": given.seconds}
                load = put_under_load(running.port, request, expected=202, **asked)
                rates.append((load.rate, bare(url, given.seconds)))
    own, theirs = (median(column) for column in zip(*rates[1:], strict=True))
    ratio = median(own / theirs for own, theirs in rates[1:])
    print(f"POST /v1/jobs over {CONNECTIONS} connections: {own:.0f} jobs a second (promised: {PROMISED})")
    print(f"in the last round p50 {load.quantile_ms(0.5):.0f} ms, p99 {load.quantile_ms(0.99):.0f} ms")
    print(f"the same rows by psycopg alone: {theirs:.0f} a second; ratio {ratio:.2f}")


def stock(url: str) -> None:
    sessions = Sessions(url)
    with sessions.write() as session:
        orders.stock(session, DEFAULT_PROJECT)
    sessions.close()


def bare(url: str, seconds: float) -> float:
    """Transactions a second that store what a submission does."""
    counts = [0] * CONNECTIONS
    until = time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_insert, args=(url, place, until, counts)) for place in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _insert(url: str, place: int, until: float, counts: list[int]) -> None:
    with psycopg.connect(plain(url)) as connection:
        statements = [_copy(connection, table) for table in COPIED]
        connection.commit()
        number = time.perf_counter_ns()
        while time.perf_counter() < until:
            number += 1
            for statement in statements:
                connection.execute(statement, {"id": f"job_bare_{place}_{number}"})
            connection.commit()
            counts[place] += 1


def _copy(connection: psycopg.Connection, table: str) -> sql.Composed:
    """Inserts the rows of the first real job again, under another id."""
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
        [table],
    ).fetchall()
    key = "id" if table == "jobs" else "job_id"
    fresh = {key: sql.SQL("%(id)s::text")}
    if table == "events":
        fresh["id"] = sql.SQL("%(id)s::text || seq")
    names = [name for (name,) in found]
    values = sql.SQL(", ").join(fresh.get(name, sql.Identifier(name)) for name in names)
    first = sql.SQL("(SELECT id FROM jobs WHERE id NOT LIKE 'job_bare%%' ORDER BY id LIMIT 1)")
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE {} = {}").format(
        sql.Identifier(table), columns, values, sql.Identifier(table), sql.Identifier(key), first
    )


if __name__ == "__main__":
    main()
