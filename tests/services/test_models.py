"""The registry on both databases: versions without a gap under concurrency, aliases, references, lineage."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import select

from app.db.ids import new_id
from app.db.session import Sessions
from app.db.tables import Job, JobReference, ModelVersion, Project
from app.errors import NotFound, UnknownReference, VersionConflict
from app.services import aliases, hops, lineage, models
from app.services.aliases import Condition
from app.services.models import Checkpoint

PROJECT = "prj_default"


def checkpoint(content: str = "a", **changes: Any) -> Checkpoint:
    made = Checkpoint(
        source="import",
        format="huggingface",
        family="resnet",
        task="image_classification",
        labels=["cat", "dog"],
        input={"modality": "image", "shape": [1, 8, 8]},
        preprocessing={"size": [8, 8]},
        gives=["features", "logits"],
        details={"config": {}},
        parameters=10,
        files=[
            {"path": "model.safetensors", "sha256": sha256(content.encode()).hexdigest(), "size": 40},
            {"path": "config.json", "sha256": "0" * 64, "size": 2},
        ],
    )
    return replace(made, **changes)


def register(
    sessions: Sessions, name: str = "digits", content: str = "a", alias: str | None = None, **changes: Any
) -> ModelVersion:
    with sessions.write() as session:
        return models.register(session, PROJECT, name, checkpoint(content, **changes), alias)


# ---- versions


def test_versions_count_from_one_and_hold_the_checkpoint(sessions: Sessions) -> None:
    first, second = register(sessions, content="a"), register(sessions, content="b")
    assert [first.version, second.version] == [1, 2]
    assert first.digest == sha256(models.manifest(checkpoint("a"))).hexdigest() != second.digest
    assert first.size == 42
    assert [file["path"] for file in first.files] == ["config.json", "model.safetensors"]
    assert register(sessions, name="other").version == 1


def test_the_manifest_does_not_depend_on_the_order_of_files_or_on_the_lineage() -> None:
    told = checkpoint(lineage={"job": "job_1", "teachers": []})
    turned = replace(told, files=list(reversed(told.files)))
    assert models.manifest(told) == models.manifest(turned) == models.manifest(checkpoint())
    assert models.manifest(checkpoint(labels=["dog", "cat"])) != models.manifest(checkpoint())


def test_the_same_content_is_the_same_version(sessions: Sessions) -> None:
    with sessions.write() as session:
        first, new = models.add(session, PROJECT, "digits", checkpoint())
        assert new
    register(sessions, content="b")
    with sessions.write() as session:
        again, new = models.add(session, PROJECT, "digits", checkpoint())
    assert (again.id, new) == (first.id, False)


def test_two_jobs_with_the_same_weights_make_two_versions(sessions: Sessions) -> None:
    made = [register(sessions, source="job", lineage={"job": job}) for job in ("job_1", "job_2", "job_1")]
    assert [version.version for version in made] == [1, 2, 1]


def test_concurrent_imports_under_a_new_name_get_numbers_without_a_gap(sessions: Sessions) -> None:
    gate = threading.Barrier(6)

    def work(number: int) -> None:
        gate.wait()
        register(sessions, content=str(number % 5))  # two of the six are the same

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    with sessions.read() as session:
        numbers = session.scalars(select(ModelVersion.version).order_by(ModelVersion.version)).all()
        assert list(numbers) == [1, 2, 3, 4, 5]
        assert models.get_model(session, PROJECT, "digits").last_version == 5


# ---- references


def test_a_reference_finds_its_version(sessions: Sessions) -> None:
    for content in "abc":
        register(sessions, content=content, alias="champion" if content == "b" else None)
    meant = {
        "model:digits": 3, "model:digits@1": 1, "model:digits@01": 1, "model:digits@champion": 2,
        "digits@2": 2, "digits": 3,
    }  # fmt: skip
    with sessions.read() as session:
        found = {reference: models.find(session, PROJECT, reference).version for reference in meant}
    assert found == meant


def test_an_unknown_version_says_which_there_are(sessions: Sessions) -> None:
    register(sessions, alias="champion")
    with sessions.read() as session:
        for selector in ("2", "0", "none", "9" * 40):
            with pytest.raises(UnknownReference, match=r"version 1 alone .* champion \(1\)"):
                models.find(session, PROJECT, f"model:digits@{selector}")


def test_an_unknown_name_says_which_there_are_in_this_project(sessions: Sessions) -> None:
    register(sessions, name="digits")
    with sessions.write() as session:
        session.add(Project(id="prj_other", name="other"))
        session.flush()
        models.register(session, "prj_other", "secret", checkpoint())
    with sessions.read() as session:
        with pytest.raises(UnknownReference, match="There are digits\\.") as caught:
            models.find(session, PROJECT, "model:secret@1")
        assert caught.value.faults[0].fix
        with pytest.raises(NotFound, match="There is no model 'digits'"):
            models.get(session, "prj_other", "digits", "1")


def test_get_tells_name_and_aliases(sessions: Sessions) -> None:
    register(sessions, alias="candidate")
    register(sessions, content="b", alias="champion")
    with sessions.write() as session:
        aliases.set_alias(session, PROJECT, "digits", "best", version=1)
    with sessions.read() as session:
        found = models.get(session, PROJECT, "digits", "candidate")
        assert (found.name, found.version.version, found.aliases) == ("digits", 1, ["best", "candidate"])


def test_models_and_versions_are_paged_newest_first(sessions: Sessions) -> None:
    for name in ("a", "b", "c"):
        register(sessions, name=name)
        register(sessions, name=name, content="b")
    with sessions.read() as session:
        first = models.list_(session, PROJECT, before=None, limit=2)
        rest = models.list_(session, PROJECT, before=first[-1].id, limit=2)
        assert [model.name for model in (*first, *rest)] == ["c", "b", "a"]
        assert {version.version for version in models.latest(session, first).values()} == {2}
        assert [v.version for v in models.versions(session, first[0], before=None, limit=1)] == [2]
        assert [v.version for v in models.versions(session, first[0], before=2, limit=5)] == [1]


# ---- aliases


def test_an_alias_moves_and_counts_its_moves(sessions: Sessions) -> None:
    register(sessions, alias="champion")
    register(sessions, content="b")
    with sessions.write() as session:
        moved = aliases.set_alias(session, PROJECT, "digits", "champion", version=2)
        assert (moved.version, moved.revision) == (2, 2)
    with sessions.write() as session:
        same = aliases.set_alias(session, PROJECT, "digits", "champion", version=2)
        assert (same.version, same.revision) == (2, 2)


@pytest.mark.parametrize("seen", [Condition(revisions=frozenset({1, 7})), Condition(exists=True)])
def test_an_alias_that_is_as_expected_moves_and_goes(sessions: Sessions, seen: Condition) -> None:
    register(sessions, alias="champion")
    register(sessions, content="b")
    with sessions.write() as session:
        aliases.set_alias(session, PROJECT, "digits", "champion", version=2, condition=seen)
    with sessions.write() as session:
        gone = Condition(revisions=frozenset({2}))
        assert aliases.delete_alias(session, PROJECT, "digits", "champion", condition=gone).version == 2
    with sessions.read() as session, pytest.raises(UnknownReference):
        models.find(session, PROJECT, "digits@champion")


@pytest.mark.parametrize("seen", [Condition(revisions=frozenset({2, 3})), Condition(exists=False)])
def test_an_alias_that_changed_meanwhile_is_left_alone(sessions: Sessions, seen: Condition) -> None:
    register(sessions, alias="champion")
    register(sessions, content="b")
    with sessions.write() as session:
        with pytest.raises(VersionConflict, match="revision 1, on version 1"):
            aliases.set_alias(session, PROJECT, "digits", "champion", version=2, condition=seen)
        with pytest.raises(VersionConflict, match="revision 1, on version 1"):
            aliases.delete_alias(session, PROJECT, "digits", "champion", condition=seen)
    with sessions.read() as session:
        assert models.find(session, PROJECT, "digits@champion").version == 1


def test_an_alias_needs_a_model_and_a_version(sessions: Sessions) -> None:
    register(sessions)
    with sessions.write() as session:
        with pytest.raises(NotFound):
            aliases.set_alias(session, PROJECT, "none", "champion", version=1)
        with pytest.raises(UnknownReference, match="version 1 alone, not '2'"):
            aliases.set_alias(session, PROJECT, "digits", "champion", version=2)
        with pytest.raises(VersionConflict, match="does not exist"):
            aliases.set_alias(
                session, PROJECT, "digits", "champion", version=1, condition=Condition(exists=True)
            )
        with pytest.raises(NotFound, match="no alias 'champion'"):
            aliases.delete_alias(session, PROJECT, "digits", "champion")


def test_one_of_two_concurrent_moves_from_the_same_revision_wins(sessions: Sessions) -> None:
    register(sessions, alias="champion")
    for content in "bc":
        register(sessions, content=content)
    gate = threading.Barrier(2)

    def move(version: int) -> str:
        gate.wait()
        try:
            with sessions.write() as session:
                seen = Condition(revisions=frozenset({1}))
                aliases.set_alias(session, PROJECT, "digits", "champion", version=version, condition=seen)
        except VersionConflict:
            return "refused"
        return "moved"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(move, (2, 3))) == ["moved", "refused"]


# ---- lineage


def distill(sessions: Sessions, name: str, teacher: ModelVersion) -> ModelVersion:
    """A student as a job leaves it."""
    job_id = new_id("job")
    told = {
        "job": job_id,
        "teachers": [{"reference": "model:x", "version_id": teacher.id, "digest": teacher.digest}],
        "datasets": [{"reference": "dataset:digits@1#train", "dataset_id": "ds_1"}],
    }
    with sessions.write() as session:
        version = models.register(session, PROJECT, name, checkpoint(name, source="job", lineage=told))
        session.add(
            Job(
                id=job_id, project_id=PROJECT, name="", task="image_classification", spec={}, resolved={},
                spec_digest="", status="succeeded", phases=[], progress={}, usage={}, artifacts=[],
                output_version_id=version.id, ended_at=version.created_at,
            )
        )  # fmt: skip
        session.flush()
        session.add(JobReference(job_id=job_id, target_id=teacher.id, role="teacher"))
    return version


def test_lineage_follows_teachers_of_teachers_and_lists_students(sessions: Sessions) -> None:
    teacher = register(sessions, name="teacher")
    assistant = distill(sessions, "assistant", teacher)
    student = distill(sessions, "student", assistant)
    with sessions.read() as session:
        told = lineage.lineage(session, student)
        middle = told["lineage"]["teachers"][0]
        assert told["reference"] == "model:student@1"
        assert told["lineage"]["job"] == student.lineage["job"]
        assert told["lineage"]["datasets"][0]["dataset_id"] == "ds_1"
        assert middle["reference"] == "model:assistant@1"
        assert middle["lineage"]["teachers"][0]["id"] == teacher.id
        assert told["students"] == []
        assert lineage.lineage(session, assistant)["students"][0]["id"] == student.id
        assert [s["reference"] for s in lineage.lineage(session, teacher)["students"]] == [
            "model:assistant@1"
        ]


def test_students_on_the_way_of_a_job_are_told_where_they_were_taught(sessions: Sessions) -> None:
    teacher = register(sessions, name="teacher")
    student = distill(sessions, "student", teacher)
    other = distill(sessions, "other", student)
    on_the_way = {"generation-1": teacher, "generation-2": other}
    made = {}
    for role, whom in on_the_way.items():
        told = {"job": student.lineage["job"], "role": role, "teachers": [{"version_id": whom.id}]}
        with sessions.write() as session:
            version = models.register(session, PROJECT, role, checkpoint(role, source="job", lineage=told))
            session.add(JobReference(job_id=student.lineage["job"], target_id=version.id, role=role))
        made[role] = version
    with sessions.read() as session:
        found = [one["reference"] for one in lineage.lineage(session, teacher)["students"]]
        assert found == [
            "model:generation-1@1",
            "model:student@1",
        ]  # not generation 2, which another one taught
        assert lineage.lineage(session, made["generation-1"])["students"] == []
        assert set(hops.made(session, student.lineage["job"])) == set(on_the_way)


def test_lineage_is_bounded(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_DEPTH", 2)
    version = register(sessions, name="teacher")
    for generation in range(4):
        version = distill(sessions, f"student-{generation}", version)
    with sessions.read() as session:
        told = lineage.lineage(session, version)
    assert told["truncated"]
    assert told["lineage"]["teachers"][0]["lineage"]["teachers"][0]["lineage"]["teachers"] == []
