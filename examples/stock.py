"""`python -m examples.stock` puts all that the specs in examples/specs name into a running service.

Images: the dataset `digits`, and teachers of three families for it. Tables: `iris` with a forest that knows
its classes, `diabetes` with a forest that knows its numbers. Texts: `docstrings` with a small BERT. The
teachers are trained here and now, which takes a minute or two.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import transformers

from examples import diabetes, iris, text
from examples.digits import service, teacher
from examples.digits.rows import Digit, deal, parquet

URL = "http://127.0.0.1:8000"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.stock", description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=URL, help=f"the service, {URL}; STILLHOUSE_KEY if it asks for one")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with service.client(options.url, os.environ.get("STILLHOUSE_KEY")) as http:
            put(http, told=print)
    except (service.Refused, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def put(http: httpx.Client, *, told: Callable[[str], None], epochs: int = teacher.EPOCHS) -> None:
    """told: what is there now. epochs: of the teachers of images and texts."""
    with TemporaryDirectory() as folder:
        _images(http, Path(folder), told, epochs)
        _tables(http, Path(folder), told)
        _texts(http, Path(folder), told, epochs)


def _images(http: httpx.Client, folder: Path, told: Callable[[str], None], epochs: int) -> None:
    hands = deal()
    files = {
        name: (f"{name}.parquet", parquet(hands[name], labeled=name != "unlabeled"))
        for name in ("train", "validation", "test", "unlabeled")
    }
    told(service.ask(http, "POST", "/v1/datasets", data={"name": "digits"}, files=files)["reference"])
    for name, config in teacher.TEACHERS.items():
        told(_image_teacher(http, folder / name, name, config, hands["teacher"], epochs))


def _image_teacher(
    http: httpx.Client,
    folder: Path,
    name: str,
    config: transformers.PreTrainedConfig,
    digits: list[Digit],
    epochs: int,
) -> str:
    teacher.train(digits, folder, lambda _: None, config=config, epochs=epochs)
    return _model(http, name, {"file": ("teacher.zip", teacher.packed(folder))})


def _tables(http: httpx.Client, folder: Path, told: Callable[[str], None]) -> None:
    for name, expert, label, task, write in (
        ("iris", "forest", "species", "tabular_classification", iris.write),
        ("diabetes", "diabetes-forest", "progression", "tabular_regression", diabetes.write),
    ):
        write(folder)
        form = {"name": name, "label": label, "splits": '{"train": 0.6, "test": 0.4}'}
        told(_dataset(http, form, folder / f"{name}.csv"))
        upload = {"file": ("forest.onnx", (folder / "forest.onnx").read_bytes())}
        told(_model(http, expert, upload, task=task, labels=None if name == "iris" else f'["{label}"]'))


def _texts(http: httpx.Client, folder: Path, told: Callable[[str], None], epochs: int) -> None:
    text.write(folder, epochs=min(epochs, 6))
    files = {
        name: (f"{name}.csv", (folder / f"{name}.csv").read_bytes())
        for name in ("train", "unlabeled", "test")
    }
    form = {"name": "docstrings", "label": "subject"}
    told(service.ask(http, "POST", "/v1/datasets", data=form, files=files)["reference"])
    told(_model(http, "docstrings-bert", {"file": ("teacher.zip", (folder / "teacher.zip").read_bytes())}))


def _dataset(http: httpx.Client, form: dict[str, str], file: Path) -> str:
    upload = {"file": (file.name, file.read_bytes())}
    return str(service.ask(http, "POST", "/v1/datasets", data=form, files=upload)["reference"])


def _model(http: httpx.Client, name: str, upload: dict[str, tuple[str, bytes]], **form: str | None) -> str:
    said = {"name": name, **{key: value for key, value in form.items() if value is not None}}
    return str(service.ask(http, "POST", "/v1/models", data=said, files=upload)["reference"])


if __name__ == "__main__":
    sys.exit(main())
