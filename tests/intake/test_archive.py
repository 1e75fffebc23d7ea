"""Archives from outside: what is sound is unpacked, what could do harm is refused with a reason."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import Invalid, UnsafeFormat
from app.intake.archive import Limits, extract

LIMITS = Limits(max_bytes=64 * 2**20, max_entries=100, max_ratio=200, max_pixels=1)
FILES = {"b/two.txt": b"two", "a.txt": b"one", "b/c/three.bin": bytes(range(256)) * 100}


def zipped(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    def run(content: bytes, limits: Limits = LIMITS) -> dict[str, bytes]:
        archive, folder = tmp_path / "archive", tmp_path / "out"
        archive.write_bytes(content)
        folder.mkdir()
        return {name: (folder / name).read_bytes() for name in extract(archive, folder, limits)}

    return run


@pytest.mark.parametrize("mode", ["zip", "w:", "w:gz"])
def test_every_file_comes_out_as_it_went_in(unpack: Callable[..., dict[str, bytes]], mode: str) -> None:
    members = [(member(name), content) for name, content in FILES.items()]
    folder = (member("b", tarfile.DIRTYPE), b"")
    content = zipped(FILES) if mode == "zip" else tarred(folder, *members, mode=mode)
    found = unpack(content)
    assert found == FILES
    assert list(found) == sorted(FILES)


def test_a_tar_made_with_a_leading_dot_is_read(unpack: Callable[..., dict[str, bytes]]) -> None:
    top = (member(".", tarfile.DIRTYPE), b"")
    assert unpack(tarred(top, (member("./config.json"), b"{}"))) == {"config.json": b"{}"}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a\\b",
        "C:/x",
        "a//b",
        "a/./b",
        "new\nline",
        "x" * 250,
        "a/" * 20 + "b",
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_is_not_plain_is_refused(
    unpack: Callable[..., dict[str, bytes]], tmp_path: Path, name: str, kind: str
) -> None:
    content = zipped({name: b"x"}) if kind == "zip" else tarred((member(name), b"x"))
    with pytest.raises(UnsafeFormat):
        unpack(content)
    assert not (tmp_path / "up").exists()


def test_a_name_with_a_nul_is_refused(unpack: Callable[..., dict[str, bytes]]) -> None:
    content = zipped({"good.txt_evil": b"x"}).replace(b"good.txt_evil", b"good.txt\0evil")
    with pytest.raises(UnsafeFormat):
        unpack(content)


def test_links_and_devices_are_refused(unpack: Callable[..., dict[str, bytes]], tmp_path: Path) -> None:
    for number, (kind, target) in enumerate(
        [
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.LNKTYPE, "a"),
            (tarfile.FIFOTYPE, ""),
            (tarfile.CHRTYPE, ""),
        ]
    ):
        path, folder = tmp_path / f"{number}.tar", tmp_path / f"out{number}"
        folder.mkdir()
        path.write_bytes(tarred((member("link", kind, target), b"")))
        with pytest.raises(UnsafeFormat, match="link or a device"):
            extract(path, folder, LIMITS)

    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(UnsafeFormat, match="link or a device"):
        unpack(zipped({"link": b"/etc/passwd"}, link))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_stands_twice_is_refused(unpack: Callable[..., dict[str, bytes]], kind: str) -> None:
    if kind == "zip":
        content = zipped({"same.txt": b"1", "sama.txt": b"2"}).replace(b"sama", b"same")
    else:
        content = tarred((member("same.txt"), b"1"), (member("same.txt"), b"2"))
    with pytest.raises(UnsafeFormat, match="twice"):
        unpack(content)


def test_a_file_that_is_also_a_folder_is_refused(unpack: Callable[..., dict[str, bytes]]) -> None:
    with pytest.raises(UnsafeFormat, match="twice"):
        unpack(zipped({"a": b"1", "a/b": b"2"}))


def test_an_encrypted_entry_is_refused(unpack: Callable[..., dict[str, bytes]]) -> None:
    content = bytearray(zipped({"secret": b"x" * 100}))
    directory = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[directory + 8] |= 1
    with pytest.raises(UnsafeFormat, match="encrypted"):
        unpack(bytes(content))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_refused_by_its_ratio(
    unpack: Callable[..., dict[str, bytes]], tmp_path: Path, kind: str
) -> None:
    zeros = bytes(16 * 2**20)
    content = zipped({"zeros": zeros}) if kind == "zip" else tarred((member("zeros"), zeros))
    with pytest.raises(UnsafeFormat, match="200 times"):
        unpack(content)
    assert (tmp_path / "out" / "zeros").stat().st_size < 6 * 2**20  # it stopped on the way


def test_a_bomb_in_the_headers_of_a_tar_is_refused(unpack: Callable[..., dict[str, bytes]]) -> None:
    info = member("x")
    info.pax_headers = {"comment": "0" * (16 * 2**20)}
    with pytest.raises(UnsafeFormat, match="200 times"):
        unpack(tarred((info, b"x")))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_the_total_is_limited(unpack: Callable[..., dict[str, bytes]], kind: str) -> None:
    limits = Limits(max_bytes=20_000, max_entries=100, max_ratio=200, max_pixels=1)
    files = {f"{number}.bin": bytes([number]) * 5000 for number in range(8)}
    members = [(member(name), content) for name, content in files.items()]
    with pytest.raises(UnsafeFormat, match="20,000 bytes"):
        unpack(zipped(files) if kind == "zip" else tarred(*members), limits)


def test_the_number_of_entries_is_limited(unpack: Callable[..., dict[str, bytes]]) -> None:
    with pytest.raises(UnsafeFormat, match="100 entries"):
        unpack(zipped({f"{number}": b"" for number in range(101)}))


def test_a_header_that_understates_a_size_is_damage(unpack: Callable[..., dict[str, bytes]]) -> None:
    content = bytearray(zipped({"file": b"x" * 5000}))
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 10)
    with pytest.raises(Invalid, match="damaged"):
        unpack(bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        zipped(FILES)[:-40],
        zipped(FILES)[:30],
        zipped(FILES).replace(b"PK\x01\x02", b"PK\x09\x09"),
        tarred((member("a"), b"x" * 5000))[:60],
        gzip.compress(b"no tar at all" * 100),
        b"neither",
        b"",
        zipped({}),
    ],
)
def test_what_is_damaged_empty_or_no_archive_is_invalid(
    unpack: Callable[..., dict[str, bytes]], content: bytes
) -> None:
    with pytest.raises(Invalid):
        unpack(content)
