"""`python -m tests.fuzz REQUESTS [SEED]`: `make fuzz`. Ends with 1 if anything was found."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.run import fresh_seed, fuzz

GROWTH_KB = 64 * 1024


def main() -> int:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else fresh_seed()
    print(f"seed {seed}")
    with TemporaryDirectory(prefix="stillhouse-fuzz-") as folder:
        findings = fuzz(Path(folder), requests, seed)
    print(findings)
    return bool(findings.failures) or findings.growth_kb > GROWTH_KB


if __name__ == "__main__":
    sys.exit(main())
