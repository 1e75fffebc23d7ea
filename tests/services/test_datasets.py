"""Versions of datasets, on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.catalog.base import Column
from app.db.session import Sessions
from app.db.tables import Dataset, Job, JobReference, Project
from app.errors import InUse, Invalid, NotFound, UnknownReference
from app.intake.profile import BadRows, Profile, Split, SplitProfile
from app.ports.blobs import Blobs
from app.services import dataset_rows, datasets
from app.services.datasets import Order, Prepared, StoredSplit, UploadedFile
from app.settings import Settings
from tests.intake.samples import as_csv, as_folders, digit_folders, digits, irises

PROJECT = "prj_default"


def prepared(content: str, *splits: Split) -> Prepared:
    """A dataset whose digest is made of `content`."""
    digest = content.encode().hex().rjust(64, "0")
    column = Column(type="number", mean=0.5, std=0.25)
    one = SplitProfile(rows=3, columns={"x": column}, bad_rows=BadRows(), duplicates=0)
    names = splits or ("train",)
    return Prepared(
        digest=digest,
        files={split: StoredSplit(sha256=digest, size=10, rows=3) for split in names},
        profile=Profile(label=None, splits=dict.fromkeys(names, one), leaks=[]),
    )


def add(sessions: Sessions, name: str, content: str, *splits: Split, project: str = PROJECT) -> Dataset:
    with sessions.write() as session:
        return datasets.create(session, project, name, prepared(content, *splits))[0]


# ---- versions


def test_versions_count_up_and_the_same_content_is_the_same_version(sessions: Sessions) -> None:
    with sessions.write() as session:
        first, new = datasets.create(session, PROJECT, "leaves", prepared("a"))
        second, newer = datasets.create(session, PROJECT, "leaves", prepared("b"))
        again, known = datasets.create(session, PROJECT, "leaves", prepared("a"))
        other, _ = datasets.create(session, PROJECT, "roots", prepared("a"))
    assert (first.version, second.version, other.version) == (1, 2, 1)
    assert (new, newer, known) == (True, True, False)
    assert again.id == first.id
    assert first.id.startswith("ds_")
    assert (first.rows, first.size) == (3, 10)


@pytest.mark.parametrize("kept", [0, 1])
def test_the_number_of_a_deleted_version_is_never_given_again(sessions: Sessions, kept: int) -> None:
    for content in "ab"[: kept + 1]:
        newest = add(sessions, "leaves", content)
    with sessions.write() as session:
        datasets.delete(session, PROJECT, "leaves", newest.version)
    assert add(sessions, "leaves", "c").version == newest.version + 1


def test_uploads_at_once_get_different_numbers(sessions: Sessions) -> None:
    start = threading.Barrier(4)

    def upload(content: str) -> int:
        start.wait()
        return add(sessions, "leaves", content).version

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(upload, "abcd"))
    assert sorted(numbers) == [1, 2, 3, 4]


def test_the_same_content_uploaded_at_once_is_one_version(sessions: Sessions) -> None:
    start = threading.Barrier(4)

    def upload(_: int) -> str:
        start.wait()
        return add(sessions, "leaves", "a").id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(upload, range(4)))) == 1


def test_the_list_shows_the_newest_version_of_every_name_in_pages(sessions: Sessions) -> None:
    for name in ("c", "a", "b", "a"):
        add(sessions, name, f"{name}{len(name)}")
    add(sessions, "a", "newer")
    with sessions.read() as session:
        page = datasets.list_(session, PROJECT, after=None, limit=2)
        rest = datasets.list_(session, PROJECT, after="b", limit=2)
        versions = datasets.versions(session, PROJECT, "a", before=None, limit=5)
        older = datasets.versions(session, PROJECT, "a", before=2, limit=5)
    assert [(one.name, one.version) for one in page] == [("a", 2), ("b", 1)]
    assert [one.name for one in rest] == ["c"]
    assert [one.version for one in versions] == [2, 1]
    assert [one.version for one in older] == [1]


def test_another_project_sees_nothing(sessions: Sessions) -> None:
    with sessions.write() as session:
        session.add(Project(id="prj_other", name="other"))
    add(sessions, "leaves", "a")
    assert add(sessions, "leaves", "a", project="prj_other").version == 1
    add(sessions, "leaves", "b", project="prj_other")
    with sessions.write() as session:
        assert [one.version for one in datasets.list_(session, PROJECT, None, 9)] == [1]
        for look in (datasets.get, datasets.delete):
            with pytest.raises(NotFound):
                look(session, PROJECT, "leaves", 2)
        with pytest.raises(UnknownReference):
            datasets.find(session, PROJECT, "dataset:leaves@2")
        with pytest.raises(NotFound):
            datasets.versions(session, PROJECT, "roots", before=None, limit=5)


# ---- references


def test_a_reference_points_at_a_version_and_a_split(sessions: Sessions) -> None:
    add(sessions, "leaves", "a", "train", "test")
    add(sessions, "leaves", "b", "unlabeled")
    expected = {
        "dataset:leaves": (2, "unlabeled"),
        "dataset:leaves@1": (1, "train"),
        "dataset:leaves@1#test": (1, "test"),
        "dataset:leaves#unlabeled": (2, "unlabeled"),
    }
    with sessions.read() as session:
        for reference, found in expected.items():
            dataset, split = datasets.find(session, PROJECT, reference)
            assert (dataset.version, split) == found


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("dataset:roots", "leaves"),
        ("dataset:leaves@7", "versions 1"),
        ("dataset:leaves#test", "splits train, validation"),
        ("dataset:leaves@x", "form"),
        ("model:leaves", "form"),
    ],
)
def test_a_reference_that_points_at_nothing_says_what_there_is(
    sessions: Sessions, reference: str, says: str
) -> None:
    add(sessions, "leaves", "a", "validation", "train")
    with sessions.read() as session, pytest.raises(UnknownReference, match=says):
        datasets.find(session, PROJECT, reference)


# ---- deletion


def test_a_version_is_deleted_unless_a_job_points_at_it(sessions: Sessions) -> None:
    first, second = add(sessions, "leaves", "a"), add(sessions, "leaves", "b")
    with sessions.write() as session:
        point_at(session, first.id)
    with sessions.write() as session:
        datasets.delete(session, PROJECT, "leaves", second.version)
    with sessions.write() as session, pytest.raises(InUse, match="job_1"):
        datasets.delete(session, PROJECT, "leaves", first.version)
    with sessions.read() as session:
        assert [one.id for one in datasets.versions(session, PROJECT, "leaves", None, 9)] == [first.id]


def test_a_version_that_a_job_is_about_to_use_is_not_deleted(sessions: Sessions) -> None:
    """The job has found it and not committed yet."""
    dataset = add(sessions, "leaves", "a")
    found = threading.Event()

    def delete() -> None:
        found.wait(10)
        with sessions.write() as session:
            datasets.delete(session, PROJECT, "leaves", 1)

    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete)
        with sessions.write() as session:
            datasets.find(session, PROJECT, "dataset:leaves")
            found.set()
            with pytest.raises(TimeoutError):
                deleting.result(0.2)
            point_at(session, dataset.id)
        with pytest.raises(InUse):
            deleting.result(10)


# ---- uploads


def test_an_upload_is_stored_before_it_has_a_row(settings: Settings, blobs: Blobs, tmp_path: Path) -> None:
    order = Order(name="iris", label="species", splits={"train": 0.8, "test": 0.2})
    made = prepare(settings, blobs, tmp_path, order, file=as_csv(irises()) + b"1,2\n")
    assert made.files["train"].rows + made.files["test"].rows == 150
    assert made.profile.splits["train"].bad_rows.count == 1
    assert all(blobs.size(file.sha256) == file.size for file in made.files.values())
    assert made.digest == prepare(settings, blobs, tmp_path, order, file=as_csv(irises())).digest
    assert made.digest != prepare(settings, blobs, tmp_path, Order(name="iris"), file=as_csv(irises())).digest


def test_rows_are_read_in_pages(
    settings: Settings, blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = digits(40)
    made = prepare(settings, blobs, tmp_path, Order(name="digits"), file=as_folders(digit_folders(pairs)))
    file = made.files["train"].model_dump()
    everything, more = dataset_rows.page(blobs, file, after=0, limit=100)
    assert (len(everything), more) == (40, False)
    assert everything[0]["label"] == "eight"
    assert everything[0]["image"]["media_type"] == "image/png"
    page, more = dataset_rows.page(blobs, file, after=10, limit=20)
    assert (page, more) == (everything[10:30], True)
    assert dataset_rows.page(blobs, file, after=40, limit=20) == ([], False)
    monkeypatch.setattr(dataset_rows, "PAGE_BYTES", everything[0]["image"]["size"])
    page, more = dataset_rows.page(blobs, file, after=0, limit=20)
    assert (len(page), more) == (1, True)
    monkeypatch.setattr(dataset_rows, "PAGE_BYTES", 1)
    assert dataset_rows.page(blobs, file, after=0, limit=1)[0][0]["image"]["base64"] is None


@pytest.mark.parametrize(
    ("fields", "splits", "pointer"),
    [
        ([], None, "/file"),
        (["file", "test"], None, "/file"),
        (["train"], {"train": 1.0}, "/splits"),
        (["file", "file"], {"train": 0.5, "test": 0.5}, "/splits"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    settings: Settings,
    blobs: Blobs,
    tmp_path: Path,
    fields: list[str],
    splits: dict[Split, float] | None,
    pointer: str,
) -> None:
    files = [UploadedFile(field, "x.csv", tmp_path / "x.csv") for field in fields]
    with pytest.raises(Invalid) as caught:
        datasets.prepare(settings, blobs, Order(name="x", splits=splits), files, tmp_path)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


def prepare(settings: Settings, blobs: Blobs, folder: Path, order: Order, **contents: bytes) -> Prepared:
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    files = []
    for field, content in contents.items():
        files.append(UploadedFile(field, f"{field}.csv", out / f"received-{field}"))
        files[-1].path.write_bytes(content)
    return datasets.prepare(settings, blobs, order, files, out)


def point_at(session: Session, dataset_id: str) -> None:
    """As a job does that trains on it."""
    session.add(
        Job(
            id="job_1", project_id=PROJECT, name="", task="", spec={}, resolved={}, spec_digest="", phases=[],
            progress={}, usage={}, artifacts=[],
        )
    )  # fmt: skip
    session.flush()
    session.add(JobReference(job_id="job_1", target_id=dataset_id, role="train"))
