"""Data that attacks who reads it: tables and images. All of it is refused, for none has a usable row."""

import io
import json
import struct
import zlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.packed import zipped


def tables() -> Iterator[tuple[str, bytes]]:
    """Each with the name of its file."""
    whole = _parquet(pa.table({"a": [1, 2, 3], "label": ["x", "y", "x"]}))
    yield "cut.parquet", whole[: len(whole) // 2]
    yield "headless.parquet", b"PAR1" + bytes(200) + b"PAR1"
    yield "footer.parquet", whole[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"
    yield "negative.parquet", whole[:-8] + struct.pack("<i", -5) + b"PAR1"
    yield "zeroed.parquet", whole[:4] + bytes(len(whole) - 12) + whole[-8:]
    yield "nested.parquet", _parquet(pa.table({"a": pa.array([[[[1]]]]), "label": [None]}))
    yield "encrypted.parquet", whole[:-4] + b"PARE"
    yield "wide.parquet", _parquet(pa.table({f"c{number}": [1] for number in range(12_000)}))
    yield (
        "long.parquet",
        _parquet(pa.table({"label": pa.array(["x" * 1000]).take(pa.array([0] * 200_000))}), "zstd"),
    )
    yield "utf8.csv", b"a,label\n\xff\xfe,\xc3\x28\n"
    yield "nul.csv", b"a,label\n\0\0,\0\n"
    yield "quote.csv", b'a,label\n"' + b"x" * 3_000_000
    yield "line.csv", b"a" * 5_000_000
    yield "wide.csv", b",".join(b"c%d" % number for number in range(30_000)) + b"\n"
    yield "header.csv", b"a,a,a\n1,2,3\n"
    yield "empty.csv", b""
    yield "names.csv", b",\n1,2\n"
    yield "formula.csv", b"=cmd|' /C calc'!A0,=1+1\n"
    yield "utf16.csv", "a,label\n1,x\n".encode("utf-16")
    yield "deep.jsonl", b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"\n"
    yield "nan.jsonl", b'{"a": NaN, "label": 1}\n'
    yield "twice.jsonl", b'{"a": 1, "a": 2}\n'
    yield "huge.jsonl", b'{"a": ' + b"9" * 100_000 + b"}\n"
    yield "lists.jsonl", b"[1, 2]\n[3]\n"
    yield "pair.jsonl", b'{"a": "\\ud800"}\n'
    yield "half.jsonl", b'{"a": 1'
    yield "bom.jsonl", b"\xff\xfe{}"
    yield "many.jsonl", json.dumps({f"k{number}": 1 for number in range(30_000)}).encode()
    yield "page.csv", b"<html><body onload=alert(1)>"
    yield "program.parquet", b"\x7fELF" + bytes(500)
    yield "noise.bin", bytes(range(256)) * 10


def images() -> Iterator[tuple[str, bytes]]:
    """Folders of classes in which every image is bad."""
    pixel = _png(1, 1)
    bad = {
        "a bomb of pixels": _png(50_000, 50_000), "a wall": _png(2**31 - 1, 1), "no pixels": _png(0, 0),
        "a cut image": pixel[:40], "a page called image": b"<html><script>alert(1)</script>",
        "a drawing that loads others": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "an image that goes on for ever": pixel[:33] + struct.pack(">I", 2**31) + b"IDAT",
        "a text chunk that is a bomb": _png(1, 1, _chunk(b"zTXt",
        b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "a tiff that points at itself": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1,
        8) + b"\x08\0\0\0",
        "a gif without a frame": b"GIF89a\xff\xff\xff\xff\0\0\0;",
        "a huge bmp": b"BM" + struct.pack("<IIIIii", 54, 0, 54, 40, 10**6, 10**6) + bytes(28),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "a huge webp": b"RIFF\xff\xff\xff\xffWEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6,
        "an empty image": b"",
    }  # fmt: skip
    for what, content in bad.items():
        yield what, zipped({"cat/1.png": content, "dog/1.png": content})


def _parquet(table: pa.Table, compression: str = "snappy") -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=compression)
    return sink.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    """It says what it is, whatever its data hold."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    ending = _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + ending
