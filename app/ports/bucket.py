"""A prefix of an S3 bucket that an operator has named: read in ranges, each only of the object that was
listed. The AWS_* variables, which open our own store, mean nothing here."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING

from app.errors import SourceAway, SourceCorrupt, SourceForbidden, UnknownSource
from app.ports.origin import MAX_LISTED, RemoteFile
from app.settings import Connection, Settings

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

PIECE = 4 * 1024**2  # bytes of one request


class Bucket:
    """An Origin. key: of one object, or of a folder of them, below the connection's own prefix. The paths of
    its files are whole keys."""

    def __init__(self, settings: Settings, name: str, key: str) -> None:
        self._name, self._key = name, key.strip("/")
        self._store = _open(settings.connections[name], name, settings.source_request_s)

    def pin(self) -> tuple[str, list[RemoteFile]]:
        with _troubles(self._name):
            found = self._listed()
        if not found:
            raise UnknownSource(f"The connection {self._name} has nothing under this key.")
        files = sorted((_file(one) for one in found), key=lambda file: file.path)
        listed = json.dumps([[file.path, file.size, file.mark] for file in files])
        digest = hashlib.sha256(listed.encode()).hexdigest()[:40]
        return f"s3://{self._name}/{self._key}@{digest}", files

    def within(self, path: str) -> str:
        return path.rpartition("/")[2] if path == self._key else path.removeprefix(f"{self._key}/")

    def read(self, pinned: str, file: RemoteFile, start: int) -> Iterator[bytes]:
        for position in range(start, file.size, PIECE):
            end = min(position + PIECE, file.size)
            with _troubles(self._name):
                got = self._store.get(file.path, options={"range": (position, end), "if_match": file.mark})
                content = bytes(got.bytes())
            if len(content) != end - position:
                raise SourceCorrupt(f"{self.within(file.path)} is shorter than the bucket says.")
            yield content

    def close(self) -> None:
        pass

    def _listed(self) -> list["ObjectMeta"]:
        from obstore.exceptions import NotFoundError

        if self._key:
            try:
                return [self._store.head(self._key)]
            except (FileNotFoundError, NotFoundError):
                pass  # it is a folder, then
        found: list[ObjectMeta] = []
        for one in chain.from_iterable(self._store.list(self._key or None)):
            found.append(one)
            if len(found) > MAX_LISTED:
                raise SourceCorrupt(f"There are more than {MAX_LISTED:,} objects, the most that are read.")
        return found


def _file(found: "ObjectMeta") -> RemoteFile:
    if not found["e_tag"]:
        raise SourceCorrupt("The bucket gives its objects no ETag, so that none can be told from its next.")
    return RemoteFile(found["path"], found["size"], "etag", found["e_tag"])


def _open(connection: Connection, name: str, request_s: float) -> "S3Store":
    """Raises SourceForbidden where a key is named that is not there."""
    from obstore.store import S3Store

    named = (connection.access_key_env, connection.secret_key_env)
    key, secret = (os.environ.get(variable) if variable else None for variable in named)
    if any(named) and not (key and secret):
        raise SourceForbidden(
            f"The connection {name} lacks its keys: an operator has to set the variables that it names."
        )
    signing: dict[str, object] = {"skip_signature": True}
    if key and secret:
        known = {"access_key_id": key, "secret_access_key": secret, "token": None, "expires_at": None}
        signing = {"credential_provider": lambda: known}
    return S3Store(
        connection.bucket,
        prefix=connection.prefix.strip("/") or None,
        endpoint=connection.endpoint or f"https://s3.{connection.region}.amazonaws.com",
        region=connection.region,
        client_options={"allow_http": True, "timeout": timedelta(seconds=request_s)},
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=request_s)},
        **signing,  # type: ignore[arg-type]
    )


@contextmanager
def _troubles(name: str) -> Iterator[None]:
    """What the store says of its troubles names hosts and keys; a user hears what can be done."""
    from obstore.exceptions import (
        BaseError,
        InvalidPathError,
        NotFoundError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    try:
        yield
    except (FileNotFoundError, NotFoundError, InvalidPathError, ValueError):  # obstore's word for bad keys
        raise UnknownSource(f"The connection {name} has nothing under this key any more.") from None
    except (PermissionError, PermissionDeniedError, UnauthenticatedError):
        raise SourceForbidden(
            f"The bucket of the connection {name} does not let us in: an operator has to look at its keys."
        ) from None
    except PreconditionError:
        raise SourceCorrupt("An object has changed since it was listed: import it again.") from None
    except BaseError:
        raise SourceAway(f"The bucket of the connection {name} does not answer.") from None
