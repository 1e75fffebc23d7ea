"""Imports from a bucket that an operator has named, on a real S3 server."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import S3Store
from pydantic import ValidationError

from app.db.session import Sessions
from app.db.tables import Dataset, Import, Project
from app.errors import Invalid, SourceCorrupt, SourceForbidden, UnknownSource
from app.ports.blobs import Blobs
from app.ports.bucket import PIECE, Bucket
from app.ports.parts import Parts
from app.services import import_leases, import_orders, porter, sources
from app.services.fetching import Fetch
from app.services.porter import Carriage
from app.services.sources import DatasetOrder
from app.settings import Settings
from tests import servers
from tests.orders import PROJECT

CSV = b"width,length,label\n" + b"".join(b"%d,%d,%s\n" % (n, n % 7, (b"a", b"b")[n % 2]) for n in range(50))


@pytest.fixture
def lake(s3: servers.S3) -> S3Store:
    """A prefix of the bucket, as its owner sees it."""
    opened = {name.lower(): value for name, value in s3.environment.items()}
    return S3Store(s3.bucket, prefix=s3.prefix, config=opened, client_options={"allow_http": True})  # type: ignore[arg-type]


@pytest.fixture
def parts(
    settings: Settings, blobs: Blobs, s3: servers.S3, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Parts]:
    """The variables of our own store lead nowhere: a connection must not use them."""
    monkeypatch.setenv("LAKE_KEY", s3.environment["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("LAKE_SECRET", s3.environment["AWS_SECRET_ACCESS_KEY"])
    place = {"bucket": s3.bucket, "endpoint": s3.environment["AWS_ENDPOINT_URL"], "prefix": s3.prefix}
    for name in s3.environment:
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    keys = {"access_key_env": "LAKE_KEY", "secret_key_env": "LAKE_SECRET"}
    wrong = {**keys, "secret_key_env": "LAKE_KEY"}
    lost = {**keys, "secret_key_env": "NO_SUCH_VARIABLE"}
    named = {"lake": {**place, **keys}, "wrong": {**place, **wrong}, "lost": {**place, **lost}}
    with_lake = Settings(**settings.model_dump() | {"connections": named, "poll_s": 0.02})
    sessions = Sessions(with_lake.database_url)
    with sessions.write() as session:
        session.add(Project(id=PROJECT, name="default"))
    yield Parts(with_lake, sessions, blobs, None, None)  # type: ignore[arg-type]
    sessions.close()


def carry_out(parts: Parts, source: str) -> Import:
    with parts.sessions.write() as session:
        order = DatasetOrder.model_validate({"name": "iris", "source": source})
        one = import_orders.submit(session, parts.settings, PROJECT, order)
    porter.serve(parts, threading.Event())
    with parts.sessions.read() as session:
        return session.get_one(Import, one.id)


@pytest.mark.parametrize("key", ["iris/", "iris/test.csv"])
def test_data_come_from_a_folder_or_an_object(parts: Parts, lake: S3Store, key: str) -> None:
    lake.put("iris/train.csv", CSV)
    lake.put("iris/test.csv", CSV)
    lake.put("iris/secret.pkl", b"a pickle")
    lake.put("irises/other.csv", CSV)
    done = carry_out(parts, f"s3://lake/{key}")
    assert (done.status, done.error) == ("succeeded", None)
    assert (done.pinned or "").startswith(f"s3://lake/{key.rstrip('/')}@")
    with parts.sessions.read() as session:
        dataset = session.get_one(Dataset, done.target_id)
    assert set(dataset.files) == ({"test"} if key.endswith(".csv") else {"train", "test"})
    assert dataset.source == done.pinned
    assert carry_out(parts, f"s3://lake/{key}").target_id == done.target_id


def test_an_object_goes_on_where_it_ended_and_is_no_other_meanwhile(
    parts: Parts, lake: S3Store, tmp_path: Path
) -> None:
    content = bytes(range(256)) * (PIECE // 256) + b"the end"
    lake.put("large.parquet", content)
    origin = sources.open_source(parts.settings, "dataset", "s3://lake/large.parquet")
    pinned, (file,) = origin.pin()
    (tmp_path / "file.part").write_bytes(content[:1000])
    came: list[int] = []
    Fetch(origin, pinned, came.append)(file, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    assert sum(came) == len(content) - 1000

    lake.put("large.parquet", content[:-1] + b"?")
    with pytest.raises(SourceCorrupt, match="has changed"):
        list(origin.read(pinned, file, 0))


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        ("s3://lake/nothing", UnknownSource),
        ("s3://wrong/iris", SourceForbidden),
        ("s3://lost/iris", SourceForbidden),
        ("s3://other/iris", Invalid),
    ],
)
def test_what_is_not_there_or_not_ours_is_refused(
    parts: Parts, lake: S3Store, source: str, refusal: type[Exception]
) -> None:
    lake.put("iris/train.csv", CSV)
    with pytest.raises(refusal):
        sources.open_source(parts.settings, "dataset", source).pin()


def test_a_connection_reads_below_its_prefix_alone(parts: Parts, lake: S3Store) -> None:
    narrow = parts.settings.connections["lake"].model_copy(update={"prefix": f"{lake.prefix}/iris"})
    lake.put("iris/train.csv", CSV)
    lake.put("secret.csv", CSV)
    settings = parts.settings.model_copy(update={"connections": {"lake": narrow}})
    _, files = Bucket(settings, "lake", "").pin()
    assert [file.path for file in files] == ["train.csv"]
    for key in ("../secret.csv", "%2e%2e/secret.csv", "/secret.csv", "secret.csv"):
        with pytest.raises(UnknownSource):
            Bucket(settings, "lake", key).pin()


@pytest.mark.parametrize("key", ["..", "../secret.csv", "iris/../../secret.csv", "iris//x", "./iris", "a\\b"])
def test_a_key_that_leads_elsewhere_is_no_source(key: str) -> None:
    with pytest.raises(ValidationError, match="this is no source"):
        DatasetOrder.model_validate({"name": "iris", "source": f"s3://lake/{key}"})


def test_an_unreachable_bucket_is_asked_again_later(parts: Parts) -> None:
    nowhere = parts.settings.connections["lake"].model_copy(update={"endpoint": "http://127.0.0.1:1"})
    update = {"connections": {"lake": nowhere}, "source_request_s": 0.5}
    away = replace(parts, settings=parts.settings.model_copy(update=update))
    with away.sessions.write() as session:
        order = DatasetOrder.model_validate({"name": "iris", "source": "s3://lake/iris"})
        one = import_orders.submit(session, away.settings, PROJECT, order).id
    with away.sessions.write() as session:
        claimed = import_leases.claim(session, 60)
    assert claimed is not None
    Carriage(away, claimed, threading.Event()).run()
    with parts.sessions.read() as session:
        assert session.get_one(Import, one).status == "queued"
