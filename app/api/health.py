"""For whoever keeps this process alive: these two need no key and say nothing about anybody's work."""

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from app.api.dependencies import PartsDep
from app.errors import Fault, Unavailable
from app.ports.parts import Parts
from app.services import health

router = APIRouter(tags=["operation"])
public = True


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(request: Request, parts: PartsDep) -> dict[str, str]:
    """The database, with the right schema, and the blob store answer too; 503 with the part that does not."""
    readiness: Readiness = request.app.state.readiness
    if found := await readiness.ailments(parts):
        fix = "Wait, or look at the part itself; this answer changes by itself."
        faults = [Fault(f"/{part}", "unavailable", reason, fix) for part, reason in found.items()]
        raise Unavailable(f"Not ready: {' and '.join(found)}.", *faults)
    return {"status": "ok"}


class Readiness:
    """Looks at what the service needs: at each part by one thread at a time, whoever asks meanwhile, so that
    a part that hangs takes no threads from others."""

    def __init__(self, patience_s: float = 5.0) -> None:
        self._patience_s = patience_s
        self._looks: dict[str, asyncio.Task[str]] = {}

    async def ailments(self, parts: Parts) -> dict[str, str]:
        """By part; empty: this process is ready. What has not answered in time does not answer."""
        for part, look in (
            ("database", partial(health.database_ailment, parts.sessions)),
            ("blobs", partial(health.blobs_ailment, parts.blobs)),
        ):
            if part not in self._looks or self._looks[part].done():
                self._looks[part] = asyncio.create_task(run_in_threadpool(look))
        looks = dict(self._looks)
        await asyncio.wait(looks.values(), timeout=self._patience_s)
        found = {part: look.result() if look.done() else health.SILENT for part, look in looks.items()}
        return {part: reason for part, reason in found.items() if reason}
