"""The application: every router found in app/api, behind one front door."""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from types import ModuleType

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute, request_response

import app.api
from app.api import problems
from app.api.front_door import FrontDoor
from app.api.health import Readiness
from app.api.job_board import JobBoard
from app.api.lock import LockedRoute
from app.api.rate_limits import RateLimits
from app.api.strict_route import StrictRoute
from app.api.telemetry import Telemetry
from app.db import migrate
from app.errors import Misconfigured
from app.ports.parts import Parts
from app.ports.queue import LocalQueue
from app.services import keys
from app.services.access import scope_of
from app.services.audit import DenialGauge, Scribe
from app.services.courier import Courier
from app.services.garbage import Collector
from app.services.meter import Meter
from app.services.supervise import Lookout, Supervisor
from app.services.watch import Watcher
from app.services.workplace import Workplace
from app.settings import Settings
from app.wiring import assemble, database_url

LAST_LOOK_S = 5.0  # for a thread to give its connection back
_DESCRIPTION = (
    "Distillation as a service: a teacher checkpoint, data and a student architecture go in, a small model "
    "that you own comes out, proven and served. Errors are problem details (RFC 9457) with the pointer to "
    "what is wrong and the way out."
)


def create_app(settings: Settings) -> FastAPI:
    """Raises Misconfigured."""
    keys.check_exposure(settings)
    application = FastAPI(
        title="Stillhouse",
        version=version("stillhouse"),
        description=_DESCRIPTION,
        openapi_url=None,  # app/api/docs.py shows it, behind the same lock as everything else
        redirect_slashes=False,
        lifespan=lambda application: _lifespan(application, settings),
    )
    application.state.telemetry = Telemetry()
    application.state.rate_limits, application.state.readiness = RateLimits(settings), Readiness()
    application.state.denials, application.state.scribe = DenialGauge(), Scribe()
    application.add_middleware(FrontDoor, settings=settings, telemetry=application.state.telemetry)
    problems.install(application)
    for module in _modules_with_router():
        _mount(application, module)
    return application


def _modules_with_router() -> Iterator[ModuleType]:
    for info in sorted(pkgutil.iter_modules(app.api.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"app.api.{info.name}")
        if hasattr(module, "router"):
            yield module


def _mount(application: FastAPI, module: ModuleType) -> None:
    """Behind the lock, unless the module says that it is public; whoever forgets to think of it is safe.

    A module may name the scope that its routes need (services.access), and whether they are of_installation:
    for keys of the operator's own project alone. Raises TypeError for a route without a scope.
    """
    for route in module.router.routes:
        if not isinstance(route, APIRoute):
            raise TypeError(f"{module.__name__}: {route} would stand before the lock")
        if getattr(module, "public", False):
            route.__class__ = StrictRoute
        else:
            route.__class__ = LockedRoute
            assert isinstance(route, LockedRoute)
            route.scope = scope_of(route.methods or (), getattr(module, "scope", None))
            route.of_installation = getattr(module, "of_installation", False)
        route.app = request_response(route.get_route_handler())
        application.router.routes.append(route)  # include_router would match each request twice


@asynccontextmanager
async def _lifespan(application: FastAPI, settings: Settings) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        parts = await run_in_threadpool(_prepare, settings)
        stack.callback(parts.close)
        application.state.parts = parts
        meter = application.state.meter = Meter(parts)
        meter.start()
        stack.push_async_callback(run_in_threadpool, meter.stop)
        watcher = application.state.watcher = Watcher(parts.sessions)
        application.state.board = JobBoard(parts, watcher)
        await watcher.start()
        stack.push_async_callback(watcher.stop)
        local = parts.queue if isinstance(parts.queue, LocalQueue) else None
        place = await run_in_threadpool(Workplace, settings) if local else None
        courier = Courier(parts)
        leavers = [courier.stop]  # what is under way comes to its end, and nothing more is begun
        for thread in (Lookout(parts, place, local), courier, Collector(parts)):
            thread.start()
            stack.push_async_callback(run_in_threadpool, thread.join, LAST_LOOK_S)
            stack.callback(thread.stop)
        if local and place:
            supervisor = Supervisor(parts, place, local)
            supervisor.start()
            leavers.append(supervisor.leave)
            stack.push_async_callback(run_in_threadpool, supervisor.stop)
        application.state.leavers = leavers
        yield


def _prepare(settings: Settings) -> Parts:
    """The parts, on a database with the right schema, in which the project and its first key stand."""
    parts = assemble(settings)
    try:
        if not migrate.is_current(parts.sessions.engine):
            _migrate(database_url(settings))
        with parts.sessions.write() as session:
            keys.establish(session, settings)
    except BaseException:
        parts.close()
        raise
    return parts


def _migrate(url: str) -> None:
    """SQLite's file has one process, so nobody else can; elsewhere several start, and an operator decides."""
    if not url.startswith("sqlite"):
        raise Misconfigured(migrate.NOT_CURRENT)
    migrate.upgrade(url)
