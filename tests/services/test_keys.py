"""Who gets in."""

import base64
import hashlib
import hmac
import secrets
from contextlib import suppress

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.db.session import Sessions
from app.db.tables import Key, Project
from app.errors import Forbidden, Misconfigured, Unauthenticated
from app.services import keys
from app.services.access import DEFAULT_PROJECT, SCOPES, TRUSTED, Principal
from app.settings import Settings


def fresh_key(name: str = "first") -> str:
    return f"sh_{name}_{secrets.token_urlsafe(32)}"


def with_key(key: str, **changes: str) -> Settings:
    return Settings(bootstrap_key=SecretStr(key), **changes)  # type: ignore[arg-type]


def ask(sessions: Sessions, settings: Settings, **headers: str) -> Principal:
    with sessions.read() as session:
        return keys.authenticate(session, settings, headers)


def establish(sessions: Sessions, settings: Settings) -> None:
    with sessions.write() as session:
        keys.establish(session, settings)


def test_the_bootstrap_key_opens_the_default_project(sessions: Sessions) -> None:
    key = fresh_key()
    settings = with_key(key)
    establish(sessions, settings)
    establish(sessions, settings)  # as every start does
    assert ask(sessions, settings, authorization=f"Bearer {key}") == Principal(
        DEFAULT_PROJECT, "key_first", frozenset(SCOPES)
    )
    assert ask(sessions, settings, authorization=f"bearer  {key} ").key_id == "key_first"


def test_only_a_digest_is_kept(sessions: Sessions) -> None:
    key = fresh_key()
    establish(sessions, with_key(key))
    with sessions.read() as session:
        row = session.scalars(select(Key)).one()
    assert row.digest == hashlib.sha256(key.encode()).hexdigest()
    assert key not in repr(vars(row))


def test_a_key_is_compared_in_constant_time(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it is right: what differs early and what differs late pass the same comparison."""
    key, compared, really = fresh_key(), list[tuple[str, str]](), hmac.compare_digest
    settings = with_key(key)
    establish(sessions, settings)

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tried = (key, key[:-1] + ("a" if key[-1] != "a" else "b"), fresh_key())
    for one in tried:
        with suppress(Unauthenticated):
            ask(sessions, settings, authorization=f"Bearer {one}")
    assert compared == [(keys.digest(key), keys.digest(one)) for one in tried]


def test_a_new_key_has_256_bits_of_its_own() -> None:
    made = {keys.fresh("key_ci") for _ in range(100)}
    assert len(made) == 100
    for key in made:
        assert len(base64.urlsafe_b64decode(key.removeprefix("sh_ci_") + "=")) == 32


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer x", "Basic {key}", "{key}", "Bearer {other}", "Bearer {key}x"]
)
def test_anything_else_stays_out(sessions: Sessions, authorization: str) -> None:
    key = fresh_key()
    settings = with_key(key)
    establish(sessions, settings)
    with pytest.raises(Unauthenticated):
        ask(sessions, settings, authorization=authorization.format(key=key, other=fresh_key()))


def test_a_new_bootstrap_key_ends_the_old_one(sessions: Sessions) -> None:
    old, new, newest = fresh_key("one"), fresh_key("two"), fresh_key("two")
    for key in (old, new, newest):
        establish(sessions, with_key(key))
    settings = with_key(newest)
    assert ask(sessions, settings, authorization=f"Bearer {newest}").key_id == "key_two"
    for key in (old, new):
        with pytest.raises(Unauthenticated):
            ask(sessions, settings, authorization=f"Bearer {key}")


def test_a_process_without_keys_ends_none(sessions: Sessions) -> None:
    settings = with_key(fresh_key("one"))
    establish(sessions, settings)
    establish(sessions, Settings())
    assert settings.bootstrap_key is not None
    key = settings.bootstrap_key.get_secret_value()
    assert ask(sessions, settings, authorization=f"Bearer {key}").key_id == "key_one"


def test_a_project_that_is_there_stays_as_it_is(sessions: Sessions) -> None:
    establish(sessions, Settings())
    with sessions.read() as session:
        assert [project.id for project in session.scalars(select(Project))] == [DEFAULT_PROJECT]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.8.9.1", "[::1]:8000"])
def test_without_keys_this_machine_is_trusted(host: str) -> None:
    assert keys.trust_loopback({"host": host}) == TRUSTED
    assert keys.trust_loopback({"host": host, "origin": f"http://{host}"}).key_id is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1:8000",
        "[",
        "a@127.0.0.1:x",
    ],
)
def test_without_keys_no_other_name_is_answered(host: str) -> None:
    with pytest.raises(Forbidden):
        keys.trust_loopback({"host": host})


@pytest.mark.parametrize(
    "origin",
    ["null", "", "https://evil.example", "http://localhost:3000", "http://localhost:8000.evil.example"],
)
def test_without_keys_a_page_of_another_origin_may_not_call(origin: str) -> None:
    with pytest.raises(Forbidden):
        keys.trust_loopback({"host": "localhost:8000", "origin": origin})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "stillhouse.example"])
def test_others_can_connect_only_where_there_is_a_key(host: str) -> None:
    keys.check_exposure(with_key(fresh_key(), host=host))
    with pytest.raises(Misconfigured, match="not a loopback address"):
        keys.check_exposure(Settings(host=host))


@pytest.mark.parametrize(
    "key", ["", "hunter2", "sh_a_short", f"sh__{'x' * 43}", f"sk_a_{'x' * 43}", f"sh_a_{'x' * 42} "]
)
def test_a_bootstrap_key_that_is_no_key_is_refused_without_telling_it(key: str) -> None:
    with pytest.raises(Misconfigured, match="is not a key") as caught:
        keys.check_exposure(with_key(key))
    assert not key or key not in caught.value.detail
