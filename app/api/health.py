"""For whoever keeps this process alive: these two need no key and say nothing about anybody's work."""

from fastapi import APIRouter

from app.api.dependencies import PartsDep
from app.errors import Fault, Unavailable
from app.services.health import ailments

router = APIRouter(tags=["operation"])
public = True


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(parts: PartsDep) -> dict[str, str]:
    """The database, with the right schema, and the blob store answer too; 503 with the part that does not."""
    if found := ailments(parts.sessions, parts.blobs):
        fix = "Wait, or look at the part itself; this answer changes by itself."
        faults = [Fault(f"/{part}", "unavailable", reason, fix) for part, reason in found.items()]
        raise Unavailable(f"Not ready: {' and '.join(found)}.", *faults)
    return {"status": "ok"}
