"""How many jobs a second are acknowledged durably over HTTP.

The same small order is posted over 16 keep-alive connections to the service, whose Postgres keeps what it
commits: to one process of the API, then to several that share the connections, as replicas do. In turns with
them, 16 connections insert rows like those of a job and its event with psycopg alone, a transaction each.
Promised: 200 a second, or the measured reason why not: the processor time of one submission is told.
"""

import argparse
import json
import threading
import time
from contextlib import ExitStack
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
from tests.servers import valkey

CONNECTIONS, REPLICAS, ROUNDS, SECONDS = 16, 2, 5, 4.0
PROMISED = 200
COPIED = ("jobs", "job_references", "events")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--replicas", type=int, default=REPLICAS)
    given = parser.parse_args()
    request = post("/v1/jobs", json.dumps(orders.spec()).encode(), "application/json")
    asked = {"connections": CONNECTIONS, "seconds": given.seconds, "expected": 202}
    rounds = []
    with TemporaryDirectory() as folder, durable_postgres() as url, ExitStack() as stack:
        bells = stack.enter_context(valkey(Path(folder)))
        settings = [_settings(url, folder, bells) for _ in range(given.replicas)]
        replicas = [stack.enter_context(service(one)) for one in settings]
        stock(url)
        ports = [replica.port for replica in replicas]
        for _ in range(given.rounds + 1):  # the first round warms up
            before = replicas[0].used_s()
            one = put_under_load(ports[0], request, **asked)
            cost = (replicas[0].used_s() - before) / len(one.latencies_s)
            several = put_under_load(ports, request, **asked)
            rounds.append((one, several, bare(url, given.seconds), cost))
    ones, severals, bares, costs = zip(*rounds[1:], strict=True)
    theirs = median(bares)
    print(f"POST /v1/jobs over {CONNECTIONS} connections, jobs a second (promised: {PROMISED})")
    for name, loads in (("one process", ones), (f"{given.replicas} processes", severals)):
        rate = median(load.rate for load in loads)
        p50, p99 = (median(load.quantile_ms(share) for load in loads) for share in (0.5, 0.99))
        ratio = median(load.rate / bare for load, bare in zip(loads, bares, strict=True))
        print(f"{name}: {rate:.0f}, p50 {p50:.0f} ms, p99 {p99:.0f} ms; ratio to bare rows {ratio:.2f}")
    print(f"the same rows by psycopg alone: {theirs:.0f}")
    print(f"processor time of the one process for a submission: {median(costs) * 1000:.1f} ms")


def _settings(url: str, folder: str, bells: str) -> Settings:
    return Settings(
        database_url=url,
        blobs_url=f"file://{folder}/blobs",
        work_dir=Path(folder) / "work",
        queue_url=bells,  # no worker listens: no job is carried out
        port=free_port(),
    )


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
