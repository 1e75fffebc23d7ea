"""`make chaos FAULTS=100`: faults from a seed, half of them embedded and half in production; 1 when a promise
was broken.
"""

import argparse
import logging
import secrets
import statistics
import sys
from collections import Counter
from pathlib import Path

import structlog

from tests.chaos import runner
from tests.chaos.checker import DOUBLED, LOST, WRONG
from tests.chaos.runner import Result
from tests.chaos.scenes import SCENES, play

EVERY = 100  # faults, of which one is told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--stack", choices=[*runner.STACKS, "both"], default="both")
    parser.add_argument("--only", action="append", default=[], help="the name of a fault; several times")
    parser.add_argument("--depth", type=int, default=6, help="jobs that wait or run at any time")
    parser.add_argument("--true", type=float, default=0.0, help="share of jobs for the real worker")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no more faults begin")
    parser.add_argument("--keep", type=Path, help="an empty folder that stays, with the logs")
    parser.add_argument(
        "--prove", action="store_true", help="play the sabotages and their sound twins instead"
    )
    given = parser.parse_args()
    # the faults are told here; that a bell of this process found no broker is one of them
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if given.prove:
        return _prove()
    kinds = list(runner.STACKS) if given.stack == "both" else [given.stack]
    print(f"seed {given.seed}", flush=True)
    results = []
    for place, kind in enumerate(kinds):
        with runner.scratch() as scratch:
            folder = (given.keep or Path(scratch)) / kind
            folder.mkdir(parents=True)
            faults = given.faults // len(kinds) + (place < given.faults % len(kinds))
            results.append(_run(kind, folder, faults, given))
    print()
    _tell("all", results)
    return int(any(result.violations for result in results))


def _prove() -> int:
    """Each scene on the build that lacks its protection, and on the sound one."""
    wrong = 0
    for name, scene in SCENES.items():
        for sabotage in (name, ""):
            with runner.scratch() as folder:
                rules = {violation.rule for violation in play(scene, Path(folder) / name, sabotage)}
            as_promised = bool(rules & scene.rules) if sabotage else not rules
            wrong += not as_promised
            build = "sabotaged" if sabotage else "sound"
            print(f"{name:22}{build:12}{'ok ' if as_promised else 'NOT'} {sorted(rules)}", flush=True)
    return int(wrong > 0)


def _run(kind: str, folder: Path, faults: int, given: argparse.Namespace) -> Result:
    from tests.chaos.true_order import true_order

    result = runner.run(
        kind,
        folder,
        faults=faults,
        seed=given.seed,
        depth=given.depth,
        true=given.true,
        only=given.only,
        minutes=given.minutes,
        prepare=true_order if given.true else None,
        tell=lambda count: print(f"{kind}: {count} faults", flush=True) if count % EVERY == 0 else None,
    )
    _tell(kind, [result])
    return result


def _tell(kind: str, results: list[Result]) -> None:
    faults = sum((result.faults for result in results), Counter[str]())
    statuses = sum((result.statuses for result in results), Counter[str]())
    deaths = sum((result.deaths for result in results), Counter[str]())
    violations = [violation for result in results for violation in result.violations]
    acknowledged = sum(
        call.kind == "submit" and call.acknowledged_at is not None
        for result in results
        for call in result.history.calls
    )
    attempts = sum(row.attempt for result in results for row in result.history.rows)
    seconds = sum(result.seconds for result in results)
    print(
        f"{kind}: {faults.total()} faults in {seconds:.0f} s, {acknowledged} jobs acknowledged, "
        f"{attempts} attempts"
    )
    print(f"  {'fault':32}{'times':>6}{'p50 s':>8}{'p99 s':>8}   until a job that ran then worked again")
    for name, times in sorted(faults.items()):
        found = sorted(one for result in results for one in result.recovery_s.get(name, []))
        p50, p99 = (_quantile(found, share) for share in (0.5, 0.99))
        print(f"  {name:32}{times:6}{p50:8.2f}{p99:8.2f}")
    print("  jobs: " + ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())))
    counted = Counter(violation.rule for violation in violations)
    others = len(violations) - counted[LOST] - counted[DOUBLED] - counted[WRONG]
    print(
        f"  lost {counted[LOST]}, doubled {counted[DOUBLED]}, wrong artifacts {counted[WRONG]}, "
        f"other broken promises {others}"
    )
    if deaths:
        print("  servers that died by themselves: " + ", ".join(f"{n} {c}" for n, c in deaths.items()))
    for violation in violations[:20]:
        print(f"  ! {violation.rule}: {violation.about}: {violation.detail}"[:400])
    sys.stdout.flush()


def _quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


if __name__ == "__main__":
    sys.exit(main())
