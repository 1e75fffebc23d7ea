"""Sends hostile files through the API of a real service and looks at what is left."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.settings import Settings
from tests.hostile.corpus import Attack

REFUSALS = {400, 413, 415, 422}
ANSWER_S = 30.0
OTHER_REASONS = (
    "architectures 'None'",
    "does not say its task",
    "could not be read",
)  # the last: the child died
GROWTH_KB = 150 * 1024


@dataclass
class Outcome:
    """told: what each attack was answered. failures: what must not be."""

    told: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def attack(client: httpx.Client, settings: Settings, attacks: Iterable[Attack]) -> Outcome:
    outcome = Outcome()
    before, blobs = _resident_kb(client), _files(settings, "blobs")
    for one in attacks:
        started = time.monotonic()
        answer = client.post(
            one.path, data=_fields(one), files={"file": (one.filename, one.content)}, timeout=60
        )
        seconds = time.monotonic() - started
        told = answer.json()
        outcome.told.append(
            f"{answer.status_code} {seconds:.1f} s {one.kind}: {one.name}: {told.get('detail', told)}"
        )
        if answer.status_code not in REFUSALS or answer.headers["content-type"] != "application/problem+json":
            outcome.failures.append(f"not refused: {outcome.told[-1]}")
        if any(reason in str(told.get("detail")) for reason in OTHER_REASONS):
            outcome.failures.append(f"refused for another reason: {outcome.told[-1]}")
        if "took longer" in str(told) or seconds > ANSWER_S:
            outcome.failures.append(f"slow: {outcome.told[-1]}")
        if (
            any(word in answer.text for word in ("Traceback", "/work/", ".py", str(settings.work_dir)))
            and ".py" not in one.name
        ):
            outcome.failures.append(f"tells too much: {outcome.told[-1]}")
    if not client.get("/readyz").is_success:
        outcome.failures.append("the service is not ready any more")
    if _resident_kb(client) - before > GROWTH_KB:
        outcome.failures.append(f"memory grew from {before} to {_resident_kb(client)} kB")
    if _files(settings, "blobs") != blobs:
        outcome.failures.append("something was stored")
    if left := _files(settings, "work"):
        outcome.failures.append(f"left behind: {sorted(map(str, left))[:5]}")
    return outcome


def _fields(one: Attack) -> dict[str, str]:
    return {"name": "hostile"} | ({"task": "tabular_classification"} if one.filename == "model.onnx" else {})


def _files(settings: Settings, folder: str) -> set[Path]:
    root = settings.work_dir if folder == "work" else Path(settings.blobs_url.removeprefix("file://"))
    return {path for path in root.rglob("*") if path.is_file()}


def _resident_kb(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return (
        int(
            float(
                next(line.split()[1] for line in lines if line.startswith("process_resident_memory_bytes "))
            )
        )
        // 1024
    )
