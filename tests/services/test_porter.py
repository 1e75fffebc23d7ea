"""Imports from a hub, over real connections to a server that has every trouble."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.db.session import Sessions
from app.db.tables import Dataset, Import, ModelVersion, Project
from app.errors import StateConflict
from app.ports.blobs import Blobs
from app.ports.parts import Parts
from app.services import import_leases, import_orders, models, porter
from app.services.porter import Carriage
from app.services.sources import DatasetOrder, ModelOrder
from app.settings import Settings
from tests import hub as hubs
from tests.hub import Hub
from tests.intake.checkpoints import contents, save_resnet
from tests.orders import PROJECT

CARRY = """
import threading
from app.services import porter
from app.settings import Settings
from app.wiring import assemble

porter.serve(assemble(Settings()), threading.Event())
"""

DIE = """
import functools, json, os, signal, sys, threading, time
from sqlalchemy import update
from app.db.dialect import db_now
from app.db.tables import Import
from app.services import datasets, import_leases, porter
from app.settings import Settings
from app.wiring import assemble


def dying(call, when):
    def die(*given, **named):
        if when == "after":
            call(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return die


def work(parts):
    with parts.sessions.write() as session:  # what the one before held is over
        session.execute(update(Import).where(Import.status == "running").values(lease_expires_at=db_now()))
    porter.serve(parts, threading.Event())


codes = []
for place in sys.argv[1:]:  # nothing runs here yet that a fork would lose
    child = os.fork()
    if child == 0:
        when, owner, name = place.split(":")
        owner = functools.reduce(getattr, owner.split("."), sys.modules["__main__"])
        setattr(owner, name, dying(getattr(owner, name), when))
        work(assemble(Settings()))
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
PLACES = {
    "claimed": "before:porter.Carriage:run",
    "settled, not committed": "after:import_leases:settle",
    "settled": "before:porter.Carriage:_place",
    "fetched": "before:datasets:prepare",
    "stored": "before:datasets:create",
    "succeeded, not committed": "after:import_leases:succeed",
    "succeeded": "before:porter.Carriage:_clear",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What lies in a repository: a checkpoint, and what nobody should fetch."""
    folder = save_resnet(tmp_path_factory.mktemp("teacher") / "saved")
    mess = {"pytorch_model.bin": b"a pickle", "modeling_own.py": b"import os", "onnx/model.onnx": b"onnx"}
    return {**contents(folder), **mess, ".gitattributes": b"*.bin lfs"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hubs.serving() as hub:
        yield hub


@pytest.fixture
def parts(settings: Settings, blobs: Blobs, hub: Hub) -> Iterator[Parts]:
    places = tuple(url.removeprefix("http://") for url in (hub.url, hub.storage))
    changes = {"hub_url": hub.url, "outgoing_allow": places, "poll_s": 0.02, "source_request_s": 5.0}
    with_hub = Settings(**settings.model_dump() | changes)
    sessions = Sessions(with_hub.database_url)
    with sessions.write() as session:
        session.add(Project(id=PROJECT, name="default"))
    yield Parts(with_hub, sessions, blobs, None, None)  # type: ignore[arg-type]
    sessions.close()


def order(parts: Parts, source: str, **texts: Any) -> str:
    """The id of a queued import of a model."""
    with parts.sessions.write() as session:
        asked = ModelOrder.model_validate({"name": "insects", "source": source, **texts})
        return import_orders.submit(session, parts.settings, PROJECT, asked).id


def order_data(parts: Parts, source: str, **texts: Any) -> str:
    """The same of a dataset."""
    with parts.sessions.write() as session:
        asked = DatasetOrder.model_validate({"name": "iris", "source": source, **texts})
        return import_orders.submit(session, parts.settings, PROJECT, asked).id


def table(rows: int, seed: int = 1) -> bytes:
    """A CSV with a label."""
    random = Random(seed)
    lines = [f"{random.random():.6f},{random.random():.6f},{'ab'[row % 2]}" for row in range(rows)]
    return "\n".join(["width,length,label", *lines, ""]).encode()


def short(parts: Parts) -> Parts:
    """With a lease that is soon over."""
    return replace(parts, settings=parts.settings.model_copy(update={"lease_s": 0.5}))


def started_part(parts: Parts, import_id: str) -> int:
    """How much of the one file that is not whole yet lies there."""
    found = (parts.settings.work_dir / "imports").glob(f"{import_id}-*/files/*.part")
    return sum(path.stat().st_size for path in found)


def until(there: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def code(failed: Import) -> str:
    assert failed.error is not None
    return str(failed.error["code"])


def carry_out(parts: Parts, import_id: str, within_s: float = 20.0) -> Import:
    """The import at its end."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        porter.serve(parts, threading.Event())
        with parts.sessions.read() as session:
            one = session.get_one(Import, import_id)
        if one.ended_at is not None:
            return one
        time.sleep(0.02)
    pytest.fail(f"the import is still {one.status} after {within_s} s, try {one.tries}: {one.bytes} bytes")


def test_a_teacher_comes_from_the_hub_pinned_to_its_commit(
    parts: Parts, hub: Hub, teacher: dict[str, bytes]
) -> None:
    hub.page = 2
    commit = hub.put("org/insects", teacher)
    done = carry_out(parts, order(parts, "hf:org/insects", alias="champion"))
    assert (done.status, done.pinned) == ("succeeded", f"hf:org/insects@{commit}")
    assert done.result == {"reference": "model:insects@1", "new": True, "warnings": []}
    fetched = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path for path in hub.served if hub.served[path]} == fetched
    assert done.bytes == done.total_bytes == sum(len(teacher[path]) for path in fetched)
    with parts.sessions.read() as session:
        version = session.get_one(ModelVersion, done.target_id)
        assert version.lineage == {"source": f"hf:org/insects@{commit}"}
        assert {file["path"] for file in version.files} == fetched
    assert list((parts.settings.work_dir / "imports").iterdir()) == []


def test_a_commit_that_was_imported_already_is_not_fetched_again(
    parts: Parts, hub: Hub, teacher: dict[str, bytes]
) -> None:
    commit = hub.put("org/insects", teacher)
    first = carry_out(parts, order(parts, "hf:org/insects@main"))
    served = hub.served.total()
    again = carry_out(parts, order(parts, f"hf:org/insects@{commit}", alias="champion"))
    assert (again.target_id, again.result) == (first.target_id, {**(first.result or {}), "new": False})
    assert hub.served.total() == served
    with parts.sessions.read() as session:
        assert models.find(session, PROJECT, "model:insects@champion").id == first.target_id

    moved = hub.put("org/insects", {**teacher, "README.md": b"better"})
    newer = carry_out(parts, order(parts, "hf:org/insects@main"))
    assert newer.pinned == f"hf:org/insects@{moved}"
    assert newer.result == {"reference": "model:insects@2", "new": True, "warnings": []}


def test_data_come_by_the_splits_that_their_names_say(parts: Parts, hub: Hub) -> None:
    commit = hub.put("org/iris", {
        "data/train-00000-of-00002.csv": table(30), "data/train-00001-of-00002.csv": table(30, seed=2),
        "data/test.csv": table(12, seed=3), "README.md": b"# Irises", "load.py": b"import os",
    })  # fmt: skip
    done = carry_out(parts, order_data(parts, "hf:org/iris"))
    assert (done.status, done.result) == (
        "succeeded",
        {"reference": "dataset:iris@1", "new": True, "warnings": []},
    )
    with parts.sessions.read() as session:
        dataset = session.get_one(Dataset, done.target_id)
        assert dataset.source == f"hf:org/iris@{commit}"
        assert {split: file["rows"] for split, file in dataset.files.items()} == {"train": 60, "test": 12}
    assert set(hub.served) == {"train-00000-of-00002.csv", "train-00001-of-00002.csv", "test.csv"}
    assert all("/datasets/org/iris" in path for path, _ in hub.asked if "/resolve/" in path)


def test_files_that_are_named_and_not_there_are_told(parts: Parts, hub: Hub) -> None:
    hub.put("org/iris", {"small/a.csv": table(20), "large/b.csv": table(40)})
    done = carry_out(parts, order_data(parts, "hf:org/iris", files={"file": ["small/*"], "test": ["huge/*"]}))
    assert code(done) == "invalid_request"
    (fault,) = (done.error or {})["errors"]
    assert fault["pointer"] == "/files/test/0"
    assert "large/b.csv" in fault["fix"]
    assert hub.served.total() == 0


# ---- connections that end


def test_a_file_that_breaks_off_goes_on_where_it_ended(parts: Parts, hub: Hub) -> None:
    content = table(20_000)
    hub.put("org/iris", {"train.csv": content})
    hub.breaks["train.csv"] = [100_000, 10, 80_000]  # the second brings too little to be asked again at once
    done = carry_out(parts, order_data(parts, "hf:org/iris"))
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert hub.served["train.csv"] == len(content)
    asked = [headers.get("range") for path, headers in hub.asked if "signature" in path]
    assert asked == [None, "bytes=100000-", "bytes=100010-", "bytes=180010-"]
    conditions = [headers.get("if-range") for path, headers in hub.asked if "signature" in path]
    assert [bool(one) for one in conditions] == [False, True, False, True]  # one process knows no other's


def test_a_storage_that_knows_no_ranges_sends_all_again(parts: Parts, hub: Hub) -> None:
    content = table(20_000)
    hub.put("org/iris", {"train.csv": content})
    hub.breaks["train.csv"], hub.whole = [100_000], True
    done = carry_out(parts, order_data(parts, "hf:org/iris"))
    assert done.status == "succeeded"
    assert hub.served["train.csv"] == 100_000 + len(content)


def test_a_hub_that_hangs_is_left_and_asked_again(parts: Parts, hub: Hub) -> None:
    impatient = replace(parts, settings=parts.settings.model_copy(update={"source_request_s": 0.5}))
    content = table(2_000)
    hub.put("org/iris", {"train.csv": content})
    hub.holds["train.csv"] = 20_000
    one = order_data(parts, "hf:org/iris")
    with parts.sessions.write() as session:
        claimed = import_leases.claim(session, 60)
    assert claimed is not None
    Carriage(impatient, claimed, threading.Event()).run()
    with parts.sessions.read() as session:
        put_off = session.get_one(Import, one)
        assert (put_off.status, put_off.tries, put_off.bytes) == ("queued", 0, 20_000)
    hub.holds.clear()
    assert carry_out(parts, one).status == "succeeded"
    assert hub.served["train.csv"] == len(content)


def test_another_process_goes_on_from_the_bytes_of_one_that_was_killed(parts: Parts, hub: Hub) -> None:
    content = table(20_000)
    hub.put("org/iris", {"test.csv": table(20), "train.csv": content})
    hub.holds["train.csv"] = 150_000
    one = order_data(parts, "hf:org/iris")
    carrying = subprocess.Popen(
        [sys.executable, "-c", CARRY], env=os.environ | short(parts).settings.environment()
    )
    try:
        until(lambda: hub.served["train.csv"] >= 150_000 and started_part(parts, one) >= 100_000)
    finally:
        os.kill(carrying.pid, signal.SIGKILL)
        carrying.wait()
    kept = started_part(parts, one)
    with parts.sessions.read() as session:
        assert session.get_one(Import, one).status == "running"
    hub.holds.clear()
    done = carry_out(parts, one)
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert hub.served["test.csv"] == len(table(20))
    assert hub.served["train.csv"] == 150_000 + len(content) - kept
    assert done.bytes == done.total_bytes


def test_an_import_goes_on_wherever_its_process_is_killed(parts: Parts, hub: Hub) -> None:
    """One import, and at each place a process that dies there; the next one goes on."""
    content = table(200)
    hub.put("org/iris", {"train.csv": content})
    one = order_data(parts, "hf:org/iris")
    command = [sys.executable, "-c", DIE, *PLACES.values()]
    environment = os.environ | parts.settings.environment()
    dying = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    codes = json.loads(dying.stdout.splitlines()[-1])
    assert codes == [-signal.SIGKILL] * len(PLACES), dying.stdout + dying.stderr
    with parts.sessions.read() as session:
        done = session.get_one(Import, one)
        assert (done.status, done.attempt) == ("succeeded", len(PLACES))
        (made,) = session.scalars(select(Dataset))
        assert (done.target_id, made.files["train"]["rows"]) == (made.id, 200)
    assert hub.served["train.csv"] == len(content)  # once
    assert {blob.sha256 for blob in parts.blobs.all()} == {made.files["train"]["sha256"]}


def test_a_cancelled_import_stops_and_leaves_nothing(parts: Parts, hub: Hub) -> None:
    hub.put("org/iris", {"train.csv": table(60_000)})
    hub.pace_s = 0.02
    one = order_data(parts, "hf:org/iris")
    carrying = threading.Thread(target=porter.serve, args=(short(parts), threading.Event()))
    carrying.start()
    until(lambda: hub.served["train.csv"] > 0)
    with parts.sessions.write() as session:
        assert import_orders.cancel(session, PROJECT, one).status == "cancelled"
    carrying.join(10)
    assert not carrying.is_alive()
    assert hub.served["train.csv"] < len(table(60_000))
    assert list((parts.settings.work_dir / "imports").iterdir()) == []
    with parts.sessions.write() as session, pytest.raises(StateConflict):
        import_orders.cancel(session, PROJECT, one)


def test_a_worker_that_leaves_hands_its_import_back(parts: Parts, hub: Hub) -> None:
    hub.put("org/iris", {"train.csv": table(20_000)})
    hub.pace_s, stopping = 0.02, threading.Event()
    one = order_data(parts, "hf:org/iris")
    carrying = threading.Thread(target=porter.serve, args=(parts, stopping))
    carrying.start()
    until(lambda: hub.served["train.csv"] > 0)
    stopping.set()
    carrying.join(10)
    with parts.sessions.read() as session:
        left = session.get_one(Import, one)
        assert (left.status, left.tries) == ("queued", 0)
    hub.pace_s = 0
    assert carry_out(parts, one).status == "succeeded"


def test_an_import_that_hangs_is_handed_back_by_who_leaves(
    parts: Parts, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when the lease is over; what it does afterwards counts no more."""
    monkeypatch.setattr(porter, "PARTING_S", 0.1)
    patient = replace(parts, settings=parts.settings.model_copy(update={"source_request_s": 60.0}))
    hub.put("org/iris", {"train.csv": table(20_000)})
    hub.holds["train.csv"] = 150_000
    one = order_data(parts, "hf:org/iris")
    leaving = porter.Porters(patient)
    leaving.start()
    try:
        until(lambda: started_part(parts, one) >= 100_000)
        leaving.end(30)
        with parts.sessions.read() as session:
            left = session.get_one(Import, one)
            assert (left.status, left.attempt, left.tries) == ("queued", 1, 0)
        with parts.sessions.write() as session:
            claimed = import_leases.claim(session, 60)
            assert claimed is not None
            assert (claimed.id, claimed.attempt) == (one, 2)
    finally:
        hub.release.set()  # the first one reads on, and finds that it is over
        for thread in leaving._threads:
            thread.join(60)
    with parts.sessions.read() as session:
        now = session.get_one(Import, one)
        assert (now.status, now.attempt) == ("running", 2)


def test_an_import_waits_for_what_is_our_own_and_is_not_given_up(
    parts: Parts, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here there is no place for its files, more often than a source may fail."""
    monkeypatch.setattr(porter, "LONGEST_WAIT_S", 0.02)
    hub.put("org/iris", {"train.csv": table(20)})
    one = order_data(parts, "hf:org/iris")
    place = parts.settings.work_dir / "imports"
    place.parent.mkdir(parents=True)
    place.touch()

    def attempts() -> int:
        porter.serve(parts, threading.Event())
        with parts.sessions.read() as session:
            waiting = session.get_one(Import, one)
            assert (waiting.status, waiting.tries) == ("queued", 0)
            return waiting.attempt

    until(lambda: attempts() > import_leases.MAX_TRIES)
    place.unlink()
    assert carry_out(parts, one).status == "succeeded"


# ---- answers that are none


def test_trouble_passes(parts: Parts, hub: Hub) -> None:
    hub.put("org/iris", {"train.csv": table(20)})
    hub.answers = [("/revision/main", 429, {"Retry-After": "1"}), ("train.csv", 500, {})]
    began = time.monotonic()
    done = carry_out(parts, order_data(parts, "hf:org/iris"))
    assert (done.status, done.attempt) == ("succeeded", 3)
    assert time.monotonic() - began > 1.0


def test_trouble_that_does_not_pass_ends_the_import(parts: Parts, hub: Hub) -> None:
    hub.answers = [("/revision/main", 500, {})] * 20
    done = carry_out(parts, order(parts, "hf:org/insects"))
    assert (done.status, done.attempt, code(done)) == ("failed", import_leases.MAX_TRIES, "source_away")


def _lies_of_sizes(hub: Hub) -> None:
    hub.sizes["model.safetensors"] = 5_000


def _promises_less_than_nothing(hub: Hub) -> None:
    hub.sizes["README.md"] = -(10**15)
    hub.files["org/insects"][hub.refs["org/insects"]["main"]]["README.md"] = b"#"


def _is_another_file(hub: Hub) -> None:
    hub.other["config.json"] = b"{" + b" " * 500 + b"}"


def _has_another_hash(hub: Hub) -> None:
    content = hub.files["org/insects"][hub.refs["org/insects"]["main"]]["model.safetensors"]
    hub.other["model.safetensors"] = content[:-1] + b"\1"


def _links_another_hash(hub: Hub) -> None:
    hub.linked["model.safetensors"] = "0" * 64


def _turns_in_a_circle(hub: Hub) -> None:
    hub.leads["config.json"] = "config.json"


def _leads_to_ourselves(hub: Hub) -> None:
    hub.leads["config.json"] = "http://127.0.0.1:1/config.json"


def _leads_to_the_cloud(hub: Hub) -> None:
    hub.leads["config.json"] = "http://169.254.169.254/latest/meta-data/"


def _leads_nowhere(hub: Hub) -> None:
    hub.leads["config.json"] = "https://[half/"


def _leads_to_a_file(hub: Hub) -> None:
    hub.leads["config.json"] = "file:///etc/passwd"


def _turns_pages_for_ever(hub: Hub) -> None:
    hub.page = 0


def _says_teapot(hub: Hub) -> None:
    hub.answers = [("config.json", 418, {})]


@pytest.mark.parametrize(
    "trouble",
    [
        _lies_of_sizes, _promises_less_than_nothing, _is_another_file, _has_another_hash,
        _links_another_hash, _turns_in_a_circle,
        _leads_to_ourselves, _leads_to_the_cloud, _leads_nowhere, _leads_to_a_file, _says_teapot,
        _turns_pages_for_ever,
    ],
)  # fmt: skip
def test_what_is_not_as_promised_is_refused(
    parts: Parts, hub: Hub, teacher: dict[str, bytes], trouble: Callable[[Hub], None]
) -> None:
    hub.put("org/insects", teacher)
    trouble(hub)
    done = carry_out(parts, order(parts, "hf:org/insects"))
    assert (done.status, code(done)) == ("failed", "source_corrupt")
    assert "127.0.0.1" not in str(done.error)
    assert list((parts.settings.work_dir / "imports").iterdir()) == []
    with parts.sessions.read() as session:
        assert models.list_(session, PROJECT, before=None, limit=1) == []


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        ("hf:org/none", "unknown_source"),
        ("hf:org/insects@none", "unknown_source"),
        ("hf:org/insects@" + "0" * 40, "unknown_source"),
        ("hf:org/pickles", "unsafe_format"),
        ("hf:org/empty", "invalid_data"),
    ],
)
def test_what_is_not_there_or_no_checkpoint_is_refused(
    parts: Parts, hub: Hub, teacher: dict[str, bytes], source: str, refusal: str
) -> None:
    hub.put("org/insects", teacher)
    hub.put("org/pickles", {name: teacher[name] for name in ("config.json", "pytorch_model.bin")})
    hub.put("org/empty", {"README.md": b"soon"})
    done = carry_out(parts, order(parts, source))
    assert (done.status, code(done)) == ("failed", refusal)
    assert hub.served.total() == 0


