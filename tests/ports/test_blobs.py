"""The contract of the blob port, held by both adapters: a folder and a real S3 server."""

import hashlib
import os
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from app.errors import BlobCorrupt, NotFound, Unavailable
from app.ports.blobs import ABANDONED_S, CHUNK, PART, Blob, ObjectBlobs, file_blobs, s3_blobs
from tests.servers import S3, free_port

ABSENT = hashlib.sha256(b"never stored").hexdigest()
LARGE = Random(1).randbytes(2 * PART + 12_345)


@pytest.fixture(params=["file", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectBlobs:
    if request.param == "file":
        return file_blobs(tmp_path / "blobs")
    server: S3 = request.getfixturevalue("s3")
    return s3_blobs(server.bucket, server.prefix, tmp_path / "scratch")


def test_what_is_put_is_read_back_under_its_digest(blobs: ObjectBlobs) -> None:
    blob = blobs.put([b"hello ", b"", b"world"])
    assert blob == Blob(hashlib.sha256(b"hello world").hexdigest(), 11)
    assert blobs.size(blob.sha256) == 11
    assert b"".join(blobs.read(blob.sha256)) == b"hello world"


def test_nothing_at_all_is_a_blob_too(blobs: ObjectBlobs, tmp_path: Path) -> None:
    blob = blobs.put([])
    assert blobs.size(blob.sha256) == 0
    assert list(blobs.read(blob.sha256)) == []
    blobs.fetch(blob.sha256, tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_large_blob_goes_both_ways_in_pieces(blobs: ObjectBlobs, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    blob = blobs.put_file(tmp_path / "large")
    assert blob == Blob(hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    pieces = list(blobs.read(blob.sha256))
    assert b"".join(pieces) == LARGE
    assert max(map(len, pieces)) <= CHUNK
    blobs.fetch(blob.sha256, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == LARGE


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_storing_the_same_bytes_again_changes_nothing(blobs: ObjectBlobs, content: bytes) -> None:
    assert blobs.put([content]) == blobs.put([content])
    assert b"".join(blobs.read(hashlib.sha256(content).hexdigest())) == content


def test_many_may_store_the_same_bytes_at_once(blobs: ObjectBlobs) -> None:
    with ThreadPoolExecutor(8) as threads:
        stored = set(threads.map(lambda _: blobs.put([b"raced"]), range(16)))
    assert len(stored) == 1
    assert b"".join(blobs.read(stored.pop().sha256)) == b"raced"


def test_a_range_is_that_part_of_the_blob(blobs: ObjectBlobs) -> None:
    sha256 = blobs.put([LARGE]).sha256
    near, last = CHUNK - 2, len(LARGE)
    for start, length in [
        (0, 1),
        (3, 4),
        (3, None),
        (0, None),
        (near, 5),
        (last - 3, 100),
        (last, None),
        (5, 0),
    ]:
        end = None if length is None else start + length
        assert b"".join(blobs.read(sha256, start, length)) == LARGE[start:end]


def test_what_was_never_stored_is_not_found(blobs: ObjectBlobs, tmp_path: Path) -> None:
    assert blobs.size(ABSENT) is None
    with pytest.raises(NotFound, match=ABSENT):
        blobs.read(ABSENT)  # before its first piece is asked for
    with pytest.raises(NotFound):
        blobs.fetch(ABSENT, tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_damaged_content_is_noticed_and_never_handed_out(blobs: ObjectBlobs, tmp_path: Path) -> None:
    sha256 = blobs.put([b"as it was stored"]).sha256
    blobs._store.put(f"sha256/{sha256[:2]}/{sha256}", b"as it was st0red")
    (tmp_path / "target").mkdir()
    with pytest.raises(BlobCorrupt, match=sha256):
        blobs.fetch(sha256, tmp_path / "target" / "file")
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "damaged"),
    [(b"as it was", b"as it wa"), (b"as it was", b"as it w4s"), (LARGE, LARGE[:-1] + b"!")],
    ids=["small-cut", "small-turned", "large-turned"],
)
def test_storing_damaged_content_again_makes_it_whole(
    blobs: ObjectBlobs, tmp_path: Path, content: bytes, damaged: bytes
) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    blobs._store.put(f"sha256/{sha256[:2]}/{sha256}", damaged)
    with pytest.raises(BlobCorrupt):
        blobs.fetch(sha256, tmp_path / "file")
    blobs.put([content])
    blobs.fetch(sha256, tmp_path / "file")
    assert {one.sha256 for one in blobs.all()} == {sha256}
    assert list(blobs._scratch.iterdir()) == []


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_content_that_is_well_is_not_sent_to_a_bucket_again(s3: S3, tmp_path: Path, content: bytes) -> None:
    """An attribute that lies there with it would be lost."""
    blobs, sha256 = s3_blobs(s3.bucket, s3.prefix, tmp_path / "scratch"), hashlib.sha256(content).hexdigest()
    key, mark = f"sha256/{sha256[:2]}/{sha256}", "application/marked"
    blobs._store.put(key, content, attributes={"Content-Type": mark}, chunk_size=PART)
    blobs.put([content])
    assert blobs._store.get(key).attributes["Content-Type"] == mark


def test_what_a_killed_process_had_spooled_is_swept_a_day_later(tmp_path: Path) -> None:
    spool = tmp_path / "blobs" / ".incoming"
    spool.mkdir(parents=True)
    for name, age_s in (("put-old", ABANDONED_S + 60), ("put-young", 60)):
        (spool / name).write_bytes(b"half of it")
        then = time.time() - age_s
        os.utime(spool / name, (then, then))
    blobs = file_blobs(tmp_path / "blobs")
    assert [left.name for left in spool.iterdir()] == ["put-young"]
    assert list(blobs.all()) == []


def test_an_interrupted_upload_leaves_nothing_to_see(blobs: ObjectBlobs) -> None:
    def interrupted() -> Iterator[bytes]:
        yield LARGE
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.put(interrupted())
    assert [entry["path"] for page in blobs._store.list() for entry in page] == []
    assert list(blobs._scratch.iterdir()) == []


def test_uploads_and_downloads_never_hold_the_whole_blob(blobs: ObjectBlobs, tmp_path: Path) -> None:
    piece = bytes(1024**2)
    tracemalloc.start()
    blob = blobs.put(piece for _ in range(40))
    blobs.fetch(blob.sha256, tmp_path / "back")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert blob.size == 40 * 1024**2
    assert peak < 3 * CHUNK


def test_a_store_that_answers_passes_its_check(blobs: ObjectBlobs) -> None:
    blobs.check()


def test_a_folder_that_is_gone_is_reported(tmp_path: Path) -> None:
    blobs = file_blobs(tmp_path / "blobs")
    (tmp_path / "blobs").rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        blobs.check()


def test_an_s3_server_that_is_away_is_reported_without_its_address(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    away = s3_blobs(s3.bucket, s3.prefix, tmp_path)
    for attempt in (away.check, lambda: away.size(ABSENT), lambda: away.put([b"x"])):
        with pytest.raises(Unavailable) as error:
            attempt()
        assert "127.0.0.1" not in error.value.detail


def test_a_missing_bucket_and_a_wrong_key_fail_the_check(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable):
        s3_blobs("no-such-bucket", "", tmp_path).check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Unavailable):
        s3_blobs(s3.bucket, s3.prefix, tmp_path).check()


def test_all_that_is_stored_is_told_with_its_age(blobs: ObjectBlobs) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)  # a store's clock counts whole seconds
    put = {blobs.put([content]) for content in (b"one", b"two", b"")}
    told = list(blobs.all())
    assert {Blob(one.sha256, one.size) for one in told} == put
    assert all(before < one.put_at < datetime.now(UTC) + timedelta(seconds=2) for one in told)


def test_what_was_stored_since_is_not_taken_away(blobs: ObjectBlobs) -> None:
    blob, now = blobs.put([b"kept"]), datetime.now(UTC)
    assert not blobs.remove(blob.sha256, now - timedelta(minutes=1))
    assert blobs.size(blob.sha256) == 4
    assert blobs.remove(blob.sha256, now + timedelta(minutes=1))
    assert blobs.size(blob.sha256) is None
    assert not blobs.remove(blob.sha256, now + timedelta(minutes=1))
    assert blobs.put([b"kept"]) == blob  # and it can come back


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_storing_old_bytes_again_makes_them_young(
    blobs: ObjectBlobs, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ports.blobs.REFRESHED", timedelta(0))
    blob = blobs.put([content])
    (first,) = blobs.all()
    (again,) = [first]
    deadline = time.monotonic() + 20
    while again.put_at == first.put_at and time.monotonic() < deadline:  # some clocks count whole seconds
        blobs.put([content])
        (again,) = blobs.all()
    assert again.put_at > first.put_at
    assert b"".join(blobs.read(blob.sha256)) == content
