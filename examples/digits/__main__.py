"""The whole way over HTTP: a teacher goes in, a smaller student comes out, is proven and answers.

Everything lies in data/demo; delete that folder to begin from nothing.
"""

import argparse
import base64
import os
import signal
import sys
import threading
import uuid
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import transformers

from examples.digits import outside, screen, service, teacher
from examples.digits.rows import LABELS, Digit, deal, parquet
from examples.digits.service import Json, Refused

FOLDER = Path("data/demo").absolute()
STUDENT = {"kind": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
SHOWN = 120  # every so many answers one is shown
AGREE = 1e-4  # largest accepted difference of a probability


@dataclass(frozen=True)
class Made:
    """A job that has ended. version: /v1/models/NAME/versions/N of its student."""

    report: Json
    version: str


def main() -> int:
    options = _options()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for ending in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        with nullcontext(options.url) if options.url else service.started(FOLDER) as url:
            with service.client(url, os.environ.get("STILLHOUSE_KEY")) as http:
                agree = _go(http, options.seeds)
            if options.keep and not options.url:
                screen.invite(url, FOLDER / "seven.png")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
            return 0 if agree else 1
    except (Refused, httpx.HTTPError) as error:
        screen.sorry(f"{type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, choices=range(1, 21), default=1, metavar="N", help="students to make, 1 to 20"
    )
    parser.add_argument("--url", help="a running service, with STILLHOUSE_KEY if it asks for one")
    parser.add_argument("--keep", action="store_true", help="leave the service running at the end")
    return parser.parse_args()


def _go(http: httpx.Client, seeds: int) -> bool:
    """Whether the student answers the same inside and outside."""
    hands = deal()
    screen.hands(hands)
    checkpoint = _teacher(hands["teacher"])
    spec = _spec(_upload(http, hands), _import(http, checkpoint))
    _plan(http, spec)
    made = [_distill(http, spec, seed) for seed in range(seeds)]
    folder = FOLDER / "student"
    files = service.download(http, made[0].version, folder)
    screen.report(made[0].report, _measured(folder))
    if seeds > 1:
        screen.seeds([one.report for one in made])
    return _agree(http, made[0].version, folder, hands["test"], files)


def _teacher(digits: list[Digit]) -> Path:
    """The folder of its checkpoint, trained now unless it was before."""
    folder = FOLDER / "teacher"
    if not folder.exists():
        with screen.bar("training the teacher") as watch:
            teacher.train(digits, folder, watch)
    onnx = FOLDER / "teacher.onnx"
    if not onnx.exists():
        with screen.doing("writing it as ONNX, to compare how quick it is"):
            teacher.write_onnx(folder, onnx)
    return folder


def _upload(http: httpx.Client, hands: dict[str, list[Digit]]) -> str:
    """A reference to the dataset; its splits are what the student's owner has."""
    splits = {
        name: (f"{name}.parquet", parquet(hands[name], labeled=name != "unlabeled"))
        for name in ("train", "validation", "test", "unlabeled")
    }
    with screen.doing("uploading the images"):
        dataset = service.ask(http, "POST", "/v1/datasets", data={"name": "digits"}, files=splits)
    screen.dataset(dataset)
    return str(dataset["reference"])


def _import(http: httpx.Client, folder: Path) -> str:
    """A reference to the teacher."""
    upload = {"file": ("teacher.zip", teacher.packed(folder))}
    with screen.doing("uploading the teacher"):
        model = service.ask(http, "POST", "/v1/models", data={"name": "digits-teacher"}, files=upload)
    screen.model(model)
    return str(model["reference"])


def _spec(dataset: str, model: str) -> Json:
    """The losses are the textbook's pair, which is also the default; they were not tuned."""
    return {
        "name": "digits",
        "task": {"kind": "image_classification"},
        "teachers": [{"model": model}],
        "student": {"architecture": STUDENT},
        "data": {
            "train": f"{dataset}#train",
            "validation": f"{dataset}#validation",
            "test": f"{dataset}#test",
            "unlabeled": [f"{dataset}#unlabeled"],
        },
        "losses": {"preset": "hinton", "temperature": 4.0, "alpha": 0.9},
        "training": {"epochs": 30, "batch_size": 32, "optimizer": {"kind": "adamw", "lr": 0.003}},
        "exports": [{"kind": "safetensors"}, {"kind": "onnx"}, {"kind": "onnx_int8"}],
        "output": {"model": "digits-student", "alias": "candidate"},
    }


def _plan(http: httpx.Client, spec: Json) -> None:
    screen.plan(service.ask(http, "POST", "/v1/jobs/plan", json=spec))


def _distill(http: httpx.Client, spec: Json, seed: int) -> Made:
    """Submits the job and watches it. Raises Refused when it does not succeed."""
    order = spec | {"name": f"digits, seed {seed}", "training": spec["training"] | {"seed": seed}}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    job = service.ask(http, "POST", "/v1/jobs", json=order, headers=key)
    try:
        screen.follow(job, service.events(http, job["id"]))
    except KeyboardInterrupt:  # else the next run would wait for it
        service.ask(http, "POST", f"/v1/jobs/{job['id']}/cancel")
        raise
    job = service.ask(http, "GET", f"/v1/jobs/{job['id']}")
    if job["status"] != "succeeded":
        error = job["error"] or {"code": job["status"], "detail": "The job did not succeed."}
        raise Refused(f"{error['code']}: {error['detail']}")
    name, _, version = job["output"]["model"].partition("@")
    report = service.ask(http, "GET", f"/v1/jobs/{job['id']}/report")
    return Made(report, f"/v1/models/{name}/versions/{version}")


def _measured(student: Path) -> dict[str, outside.Measured]:
    """Both models in the same way, for the report knows the student's files alone."""
    files = {"teacher": FOLDER / "teacher.onnx", "student": student / "model.onnx"}
    with screen.doing("measuring both in plain onnxruntime"):
        return {name: outside.measure(file) for name, file in files.items()}


def _agree(http: httpx.Client, version: str, folder: Path, digits: list[Digit], files: list[Json]) -> bool:
    """Three ways to the same answers, over all test images."""
    _keep_a_seven(digits)
    ways = {
        "POST /predict": _predicted(http, version, digits),
        "transformers": outside.by_transformers(folder, digits),
        "onnxruntime": outside.by_onnxruntime(folder, digits),
    }
    labels = np.array([digit.label for digit in digits])
    accuracies = {name: float((found.argmax(-1) == labels).mean()) for name, found in ways.items()}
    stacked = np.stack(list(ways.values()))
    difference = float((stacked.max(0) - stacked.min(0)).max())
    screen.agreement(accuracies, difference, AGREE, folder, files)
    return difference <= AGREE


def _predicted(http: httpx.Client, version: str, digits: list[Digit]) -> outside.Probabilities:
    _, _, _, name, _, number = version.split("/")
    inputs = [base64.b64encode(digit.png).decode() for digit in digits]
    order = {"model": f"{name}@{number}", "inputs": inputs, "top_k": len(LABELS)}
    answers = service.ask(http, "POST", "/predict", json=order)["predictions"]
    screen.answers(answers[::SHOWN], [LABELS[digit.label] for digit in digits[::SHOWN]])
    return np.array([_in_order(answer) for answer in answers])


def _in_order(answer: dict[str, Any]) -> list[float]:
    by_label = {one["label"]: one["probability"] for one in answer["top"]}
    return [by_label[label] for label in LABELS]


def _keep_a_seven(digits: list[Digit]) -> None:
    """For whoever wants to try curl."""
    seven = next(digit for digit in digits if LABELS[digit.label] == "7")
    (FOLDER / "seven.png").write_bytes(seven.png)


if __name__ == "__main__":
    sys.exit(main())