def test_what_is_too_large_is_not_begun(parts: Parts, hub: Hub, teacher: dict[str, bytes]) -> None:
    hub.put("org/insects", teacher)
    small = replace(parts, settings=parts.settings.model_copy(update={"max_upload_bytes": 10_000}))
    done = carry_out(small, order(parts, "hf:org/insects"))
    assert (done.status, code(done)) == ("failed", "payload_too_large")
    assert hub.served.total() == 0


def test_what_the_project_has_no_room_for_is_not_begun(
    parts: Parts, hub: Hub, teacher: dict[str, bytes]
) -> None:
    hub.put("org/insects", teacher)
    with parts.sessions.write() as session:
        session.get_one(Project, PROJECT).max_bytes = 10_000
    done = carry_out(parts, order(parts, "hf:org/insects"))
    assert (done.status, code(done)) == ("failed", "quota_exceeded")
    assert hub.served.total() == 0


def test_what_takes_too_long_is_given_up(parts: Parts, hub: Hub) -> None:
    late = replace(parts, settings=parts.settings.model_copy(update={"max_import_s": 0.01}))
    one = order(late, "hf:org/insects")
    time.sleep(0.02)
    assert code(carry_out(parts, one)) == "source_away"


def test_the_token_opens_the_hub_and_goes_nowhere_else(
    parts: Parts, hub: Hub, teacher: dict[str, bytes]
) -> None:
    hub.put("org/insects", teacher)
    hub.token = "hf_secret"
    closed = carry_out(parts, order(parts, "hf:org/insects"))
    assert (closed.status, code(closed)) == ("failed", "source_forbidden")
    assert closed.error is not None
    assert [fault["pointer"] for fault in closed.error["errors"]] == ["/source"]
    token = {"hub_token": SecretStr("hf_secret")}
    known = replace(parts, settings=parts.settings.model_copy(update=token))
    assert carry_out(known, order(parts, "hf:org/insects")).status == "succeeded"
    stored = [headers for path, headers in hub.asked if "signature" in path]
    assert len(stored) == 1
    assert "authorization" not in stored[0]
    assert "HUB_TOKEN" not in str(known.settings.environment())
