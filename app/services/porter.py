"""Threads beside the slots that carry imports out: fetch, check, take in, register.

What was fetched stays in the work folder until the import has ended, so that whoever goes on after a crash
asks for the rest alone; a process on another machine begins anew. A file counts when its size and its hash
are those that the source promised. Then the limited child opens it, as it does with an upload.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from app.db.tables import Import, ModelVersion
from app.errors import Fault, LeaseLost, PayloadTooLarge, SourceAway, StillhouseError, Unavailable
from app.ports.origin import Origin
from app.ports.parts import Parts
from app.services import (
    datasets,
    import_folders,
    import_leases,
    import_orders,
    imports,
    models,
    picking,
    quotas,
    sources,
)
from app.services.datasets import UploadedFile
from app.services.fetching import Fetch
from app.services.import_keeper import Keeper
from app.services.picking import Pick
from app.services.sources import DatasetOrder, ModelOrder, Order
from app.services.stumbling import survived

AT_ONCE = 2  # imports of one process, so that a slow source is not in the way of all
PARTING_S = 5.0  # for an import to come to an end when its worker leaves
LONGEST_WAIT_S = 300.0  # between two tries, unless the source asks for more

_ORDERS: dict[str, type[ModelOrder] | type[DatasetOrder]] = {"model": ModelOrder, "dataset": DatasetOrder}
_PICKS = TypeAdapter(list[Pick])

log = structlog.get_logger()


class Porters:
    """Look every `poll_s` whether there is something to fetch."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._stopping = parts, threading.Event()
        self._under_way: set[Carriage] = set()
        self._threads = [
            threading.Thread(target=self._run, name=f"porter-{number}", daemon=True)
            for number in range(AT_ONCE)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def end(self, within_s: float) -> None:
        """Stops, and hands back what hangs or takes longer, so that another process goes on at once."""
        self.stop()
        deadline = time.monotonic() + min(within_s, PARTING_S)
        for thread in [thread for thread in self._threads if thread.is_alive()]:
            thread.join(max(deadline - time.monotonic(), 0.0))
        for carriage in tuple(self._under_way):
            with survived("porter"):  # else its lease runs out
                carriage.hand_back()

    def _run(self) -> None:
        while not self._stopping.wait(self._parts.settings.poll_s):
            with survived("porter"):
                for carriage in _claimed(self._parts, self._stopping):
                    self._under_way.add(carriage)
                    try:
                        carriage.run()
                    finally:
                        self._under_way.discard(carriage)


def serve(parts: Parts, stopping: threading.Event) -> None:
    """Carries out every import that is due."""
    for carriage in _claimed(parts, stopping):
        carriage.run()


def _claimed(parts: Parts, stopping: threading.Event) -> "Iterator[Carriage]":
    """One after the other, until none is due."""
    while not stopping.is_set():
        with parts.sessions.read() as session:
            if not import_leases.due(session):
                return
        with parts.sessions.write() as session:
            for buried in import_leases.bury(session):
                log.warning("an import is given up", import_id=buried)
            one = import_leases.claim(session, parts.settings.lease_s)
        if one is not None:
            yield Carriage(parts, one, stopping)


class _Stopped(Exception):
    """This worker leaves."""


class Carriage:
    """One attempt at one import."""

    def __init__(self, parts: Parts, one: Import, stopping: threading.Event) -> None:
        self._parts, self._one, self._stopping = parts, one, stopping
        self._imports = parts.settings.work_dir.absolute() / "imports"
        self._keeper = Keeper(parts, one)

    def run(self) -> None:
        with structlog.contextvars.bound_contextvars(import_id=self._one.id, attempt=self._one.attempt):
            self._run()

    def hand_back(self) -> None:
        """Back in the queue; an attempt that still goes on has lost it."""
        self._write(import_leases.hand_back)

    def _run(self) -> None:
        log.info("import started", source=self._one.pinned or self._one.source)
        try:
            with import_folders.held(self._imports, *self._key) as folder:
                self._carry_out_in(folder)
            log.info("import succeeded")
        except LeaseLost:
            log.info("import is over")  # cancelled, or another attempt has it
        except _Stopped:
            self._tell()
            self.hand_back()
        except SourceAway as error:
            self._tell()
            self._put_off(error)
        except (Unavailable, OSError) as error:
            self._tell()
            self._wait(error)
        except StillhouseError as error:
            log.info("import failed", code=error.code)
            self._write(partial(import_leases.fail, error=_at_the_source(error)))
        self._clear()

    def _carry_out_in(self, folder: Path) -> None:
        self._folder, self._files = folder, folder / "files"
        self._files.mkdir(exist_ok=True)
        self._keeper.came = sum(path.stat().st_size for path in self._files.iterdir())
        with self._keeper:
            self._carry_out()

    def _carry_out(self) -> None:
        order = _ORDERS[self._one.kind].model_validate(self._one.texts)
        origin = sources.open_source(self._parts.settings, sources.kind_of(order), order.source)
        try:
            pinned, picks = self._settled(origin, order)
            if self._is_here(order, pinned):
                return
            places = [self._place(number, pick) for number, pick in enumerate(picks)]
            fetch = Fetch(origin, pinned, self._watch)
            for pick, place in zip(picks, places, strict=True):
                fetch(pick.file, place)
        finally:
            origin.close()
        self._keeper.renew()
        with tempfile.TemporaryDirectory(prefix="out-", dir=self._folder) as folder:
            out = Path(folder)
            if isinstance(order, ModelOrder):
                self._take_in_model(order, pinned, places[0] if picks[0].is_packed else self._files, out)
            else:
                received = [
                    UploadedFile(pick.field, pick.name, place)
                    for pick, place in zip(picks, places, strict=True)
                ]
                self._take_in_dataset(order, pinned, received, out)

    # ---- what is meant

    def _settled(self, origin: Origin, order: Order) -> tuple[str, list[Pick]]:
        """The source with its commit, and what is fetched of it: as an earlier attempt has settled it."""
        if self._one.pinned is not None:
            return self._one.pinned, _PICKS.validate_python(self._one.files)
        pinned, listed = origin.pin()
        files = {origin.within(file.path): file for file in listed}
        if isinstance(order, ModelOrder):
            picks = picking.of_model(files)
        else:
            picks = picking.of_dataset(files, order.files)
        total, limit = sum(pick.file.size for pick in picks), self._parts.settings.max_upload_bytes
        if total > limit:
            raise PayloadTooLarge(f"The source's files have {total:,} bytes; {limit:,} is the limit.")
        kept = _PICKS.dump_python(picks, mode="json")
        with self._parts.sessions.write() as session:
            quotas.admit_bytes(session, self._one.project_id, total)
            import_leases.settle(session, *self._key, pinned=pinned, files=kept, total=total)
        return pinned, picks

    def _is_here(self, order: Order, pinned: str) -> bool:
        """Ends the import with what the same one made before."""
        with self._parts.sessions.write() as session:
            twin = import_orders.twin(session, self._one, pinned)
            if twin is None:
                return False
            assert twin.target_id is not None
            if isinstance(order, ModelOrder) and order.alias is not None:
                version = session.get_one(ModelVersion, twin.target_id)
                models.lock(session, self._one.project_id, order.name)
                models.point(session, version.model_id, order.alias, version.version)
            result = {**(twin.result or {}), "new": False}
            import_leases.succeed(session, *self._key, target_id=twin.target_id, result=result)
            return True

    def _place(self, number: int, pick: Pick) -> Path:
        """A checkpoint's files have the names that it gives them; those are few and plain."""
        named = self._one.kind == "model" and not pick.is_packed
        return self._files / (pick.path if named else f"{number:03}")

    def _watch(self, came: int) -> None:
        """Raises LeaseLost, _Stopped."""
        self._keeper.came += came
        if self._keeper.lost.is_set():
            raise LeaseLost("Somebody else carries out this import, or it was cancelled.")
        if self._stopping.is_set():
            raise _Stopped

    # ---- taking in, as an upload is

    def _take_in_model(self, order: ModelOrder, pinned: str, file: Path, out: Path) -> None:
        checkpoint, warnings = imports.prepare(self._parts, order, file, out, pinned)
        with self._parts.sessions.write() as session:
            version, new = models.add(session, self._one.project_id, order.name, checkpoint, order.alias)
            reference = f"model:{order.name}@{version.version}"
            result = {"reference": reference, "new": new, "warnings": warnings}
            import_leases.succeed(session, *self._key, target_id=version.id, result=result)

    def _take_in_dataset(
        self, order: DatasetOrder, pinned: str, files: list[UploadedFile], out: Path
    ) -> None:
        prepared = datasets.prepare(self._parts.settings, self._parts.blobs, order, files, out)
        with self._parts.sessions.write() as session:
            made, new = datasets.create(session, self._one.project_id, order.name, prepared, pinned)
            reference = f"dataset:{order.name}@{made.version}"
            result = {"reference": reference, "new": new, "warnings": []}
            import_leases.succeed(session, *self._key, target_id=made.id, result=result)

    # ---- ends

    @property
    def _key(self) -> tuple[str, int]:
        return self._one.id, self._one.attempt

    def _put_off(self, error: SourceAway) -> None:
        wait_s = max(self._pause_s(self._one.tries), error.retry_after_s or 0)
        log.info("import put off", code=error.code, wait_s=wait_s)
        self._write(partial(import_leases.release, error=error, wait_s=wait_s))

    def _wait(self, error: Unavailable | OSError) -> None:
        """For our own store or disk, of which nobody can say how long; the source is not to blame."""
        wait_s = self._pause_s(self._one.attempt)
        number = getattr(error, "errno", None)
        log.warning("import waits", error=type(error).__name__, errno=number, wait_s=wait_s)
        self._write(partial(import_leases.hand_back, wait_s=wait_s))

    def _pause_s(self, doublings: int) -> float:
        return min(self._parts.settings.poll_s * 2.0 ** min(doublings, 30), LONGEST_WAIT_S)

    def _tell(self) -> None:
        """How far it has come, for bytes that came make up for tries."""
        with suppress(LeaseLost):
            self._keeper.renew()

    def _write(self, change: Callable[[Session, str, int], object]) -> None:
        with suppress(LeaseLost), self._parts.sessions.write() as session:
            change(session, *self._key)

    def _clear(self) -> None:
        """Nothing is left of an import that has ended; else another attempt may go on with the files."""
        with self._parts.sessions.read() as session:
            ended = session.get_one(Import, self._one.id).ended_at is not None
        if ended:
            import_folders.clear(self._imports, self._one.id)


def _at_the_source(error: StillhouseError) -> StillhouseError:
    """The child speaks of a file that was sent; here none was."""
    faults = [
        Fault("/source", fault.code, fault.detail, fault.fix) if fault.pointer == "/file" else fault
        for fault in error.faults or [Fault("/source", error.code, error.detail)]
    ]
    return type(error)(error.detail, *faults)
