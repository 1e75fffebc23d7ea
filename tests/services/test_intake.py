"""The child that opens files from outside: limited, without secrets, and believed only after parsing."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import Fault, Invalid, InvalidData, UnsafeFormat
from app.services import intake
from app.settings import Settings

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(body, **settings)`: a real child whose `take(options, source, out)` has this body.

    The kind lies in a copy of the package, as a kind of ours does.
    """
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "app").mkdir(parents=True)
    out.mkdir()
    for name in ("errors.py", "exit_codes.py"):
        (root / "app" / name).symlink_to(intake.ROOT / "app" / name)
    (root / "app" / "__init__.py").touch()
    (root / "app" / "intake").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (root / "app" / "intake" / name).symlink_to(intake.ROOT / "app" / "intake" / name)
    monkeypatch.setattr(intake, "ROOT", root)

    def start(body: str, options: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        head = (
            "import os, signal, subprocess, time\nfrom app.errors import *\ndef take(options, source, out):\n"
        )
        (root / "app" / "intake" / "trial.py").write_text(head + textwrap.indent(body, "    "))
        settings = Settings(work_dir=tmp_path, **changes)
        return intake.run(settings, "trial", [tmp_path / "file"], options or {}, out)

    return start


def test_the_result_comes_back(run: Run, tmp_path: Path) -> None:
    found = run("return {'options': options, 'source': [str(path) for path in source]}", {"label": "é"})
    assert found["source"] == [str(tmp_path / "file")]
    assert found["options"]["label"] == "é"
    assert set(found["options"]["limits"]) == {"max_bytes", "max_entries", "max_ratio", "max_pixels"}
    assert not list((tmp_path / "out").iterdir())


def test_a_refusal_comes_back_as_the_same_error(run: Run) -> None:
    with pytest.raises(UnsafeFormat) as caught:
        run("raise UnsafeFormat('no', Fault('/file', 'c', 'd', 'f'))")
    assert caught.value.detail == "no"
    assert caught.value.faults == (Fault("/file", "c", "d", "f"),)


def test_a_refusal_without_a_place_is_placed_at_the_file(run: Run) -> None:
    with pytest.raises(Invalid) as caught:
        run("raise Invalid('The archive is damaged; pack it again.')")
    fault = Fault("/file", "invalid_request", "The archive is damaged", "Pack it again.")
    assert caught.value.faults == (fault,)


def test_a_full_disk_is_not_the_file_s_fault(run: Run) -> None:
    with pytest.raises(OSError, match="No space left"):
        run("with open('/dev/full', 'w') as file:\n    file.write('x')")


def test_the_child_sees_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    found = run("return {'environment': dict(os.environ), 'files': os.listdir('/proc/self/fd')}")
    assert "s3cr3t" not in str(found["environment"])
    assert not any(name.startswith(("STILLHOUSE", "AWS")) for name in found["environment"])
    assert len(found["files"]) <= 4  # its three streams, and the one that lists


def test_a_child_out_of_time_is_killed_with_its_children(run: Run, tmp_path: Path) -> None:
    body = (
        "child = subprocess.Popen(['sleep', '60'])\n(out / 'pid').write_text(str(child.pid))\ntime.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(InvalidData, match=r"longer than 0\.7 s"):
        run(body, max_intake_s=0.7)
    assert time.monotonic() - began < 5
    assert _gone(int((tmp_path / "out" / "pid").read_text()))


def test_memory_is_limited(run: Run) -> None:
    with pytest.raises(InvalidData, match="memory"):
        run("return {'size': len(bytes(400_000_000))}", max_intake_bytes=300_000_000)


def test_the_size_of_a_file_is_limited(run: Run) -> None:
    with pytest.raises(InvalidData):
        run("(out / 'large').write_bytes(bytes(3_000_000))\nreturn {}", max_upload_bytes=1_000_000)


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(0)", "1 / 0", "return object()"]
)
def test_a_crash_is_an_error_of_the_data(run: Run, end: str) -> None:
    with pytest.raises(InvalidData):
        run(end)


@pytest.mark.parametrize(
    "answer",
    ["", "{", '{"result": 3}', '{"refusal": {"code": "forbidden", "detail": "", "faults": []}}', '{"x": 1}'],
)
def test_a_forged_answer_is_not_believed(run: Run, answer: str) -> None:
    forge = f"[path] = out.glob('intake-*')\n(path / 'answer.json').write_text({answer!r})\nos._exit(0)"
    with pytest.raises(InvalidData, match="could not be read"):
        run(forge)


def test_an_unexpected_error_does_not_tell_its_message(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidData) as caught:
        run("raise RuntimeError(' '.join(['private', 'row']))")
    shown = capfd.readouterr()
    assert "private row" not in shown.out + shown.err + str(caught.value)
    assert "RuntimeError" in shown.out


def test_the_child_ends_with_its_parent(run: Run, tmp_path: Path) -> None:
    """The parent is a process of its own that is killed while its child sleeps."""
    out, pid_file = tmp_path / "out", tmp_path / "out" / "pid"
    note = f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))"
    run(f"if 'sleep' in options:\n    {note}\n    time.sleep(60)\nreturn {{}}")
    script = f"""
from pathlib import Path
from app.services import intake
from app.settings import Settings
intake.ROOT = Path({str(intake.ROOT)!r})
intake.run(Settings(), "trial", [], {{"sleep": True}}, Path({str(out)!r}))
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    while not (pid_file.exists() and pid_file.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    assert _gone(int(pid_file.read_text()))


def _gone(pid: int) -> bool:
    """Whether the process ends within 5 s; one that nobody has reaped counts as ended."""
    for _ in range(500):
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False
