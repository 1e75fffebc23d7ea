"""A text job from its uploads to its answers: tokenizer, teacher, student, exports and predictions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.catalog.spec import JobSpec
from app.catalog.tasks.text_classification import TextClassification
from app.catalog.tasks.text_classification.tokens import open_tokenizer
from app.db.tables import Job, ModelVersion
from app.errors import InvalidData, NotFound
from app.services import claims, datasets, imports, predictions, submission
from examples.text import write_teacher
from tests import texts
from tests.intake.checkpoints import contents, pack
from tests.intake.samples import as_csv
from tests.worker.workshop import PROJECT, Stop, Workshop
from worker.run import run

LEARNED, GIVEN = 1000, 300  # texts that the teacher has seen, and those of the job


@pytest.fixture(scope="session")
def teacher_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT that learned a part of the texts."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("teacher")
    sizes = {"words": 1500, "tokens": 32, "width": 64, "layers": 1, "epochs": 5}
    write_teacher(folder / "saved", texts.rows()[:LEARNED], **sizes)
    return pack(folder / "teacher.zip", contents(folder / "saved"))


@pytest.fixture
def stocked(workshop: Workshop, teacher_zip: Path, tmp_path: Path) -> Iterator[Workshop]:
    """With the teacher `linguist` and the texts `docs`, both uploaded; some rows have no label."""
    rows = texts.rows()[LEARNED : LEARNED + GIVEN]
    table = [{"text": text, "subject": name if place % 4 else ""} for place, (text, name) in enumerate(rows)]
    (tmp_path / "docs.csv").write_bytes(as_csv(table))
    for folder in ("model", "data"):
        (tmp_path / folder).mkdir()
    imports.take_in(workshop.parts, PROJECT, imports.Order(name="linguist"), teacher_zip, tmp_path / "model")
    order = datasets.Order(name="docs", label="subject", splits={"train": 0.8, "test": 0.2})
    upload = datasets.UploadedFile("file", "docs.csv", tmp_path / "docs.csv")
    datasets.take_in(workshop.parts, PROJECT, order, [upload], tmp_path / "data")
    yield workshop
    predictions._students.clear()


def carried_out(workshop: Workshop, **changes: Any) -> Job:
    """A job over the texts, ordered as it is sent."""
    spec = {
        "task": {"kind": "text_classification"},
        "teachers": [{"model": "model:linguist"}],
        "student": {"architecture": {"kind": "distilbert", "dim": 32, "n_layers": 1, "hidden_dim": 64}},
        "data": {"train": "dataset:docs#train", "test": "dataset:docs#test"},
        "training": {"epochs": 2, "batch_size": 32, "optimizer": {"kind": "adamw", "lr": 0.003}},
        "evaluation": {"bootstrap": 100},
        "output": {"model": "small"},
        **changes,
    }
    with workshop.parts.sessions.write() as session:
        submission.submit(session, workshop.parts.settings, PROJECT, JobSpec.model_validate(spec))
    with workshop.parts.sessions.write() as session:
        job = claims.claim(session, "test", ("cpu",), 600.0)
    assert job is not None
    run(job, job.attempt, workshop.parts, Stop())
    return workshop.look(job)


def test_texts_go_from_the_upload_to_the_answers(stocked: Workshop, tmp_path: Path) -> None:
    exports = [{"kind": "safetensors"}, {"kind": "onnx"}]
    job = carried_out(stocked, exports=exports)
    assert job.status == "succeeded", job.error
    assert job.resolved["spec"]["task"]["max_length"] == 32
    assert job.resolved["data"]["inputs"] == ["text"]
    assert len(json.dumps(job.resolved["preprocessing"])) < 1000

    report = json.loads(stocked.artifact(job, "report.json"))
    columns = {column["name"]: column["metrics"] for column in report["columns"]}
    assert columns["teacher"]["accuracy"]["value"] > 0.45  # of five subjects
    assert columns["student"]["kl"]["value"] < columns["student_before"]["kl"]["value"]

    with stocked.parts.sessions.read() as session:
        version = session.get_one(ModelVersion, job.output_version_id)
        student = predictions.find(session, PROJECT, "small")
    assert {"tokenizer.json", "tokenizer_config.json", "model.onnx"} <= {
        file["path"] for file in version.files
    }
    assert version.input["modality"] == "text"

    import transformers

    folder = tmp_path / "student"
    folder.mkdir()
    for file in version.files:
        stocked.parts.blobs.fetch(file["sha256"], folder / file["path"])
    auto: Any = transformers.AutoModelForSequenceClassification
    model, reads = auto.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    asked = [text for text, _ in texts.rows()[-40:]]
    answers = predictions.answer(student, stocked.parts.predictor, asked, top_k=5)
    with torch.no_grad():
        logits = model(**reads(asked, padding=True, truncation=True, return_tensors="pt")).logits
    for answer, row in zip(answers, logits.softmax(-1), strict=True):
        assert answer["label"] == model.config.id2label[int(row.argmax())]
        assert answer["probability"] == pytest.approx(float(row.max()), abs=1e-4)

    same = predictions.answer(student, stocked.parts.predictor, [{"text": asked[0], "more": 1}], top_k=5)
    assert same[0]["probability"] == pytest.approx(answers[0]["probability"], abs=1e-6)
    for row, message in (
        (7, "a number is none"), (None, "null is none"), (b"\x89PNG", "an image is none"),
        (["a"], "a list is none"),
        ({"body": "x"}, "needs the column 'text'; this one has 'body'"), ({"text": None}, "null is none"),
    ):  # fmt: skip
        with pytest.raises(InvalidData, match=message) as caught:
            predictions.answer(student, stocked.parts.predictor, ["fine", row], top_k=1)
        assert [fault.pointer for fault in caught.value.faults] == ["/inputs/1"]


def test_a_thinner_copy_learns_from_the_hidden_states_of_its_teacher(
    stocked: Workshop, tmp_path: Path
) -> None:
    """Of a teacher of two layers, which knows nothing: what counts is that it is copied."""
    blank = pack(tmp_path / "blank.zip", contents(texts.save_classifier(tmp_path / "blank")))
    (tmp_path / "out").mkdir()
    imports.take_in(stocked.parts, PROJECT, imports.Order(name="blank"), blank, tmp_path / "out")
    layers = {"pairs": [["bert.encoder.layer.0", "bert.encoder.layer.1"]]}
    job = carried_out(
        stocked,
        teachers=[{"model": "model:blank"}],
        student={"architecture": {"kind": "like_teacher", "layers": 1}},
        losses=[{"kind": "kd"}, {"kind": "hidden_mse", "weight": 0.1, **layers}],
        exports=[{"kind": "safetensors"}],
        evaluation={"bootstrap": 100, "compare": ["teacher"]},
    )
    assert job.status == "succeeded", job.error
    report = json.loads(stocked.artifact(job, "report.json"))
    columns = {column["name"]: column["metrics"] for column in report["columns"]}
    assert columns["student"]["kl"]["value"] < columns["student_before"]["kl"]["value"] / 2


def test_a_tokenizer_of_somebody_else_cannot_be_named(
    stocked: Workshop, teacher_zip: Path, tmp_path: Path
) -> None:
    """What the child answers is believed only where it names what came with the upload."""
    found = imports._Found.model_validate({
        "format": "huggingface", "family": "bert", "task": "text_classification", "labels": ["a", "b"],
        "input": {"modality": "text", "shape": [32], "vocabulary": 9, "pad": 0}, "gives": ["logits"],
        "preprocessing": {"tokenizer": "5" * 64, "vocabulary": 9, "pad": 0, "max_length": 32},
        "details": {}, "parameters": 1, "warnings": [],
    })  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(texts.wordpiece())
    with pytest.raises(InvalidData, match=r"tokenizer\.json is not the one that was read"):
        imports._check_files(found, tmp_path)
    with pytest.raises(NotFound):
        stocked.parts.blobs.read("5" * 64).__next__()


def test_texts_lose_words_for_student_and_teacher_alike(stocked: Workshop) -> None:
    """Stored views of texts, of which no special token is ever lost."""
    data = {"train": "dataset:docs#train", "test": "dataset:docs#test", "views": 2}
    changes: dict[str, Any] = {
        "data": {**data, "augment": [{"kind": "token_dropout", "p": 0.2}]},
        "training": {"epochs": 2, "batch_size": 32},
        "evaluation": {"compare": ["teacher"], "bootstrap": 100},
        "exports": [{"kind": "safetensors"}],
    }
    job = carried_out(stocked, **changes)
    assert job.status == "succeeded", job.error
    read = TextClassification().parse_preprocessing(job.resolved["preprocessing"])

    def opened(sha256: str, open_bytes: Any) -> Any:
        return open_bytes(b"".join(stocked.parts.blobs.read(sha256)))

    words = TextClassification().vocabulary(read, opened)
    tokenizer = opened(read.tokenizer, open_tokenizer)
    assert words.lost == tokenizer.token_to_id("[MASK]")
    assert {tokenizer.token_to_id(name) for name in ("[PAD]", "[CLS]", "[SEP]")} < words.special
