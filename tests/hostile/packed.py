"""Archives that attack who unpacks them."""

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping

from tests.intake.checkpoints import tensors_file

CONFIG = b'{"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}'
MODEL = {
    "config.json": CONFIG,
    "model.safetensors": tensors_file(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)
    ),
}
LINK = 0o120777 << 16
DEVICE = 0o020666 << 16


def zipped(files: Mapping[str, bytes] | list[tuple[str, bytes]], mode: int = 0, packing: int = 8) -> bytes:
    """Names may stand twice in a list. mode: external attributes of all entries."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it knows a name that stands twice
        for name, content in files.items() if isinstance(files, Mapping) else files:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, mode, packing
            archive.writestr(info, content)
    return packed.getvalue()


def tarred(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, target, pax
    return info


def archives() -> Iterator[tuple[str, bytes]]:
    good = zipped(MODEL)
    yield "a bomb of zeros", zipped({**MODEL, "README.md": bytes(60_000_000)})
    yield "many small bombs", zipped({f"{n}.txt": bytes(1_000_000) for n in range(60)})
    yield "a zip in a zip in a zip", _nested(8)
    yield (
        "zips that all unpack to themselves",
        zipped({"r/r.zip": zipped({"r/r.zip": zipped({"r/r.zip": good})})}),
    )
    yield "entries that share their bytes", _overlapping(500)
    yield "entries that overlap under other names", _overlapping(200, other_names=True)
    for name in (
        "/etc/passwd",
        "../config.json",
        "a/../../b",
        "C:\\x",
        "\\\\host\\x",
        "a\\..\\b",
        "a//b",
        "./a/./b",
    ):
        yield f"the name {name}", zipped({**MODEL, name: b"x"})
    yield "a name with NUL", zipped({**MODEL, "config.json\0.txt": b"x"})
    yield "a name written backwards", zipped({**MODEL, "\u202egnp.exe": b"x"})
    yield "a name of 5,000 letters", zipped({**MODEL, "a" * 5000: b"x"})
    yield "a path of 500 folders", zipped({**MODEL, "a/" * 500 + "b": b"x"})
    yield "a link", zipped({"config.json": b"/etc/passwd"}, LINK)
    yield "a device", zipped({"config.json": b""}, DEVICE)
    yield "a name twice", zipped([*MODEL.items(), ("config.json", b"{}")])
    yield "a file that is a folder", zipped([("a", b"x"), ("a/b", b"x"), *MODEL.items()])
    yield "an encrypted entry", _patched(good, 6, b"\x01\x00", 8)
    yield "a size that is too small", _patched(good, 22, struct.pack("<I", 3), 24)
    yield "a size that is too large", _patched(good, 22, struct.pack("<I", 2**31), 24)
    yield "a wrong checksum", _patched(good, 14, b"\0\0\0\0", 16)
    yield "a packing that nobody knows", _patched(good, 8, b"\x63\x00", 10)
    yield "packed with lzma", zipped(MODEL, packing=zipfile.ZIP_LZMA)
    yield "packed with bzip2", zipped(MODEL, packing=zipfile.ZIP_BZIP2)
    yield "cut off in the middle", good[: len(good) // 2]
    yield "without its directory", good[: good.index(b"PK\x01\x02")]
    yield "a directory that points elsewhere", good[:-6] + struct.pack("<I", 2**32 - 1) + b"\0\0"
    yield "a directory that counts wrong", good[:-12] + struct.pack("<HH", 9, 65535)[:4] + good[-8:]
    yield "an empty zip", zipped({})
    yield "folders alone", zipped({"a/": b"", "b/": b""})
    yield "20,000 entries", zipped({f"f{n}": b"" for n in range(20_000)}, packing=zipfile.ZIP_STORED)
    for name in ("/etc/passwd", "../x", "a/../../x"):
        yield f"a tar with {name}", tarred((member(name), b"x"))
    for what, kind in (("symbolic link", tarfile.SYMTYPE), ("hard link", tarfile.LNKTYPE)):
        yield f"a tar with a {what}", tarred((member("config.json", kind, "/etc/passwd"), b""))
    for what, kind in (("device", tarfile.CHRTYPE), ("disk", tarfile.BLKTYPE), ("pipe", tarfile.FIFOTYPE)):
        yield f"a tar with a {what}", tarred((member("config.json", kind), b""))
    yield (
        "a link and a file through it",
        tarred((member("a", tarfile.SYMTYPE, "/tmp"), b""), (member("a/x"), b"x")),
    )
    yield "a tar with a name twice", tarred((member("config.json"), b"{}"), (member("config.json"), b"{}"))
    yield "a tar that is cut off", tarred((member("config.json"), b"x" * 5000))[:2000]
    yield (
        "a tar whose extra header is huge",
        gzip.compress(tarred((member("a", comment="x" * 30_000_000), b""))),
    )
    yield (
        "a tar with a long name of megabytes",
        tarred((member("a" * 2_000_000), b"x"), form=tarfile.GNU_FORMAT),
    )
    yield "a tar that says it is sparse", tarred((member("config.json", tarfile.GNUTYPE_SPARSE), b""))
    yield "a bomb of gzip", gzip.compress(tarred((member("config.json"), bytes(60_000_000))))
    yield "gzip of gzip of gzip", gzip.compress(gzip.compress(gzip.compress(bytes(10_000_000))))
    yield "gzip of nothing", gzip.compress(b"")
    yield "gzip with a wrong checksum", gzip.compress(tarred((member("config.json"), b"{}")))[:-8] + bytes(8)
    yield "gzip without an end", gzip.compress(tarred((member("config.json"), b"x" * 100_000)))[:-20]
    yield "zlib without a header", zlib.compress(bytes(100_000))
    yield "a picture that is also a zip", b"\x89PNG\r\n\x1a\n" + good
    yield "a program that is also a zip", b"\x7fELF" + bytes(60) + good
    yield "seven zip", b"7z\xbc\xaf\x27\x1c" + bytes(100)
    yield "rar", b"Rar!\x1a\x07\x01\x00" + bytes(100)


def _nested(levels: int) -> bytes:
    inner = zipped({"zeros": bytes(1_000_000)})
    for _ in range(levels):
        inner = zipped({f"{place}.zip": inner for place in range(4)}, packing=zipfile.ZIP_STORED)
        if len(inner) > 4_000_000:
            break
    return inner


def _overlapping(count: int, other_names: bool = False) -> bytes:
    """One file of zeros, and a directory in which `count` entries begin at it (Fifield, 2019)."""
    name = b"file00000"
    content = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = content.compress(bytes(3_000_000)) + content.flush()
    sizes = struct.pack("<III", zlib.crc32(bytes(3_000_000)), len(packed), 3_000_000)
    local = (
        struct.pack("<4s5H", b"PK\3\4", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", 9, 0) + name + packed
    )
    entries = b""
    for number in range(count):
        called = b"file%05d" % number if other_names else name
        entries += struct.pack("<4s6H", b"PK\1\2", 20, 20, 0, 8, 0, 33) + sizes
        entries += struct.pack("<5H2I", 9, 0, 0, 0, 0, 0, 0) + called
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries), len(local), 0)
    return local + entries + end


def _patched(packed: bytes, in_local: int, value: bytes, in_directory: int) -> bytes:
    """The first entry with another value in its header and in the directory."""
    spoilt, directory = bytearray(packed), packed.index(b"PK\x01\x02")
    spoilt[in_local : in_local + len(value)] = value
    spoilt[directory + in_directory : directory + in_directory + len(value)] = value
    return bytes(spoilt)
