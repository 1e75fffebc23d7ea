"""An attempt at an import holds its folder alone, and goes on with what an earlier one has let go of."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.services import import_folders

HOLD = """
import sys
from pathlib import Path
from app.services import import_folders

with import_folders.held(Path(sys.argv[1]), "imp_1", 1) as folder:
    (folder / "part").write_bytes(b"came")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    return tmp_path / "imports"


def test_what_came_is_found_by_the_next_attempt(imports: Path) -> None:
    with import_folders.held(imports, "imp_1", 1) as folder:
        (folder / "part").write_bytes(b"came")
    with import_folders.held(imports, "imp_2", 2) as other:
        assert not (other / "part").exists()
    with import_folders.held(imports, "imp_1", 3) as later:
        assert (later / "part").read_bytes() == b"came"
    assert not folder.exists()


def test_what_another_process_still_holds_is_left_alone_until_it_dies(imports: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(imports)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stale:
        assert stale.stdout is not None
        assert stale.stdout.readline() == b"held\n"
        with import_folders.held(imports, "imp_1", 2) as folder:
            assert not (folder / "part").exists()
            import_folders.clear(imports, "imp_1")
            assert sorted(path.name for path in imports.iterdir()) == ["imp_1-1", "imp_1-2"]
        stale.kill()
    import_folders.clear(imports, "imp_1")
    assert list(imports.iterdir()) == []
