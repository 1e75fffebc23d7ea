"""The lock on every route, opened before anything of the body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.strict_route import StrictRoute, check_query, query_names
from app.ports.parts import Parts
from app.services import keys
from app.services.keys import Principal


class LockedRoute(StrictRoute):
    """Finds out who is asking and puts the principal at `request.state.principal`.

    Not a dependency, for FastAPI reads and parses the whole body before it looks at those.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, known = super().get_route_handler(), query_names(self)

        async def handle_locked(request: Request) -> Response:
            request.state.principal = await _authenticate(request)
            if request.scope["query_string"]:
                check_query(request, known)
            return await handle(request)

        return handle_locked


async def _authenticate(request: Request) -> Principal:
    """Raises Unauthenticated, Forbidden. While keys are off it needs neither the database nor a thread."""
    parts: Parts = request.app.state.parts
    if parts.settings.bootstrap_key is None:
        return keys.trust_loopback(request.headers)
    return await run_in_threadpool(_look_up, parts, request)


def _look_up(parts: Parts, request: Request) -> Principal:
    with parts.sessions.read() as session:
        return keys.authenticate(session, parts.settings, request.headers)
