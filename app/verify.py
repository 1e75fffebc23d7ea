"""`python -m app.verify`: reads every stored blob that a row needs and compares it with its sha256.

Prints a line for each that is missing or damaged, and a sum; the exit code is 1 when there is one.
"""

import argparse
import sys
from collections.abc import Sequence

from app.commands import ended
from app.db.migrate import check_is_there
from app.services import inventory
from app.settings import Settings
from app.wiring import assemble, database_url


def main(words: Sequence[str] | None = None) -> int:
    """words: of the command line; None: this process's own."""
    about = "Reads every stored blob that a row needs and compares it with its sha256."
    argparse.ArgumentParser(prog="python -m app.verify", description=about).parse_args(words)
    return ended(_verify)


def _verify() -> int:
    settings = Settings()
    check_is_there(database_url(settings))
    parts = assemble(settings)
    sound = troubled = 0
    try:
        for trouble in inventory.check(parts):
            if trouble is None:
                sound += 1
            else:
                troubled += 1
                print(f"{trouble.what} {trouble.sha256} of {trouble.named_by}")
    finally:
        parts.close()
    print(f"Blobs that are sound: {sound}; missing or damaged: {troubled}.")
    return 1 if troubled else 0


if __name__ == "__main__":
    sys.exit(main())
