"""A job without torch, on the same rows and blobs as a real one: its training is a chain of hashes.

What comes out tells by itself whether it is what undisturbed training makes. A job whose name begins with
`true` is handed to the real worker.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.db.tables import Job
from app.errors import BlobCorrupt, NotFound
from app.ports.parts import Parts
from app.services import models
from app.services.models import Checkpoint
from app.services.scratch import attempt_folder
from tests.chaos.chain import STEPS, link, start
from tests.chaos.sabotage import sabotaged
from worker.ends import Left
from worker.journal import Journal

ROOT = Path(__file__).parents[4]
STEP_S = float(os.environ.get("CHAOS_STEP_S", "0.02"))
SAVED_EVERY = 5  # steps
BYTES = int(os.environ.get("CHAOS_BYTES", "0"))  # of a student, at least
Json = dict[str, Any]


def run(job: Job, attempt: int, parts: Parts, stop: Any, *_company: Any) -> None:
    _sign(f"{job.id} {attempt}\n")
    if job.name.startswith("true"):
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "worker", job.id, str(attempt)])
    folder = attempt_folder(parts.settings, job.id, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _Drill(job, attempt, parts, stop).run(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Drill:
    def __init__(self, job: Job, attempt: int, parts: Parts, stop: Any) -> None:
        self._job, self._attempt, self._parts, self._stop = job, attempt, parts, stop
        self._journal = Journal(parts.sessions, job.id, attempt)

    def run(self, folder: Path) -> None:
        phase = self._journal.phase
        with phase("validate"):
            pass
        with phase("fetch"):
            self._parts.blobs.fetch(self._job.resolved["data"]["train"]["sha256"], folder / "data")
        for name in ("preflight", "signals"):
            with phase(name):
                pass
        with phase("train"):
            step, state = self._train()
        with phase("evaluate"):
            self._journal.points("report", step, {"accuracy": 1.0})
        content = json.dumps({"job": self._job.id, "step": step, "state": state}).encode().ljust(BYTES)
        late: list[Callable[[], object]] = []
        with phase("export"):
            student = self._put(content, late)
        with phase("register"):
            report = self._put(json.dumps({"attempt": self._attempt}).encode(), late)
            checkpoint = self._checkpoint(student)
            manifest = self._parts.blobs.put([models.manifest(checkpoint)]).sha256
        artifacts = [{"name": "report.json", "media_type": "application/json", **report}]
        outcome = {"attempt": self._attempt, "steps": step}
        self._journal.succeed(checkpoint, manifest, artifacts, outcome, {})
        for put in late:
            put()

    def _train(self) -> tuple[int, str]:
        step, state = self._resumed()
        while step < STEPS and not self._stop.finish.is_set():
            state, step = link(state), step + 1
            time.sleep(STEP_S)
            self._journal.points("train", step, {"loss": 1.0 / step})
            self._journal.progress(step / STEPS, step=step)
            if step % SAVED_EVERY == 0:
                self._save(step, state)
            if self._stop.leave.is_set():
                raise Left
        return step, state

    def _resumed(self) -> tuple[int, str]:
        for saved in self._journal.checkpoints():
            try:
                kept = json.loads(b"".join(self._parts.blobs.read(saved.manifest)))
                return int(kept["step"]), str(kept["state"])
            except (BlobCorrupt, NotFound, ValueError):
                continue
        return 0, start(self._job.id)

    def _save(self, step: int, state: str) -> None:
        saved = self._parts.blobs.put([json.dumps({"step": step, "state": state}).encode()])
        self._journal.checkpoint(step=step, manifest=saved.sha256, size=saved.size, best=True, metrics={})

    def _put(self, content: bytes, late: list[Callable[[], object]]) -> Json:
        """The sabotaged build commits first and stores afterwards."""
        if sabotaged("commit_before_blobs"):
            late.append(lambda: self._parts.blobs.put([content]))
        else:
            self._parts.blobs.put([content])
        return {"sha256": sha256(content).hexdigest(), "size": len(content)}

    def _checkpoint(self, student: Json) -> Checkpoint:
        resolved = self._job.resolved
        return Checkpoint(
            source="job",
            format="mlp",
            family="mlp",
            task=self._job.task,
            labels=resolved["labels"],
            input=resolved["input"],
            preprocessing=resolved["preprocessing"],
            gives=["logits"],
            details={"config": {}},
            parameters=1,
            files=[{"path": "model.onnx", **student}],
            lineage={"job": self._job.id, "teachers": [], "datasets": []},
        )


def _sign(line: str) -> None:
    """On paper of its own: who began is known even where the database forgets it."""
    paper = os.environ.get("CHAOS_STARTS")
    if paper:
        descriptor = os.open(paper, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
