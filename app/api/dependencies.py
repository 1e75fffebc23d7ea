"""What routers ask for: the parts, who is asking, and a session."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.ports.parts import Parts
from app.services.access import Principal

# None of these asks for another: FastAPI takes as long for a small dependency as SQLite for a row.


async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def principal(request: Request) -> Principal:
    """Whom the lock let in; a public route has no principal."""
    found: Principal = request.state.principal
    return found


def read_session(request: Request) -> Iterator[Session]:
    with request.app.state.parts.sessions.read() as session:
        yield session


def write_session(request: Request) -> Iterator[Session]:
    with request.app.state.parts.sessions.write() as session:
        yield session


PartsDep = Annotated[Parts, Depends(parts)]
PrincipalDep = Annotated[Principal, Depends(principal)]
ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
