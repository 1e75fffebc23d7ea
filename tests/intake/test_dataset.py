"""Uploaded files become a dataset: the same one whatever the format, without the rows that cannot be used."""

import datetime as dt
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.errors import Invalid, InvalidData
from app.intake.dataset import take
from app.intake.profile import Profile
from tests.intake.samples import (
    HF_IMAGE,
    as_csv,
    as_folders,
    as_hugging_face,
    as_json_lines,
    as_parquet,
    digit_folders,
    digits,
    irises,
)

LIMITS = {"max_bytes": 50_000_000, "max_entries": 1000, "max_ratio": 200, "max_pixels": 10_000}


class Taken:
    """What became of one upload."""

    def __init__(self, profile: Profile, out: Path) -> None:
        self.profile, self._out = profile, out

    def bytes(self, split: str = "train") -> bytes:
        return (self._out / f"{split}.parquet").read_bytes()

    def rows(self, split: str = "train") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self._out / f"{split}.parquet").to_pylist()
        return rows

    def bad(self, split: str = "train") -> dict[int, str]:
        bad = self.profile.splits[split].bad_rows  # type: ignore[index]
        assert bad.count == len(bad.examples)
        return {one.row: one.reason for one in bad.examples}

    def columns(self, split: str = "train") -> dict[str, str]:
        return {name: column.type for name, column in self.profile.splits[split].columns.items()}  # type: ignore[index]


Intake = Callable[..., Taken]


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    """`intake(file)` or `intake(train=..., test=[..., ...])`: what becomes of these uploads."""
    runs = iter(range(100))

    def run(
        file: bytes | None = None, *, label: str | None = None, divide: dict[str, float] | None = None,
        seed: int = 0, limits: dict[str, int] = LIMITS, **splits: bytes | list[bytes],
    ) -> Taken:  # fmt: skip
        folder = tmp_path / f"run-{next(runs)}"
        folder.mkdir()
        sent = splits if file is None else {"file": file, **splits}
        files: list[dict[str, str]] = []
        paths: list[Path] = []
        for field, contents in sent.items():
            for content in contents if isinstance(contents, list) else [contents]:
                split = "train" if field == "file" else field
                files.append({"field": field, "split": split, "name": f"{field}-{len(files)}"})
                paths.append(folder / f"received-{len(paths)}")
                paths[-1].write_bytes(content)
        order = {"files": files, "label": label, "divide": divide, "seed": seed, "limits": limits}
        return Taken(Profile.model_validate(take(order, paths, folder)), folder)

    return run


# ---- formats


def test_digits_are_the_same_from_parquet_and_from_folders(intake: Intake) -> None:
    pairs = sorted(digits(), key=lambda pair: pair[1])
    images = [{"image": image, "label": label} for image, label in pairs]
    hugging_face, plain = intake(as_hugging_face(pairs)), intake(as_parquet(images))
    folders = intake(as_folders(digit_folders(pairs, "digits/")))
    assert hugging_face.profile.label == plain.profile.label == folders.profile.label == "label"
    assert hugging_face.columns() == folders.columns() == {"image": "image", "label": "category"}
    assert [row["image"]["bytes"] for row in hugging_face.rows()] == [image for image, _ in pairs]
    assert {row["label"] for row in plain.rows()} == set("0123456789")
    assert sorted((row["label"], row["image"]["bytes"]) for row in hugging_face.rows()) == sorted(
        (row["label"], row["image"]["bytes"]) for row in folders.rows()
    )
    assert pq.read_schema(io.BytesIO(folders.bytes())).field("image").type == HF_IMAGE


def test_a_table_is_the_same_in_every_format(intake: Intake) -> None:
    rows = irises()
    forms = [
        as_csv(rows),
        as_csv(rows, ";"),
        as_csv(rows, "\t"),
        b"\xef\xbb\xbf" + as_csv(rows).replace(b"\r\n", b"\n"),
        as_json_lines(rows),
        as_parquet(rows),
        as_parquet(rows, row_group_size=7, compression="gzip"),
    ]
    taken = [intake(form, label="species") for form in forms]
    assert len({one.bytes() for one in taken}) == 1
    assert taken[0].columns() == dict.fromkeys(list(rows[0])[:4], "number") | {"species": "category"}
    assert taken[0].rows() == rows


