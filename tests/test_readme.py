"""The README's session by hand, run as it is written."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from app.settings import Settings

ROOT = Path(__file__).parents[1]


def test_the_session_by_hand_runs_as_written(service: Callable[..., httpx.Client], tmp_path: Path) -> None:
    client = service()
    section = (ROOT / "README.md").read_text().split("## By hand")[1]
    script = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[0]
    script = script.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
    script = script.replace(".venv/bin/python", sys.executable)
    script = script.replace("curl -s", "curl --fail-with-body -S -s")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"ok":true' in done.stdout
    assert "event: job.ended" in done.stdout
    assert "control" in done.stdout
    assert '"predictions":[{"label":"virginica"' in done.stdout.replace(" ", "")
    reached = re.search(r"The student reaches ([0-9.]+)% accuracy", done.stdout)
    assert reached is not None
    assert float(reached[1]) > 85
    assert (tmp_path / "data/iris/tiny.onnx").stat().st_size > 0


def test_the_settings_it_names_are_those_that_there_are() -> None:
    table = (ROOT / "README.md").read_text().split("| setting (`STILLHOUSE_...`)")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.lower() for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)}
    assert len(named) > 10
    assert named <= set(Settings.model_fields)
