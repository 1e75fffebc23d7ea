"""`python -m app.backup FOLDER` saves, `python -m app.backup --restore FOLDER` puts back what is not there.

The folder gets SQLite's database, as it stands at one moment, and then every blob that it does not have yet:
a second backup into the same folder costs what has come since. Postgres is dumped by pg_dump, before this.
"""

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from app.ports.blobs import file_blobs
from app.ports.parts import Parts
from app.services import inventory
from app.settings import Settings
from app.wiring import assemble, database_url

DATABASE = "stillhouse.db"


def main(words: Sequence[str] | None = None) -> int:
    """words: of the command line; None: this process's own."""
    parser = argparse.ArgumentParser(prog="python -m app.backup", description="Saves database and blobs.")
    parser.add_argument("folder", type=Path, help="where the backup is, or will be")
    parser.add_argument(
        "--restore", action="store_true", help="put back from there what is missing or damaged"
    )
    arguments = parser.parse_args(words)
    settings = Settings()
    url = make_url(database_url(settings))
    database = Path(url.database or "") if url.drivername.startswith("sqlite") else None
    if arguments.restore and database is not None:
        _restore_sqlite(arguments.folder, database)
    parts = assemble(settings)
    try:
        return (
            _restore(parts, arguments.folder)
            if arguments.restore
            else _save(parts, arguments.folder, database)
        )
    finally:
        parts.close()


def _save(parts: Parts, folder: Path, database: Path | None) -> int:
    """database: SQLite's file; None: another one."""
    folder.mkdir(parents=True, exist_ok=True)
    if database is None:
        print("The database is not SQLite: dump it with pg_dump before the blobs are copied.")
    else:
        _copy_sqlite(database, folder / DATABASE)
        print("The database is saved.")
    count, damaged = inventory.copy_new(parts.blobs, file_blobs(folder / "blobs"))
    print(f"{count} new blobs are saved.")
    for sha256 in damaged:
        print(f"damaged {sha256}, not saved")
    return 1 if damaged else 0


def _restore(parts: Parts, folder: Path) -> int:
    count = inventory.put_back(file_blobs(folder / "blobs"), parts.blobs)
    print(f"{count} blobs are put back. `python -m app.verify` says whether all is there.")
    return 0


def _restore_sqlite(folder: Path, database: Path) -> None:
    if database.exists():
        print("There is a database already, and it stays; move it away to have the saved one back.")
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    _copy_sqlite(folder / DATABASE, database)
    print("The database is put back.")


def _copy_sqlite(source: Path, target: Path) -> None:
    """Whole, as of one moment, while others write; the target appears when it is complete."""
    unfinished = target.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as one,
        closing(sqlite3.connect(unfinished)) as other,
    ):
        one.backup(other)
    unfinished.replace(target)


if __name__ == "__main__":
    sys.exit(main())
