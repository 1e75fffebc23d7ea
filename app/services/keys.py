"""Who is asking. Keys read `sh_<id>_<256 bits>`; only their SHA-256 is kept.

Each request reads its key's row, so what is revoked or past its end, by the database's clock, lets nobody in
from that moment on, in every process.

Keys are on when STILLHOUSE_BOOTSTRAP_KEY is set. While they are off every request belongs to the default
project, so it must come from this machine: its Host has to be a loopback name (another name that points here
is DNS rebinding) and its Origin, where a browser sends one, has to be this server (another one is a page of
somebody else's).
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.dialect import db_now
from app.db.tables import Base, Key, Project
from app.errors import Forbidden, Misconfigured, Unauthenticated
from app.services.access import DEFAULT_PROJECT, SCOPES, TRUSTED, Principal
from app.settings import Settings

BOOTSTRAP = "bootstrap"  # the name of the key that the settings hold
_KEY = re.compile(r"sh_([A-Za-z0-9]{1,32})_[A-Za-z0-9_-]{43,128}")  # 43 characters of base64 are 256 bits
_keys = Key.__table__.c  # every request asks this: made once and of the table, it costs least
_VALID = (
    select(_keys.id, _keys.project_id, _keys.digest, _keys.scopes)
    .where(_keys.id == bindparam("key_id"), _keys.revoked_at.is_(None))
    .where(or_(_keys.expires_at.is_(None), _keys.expires_at > db_now()))
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")


def authenticate(session: Session, settings: Settings, headers: Mapping[str, str]) -> Principal:
    """Raises Unauthenticated, or Forbidden while keys are off. `headers` are looked up by lowercase names."""
    if settings.bootstrap_key is None:
        return trust_loopback(headers)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    parts = _KEY.fullmatch(key.strip()) if scheme.lower() == "bearer" else None
    row = session.execute(_VALID, {"key_id": f"key_{parts[1]}"}).one_or_none() if parts else None
    if row is None or not hmac.compare_digest(row.digest, digest(key.strip())):
        raise Unauthenticated("This needs a valid key: send the header `Authorization: Bearer sh_...`.")
    return Principal(row.project_id, row.id, frozenset(row.scopes))


def trust_loopback(headers: Mapping[str, str]) -> Principal:
    """The principal of a request while keys are off. Raises Forbidden."""
    host = headers.get("host", "")
    named = _HOST.fullmatch(host)
    if named is None or not is_loopback(named[1] or named[2]):
        raise Forbidden(
            "Without keys only loopback names are answered: use 127.0.0.1 or set STILLHOUSE_BOOTSTRAP_KEY."
        )
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise Forbidden(
            "Without keys no page of another origin may call: set STILLHOUSE_BOOTSTRAP_KEY and send the key."
        )
    return TRUSTED


@lru_cache(256)
def is_loopback(hostname: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if hostname.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Raises Misconfigured when the bootstrap key is no key, or is missing where others could connect."""
    if settings.bootstrap_key is not None:
        if not _KEY.fullmatch(settings.bootstrap_key.get_secret_value()):
            raise Misconfigured(
                "STILLHOUSE_BOOTSTRAP_KEY is not a key. It reads sh_NAME_SECRET, the secret being 43 or more "
                "random characters; make one with: "
                "python -c \"import secrets; print('sh_first_' + secrets.token_urlsafe(32))\""
            )
    elif not is_loopback(settings.host):
        raise Misconfigured(
            "STILLHOUSE_HOST is not a loopback address and STILLHOUSE_BOOTSTRAP_KEY is not set: set a key "
            "(sh_NAME_SECRET) or listen on 127.0.0.1."
        )


def establish(session: Session, settings: Settings) -> None:
    """Makes the default project, and lets the configured bootstrap key in and every earlier one out.

    Without one nothing changes: a process that needs no keys may share the database with one that does.
    """
    _insert_once(session, Project(id=DEFAULT_PROJECT, name="default"))
    if settings.bootstrap_key is None:
        return
    key = settings.bootstrap_key.get_secret_value()
    parts = _KEY.fullmatch(key)
    key_id = f"key_{parts[1]}" if parts else ""
    earlier = update(Key).where(Key.name == BOOTSTRAP, Key.id != key_id, Key.revoked_at.is_(None))
    session.execute(earlier.values(revoked_at=db_now()))
    if parts:
        _insert_once(
            session,
            Key(
                id=key_id,
                project_id=DEFAULT_PROJECT,
                name=BOOTSTRAP,
                digest=digest(key),
                scopes=list(SCOPES),
            ),
        )
        opened = {"digest": digest(key), "scopes": list(SCOPES), "revoked_at": None, "expires_at": None}
        session.execute(update(Key).where(Key.id == key_id, Key.name == BOOTSTRAP).values(opened))


def _insert_once(session: Session, row: Base) -> None:
    """Several processes start at once and all of them do this."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        pass


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def fresh(key_id: str) -> str:
    """A new key with this id."""
    return f"sh_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"
