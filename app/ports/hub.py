"""A repository of a hub, read by the paths of Hugging Face's API.

Every request goes through the guard, and so does every redirect, which is followed by hand: at most three,
and the token is for the hub alone. Bytes are asked for from where the last ones ended; what they add up to is
checked against the hub's own hash by whoever asks.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any, Literal
from urllib.parse import quote

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.errors import SourceAway, SourceCorrupt, SourceForbidden, UnknownSource
from app.ports.origin import MAX_LISTED, Broken, RemoteFile
from app.ports.outgoing import AnswerTooLarge, Refused, guarded_client
from app.settings import MIB, Settings
from app.strict_json import NotStrict, parse_json

MAX_REDIRECTS = 3
MAX_PAGES = 100  # of a list; the public hub's have 1,000 entries
MAX_DOCUMENT_BYTES = 8 * MIB  # of one answer in JSON
LONGEST_WAIT_S = 3_600
COMMIT = re.compile("[0-9a-f]{40}")
_PLAIN = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[^\\\x00-\x1f\x7f]{1,500}")
_HEADROOM = 1 * MIB  # of an answer beyond its content


class _Large(BaseModel):
    oid: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class _Entry(BaseModel):
    """Of a tree. oid: git's own; of a large file that of its pointer."""

    type: str
    path: str
    oid: str = ""
    size: Annotated[int, Field(ge=0)] = 0
    lfs: _Large | None = None

    def file(self) -> RemoteFile | None:
        """None: it is no file, or none that is read here."""
        if self.type != "file" or not _PLAIN.fullmatch(self.path) or self.path.startswith("/"):
            return None
        if self.lfs is not None:
            return RemoteFile(self.path, self.lfs.size, "sha256", self.lfs.oid)
        return RemoteFile(self.path, self.size, "git", self.oid) if COMMIT.fullmatch(self.oid) else None


_TREE = TypeAdapter(list[_Entry])


