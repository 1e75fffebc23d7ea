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

from app.commands import ended
from app.db.migrate import check_is_there
from app.errors import Misconfigured
from app.ports.blobs import file_blobs
from app.services import inventory
from app.settings import Settings
from app.wiring import assemble, database_url, made

DATABASE = "stillhouse.db"


def main(words: Sequence[str] | None = None) -> int:
    """words: of the command line; None: this process's own."""
    about = "Saves the database and all blobs, or puts back what is missing."
    parser = argparse.ArgumentParser(prog="python -m app.backup", description=about, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="where the backup is, or will be")
    parser.add_argument(
        "--restore", action="store_true", help="put back from there what is missing or damaged"
    )
    arguments = parser.parse_args(words)
    work = _restore if arguments.restore else _save
    return ended(lambda: work(Settings(), arguments.folder))


def _save(settings: Settings, folder: Path) -> int:
    check_is_there(database_url(settings))
    made(folder, "FOLDER")
    database = _sqlite_file(settings)
    if database is None:
        print("The database is not SQLite: dump it with pg_dump before the blobs are copied.")
    else:
        _copy_sqlite(database, folder / DATABASE)
        print("The database is saved.")
    with closing(assemble(settings)) as parts:
        count, damaged = inventory.copy_new(parts.blobs, file_blobs(folder / "blobs"))
    print(f"{count} new blobs are saved.")
    return _tell(damaged, "not saved")


def _restore(settings: Settings, folder: Path) -> int:
    """Raises Misconfigured."""
    if not (folder / "blobs").is_dir():
        raise Misconfigured(f"There is no backup in {folder}: it has no folder `blobs`.")
    database = _sqlite_file(settings)
    if database is not None:
        _restore_sqlite(folder, database)
    with closing(assemble(settings)) as parts:
        count, damaged = inventory.put_back(file_blobs(folder / "blobs"), parts.blobs)
    print(f"{count} blobs are put back. `python -m app.verify` says whether all is there.")
    return _tell(damaged, "in the backup, not put back")


def _tell(damaged: Sequence[str], what: str) -> int:
    for sha256 in damaged:
        print(f"damaged {sha256}, {what}")
    return 1 if damaged else 0


def _sqlite_file(settings: Settings) -> Path | None:
    """None: the database is another one."""
    url = make_url(database_url(settings))
    return Path(url.database or "") if url.drivername.startswith("sqlite") else None


def _restore_sqlite(folder: Path, database: Path) -> None:
    if database.exists():
        print("There is a database already, and it stays; move it away to have the saved one back.")
        return
    if not (folder / DATABASE).exists():
        raise Misconfigured(f"There is no database in {folder}: it is the backup of another kind.")
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
