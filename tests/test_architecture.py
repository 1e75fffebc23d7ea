"""What the house promises about its own shape: the API runs without torch, and a loss is one new file."""

import shutil
from collections.abc import Callable
from pathlib import Path

from httpx import Client

import app

SOURCE = Path(app.__file__).parent
WITHOUT_TORCH = """
import importlib, pkgutil, runpy, sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "datasets", "sklearn", "scipy", "onnxscript"}:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Refuses())
import app
for module in pkgutil.walk_packages(app.__path__, "app."):
    if not module.name.endswith("._torch"):
        importlib.import_module(module.name)
runpy.run_module("app", run_name="__main__")
"""
TVD = '''"""Total variation."""

from typing import TYPE_CHECKING, Literal

from app.catalog.base import Batch, Loss, Outputs

if TYPE_CHECKING:
    from torch import Tensor


class TVD(Loss):
    """Half the sum of the differences between the class probabilities."""

    kind: Literal["tvd"] = "tvd"

    def formula(self, student: Outputs, teacher: Outputs, batch: Batch) -> "Tensor":
        return (student.logits.softmax(-1) - teacher.logits.softmax(-1)).abs().sum(-1).mean() / 2
'''
SPEC = {
    "task": {"kind": "image_classification"},
    "teachers": [{"model": "model:no-such-teacher"}],
    "student": {"architecture": {"kind": "resnet"}},
    "data": {"train": "dataset:no-such-data"},
}


def test_every_module_of_the_app_and_the_server_itself_run_without_torch(
    service: Callable[..., Client],
) -> None:
    client = service("-c", WITHOUT_TORCH)
    assert client.get("/v1/capabilities").status_code == 200
    assert client.get("/openapi.json").status_code == 200


def test_adding_a_loss_is_one_new_file(service: Callable[..., Client], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(SOURCE, copy / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "app" / "catalog" / "losses" / "tvd.py").write_text(TVD)
    client = service(folder=copy)

    shown = client.get("/v1/capabilities").json()
    tvd = next(loss for loss in shown["losses"] if loss["kind"] == "tvd")
    assert "Half the sum of the differences" in str(tvd)
    assert "TVD" in client.get("/openapi.json").json()["components"]["schemas"]

    assert not _faults(client, {"kind": "tvd", "weight": 0.5})
    assert _faults(client, {"kind": "tvd", "temprature": 4}) == ["/losses/0/temprature"]
    assert _faults(client, {"kind": "no_such_loss"}) == ["/losses/0/kind"]


def _faults(client: Client, loss: dict[str, object]) -> list[str]:
    """Where planning a job with this loss finds fault with the loss; other parts of the job are wrong too."""
    answer = client.post("/v1/jobs/plan", json=SPEC | {"losses": [loss]})
    assert answer.status_code in (200, 422)  # a spec that can be read, and one that cannot
    found = answer.json().get("checks") or answer.json()["errors"]
    pointers = [fault["pointer"].replace("/tvd", "") for fault in found]
    return [pointer for pointer in pointers if pointer.startswith("/losses")]
