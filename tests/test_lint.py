"""What runs code that somebody sent is banned by lint; these lines show that the ban catches each of it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BANNED = [
    "import pickle",
    "from pickle import loads",
    "import joblib",
    "from joblib import load",
    "import marshal",
    "import shelve",
    "import dill",
    "import cloudpickle",
    "torch.load(path)",
    "torch.jit.load(path)",
    "from torch import load",
    "yaml.load(text)",
    "yaml.unsafe_load(text)",
    "eval(text)",
    "exec(text)",
    "subprocess.run(command, shell=True)",
    "subprocess.Popen(command, shell=True)",
    "os.system(command)",
    "os.popen(command)",
]


@pytest.mark.parametrize(
    "folder", ["app", "app/api", "worker", "worker/engine", "examples", "benchmarks", "migrations"]
)
def test_code_that_runs_code_is_caught(folder: str) -> None:
    """Each line by itself, behind the imports that it needs."""
    top = ["import os", "import subprocess", "", "import torch", "import yaml", ""]
    caught = lint(f"{folder}/example.py", "\n".join([*top, *BANNED, ""]))
    missed = [line for number, line in enumerate(BANNED, len(top) + 1) if number not in caught]
    assert not missed


def test_what_is_allowed_is_not_caught() -> None:
    code = "import yaml\n\nyaml.safe_load(text)\nsafetensors.torch.load(data)\nmodel.eval()\n"
    assert not lint("app/example.py", code)


def test_no_line_of_ours_is_excused() -> None:
    """A `noqa` would be a hole; the one way to have one is to change this test."""
    hole = re.compile(r"noqa(?!: [A-Z0-9, ]*)|noqa: .*(TID251|S10|S30[1267]|S50|S60)")
    folders = ("app", "worker", "examples", "benchmarks", "migrations")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in paths if hole.search(path.read_text())]


def test_no_library_is_told_to_trust_or_could_fetch_a_kernel() -> None:
    folders = ("app", "worker", "examples", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in paths if "trust_remote_code" in path.read_text()]
    assert importlib.util.find_spec("kernels") is None  # transformers would fetch code with it
    pinned = (ROOT / "constraints.txt").read_text() + (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"^\W*kernels\b", pinned, re.MULTILINE)


def lint(name: str, code: str) -> set[int]:
    """The lines on which a rule of safety complains of code that would stand in the file `name`."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", "--stdin-filename", name, "-"]
    said = subprocess.run(command, input=code, cwd=ROOT, capture_output=True, text=True, check=False)
    rules = ("TID251", "S1", "S3", "S5", "S6")
    complaints = json.loads(said.stdout)
    return {one["location"]["row"] for one in complaints if (one["code"] or "").startswith(rules)}
