"""Multipart forms, streamed: files go to scratch files as they arrive; no upload is ever held in memory.

A router calls `receive` in its body, thus after authentication; FastAPI's own form parameters would read
everything before it.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from app.api.faults import faults_in, summary
from app.catalog.base import Frozen
from app.errors import (
    Fault,
    Invalid,
    MalformedBody,
    PayloadTooLarge,
    UnsupportedMediaType,
    pointer,
    shown,
)
from app.settings import MIB, Settings
from app.strict_json import NotStrict, parse_json

T = TypeVar("T")
F = TypeVar("F", bound=Frozen)
FEED_BYTES = 1 * MIB  # parsed and written at once, in a thread
MAX_TEXT_BYTES = 256 * 1024


@dataclass(frozen=True)
class Form:
    """What a form may hold, each field with its help. File fields in `repeatable` may come several times."""

    files: Mapping[str, str]
    texts: Mapping[str, str]
    required: tuple[str, ...] = ()
    repeatable: frozenset[str] = frozenset()
    max_files: int = 64

    def openapi(self) -> dict[str, Any]:
        """The form as the `openapi_extra` of its route."""
        binary = {"type": "string", "contentMediaType": "application/octet-stream"}
        properties: dict[str, Any] = {
            name: {"type": "string", "description": text} for name, text in self.texts.items()
        }
        for name, text in self.files.items():
            one = {"type": "array", "items": binary} if name in self.repeatable else binary
            properties[name] = {**one, "description": text}
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
            "additionalProperties": False,
        }
        return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@dataclass(frozen=True)
class ReceivedFile:
    """`name` is what the client calls the file: for messages only, never part of a path."""

    field: str
    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Received:
    """A form that arrived whole. `folder` is scratch space of this request; all in it goes away with it."""

    folder: Path
    texts: dict[str, str] = field(default_factory=dict)
    files: list[ReceivedFile] = field(default_factory=list)  # in the order in which they came


@asynccontextmanager
async def receive(
    request: Request, form: Form, settings: Settings, max_bytes: int | None = None
) -> AsyncIterator[Received]:
    """The request's form, for the time of the block. max_bytes: of the body; None: the largest upload.

    Raises UnsupportedMediaType, MalformedBody, PayloadTooLarge (as soon as the limit is passed), and Invalid
    for fields that are unknown, missing or doubled.
    """
    boundary = _boundary(request)
    limit = settings.max_upload_bytes if max_bytes is None else max_bytes
    _check_length(request, limit)
    folder = await to_thread.run_sync(_scratch, settings.work_dir)
    try:
        yield await _read(request, _Receiver(form, folder, boundary), limit)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def parse_texts(kind: type[F], received: Received, *json_fields: str) -> F:
    """What the texts of a form say; those of `json_fields` hold JSON. Raises Invalid with what is wrong."""
    fields: dict[str, Any] = dict(received.texts)
    for name in [name for name in json_fields if name in fields]:
        try:
            fields[name] = parse_json(received.texts[name].encode())
        except NotStrict as error:
            fault = Fault(f"/{name}", "invalid_json", str(error), "send plain JSON, in quotes for the shell")
            raise Invalid(f"Field {name} cannot be read: {error}.", fault) from None
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        complaints = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        faults = faults_in(complaints, fields, kind)
        raise Invalid(summary(faults), *faults) from None


async def take_in(request: Request, work: Callable[[], T]) -> T:
    """Runs the work on an upload in a thread; as many at once as processors, for each starts a child."""
    state = request.app.state
    if not hasattr(state, "intake_limiter"):
        state.intake_limiter = CapacityLimiter(os.cpu_count() or 1)
    return await to_thread.run_sync(work, limiter=state.intake_limiter)


def _boundary(request: Request) -> bytes:
    media_type, parameters = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaType("This needs a multipart/form-data body, as curl -F sends it.")
    boundary = parameters.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046
        raise MalformedBody("The Content-Type names no boundary of 1 to 70 characters.")
    return boundary


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The upload is larger than {limit:,} bytes, the limit; send less at once.")


def _scratch(work_dir: Path) -> Path:
    work_dir.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="upload-", dir=work_dir.resolve()))


async def _read(request: Request, receiver: "_Receiver", limit: int) -> Received:
    pending = bytearray()
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                raise _too_large(limit)
            pending += chunk
            if len(pending) >= FEED_BYTES:
                await to_thread.run_sync(receiver.feed, bytes(pending))
                pending.clear()
        await to_thread.run_sync(receiver.feed, bytes(pending))
        return receiver.finish()
    except ClientDisconnect:
        raise MalformedBody("The connection ended before the form did.") from None
    finally:
        receiver.close()


class _Receiver:
    """Feeds the multipart parser and keeps what its callbacks tell: one part at a time, a text or a file."""

    def __init__(self, form: Form, folder: Path, boundary: bytes) -> None:
        self._form, self._received = form, Received(folder)
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._text: bytearray | None = None
        self._file: BinaryIO | None = None
        self._filename = ""
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": self._write,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise MalformedBody("The body is not well-formed multipart/form-data.") from None

    def finish(self) -> Received:
        """What was received. Raises MalformedBody where the end is missing, Invalid where a field is."""
        if not self._ended:
            raise MalformedBody("The form ends in the middle: its closing boundary is missing.")
        sent = {*self._received.texts, *(file.field for file in self._received.files)}
        faults = [_missing(name) for name in self._form.required if name not in sent]
        if faults:
            raise Invalid(f"The form lacks {faults[0].pointer[1:]}.", *faults)
        return self._received

    def close(self) -> None:
        if self._file:
            with suppress(OSError):  # a full disk: what was buffered is lost, and so is the upload
                self._file.close()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        if b"name" not in options:
            raise MalformedBody("A part of the form has no name.")
        self._name = _utf8(options[b"name"])
        if b"filename" in options:
            self._begin_file(_utf8(options[b"filename"]))
        else:
            self._begin_text()

    def _begin_text(self) -> None:
        if self._name not in self._form.texts:
            raise self._misplaced("a text", self._form.texts, self._form.files)
        if self._name in self._received.texts:
            raise _doubled(self._name)
        self._text = bytearray()

    def _begin_file(self, filename: str) -> None:
        files = self._received.files
        if self._name not in self._form.files:
            raise self._misplaced("a file", self._form.files, self._form.texts)
        if self._name not in self._form.repeatable and any(file.field == self._name for file in files):
            raise _doubled(self._name)
        if len(files) == self._form.max_files:
            raise Invalid(f"The form holds more than {self._form.max_files} files.")
        self._filename = filename
        self._file = (self._received.folder / f"received-{len(files)}").open("xb")

    def _misplaced(self, what: str, fields: Mapping[str, str], others: Mapping[str, str]) -> Invalid:
        """The error for a field that is unknown, or a file where a text belongs, or the other way round."""
        if self._name in others:
            fix = "a file goes into curl -F name=@path, a text into -F name=value"
            fault = Fault(f"/{self._name}", "wrong_kind", f"{what} came here", fix)
            return Invalid(f"Field {self._name} cannot be {what}; {fix}.", fault)
        fix = f"fields that may be {what}: {', '.join(fields)}"
        fault = Fault(pointer(self._name), "unknown_field", "there is no such field", fix)
        return Invalid(f"Unknown field {shown(self._name)}; {fix}.", fault)

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file:
            self._file.write(memoryview(data)[start:end])
        elif self._text is not None:
            if len(self._text) + end - start > MAX_TEXT_BYTES:
                raise _long(self._name)
            self._text += data[start:end]

    def _end_part(self) -> None:
        if self._file:
            size = self._file.tell()
            self._file.close()
            self._received.files.append(ReceivedFile(self._name, self._filename, Path(self._file.name), size))
            self._file = None
        elif self._text is not None:
            self._received.texts[self._name] = _utf8(bytes(self._text))
            self._text = None

    def _end(self) -> None:
        self._ended = True


def _missing(name: str) -> Fault:
    return Fault(f"/{name}", "missing", "this field is needed", f"add -F {name}=...")


def _doubled(name: str) -> Invalid:
    fault = Fault(f"/{name}", "doubled", "it may come once only", "send it once")
    return Invalid(f"Field {name} came twice; send it once.", fault)


def _long(name: str) -> Invalid:
    fault = Fault(f"/{name}", "too_long", f"longer than {MAX_TEXT_BYTES:,} bytes", "send less")
    return Invalid(f"Field {name} is longer than {MAX_TEXT_BYTES:,} bytes.", fault)


def _utf8(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise MalformedBody("A name or a text in the form is not UTF-8.") from None
    if "\0" in text:
        raise MalformedBody("A name or a text in the form contains the character NUL.")
    return text
