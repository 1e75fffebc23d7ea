"""Imports from a hub, over real connections to a server that has every trouble."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.db.session import Sessions
from app.db.tables import Dataset, Import, ModelVersion, Project
from app.ports.blobs import Blobs
from app.ports.parts import Parts
from app.services import import_orders, porter
from app.services.sources import DatasetOrder, ModelOrder
from app.settings import Settings
from tests import hub as hubs
from tests.hub import Hub
from tests.intake.checkpoints import contents, save_resnet
from tests.orders import PROJECT


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
