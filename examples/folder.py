"""The one argument of the examples that write files."""

import argparse
from pathlib import Path


def folder_argument(program: str, doc: str, default: str) -> Path:
    """The folder that the command line names, made where it is not there yet. doc: of the program."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=doc.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(default), help=f"{default} by default")
    folder: Path = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{folder} cannot be made: {error.strerror}")
    return folder
