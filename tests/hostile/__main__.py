"""`make hostile`: every hostile file through the API of a real service. Ends with 1 if one got through."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hostile.corpus import LIMITS, corpus
from tests.hostile.run import attack
from tests.service import serving, settings_in


def main() -> int:
    with TemporaryDirectory(prefix="stillhouse-hostile-") as folder:
        settings = settings_in(Path(folder), **LIMITS)
        with serving(settings) as client:
            outcome = attack(client, settings, corpus())
    print("\n".join([*outcome.told, f"{len(outcome.told)} files", *outcome.failures]))
    return bool(outcome.failures)


if __name__ == "__main__":
    sys.exit(main())
