"""Who is asking. Keys read `sh_<id>_<256 bits>`; only their SHA-256 is kept.

Keys are on when STILLHOUSE_BOOTSTRAP_KEY is set. While they are off every request belongs to the default
project, so it must come from this machine: its Host has to be a loopback name (another name that points here
is DNS rebinding) and its Origin, where a browser sends one, has to be this server (another one is a page of
somebody else's).
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.dialect import now
from app.db.tables import Base, Key, Project
from app.errors import Forbidden, Misconfigured, Unauthenticated
from app.settings import Settings

DEFAULT_PROJECT = "prj_default"
SCOPES = ["read", "write", "predict", "admin"]
_KEY = re.compile(r"sh_([A-Za-z0-9]{1,32})_[A-Za-z0-9_-]{43,128}")  # 43 characters of base64 are 256 bits
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Principal:
    """The project that a request acts for, and the key that let it in; None: keys are off."""

    project_id: str
    key_id: str | None


TRUSTED = Principal(DEFAULT_PROJECT, None)


def authenticate(session: Session, settings: Settings, headers: Mapping[str, str]) -> Principal:
    """Raises Unauthenticated, or Forbidden while keys are off. `headers` are looked up by lowercase names."""
    if settings.bootstrap_key is None:
        return trust_loopback(headers)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    parts = _KEY.fullmatch(key.strip()) if scheme.lower() == "bearer" else None
    row = session.get(Key, f"key_{parts[1]}") if parts else None
    if row is None or row.revoked_at is not None or not hmac.compare_digest(row.digest, _digest(key.strip())):
        raise Unauthenticated("This needs a valid key: send the header `Authorization: Bearer sh_...`.")
    return Principal(row.project_id, row.id)


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
    """Makes the default project, and lets the configured bootstrap key in and every earlier one out."""
    _insert_once(session, Project(id=DEFAULT_PROJECT, name="default"))
    key = settings.bootstrap_key.get_secret_value() if settings.bootstrap_key else ""
    parts = _KEY.fullmatch(key)
    key_id = f"key_{parts[1]}" if parts else ""
    earlier = update(Key).where(Key.name == "bootstrap", Key.id != key_id, Key.revoked_at.is_(None))
    session.execute(earlier.values(revoked_at=now()))
    if parts:
        _insert_once(
            session,
            Key(id=key_id, project_id=DEFAULT_PROJECT, name="bootstrap", digest=_digest(key), scopes=SCOPES),
        )
        session.execute(update(Key).where(Key.id == key_id).values(digest=_digest(key), revoked_at=None))


def _insert_once(session: Session, row: Base) -> None:
    """Several processes start at once and all of them do this."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        pass


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
