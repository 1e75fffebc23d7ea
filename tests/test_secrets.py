"""What the settings hold, and what stands in rows, the real server says to nobody: on no page, in no
error and in no line of its log, while all goes well and while nothing does.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from tests import servers
from tests.waiting import until

KEY = "sh_first_" + "bootstrapkey" * 4
DATABASE, HUB, LAKE = "the-databases-password", "the-token-of-the-hub", "the-secret-of-the-lake"
OF_A_ROW = "value-of-somebodys-row"
OF_A_URL = "token-in-a-webhooks-address"
DESCRIBED = "description-of-a-webhook"
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def client(
    service: Callable[..., httpx.Client], postgres_url: str, s3: servers.S3, monkeypatch: pytest.MonkeyPatch
) -> httpx.Client:
    """Of a server that was told a secret of each kind."""
    monkeypatch.setenv("STILLHOUSE_HUB_TOKEN", HUB)
    monkeypatch.setenv("LAKE_KEY", s3.environment["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("LAKE_SECRET", LAKE)  # which is wrong: the bucket tells what it makes of it
    place = {"bucket": s3.bucket, "endpoint": s3.environment["AWS_ENDPOINT_URL"]}
    client = service(
        database_url=make_url(postgres_url).set(password=DATABASE).render_as_string(hide_password=False),
        blobs_url=s3.url,
        bootstrap_key=SecretStr(KEY),
        hub_url=f"http://{NOWHERE}",
        outgoing_allow=(NOWHERE,),
        connections={"lake": {**place, "access_key_env": "LAKE_KEY", "secret_key_env": "LAKE_SECRET"}},
    )
    client.headers["Authorization"] = f"Bearer {KEY}"
    return client


def test_nobody_is_told_a_secret_or_a_row(client: httpx.Client, postgres_url: str, tmp_path: Path) -> None:
    (log,) = tmp_path.glob("service-*.log")

    def said(what: str) -> Callable[[], bool]:
        return lambda: what in log.read_text(errors="replace")

    hook = fill(client)
    until(said("import put off"))
    until(said("import failed"))
    told = asked(client)
    break_a_rule(postgres_url)
    refused = client.post("/v1/webhooks", json={"url": f"http://{NOWHERE}/", "description": DESCRIBED})
    assert refused.status_code == 500
    assert said("CheckViolation")()
    shut(postgres_url)
    away = [*asked(client), client.post("/v1/webhooks", json={"url": f"http://{NOWHERE}/"})]
    assert 503 in {answer.status_code for answer in away}
    until(said("the database does not answer"))
    assert said("the database did not answer")()

    secrets = [KEY, KEY[9:], DATABASE, HUB, LAKE, servers.SECRET_KEY, hook["secret"], hook["secret"][6:]]
    for answer in (*told, refused, *away):
        page = f"{answer.headers} {answer.text}"
        assert not [secret for secret in secrets if secret in page], answer.url
    place = make_url(postgres_url)
    inner = ("psycopg", "SELECT", "Traceback", f"{place.port}", f"{place.database}", str(tmp_path), OF_A_ROW)
    for answer in (one for one in (refused, *away) if one.status_code >= 400):
        assert not [word for word in inner if word in answer.text], answer.text
    lines = log.read_text(errors="replace")
    assert not [secret for secret in (*secrets, OF_A_ROW, OF_A_URL, DESCRIBED) if secret in lines]


def fill(client: httpx.Client) -> Any:
    """Something of each kind that has something to hide; the webhook, as it is shown this once."""
    rows = b"".join(b"%d,%s,%s\n" % (n, OF_A_ROW.encode(), (b"a", b"b")[n % 2]) for n in range(40))
    form = {"name": "rows", "label": "label", "splits": json.dumps({"train": 0.5, "test": 0.5})}
    file = {"file": ("rows.csv", b"number,text,label\n" + rows)}
    assert client.post("/v1/datasets", data=form, files=file).is_success
    hook = client.post("/v1/webhooks", json={"url": f"http://{NOWHERE}/{OF_A_URL}"}).json()
    assert client.post(f"/v1/webhooks/{hook['id']}/test").is_success
    for path, source in (("models", "hf:someone/something"), ("datasets", "s3://lake/rows.csv")):
        ordered = client.post(f"/v1/{path}", json={"name": "fetched", "source": source})
        assert ordered.status_code == 202, ordered.text
    return hook


def asked(client: httpx.Client) -> list[httpx.Response]:
    """Every page that needs no more than a key, strangers' and mistaken requests, and what was sent."""
    paths = client.get("/openapi.json").json()["paths"]
    plain = [path for path, ways in paths.items() if "get" in ways and "{" not in path]
    assert {"/metrics", "/v1/webhooks", "/v1/imports", "/v1/capabilities"} <= {*plain}
    found = [client.get(path) for path in (*plain, "/docs", "/v1/datasets/rows", "/nowhere")]
    found += [client.get("/v1/jobs", headers={"Authorization": key}) for key in ("", f"Bearer {KEY}x", KEY)]
    return [*found, client.post("/predict", json={"model": "rows", "inputs": [[OF_A_ROW]]})]


def break_a_rule(url: str) -> None:
    """The database refuses a row, which no check of ours has seen coming; its error has all of it."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"ALTER TABLE webhooks ADD CHECK (description <> '{DESCRIBED}')")


def shut(url: str) -> None:
    """The database lets nobody in any more."""
    name = make_url(url).database
    with psycopg.connect(
        url.replace("+psycopg", "").replace(f"/{name}", "/postgres"), autocommit=True
    ) as other:
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
