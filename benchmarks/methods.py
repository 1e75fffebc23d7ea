"""What each method is worth on digits with few labels: every example spec over images, five seeds each.

50 labeled images, 337 without a label, a student of 21,914 parameters: the demo's data and student. Each
method is one job with `evaluation.seeds`, whose intervals resample seeds and rows; all share one control,
the same student trained as long on the labels alone, but those that train another student or in another way,
which have their own. What comes out is printed, as the table of docs/methods.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

import examples
from examples import stock
from examples.digits import service

SPECS = Path(examples.__file__).parent / "specs"
CONTROL_OF = "kd"  # the job that trains the control, too
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="names of files in examples/specs; none: all over images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--url", help="a running service that examples.stock has filled")
    options = parser.parse_args()
    if options.url:
        with service.client(options.url, None) as http:
            return compare(http, options.methods, options.seeds)
    with (
        TemporaryDirectory() as folder,
        service.started(Path(folder)) as url,
        service.client(url, None) as http,
    ):
        stock.put(http, told=lambda what: print(f"there is {what}", file=sys.stderr))
        return compare(http, options.methods, options.seeds)


def compare(http: httpx.Client, methods: list[str], seeds: int) -> int:
    """One job after the other: a table row each, as soon as it is known."""
    names = methods or [path.stem for path in sorted(SPECS.glob("*.json")) if _over_images(path)]
    names = [CONTROL_OF, *(name for name in names if name != CONTROL_OF)]
    print(f"| method | accuracy (95 % interval, {seeds} seeds) | minus the control | seconds |")
    print("|---|---|---|---|")
    control = 0.0
    for name in names:
        started = time.monotonic()
        report = _report(http, name, seeds)
        columns = {column["name"]: column["metrics"]["accuracy"] for column in report["columns"]}
        if name == CONTROL_OF:
            control = columns["control"]["value"]
            for other in ("teacher", "control"):
                print(f"| *{other}* | {_shown(columns[other])} | | |")
        own = columns.get("control", {"value": control})["value"]
        gain = f"{100 * (columns['student']['value'] - own):+.1f}"
        gain += f" (its own: {own:.1%})" if own != control else ""
        seconds = time.monotonic() - started
        print(f"| {name} | {_shown(columns['student'])} | {gain} | {seconds:.0f} |", flush=True)
    return 0


def _over_images(path: Path) -> bool:
    return bool(json.loads(path.read_text()).get("task", {}).get("kind") == "image_classification")


def _report(http: httpx.Client, name: str, seeds: int) -> Json:
    spec, usual = (json.loads((SPECS / f"{one}.json").read_text()) for one in (name, CONTROL_OF))
    another = any(spec[part] != usual[part] for part in ("student", "training"))
    compared = ["teacher", "control"] if name == CONTROL_OF or another else ["teacher"]
    spec["evaluation"] = {"seeds": seeds, "compare": compared}
    job = service.ask(http, "POST", "/v1/jobs", json=spec)
    for _ in service.events(http, job["id"]):
        pass  # until it has ended
    job = service.ask(http, "GET", f"/v1/jobs/{job['id']}")
    if job["status"] != "succeeded":
        raise service.Refused(f"{name}: {job['error'] or job['status']}")
    report: Json = service.ask(http, "GET", f"/v1/jobs/{job['id']}/report")
    return report


def _shown(interval: Json) -> str:
    return f"{interval['value']:.1%} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
