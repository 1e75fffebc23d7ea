"""Named places: what each action does, and that jobs come by every one of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.failpoints import EXITED, NAMES, Failpoints
from tests.chaos.client import Client
from tests.chaos.processes import trainers
from tests.chaos.stack import Stack, embedded
from tests.chaos.true_order import true_order

PLACE = "from app.failpoints import failpoint; failpoint('child.started'); "
PATIENCE_S = 180.0


def passed(armed: str, then: str = "print('passed')", **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"STILLHOUSE_FAILPOINT": armed} | environment
    return subprocess.run(
        [sys.executable, "-c", PLACE + then], env=given, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("action", "code"), [("kill", -signal.SIGKILL), ("exit", EXITED), ("error", 1), ("stall:0.1", 0)]
)
def test_an_action_happens_at_its_place(action: str, code: int) -> None:
    assert passed(f"child.started:{action}").returncode == code
    assert passed(f"blobs.before_put:{action}").stdout == "passed\n"


def test_a_short_write_takes_what_fits_and_then_refuses(tmp_path: Path) -> None:
    write = (
        f"import os; file = os.open({str(tmp_path / 'file')!r}, os.O_WRONLY | os.O_CREAT); "
        "print(os.write(file, b'x' * 100)); os.write(file, b'x')"
    )
    done = passed("child.started:short_write:60", write)
    assert done.stdout == "60\n"
    assert "File too large" in done.stderr


def test_an_action_waits_for_its_visit() -> None:
    assert passed("child.started:exit@2").returncode == 0
    assert passed("child.started:exit@2", "failpoint('child.started')").returncode == EXITED


def test_an_action_happens_once_for_all_who_share_a_folder(tmp_path: Path) -> None:
    codes = [
        passed("child.started:exit", STILLHOUSE_FAILPOINT_ONCE=str(tmp_path)).returncode for _ in range(2)
    ]
    assert codes == [EXITED, 0]


@pytest.mark.parametrize("armed", ["child.begun:kill", "child.started:burn", "child.started", "*:kill@x"])
def test_what_cannot_be_meant_is_refused(armed: str) -> None:
    with pytest.raises(ValueError, match=r"STILLHOUSE_FAILPOINT|invalid literal"):
        Failpoints({"STILLHOUSE_FAILPOINT": armed})


def test_unarmed_it_is_nothing() -> None:
    assert not Failpoints({})
    with pytest.raises(ValueError, match="does not list"):
        Failpoints({"STILLHOUSE_FAILPOINT": "*:tell"}).reach("nowhere")


def test_jobs_come_by_every_place(tmp_path: Path) -> None:
    """A real job that succeeds and keeps checkpoints; one whose trainer dies; one whose supervisor dies."""
    marks = tmp_path / "marks"
    marks.mkdir()
    armed = {"STILLHOUSE_FAILPOINT": "*:tell", "STILLHOUSE_FAILPOINT_ONCE": str(marks)}
    armed |= {"STILLHOUSE_CHECKPOINT_S": "0.01", "CHAOS_STEP_S": "0.2"}
    with embedded(tmp_path, armed) as stack:
        client = Client(stack, 0, depth=0)
        client.true_order = true_order(stack) | {"exports": [{"kind": "safetensors"}]}
        client.submit("true-1")
        _until((marks / "succeed.after_commit").exists)
        drill = client.submit("drill-1").job_id
        os.kill(_trainer(stack, drill, 1), signal.SIGKILL)
        _until((marks / "end.before_commit").exists)
        _trainer(stack, drill, 2)
        (server,) = stack.supervisors
        server.kill()
        server.start()
        _until((marks / "reap.before_commit").exists)
    assert sorted(mark.name for mark in marks.iterdir()) == sorted(NAMES)


def _trainer(stack: Stack, job_id: str | None, attempt: int) -> int:
    """The pid, once it runs."""

    def found() -> list[int]:
        return [pid for pid, one in trainers(stack.supervisors).items() if one == (job_id, attempt)]

    _until(found)
    return found()[0]


def _until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