class Hub:
    """An Origin. revision: a branch, a tag or a commit; None: the main branch."""

    def __init__(
        self, settings: Settings, kind: Literal["model", "dataset"], repository: str, revision: str | None
    ) -> None:
        self._kind, self._repository, self._revision = kind, repository, revision or "main"
        self._home = settings.hub_url.rstrip("/")
        self._place = _place(httpx.URL(self._home))
        self._token = settings.hub_token
        self._etags: dict[str, str] = {}
        most = settings.max_upload_bytes + _HEADROOM
        self._client = guarded_client(settings, max_s=settings.source_request_s, max_bytes=most)

    def pin(self) -> tuple[str, list[RemoteFile]]:
        commit = self._commit()
        entries = (entry for page in self._pages(commit) for entry in self._entries(page))
        listed = (file for entry in entries if (file := entry.file()) is not None)
        files = list(islice(listed, MAX_LISTED + 1))
        if len(files) > MAX_LISTED:
            raise _too_many()
        return f"hf:{self._repository}@{commit}", sorted(files, key=lambda file: file.path)

    def within(self, path: str) -> str:
        return path

    def read(self, pinned: str, file: RemoteFile, start: int) -> Iterator[bytes]:
        commit, folder = pinned.rpartition("@")[2], "datasets/" if self._kind == "dataset" else ""
        url = f"{self._home}/{folder}{self._repository}/resolve/{commit}/{quote(file.path)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and file.path in self._etags:
            headers["If-Range"] = self._etags[file.path]
        with self._get(url, headers, file) as answer:
            skip, left = self._begin(answer, file, start), file.size - start
            try:
                for chunk in answer.iter_raw():
                    piece = chunk[skip:]
                    skip = max(skip - len(chunk), 0)
                    left -= len(piece)
                    if left < 0:
                        raise SourceCorrupt(f"{file.path} is longer than the hub says.")
                    if piece:
                        yield piece
            except httpx.TransportError as error:
                raise _told(error, Broken) from None
        if left:
            raise Broken(f"The connection ended before {file.path} did.")

    def close(self) -> None:
        self._client.close()

    def _commit(self) -> str:
        if COMMIT.fullmatch(self._revision):
            return self._revision
        url = f"{self._api()}/revision/{quote(self._revision, safe='')}?expand=sha"
        document, _ = self._document(url)
        commit = document.get("sha") if isinstance(document, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise SourceCorrupt("The hub does not say which commit the revision means.")
        return commit

    def _pages(self, commit: str) -> Iterator[Any]:
        following: str | None = f"{self._api()}/tree/{commit}?recursive=true"
        for _ in range(MAX_PAGES):
            if following is None:
                return
            page, following = self._document(following)
            yield page
        if following is not None:
            raise _too_many()

    def _api(self) -> str:
        return f"{self._home}/api/{self._kind}s/{self._repository}"

    def _entries(self, page: Any) -> list[_Entry]:
        try:
            return _TREE.validate_python(page)
        except ValidationError:
            raise SourceCorrupt("The hub's list of files cannot be read.") from None

    def _document(self, url: str) -> tuple[Any, str | None]:
        """The JSON there, and where it goes on."""
        with self._get(url, {}) as answer:
            body = b""
            try:
                for chunk in answer.iter_raw():
                    body += chunk
                    if len(body) > MAX_DOCUMENT_BYTES:
                        raise SourceCorrupt("The hub's answer is too long.")
            except httpx.TransportError as error:
                raise _told(error, SourceAway) from None
            following = answer.links.get("next", {}).get("url")
        try:
            return parse_json(body), following and str(httpx.URL(url).join(following))
        except (NotStrict, httpx.InvalidURL):
            raise SourceCorrupt("The hub's answer cannot be read.") from None

    @contextmanager
    def _get(
        self, url: str, headers: Mapping[str, str], file: RemoteFile | None = None
    ) -> Iterator[httpx.Response]:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send(url, headers)
            try:
                if not answer.has_redirect_location:
                    self._check(answer)
                    yield answer
                    return
                if file is not None:
                    _check_promise(answer, file)
                url = str(answer.url.join(answer.headers["location"]))
            except httpx.InvalidURL:
                raise SourceCorrupt("The hub redirects to what is no address.") from None
            finally:
                answer.close()
        raise SourceCorrupt(f"The hub redirects more than {MAX_REDIRECTS} times.")

    def _send(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        try:
            request = self._client.build_request("GET", url, headers=headers)
            if self._token is not None and _place(request.url) == self._place:
                request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
            return self._client.send(request, stream=True)
        except httpx.InvalidURL:
            raise SourceCorrupt("The hub redirects to what is no address.") from None
        except httpx.TransportError as error:
            raise _told(error, SourceAway) from None

    def _check(self, answer: httpx.Response) -> None:
        """That it is what was asked for."""
        status, said = answer.status_code, answer.headers.get("x-error-code", "")
        if status in (200, 206):
            return
        whose = f"the repository {self._repository}"
        if said in ("RepoNotFound", "RevisionNotFound", "EntryNotFound") or status in (404, 410):
            what = f"revision {self._revision} in {whose}" if said == "RevisionNotFound" else whose
            raise UnknownSource(f"The hub has no {what.removeprefix('the ')}, or does not show it to us.")
        if status in (401, 403):
            raise SourceForbidden(
                f"The hub does not let us read {whose}: it is private or gated. An operator can set a "
                "STILLHOUSE_HUB_TOKEN whose account may read it."
            )
        if status in (408, 429) or status >= 500:
            busy = "has had too many requests" if status == 429 else "is in trouble"
            raise SourceAway(f"The hub {busy}.", retry_after_s=_retry_after_s(answer))
        raise SourceCorrupt(f"The hub answers with the status {status}.")

    def _begin(self, answer: httpx.Response, file: RemoteFile, start: int) -> int:
        """How many of the bytes that come are here already."""
        etag = answer.headers.get("etag", "")
        if etag.startswith('"'):  # a weak one says nothing of single bytes
            self._etags[file.path] = etag
        if answer.status_code != 206:
            return start
        if answer.headers.get("content-range") != f"bytes {start}-{file.size - 1}/{file.size}":
            raise SourceCorrupt(f"The hub gives another part of {file.path} than was asked for.")
        return 0


def _place(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _too_many() -> SourceCorrupt:
    return SourceCorrupt(f"The repository has more than {MAX_LISTED:,} files, the most that are read here.")


def _check_promise(answer: httpx.Response, file: RemoteFile) -> None:
    """A redirect to the storage may say what lies there."""
    promised = answer.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
    if file.check == "sha256" and re.fullmatch("[0-9a-f]{64}", promised) and promised != file.mark:
        raise SourceCorrupt(f"The hub's storage has another content for {file.path} than the commit.")


def _told(error: httpx.TransportError, passing: type[SourceAway]) -> SourceAway | SourceCorrupt:
    """Without addresses. passing: what it is unless it will be the same next time."""
    if isinstance(error, Refused | httpx.UnsupportedProtocol):
        return SourceCorrupt(f"The hub leads to an address that may not be called: {error}.")
    if isinstance(error, AnswerTooLarge):
        return SourceCorrupt("The hub sends more than is read here.")
    return passing("The hub did not answer in time, or the connection to it broke.")


def _retry_after_s(answer: httpx.Response) -> int | None:
    """Its seconds; a date is not read."""
    given = answer.headers.get("retry-after", "")
    return min(int(given), LONGEST_WAIT_S) if re.fullmatch("[0-9]{1,8}", given) else None
