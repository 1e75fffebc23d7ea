"""What routers ask for: the parts, who is asking, and a session."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from app.ports.parts import Parts
from app.services import keys
from app.services.keys import Principal


async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


PartsDep = Annotated[Parts, Depends(parts)]


async def principal(request: Request, parts: PartsDep) -> Principal:
    """Raises Unauthenticated, Forbidden. While keys are off it needs neither the database nor a thread."""
    if parts.settings.bootstrap_key is None:
        return keys.trust_loopback(request.headers)
    return await run_in_threadpool(_authenticate, parts, request)


def _authenticate(parts: Parts, request: Request) -> Principal:
    with parts.sessions.read() as session:
        return keys.authenticate(session, parts.settings, request.headers)


def read_session(parts: PartsDep) -> Iterator[Session]:
    with parts.sessions.read() as session:
        yield session


def write_session(parts: PartsDep) -> Iterator[Session]:
    with parts.sessions.write() as session:
        yield session


PrincipalDep = Annotated[Principal, Depends(principal)]
ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
