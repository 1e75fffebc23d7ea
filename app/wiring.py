"""Puts the parts together. Only here is it read what the URLs in the settings mean."""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.db.session import Sessions
from app.errors import Misconfigured
from app.ports.blobs import Blobs, file_blobs, s3_blobs
from app.ports.parts import Parts
from app.ports.queue import CeleryQueue, LocalQueue, Queue
from app.serving.predictor import OnnxPredictor
from app.settings import Settings


def assemble(settings: Settings) -> Parts:
    """Relative paths count from the working directory. Raises Misconfigured for a URL that means nothing."""
    url, blobs = database_url(settings), _blobs(settings)
    made(settings.work_dir, "STILLHOUSE_WORK_DIR")
    predictor = OnnxPredictor(
        blobs, settings.work_dir.absolute() / "served", settings.serving_bytes, settings.serving_threads
    )
    return Parts(settings, Sessions(url), blobs, _queue(settings.queue_url), predictor)


def database_url(settings: Settings) -> str:
    """The database's URL, with SQLite's path made absolute. Raises Misconfigured."""
    try:
        url = make_url(settings.database_url)
    except (ArgumentError, ValueError):  # the latter: what stands where a port should
        raise _unknown("DATABASE", "sqlite:///PATH or postgresql+psycopg://...") from None
    if url.drivername in ("sqlite", "sqlite+pysqlite") and url.database not in (None, "", ":memory:"):
        return f"sqlite:///{Path(url.database or '').absolute()}"
    if url.drivername == "postgresql+psycopg" and "@" not in (url.host or ""):
        return settings.database_url
    raise _unknown("DATABASE", "sqlite:///PATH or postgresql+psycopg://...")


def _blobs(settings: Settings) -> Blobs:
    scheme, _, rest = settings.blobs_url.partition("://")
    if scheme == "file" and rest:
        return file_blobs(made(Path(rest), "STILLHOUSE_BLOBS_URL"))
    if scheme == "s3" and rest:
        bucket, _, prefix = rest.partition("/")
        return s3_blobs(bucket, prefix.strip("/"), settings.work_dir.absolute() / "outgoing")
    raise _unknown("BLOBS", "file://PATH or s3://BUCKET/PREFIX")


def made(folder: Path, named_by: str) -> Path:
    """The folder, made where it is missing. Raises Misconfigured, saying what named it."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Misconfigured(f"{named_by} names a folder that cannot be made or written: {folder}.")
    return folder.absolute()


def _queue(url: str) -> Queue:
    scheme = url.partition("://")[0]
    if scheme == "local":
        return LocalQueue()
    if scheme in ("redis", "rediss") and _has_a_place(url):
        return CeleryQueue(url)
    raise _unknown("QUEUE", "local:// or redis://...")


def _has_a_place(url: str) -> bool:
    """Else a part of an unquoted password would be taken for a port, and told as none."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _unknown(what: str, known: str) -> Misconfigured:
    """Without the value, which may hold a password."""
    return Misconfigured(f"STILLHOUSE_{what}_URL cannot be used; it reads {known}.")
