"""Stored files as downloads: resumable by Range, cached by ETag, streamed from the blobs.

A file never changes under its sha256, which is therefore its strong ETag.
"""

import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from app.api.problems import problem
from app.errors import RangeNotSatisfiable
from app.ports.blobs import Blobs

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")
_BINARY = {
    "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file; its ETag is its sha256", "content": _BINARY},
    206: {"description": "The part that Range asked for", "content": _BINARY},
    304: {"description": "If-None-Match names the file as it is"},
    416: {"description": "The range lies outside the file"},
}


@dataclass(frozen=True)
class StoredFile:
    """name: what the download is called. size: bytes."""

    name: str
    sha256: str
    size: int
    media_type: str = "application/octet-stream"


def answer_file(request: Request, blobs: Blobs, file: StoredFile) -> Response:
    """200, 206, 304 or 416, as RFC 9110 has it; several ranges at once are answered with the whole file.

    Raises NotFound, Unavailable.
    """
    etag = f'"{file.sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = _wanted(request, etag)
    part = None if wanted is None else _part(wanted, file.size)
    if wanted is not None and part is None:
        return _outside(request, file)
    start, end = part or (0, file.size)
    headers |= {
        "Content-Length": str(end - start),
        "Content-Disposition": f'attachment; filename="{file.name}"',
    }
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    chunks = blobs.read(file.sha256, start, end - start)
    return StreamingResponse(chunks, 206 if part else 200, headers, media_type=file.media_type)


def _matches(header: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return etag in tags or tags == ["*"]


def _wanted(request: Request, etag: str) -> tuple[str, str] | None:
    """First and last byte as they were asked for; None: the whole file."""
    if request.headers.get("if-range", etag) != etag:
        return None
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if not asked or asked.groups() == ("", ""):
        return None
    first, last = asked.groups()
    return None if first and last and int(last) < int(first) else (first, last)


def _part(wanted: tuple[str, str], size: int) -> tuple[int, int] | None:
    """[start, end) within the file; None: it lies outside."""
    first, last = wanted
    if not first:  # the last so many bytes
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    return (start, end) if start < end else None


def _outside(request: Request, file: StoredFile) -> Response:
    error = RangeNotSatisfiable(f"The file has {file.size:,} bytes; ask for a range within them.")
    response = problem(error, request.state.request_id)
    response.headers["Content-Range"] = f"bytes */{file.size}"
    return response
