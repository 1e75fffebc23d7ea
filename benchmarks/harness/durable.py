"""A Postgres of the benchmark's own that keeps what it has committed, as one in production does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from app.db.migrate import upgrade
from tests import servers

DURABLE = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on", "shared_buffers": "256MB"}


@contextmanager
def durable_postgres() -> Iterator[str]:
    """The URL of a migrated database."""
    with (
        TemporaryDirectory(prefix="stillhouse-bench-") as folder,
        servers.postgres(Path(folder), **DURABLE) as url,
    ):
        with psycopg.connect(plain(url), autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        bench = url.removesuffix("/postgres") + "/bench"
        upgrade(bench)
        yield bench


def plain(url: str) -> str:
    """As psycopg itself reads it."""
    return url.replace("+psycopg", "")
