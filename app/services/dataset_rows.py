"""Reads a page of a dataset's rows from its blob, which is not fetched whole."""

import io
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from app.ports.blobs import Blobs

PAGE_BYTES = 8 * 1024**2  # of images; a page that is full ends early
MAX_LIMIT = 200
_MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"RIFF": "image/webp",
}


def page(blobs: Blobs, file: dict[str, Any], after: int, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Up to `limit` rows behind the first `after` ones, and whether there are more.

    file: {sha256, size, rows} of a split. An image becomes {media_type, size, base64}; base64 is None where
    it alone is larger than a page may be.
    """
    rows: list[dict[str, Any]] = []
    used = 0
    for row in _rows(blobs, file, after):
        size = sum(len(value["bytes"]) for value in row.values() if isinstance(value, dict))
        if len(rows) == limit or (rows and used + size > PAGE_BYTES):
            return rows, True
        used += size
        rows.append({name: _shown(value) for name, value in row.items()})
    return rows, False


def _rows(blobs: Blobs, file: dict[str, Any], after: int) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    if after >= file["rows"]:
        return
    with pq.ParquetFile(_BlobFile(blobs, file["sha256"], file["size"]), pre_buffer=False) as parquet:
        skip = after
        for group in range(parquet.num_row_groups):
            group_rows = parquet.metadata.row_group(group).num_rows
            if skip >= group_rows:
                skip -= group_rows
                continue
            table = parquet.read_row_group(group, use_threads=False).slice(skip)
            skip = 0
            for batch in table.to_batches(max_chunksize=16):
                yield from batch.to_pylist()


def _shown(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    content = value["bytes"]
    media_type = next(
        (name for magic, name in _MAGIC.items() if content.startswith(magic)), "application/octet-stream"
    )
    encoded = b64encode(content).decode() if len(content) <= PAGE_BYTES else None
    return {"media_type": media_type, "size": len(content), "base64": encoded}


class _BlobFile(io.RawIOBase):
    """A blob as a file that can be read anywhere."""

    def __init__(self, blobs: Blobs, sha256: str, size: int) -> None:
        self._blobs, self._sha256, self._size = blobs, sha256, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._position, 0)
        length = left if size < 0 else min(size, left)
        content = b"".join(self._blobs.read(self._sha256, self._position, length)) if length else b""
        self._position += len(content)
        return content
