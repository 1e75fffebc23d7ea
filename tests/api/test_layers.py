"""The layers of models over HTTP, listed by a process of their own that has torch."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import delete, update

from app.db.dialect import db_now
from app.db.session import Sessions
from app.db.tables import ModelLayers, Project
from app.errors import UnknownLayer
from app.main import create_app
from app.ports.parts import Parts
from app.services import layers, models
from app.settings import Settings
from tests.intake.checkpoints import contents, pack, save_resnet, save_vit
from tests.services.test_models import checkpoint
from worker.layers import listed

PERCEPTRON = {
    "format": "mlp", "family": "mlp", "input": {"modality": "vector", "shape": [3]}, "labels": ["a", "b"],
    "details": {"config": {"kind": "mlp", "hidden_sizes": [5, 4]}},
}  # fmt: skip


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"poll_s": 0.1}))


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def imported(client: TestClient, folder: Path, name: str) -> str:
    upload = pack(folder.parent / f"{name}.zip", contents(folder), prefix="saved/").read_bytes()
    answer = client.post("/v1/models", data={"name": name}, files={"file": upload})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["links"]["layers"])


def test_layers_are_listed_by_a_worker_and_stay_known(client: TestClient, tmp_path: Path) -> None:
    path = imported(client, save_resnet(tmp_path / "saved"), "insects")
    first = client.get(path)
    assert (first.status_code, first.headers["Retry-After"], first.json()["ready"]) == (202, "2", False)
    answer = client.get(path, params={"wait": 60})
    assert answer.status_code == 200, answer.text
    found = {one["path"]: one for one in answer.json()["data"]}
    staged = [name for name, one in found.items() if one["stage"]]
    assert staged == [f"resnet.encoder.stages.{place}" for place in range(len(staged))]
    assert found[staged[-1]]["kind"] == "features"
    assert len(found[staged[-1]]["shape"]) == 3
    assert client.get(path).json() == answer.json()


def test_attention_modules_are_told_apart(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    names, _ = list(config.pop("id2label").values()), config.pop("label2id")
    size = config["image_size"]
    row = {"modality": "image", "shape": [config["num_channels"], size, size]}
    version = {
        "format": "huggingface",
        "family": "vit",
        "input": row,
        "labels": names,
        "details": {"config": config},
    }
    attends = [one["path"] for one in listed(version) if one["kind"] == "attention"]
    assert attends == [f"vit.layers.{place}.attention" for place in range(config["num_hidden_layers"])]


def test_a_family_of_our_own_and_texts_are_listed() -> None:
    assert [(one["path"], one["shape"]) for one in listed(PERCEPTRON) if one["stage"]] == [
        ("layers.0", [5]),
        ("layers.1", [4]),
    ]
    config = {
        "model_type": "bert", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 8, "pad_token_id": 0,
    }  # fmt: skip
    row = {"modality": "text", "shape": [16], "vocabulary": 30, "pad": 0}
    text = {
        "format": "huggingface",
        "family": "bert",
        "input": row,
        "labels": ["a", "b"],
        "details": {"config": config},
    }
    found = {one["path"]: one for one in listed(text)}
    assert found["bert.encoder.layer.1"]["shape"] == [16, 8]
    assert found["bert.encoder.layer.1.attention.self"]["kind"] == "attention"


def test_a_black_box_has_no_layers(client: TestClient, application: FastAPI) -> None:
    parts: Parts = application.state.parts
    with parts.sessions.write() as session:
        models.register(session, "prj_default", "box", replace(checkpoint(), format="onnx"))
    answer = client.get("/v1/models/box/versions/1/layers")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_layer")
    assert "black box" in answer.json()["detail"]
    assert client.get("/v1/models/nobody/versions/1/layers").status_code == 404


# ---- who lists them


class Library:
    """A version whose layers are wanted."""

    def __init__(self, sessions: Sessions, settings: Settings, **changes: Any) -> None:
        self.sessions = sessions
        self.parts = Parts(settings, sessions, *(None,) * 3)  # type: ignore[arg-type]
        with sessions.write() as session:
            made = replace(checkpoint(), **{**PERCEPTRON, **changes})
            self.version = models.register(session, "prj_default", "small", made)
            layers.want(session, self.version)

    def claim(self) -> str | None:
        with self.sessions.write() as session:
            version = layers._claim(session)
            return None if version is None else version.id

    def known(self) -> list[layers.Layer] | None:
        with self.sessions.read() as session:
            return layers.want(session, session.merge(self.version, load=False))

    def let_the_lease_run_out(self) -> None:
        with self.sessions.write() as session:
            session.execute(update(ModelLayers).values(lease_expires_at=db_now(-1.0)))


def test_one_worker_at_a_time_lists_a_version(sessions: Sessions, settings: Settings) -> None:
    library = Library(sessions, settings)
    assert library.claim() == library.version.id
    assert library.claim() is None
    library.let_the_lease_run_out()
    assert library.claim() == library.version.id
    library.let_the_lease_run_out()
    assert library.claim() == library.version.id
    library.let_the_lease_run_out()
    assert library.claim() is None  # three workers did not come back
    with pytest.raises(UnknownLayer, match="3 processes that were to list them did not come to an end"):
        library.known()


def test_a_worker_that_stops_has_not_tried(sessions: Sessions, settings: Settings) -> None:
    library, stopping = Library(sessions, settings), threading.Event()
    threading.Timer(0.2, stopping.set).start()  # the process has hardly begun
    layers.serve(library.parts, stopping)
    with sessions.read() as session:
        row = session.get_one(ModelLayers, library.version.id)
    assert (row.attempts, row.lease_expires_at, row.error) == (0, None, None)


def test_two_may_ask_for_the_first_time_at_once(sessions: Sessions, settings: Settings) -> None:
    library = Library(sessions, settings)
    with sessions.write() as session:
        session.execute(delete(ModelLayers))

    def ask() -> list[layers.Layer] | None:
        with sessions.write() as session:
            return layers.want(session, session.merge(library.version, load=False))

    with ThreadPoolExecutor(1) as pool:
        with sessions.write() as session:
            assert layers.want(session, session.merge(library.version, load=False)) is None
            other = pool.submit(ask)
            wait([other], timeout=0.3)  # it meets the row that is not committed yet
        assert other.result() is None
    assert library.claim() == library.version.id


def test_a_listing_that_cannot_be_made_says_why(sqlite_url: str, settings: Settings) -> None:
    sessions = Sessions(sqlite_url)
    with sessions.write() as session:
        session.merge(Project(id="prj_default", name="default"))
    broken = Library(sessions, settings, details={"config": {"kind": "mlp", "hidden_sizes": [-1]}})
    layers.serve(broken.parts, threading.Event())
    with pytest.raises(UnknownLayer, match="could not be listed: ValidationError"):
        broken.known()
    sessions.close()