def test_the_same_upload_gives_the_same_bytes_again(intake: Intake) -> None:
    content = as_folders(digit_folders(digits()))
    again = as_folders(dict(reversed(digit_folders(digits()).items())))
    assert intake(content).bytes() == intake(again).bytes()


def test_a_split_may_come_in_several_files(intake: Intake) -> None:
    rows = irises()
    taken = intake(train=[as_csv(rows[:50]), as_csv(rows[50:])], test=as_csv(rows[:10]), label="species")
    assert taken.rows() == rows
    spoiled = as_csv([*rows[50:52], {**rows[0], "petal_width": "wide"}])
    bad = (
        intake(train=[as_csv(rows[:50]), spoiled], label="species").profile.splits["train"].bad_rows.examples
    )
    assert [(one.row, one.file) for one in bad] == [(3, "train-1")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b'[{"a": 1}]', "JSON Lines"),
        (b"\x00\x01\x02\x03", "none of Parquet"),
        (b"a,b\n", "no rows"),
        (b"a,b\n,\n,\n", "the row is empty"),
        (b"PAR1 and no more", "damaged"),
        (b"a,a\n1,2\n", "twice"),
        (b"a,\n1,2\n", "called ''"),
        (b"\xff\xfea\n1\n", "UTF-8"),
        (b"label\n1\n2\n", "beside the label"),
        (b'a,b\n1,"2\n3,4\n', "quote"),
        (b"a" * 300 + b",b\n1,2\n", "1 to 200"),
        (b'{"a": 1\n', "row 1"),
        (b"PK\x05\x06" + bytes(18), "no files"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(intake: Intake, content: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        intake(content)


def test_files_of_one_dataset_have_one_format(intake: Intake) -> None:
    with pytest.raises(InvalidData, match="CSV, JSON Lines"):
        intake(train=as_csv(irises()), test=as_json_lines(irises()))


def test_all_splits_have_the_same_columns_but_the_label_of_unlabeled_rows(intake: Intake) -> None:
    rows = irises()
    bare = [{name: value for name, value in row.items() if name != "species"} for row in rows]
    taken = intake(train=as_csv(rows), unlabeled=as_csv(bare[:40]), label="species")
    assert {row["species"] for row in taken.rows("unlabeled")} == {None}
    assert taken.profile.splits["unlabeled"].columns["species"].missing == 40
    with pytest.raises(InvalidData, match="species"):
        intake(train=as_csv(rows), test=as_csv(bare), label="species")
    with pytest.raises(InvalidData, match="'extra'"):
        intake(train=as_csv(rows), unlabeled=as_csv([{**row, "extra": 1} for row in rows]), label="species")


# ---- types


def test_types_are_found_in_text(intake: Intake) -> None:
    rows = [
        {
            "whole": number, "real": number / 7 if number % 2 else "", "few": "ab"[number % 2],
            "prose": f"sentence number {number}", "empty": "", "code": f"{number}x", "class": number % 3,
        }
        for number in range(60)
    ]  # fmt: skip
    taken = intake(as_csv(rows))
    assert taken.columns() == {
        "whole": "number", "real": "number", "few": "category", "prose": "text", "empty": "text",
        "code": "text", "class": "category",
    }  # fmt: skip
    columns = taken.profile.splits["train"].columns
    assert columns["few"].counts == {"a": 30, "b": 30}
    assert columns["class"].counts == {"0": 20, "1": 20, "2": 20}
    assert columns["real"].missing == 30
    assert columns["empty"].missing == 60
    schema = pq.read_schema(io.BytesIO(taken.bytes()))
    assert [str(schema.field(name).type) for name in ("whole", "real", "prose", "class")] == [
        "int64", "double", "string", "string",
    ]  # fmt: skip


def test_moments_are_those_of_numpy(intake: Intake) -> None:
    values = np.random.default_rng(0).normal(1e6, 3, 25_000)
    columns = intake(as_parquet(pa.table({"x": values}))).profile.splits["train"].columns
    assert columns["x"].mean == pytest.approx(values.mean(), rel=1e-12)
    assert columns["x"].std == pytest.approx(values.std(), rel=1e-9)


def test_a_label_of_numbers_keeps_its_moments_and_is_divided_by_chance(intake: Intake) -> None:
    values = np.round(np.random.default_rng(0).normal(150.0, 70.0, 200), 1)
    content = as_csv([{"x": place, "target": value} for place, value in enumerate(values.tolist())])
    taken = intake(content, divide={"train": 0.75, "test": 0.25})
    assert [len(taken.rows(split)) for split in ("train", "test")] == [150, 50]
    target = taken.profile.splits["train"].columns["target"]
    mine = np.array([float(row["target"]) for row in taken.rows("train")])
    assert target.type == "category"
    assert target.mean == pytest.approx(mine.mean(), rel=1e-12)
    assert target.std == pytest.approx(mine.std(), rel=1e-12)
    assert taken.profile.splits["train"].columns["x"].distinct == 150


def test_parquet_types_become_plain_ones(intake: Intake) -> None:
    day, moment = dt.date(2026, 11, 21), dt.datetime(2026, 11, 21, 1, 2, tzinfo=dt.UTC)
    rows = [
        {
            "f": True,
            "d": day,
            "t": moment,
            "m": Decimal("1.5"),
            "n": None,
            "__index_level_0__": 3,
        }
    ]
    table = pa.Table.from_pylist(rows).append_column("c", pa.array(["x"]).dictionary_encode())
    row = {"f": "true", "d": "2026-11-21", "t": "2026-11-21 01:02:00.000000Z", "m": 1.5, "n": None, "c": "x"}
    assert intake(as_parquet(table)).rows() == [row]


def test_a_nested_column_is_refused_by_name(intake: Intake) -> None:
    with pytest.raises(InvalidData, match="'boxes' is nested"):
        intake(as_parquet([{"a": 1, "boxes": [1, 2]}]))


def test_class_labels_have_names_or_are_missing(intake: Intake) -> None:
    pairs = [*digits(20), (digits()[0][0], -1), (digits()[0][0], 10)]
    taken = intake(as_hugging_face(pairs))
    assert [row["label"] for row in taken.rows()][:3] == ["zero", "one", "two"]
    assert taken.rows()[20]["label"] is None
    assert list(taken.bad()) == [22]


@pytest.mark.parametrize("values", [["1", "2", "1"], [1, 2, 1], [1.0, 2.0, 1.0]])
def test_a_label_has_one_name_in_every_format(intake: Intake, values: list[Any]) -> None:
    rows = [{"x": 0.5, "Target": value} for value in values]
    for form in (as_csv(rows), as_json_lines(rows), as_parquet(rows)):
        taken = intake(form)
        assert taken.profile.label == "Target"
        assert [row["Target"] for row in taken.rows()] == ["1", "2", "1"]


def test_the_label_is_the_named_column_or_none(intake: Intake) -> None:
    content = as_csv([{"label": "a", "species": "b", "x": 1}])
    assert intake(content).profile.label == "label"
    assert intake(content, label="species").profile.label == "species"
    assert intake(content, label="").profile.label is None
    with pytest.raises(InvalidData, match="'genus'") as caught:
        intake(content, label="genus")
    assert caught.value.faults[0].pointer == "/label"
    assert "species" in caught.value.faults[0].fix


# ---- bad rows


def test_bad_rows_of_a_csv_are_named_and_left_out(intake: Intake) -> None:
    good = [f"{number / 4},{number % 2}" for number in range(40)]
    bad = ["wide,1", "nan,1", "Infinity,0", "1,2,3", "7", "1e99,1", "caf\xe9,1", ",1"]
    content = "\n".join(["x,label", *good, "", *bad]).encode("latin-1")
    taken = intake(content)
    assert len(taken.rows()) == 40
    reasons = taken.bad()
    assert list(reasons) == list(range(41, 49))
    assert "'wide' is no number" in reasons[41]
    assert "3 cells, the header 2" in reasons[44]
    assert "common size" in reasons[46]
    assert reasons[48] == "the row is empty"


def test_bad_rows_of_json_lines_are_named_and_left_out(intake: Intake) -> None:
    good = [f'{{"x": {number}, "t": "word"}}' for number in range(40)]
    bad = [
        b'{"x": NaN}', b'{"x": 1, "x": 2}', b"3", b'{"x": {"y": 1}}',
        b'{"x": [1]}', b'{"x": "wide"}', b'{"x": 1', b'{"x": 1e999}', b'{"x": 1, "t": "\\ud800"}',
        b'{"x": 1, "t": "\\u0000"}', b'{"x": 1, "t": "\xff"}', b'{"x": true}',
        b'{"x": ' + b"[" * 100_000 + b"}", b'{"x": ' + b"9" * 5000 + b"}",
    ]  # fmt: skip
    taken = intake("\n".join(good).encode() + b"\n\n" + b"\n".join(bad))
    assert [row["x"] for row in taken.rows()] == list(range(40))
    assert list(taken.bad()) == list(range(42, 42 + len(bad)))


def test_a_line_without_end_is_one_bad_row(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.intake.tables.MAX_LINE", 1000)
    lines = [b'{"x": 1}', b'{"x": "' + b"a" * 3500 + b'"}', b'{"x": 3}', b"b" * 1001]
    taken = intake(b"\n".join(lines))
    assert [row["x"] for row in taken.rows()] == [1, 3]
    assert list(taken.bad()) == [2, 4]


def test_nan_and_infinity_in_parquet_are_bad_rows(intake: Intake) -> None:
    table = pa.table({"x": [1.0, float("nan"), float("inf"), None, 5.0], "z": [1, 2, 3, 4, 5]})
    taken = intake(as_parquet(table))
    assert [row["x"] for row in taken.rows()] == [1.0, None, 5.0]
    assert list(taken.bad()) == [2, 3]


def test_images_that_cannot_be_used_are_bad_rows(intake: Intake) -> None:
    image = digits()[0][0]
    buffer = io.BytesIO()
    Image.new("1", (101, 100)).save(buffer, "PNG")
    rows: list[Any] = [
        {"bytes": image, "path": None},
        {"bytes": image[:-30], "path": "cut.png"},
        {"bytes": buffer.getvalue(), "path": "large.png"},
        {"bytes": b"no image", "path": None},
        {"bytes": None, "path": "elsewhere.png"},
        None,
        {"bytes": b"", "path": None},
        {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "path": "script.eps"},
    ]
    schema = pa.schema([("image", HF_IMAGE), ("label", pa.int64())])
    table = pa.Table.from_pylist([{"image": one, "label": 1} for one in rows], schema=schema)
    reasons = intake(as_parquet(table)).bad()
    assert list(reasons) == [2, 3, 4, 5, 6, 7, 8]
    assert reasons[2].startswith("'cut.png': the image cannot be decoded")
    assert "101 x 100 pixels, more than 10,000" in reasons[3]
    assert "only a path" in reasons[5]


def test_a_split_without_a_usable_row_is_refused_with_its_first_reasons(intake: Intake) -> None:
    rows = irises()
    spoiled = [{**row, "petal_width": "wide"} for row in rows[:9]]
    with pytest.raises(InvalidData, match="Nothing in test") as caught:
        intake(train=as_csv(rows), test=as_csv(spoiled), label="species")
    assert len(caught.value.faults) == 5
    assert caught.value.faults[0].pointer == "/test"
    assert "row 1" in caught.value.faults[0].detail


def test_only_the_first_hundred_bad_rows_are_told(intake: Intake) -> None:
    bad = intake(b"x,y\n" + b"1,2\n" * 10 + b"1\n" * 250).profile.splits["train"].bad_rows
    assert (bad.count, len(bad.examples)) == (250, 100)


def test_what_unpacks_to_too_much_is_refused(intake: Intake) -> None:
    table = pa.table({"x": ["a" * 1000] * 100_000})
    with pytest.raises(InvalidData, match="50,000,000 bytes"):
        intake(as_parquet(table))


# ---- folders


def test_folders_may_name_splits(intake: Intake) -> None:
    pairs = digits()
    files = digit_folders(pairs[:20], "set/train/") | digit_folders(pairs[20:40], "set/test/")
    files |= {"set/unlabeled/a.png": pairs[50][0], "set/unlabeled/some/b.png": pairs[51][0]}
    files |= {"__MACOSX/set/._a.png": b"junk", "set/.DS_Store": b"junk"}
    taken = intake(as_folders(files))
    rows = {split: profile.rows for split, profile in taken.profile.splits.items()}
    assert rows == {"train": 20, "test": 20, "unlabeled": 2}
    assert [row["label"] for row in taken.rows("unlabeled")] == [None, "some"]


def test_images_that_lie_elsewhere_are_bad_rows(intake: Intake) -> None:
    files = digit_folders(digits()[:5]) | {
        "loose.png": digits()[6][0],
        "a/b/c.png": digits()[7][0],
        "zero/x.txt": b"?",
    }
    reasons = list(intake(as_folders(files)).bad().values())
    assert any("deeper than class/file" in reason for reason in reasons)
    assert any("in no folder" in reason for reason in reasons)
    assert any("'x.txt': the image cannot be decoded" in reason for reason in reasons)


def test_an_archive_with_splits_is_not_put_into_a_split_nor_divided(intake: Intake) -> None:
    content = as_folders(digit_folders(digits()[:5], "train/") | digit_folders(digits()[5:9], "test/"))
    with pytest.raises(InvalidData, match="already name splits"):
        intake(train=content)
    with pytest.raises(InvalidData, match="already name splits"):
        intake(content, divide={"train": 0.5, "test": 0.5})


# ---- splits


def test_a_file_is_divided_alike_for_each_class_and_always_the_same(intake: Intake) -> None:
    shares = {"train": 0.6, "test": 0.2, "unlabeled": 0.2}
    rows = irises()
    taken = intake(as_csv(rows), label="species", divide=shares)
    for split, count in {"train": 30, "test": 10, "unlabeled": 10}.items():
        counts = taken.profile.splits[split].columns["species"].counts  # type: ignore[index]
        assert counts is not None
        assert all(abs(value - count) <= 1 for value in counts.values())
    assert taken.profile.leaks == []
    assert not (taken._out / "whole.parquet").exists()
    key = lambda row: tuple(map(str, row.values()))  # noqa: E731
    everything = [row for split in shares for row in taken.rows(split)]
    assert sorted(everything, key=key) == sorted(rows, key=key)
    again = intake(as_json_lines(list(reversed(rows))), label="species", divide=shares)
    assert sorted(again.rows("test"), key=key) == sorted(taken.rows("test"), key=key)
    other = intake(as_csv(rows), label="species", divide=shares, seed=1)
    assert other.bytes("test") != taken.bytes("test")


def test_images_can_be_divided(intake: Intake) -> None:
    taken = intake(as_hugging_face(digits()), divide={"train": 0.5, "test": 0.5})
    assert len(taken.rows("train")) + len(taken.rows("test")) == 60
    assert taken.rows("test")[0]["image"]["path"].endswith(".png")


def test_bad_rows_of_a_divided_file_stand_at_the_first_split(intake: Intake) -> None:
    content = as_csv(irises()) + b"1,2\n"
    taken = intake(content, label="species", divide={"test": 0.5, "validation": 0.5})
    assert list(taken.bad("validation")) == [151]
    assert taken.bad("test") == {}


def test_a_split_that_would_be_empty_is_refused(intake: Intake) -> None:
    with pytest.raises(InvalidData, match="test would get no row") as caught:
        intake(as_csv(irises()[:3]), divide={"train": 0.95, "test": 0.05}, label="")
    assert caught.value.faults[0].pointer == "/splits/test"


def test_duplicates_and_leaks_are_counted_by_their_inputs(intake: Intake) -> None:
    rows = [{"x": number, "y": "a", "label": "even"} for number in range(10)]
    relabeled = [{**rows[0], "label": "odd"}, {**rows[1], "x": 1.0}]
    taken = intake(
        train=as_json_lines(rows + relabeled), test=as_json_lines([*rows[5:8], {**rows[0], "x": 77}])
    )
    assert taken.profile.splits["train"].duplicates == 2
    assert taken.profile.splits["test"].duplicates == 0
    assert [(leak.splits, leak.rows) for leak in taken.profile.leaks] == [(("train", "test"), 3)]
