"""Where a job's training stands, kept so that a later attempt goes on from there, to the last bit.

A checkpoint is a manifest, canonical JSON, and files of tensors, all blobs: the runs that are over with their
best states, each stored once, and all that moves in the run that goes on. The files are stored first, then
the manifest, then the row, whose newest two and best are kept. What is read back is verified; where it is
damaged the one before counts, and the next one that is saved takes its place. Training waits while one is
saved, and saving takes a twentieth of its time.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Protocol

import torch

from app import traces
from app.db.tables import JobCheckpoint
from app.errors import BlobCorrupt, NotFound, Unavailable
from app.ports.blobs import Blob
from app.services.jobs import Json
from worker.ends import Left
from worker.engine.device import out_of_memory
from worker.engine.distill import Trained
from worker.engine.pace import Pace
from worker.engine.packing import Tensors, canonical, opened, pack, serialized, store, unpack
from worker.engine.standing import Standing, State
from worker.engine.validate import Order

FORMAT = 1
TOLD = [one.name for one in fields(Trained) if one.name not in ("state", "architecture")]


class Stop(Protocol):
    """What is wanted of an attempt.

    finish: keep what there is, and go on without more training. leave: save a checkpoint and go.
    """

    finish: threading.Event
    leave: threading.Event


@dataclass(frozen=True)
class Run:
    """One that is over. trained: without architectures. notes: for the report."""

    trained: list[Trained]
    log_losses: list[float]
    notes: list[str]


class Checkpoints:
    """Of one job. What no checkpoint tells of begins anew. keeps: False: it only reads, as all ranks but the
    first do."""

    def __init__(
        self, order: Order, stop: Stop, clock: Callable[[], float] = time.monotonic, *, keeps: bool = True
    ) -> None:
        self._order, self._stop, self._clock, self._keeps = order, stop, clock, keeps
        self.pace = Pace(order.parts.settings.checkpoint_s, clock)
        self._folder = order.folder / "checkpoint"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._runs: dict[str, Run] = {}
        self._going: tuple[str, State] | None = None
        self._files: dict[str, Blob] = {}  # that are stored already and do not change
        self._best: tuple[str, int] | None = None  # run and step, as of the last one
        self._newest = order.checkpoint_step
        self._rows: list[JobCheckpoint] = []
        self._void: list[str] = []  # manifests of those from which this attempt does not go on
        self._warned = self._restored = False

    # ---- where to go on

    def load(self) -> None:
        """The newest one that is sound, if there is one of this order."""
        self._runs, self._going, self._files = {}, None, {}
        self._rows = self._order.journal.checkpoints()
        for row in self._rows:
            try:
                manifest = json.loads(b"".join(self._order.parts.blobs.read(row.manifest)))
                if not self._of_this_order(manifest["fingerprint"], row.step):
                    break
                self._take_in(manifest)
            except (BlobCorrupt, NotFound, LookupError, ValueError, TypeError) as error:
                instead = "training begins anew" if row is self._rows[-1] else "the one before it counts"
                self._order.journal.warn(
                    "checkpoint_damaged",
                    f"The checkpoint of step {row.step} is damaged or gone, so {instead}. "
                    "If this happens again, check the store of the blobs.",
                    step=row.step,
                    why=type(error).__name__,
                )
            else:
                where = f", in the run {self._going[0]}" if self._going else ""
                self._order.journal.note(
                    f"going on from the checkpoint of step {row.step}{where}", step=row.step
                )
                self._go_on_from(row.step)
                return
        self._go_on_from(0)

    def _go_on_from(self, step: int) -> None:
        """What was kept beyond it makes room for what is kept from now on."""
        self._newest = step
        self._void = [row.manifest for row in self._rows if row.step > step]

    def over(self, name: str) -> Run | None:
        """A run that need not be done again."""
        return self._runs.get(name)

    def knows(self, name: str) -> bool:
        """Whether the run was begun."""
        return name in self._runs or (self._going is not None and self._going[0] == name)

    def restore(self, standing: Standing, beginning: State) -> None:
        """The run goes on from where it was left, or begins. Called again, it goes back to what was kept
        since; but not to a place from which a loss broke twice."""
        if self._restored:
            self.load()
        self._restored = True
        state = self._going[1] if self._going and self._going[0] == standing.name else None
        if state is not None and state["halvings"] < self._order.adjustments.halvings - 1:
            state = None
        try:
            if state is None:
                self._go_on_from(self._over_steps())
            standing.load_state_dict(state or beginning)
        except (RuntimeError, LookupError, ValueError, TypeError) as error:
            if state is None or out_of_memory(error):
                raise
            self._order.journal.warn(
                "checkpoint_unfit",
                f"What was kept of the run {standing.name} does not fit it: it begins anew.",
            )
            self._go_on_from(self._over_steps())
            standing.load_state_dict(beginning)

    # ---- what is kept

    def keep(self, standing: Standing) -> None:
        """After every step; costs nothing unless one is due. Raises Left."""
        if self._stop.leave.is_set():
            self._save(standing)
            raise Left
        if self.pace.due():
            self._save(standing)

    def end(self, standing: Standing, run: Run) -> None:
        """A run is over."""
        self._runs[standing.name] = run
        self._going, self._restored = None, False
        self._save(standing)

    def _save(self, standing: Standing) -> None:
        """Nothing where it would not be newer, or not be good. Trouble with the disk or the store is told,
        and training goes on."""
        over = standing.name in self._runs
        step = self._over_steps() + (0 if over else standing.progress.step)
        if not self._keeps or step <= self._newest:
            return
        begun = self._clock()
        try:
            if standing.sound:
                with traces.span("checkpoint", step=step):
                    self._write(standing, step, over=over)
                self._newest, self._warned = step, False
        except (OSError, Unavailable, BlobCorrupt) as error:
            self._warn(step, error)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._warn(step, error)
        finally:
            self.pace.saved(begun)

    def _over_steps(self) -> int:
        """Of the runs that are over, each with its end, which counts as a step."""
        return sum(run.trained[-1].steps + 1 for run in self._runs.values())

    def _write(self, standing: Standing, step: int, *, over: bool) -> None:
        begun = self._clock()
        files: dict[str, Blob] = {}
        runs = [self._run(name, run, files) for name, run in self._runs.items()]
        going = None if over else self._moving(standing, files)
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint(self._order),
            "position": {
                "step": step,
                "run": standing.name,
                "run_step": standing.progress.step,
                "over": over,
            },
            "runs": runs,
            "going": going,
            "files": [{"name": name, "sha256": one.sha256, "size": one.size} for name, one in files.items()],
        }
        best = standing.progress.best[-1]
        blob = self._store("manifest.json", [canonical(manifest)])
        self._order.journal.checkpoint(
            step=step,
            manifest=blob.sha256,
            size=blob.size + sum(one.size for one in files.values()),
            best=best.step > 0 and (standing.name, best.step) != self._best and not _control(standing.name),
            metrics={name: value for name, value in best.metrics.items() if math.isfinite(value)},
            seconds=self._clock() - begun,
            void=self._void,
        )
        self._void = []
        self._best = (standing.name, best.step)

    def _run(self, name: str, run: Run, files: dict[str, Blob]) -> Json:
        file, tensors = f"{name}.safetensors", Tensors()
        packed = pack([one.state for one in run.trained], tensors)
        files[file] = self._once(file, file, tensors)
        told = [{key: getattr(one, key) for key in TOLD} for one in run.trained]
        said = {
            "name": name,
            "file": file,
            "states": packed,
            "log_losses": run.log_losses,
            "notes": run.notes,
        }
        return {**said, "trained": pack(told, {})}

    def _moving(self, standing: Standing, files: dict[str, Blob]) -> Json:
        """The best states change once an epoch at most, so they have files of their own."""
        state, best = standing.state_dict(), []
        for place, one in enumerate(state["progress"]["best"]):
            file, tensors = f"best-{place}.safetensors", Tensors()
            best.append({"file": file, "state": pack(one.pop("state"), tensors)})
            files[file] = self._once(f"{standing.name}-{place}-{one['step']}", file, tensors)
        tensors = Tensors()
        packed = pack(state, tensors)
        files["going.safetensors"] = self._store("going.safetensors", serialized(tensors))
        halvings = self._order.adjustments.halvings
        return {"name": standing.name, "halvings": halvings, "state": packed, "best": best}

    def _once(self, what: str, file: str, tensors: Mapping[str, torch.Tensor]) -> Blob:
        if what not in self._files:
            self._files[what] = self._store(file, serialized(tensors))
        return self._files[what]

    def _store(self, name: str, chunks: Any) -> Blob:
        return store(self._order.parts.blobs, self._folder / name, chunks)

    def _warn(self, step: int, error: Exception) -> None:
        """Once a trouble."""
        if not self._warned:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            self._order.journal.warn(
                "checkpoint_not_kept",
                f"The checkpoint of step {step} could not be stored ({why}). Training goes on, and it is "
                "tried again; a crash meanwhile loses what was learned since the one before.",
                step=step,
            )
        self._warned = True

    # ---- how it is read back

    def _fetched(self, sha256: str) -> Tensors:
        """Verified by its sha256. Raises BlobCorrupt, NotFound."""
        path = self._folder / sha256
        self._order.parts.blobs.fetch(sha256, path)
        try:
            return opened(path)
        finally:
            path.unlink()

    def _of_this_order(self, before: Json, step: int) -> bool:
        """Another machine goes on as well as it can, and says so; another order begins anew."""
        now = fingerprint(self._order)
        if before["spec_digest"] != now["spec_digest"]:
            self._order.journal.note(
                f"the checkpoint of step {step} is of another order: training begins anew"
            )
            return False
        changed = [f"{key} {before.get(key)} became {now[key]}" for key in now if before.get(key) != now[key]]
        if changed:
            self._order.journal.warn(
                "not_bit_identical",
                f"Training goes on from step {step}, but not on what it began on: {', '.join(changed)}. "
                "Its weights will not be those of an uninterrupted run to the last bit.",
                step=step,
            )
        return True

    def _take_in(self, manifest: Json) -> None:
        """All of it or nothing. Raises BlobCorrupt, NotFound, LookupError, ValueError, TypeError."""
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}")
        tensors = {one["name"]: self._fetched(one["sha256"]) for one in manifest["files"]}
        runs = {}
        for one in manifest["runs"]:
            states, told = unpack(one["states"], tensors[one["file"]]), unpack(one["trained"], {})
            trained = [Trained(state=state, **said) for state, said in zip(states, told, strict=True)]
            runs[one["name"]] = Run(trained, one["log_losses"], one["notes"])
        going = manifest["going"]
        if going is not None:
            state = unpack(going["state"], tensors["going.safetensors"])
            for best, kept in zip(state["progress"]["best"], going["best"], strict=True):
                best["state"] = unpack(kept["state"], tensors[kept["file"]])
            self._going = (going["name"], state | {"halvings": going["halvings"]})
        self._runs = runs
        for one in manifest["files"]:
            if one["name"] in {f"{name}.safetensors" for name in runs}:
                self._files[one["name"]] = Blob(one["sha256"], one["size"])


def fingerprint(order: Order) -> Json:
    """What bits depend on."""
    on = order.device.on
    machine = torch.cuda.get_device_name(on) if on.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "spec_digest": order.spec_digest,
        "code": version("stillhouse"),
        "torch": torch.__version__,
        "device": f"{on.type} ({machine})",
        "dtype": str(order.device.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _control(name: str) -> bool:
    return name.startswith("control-")
