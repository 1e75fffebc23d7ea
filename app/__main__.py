"""`python -m app`: the API, with a local worker unless the queue is elsewhere."""

import argparse
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress

import structlog
import uvicorn
from fastapi import FastAPI

from app import traces
from app.api.connection import connection_class
from app.commands import ended
from app.logs import configure_logs, warn_of_unknown_settings
from app.main import create_app
from app.settings import Settings

GRACE_S = 5  # for requests in flight, once a stop was asked for
log = structlog.get_logger()


def main() -> int:
    about = (
        "The API, with a local worker unless the queue is elsewhere. Settings are STILLHOUSE_... variables."
    )
    argparse.ArgumentParser(prog="python -m app", description=about).parse_args()
    try:
        return ended(_serve)
    finally:
        traces.stop()


def _serve() -> int:
    settings = Settings()
    configure_logs(settings)
    warn_of_unknown_settings()
    traces.start("stillhouse-api")
    server = Server(create_app(settings), settings)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # outside of the server's run, which has its own way
    with suppress(KeyboardInterrupt):  # what uvicorn ends with after a stop by Ctrl-C
        server.run()
    return 0


class Server(uvicorn.Server):
    """Runs the application's lifespan itself, so that what it refuses is a sentence, not uvicorn's stack."""

    def __init__(self, application: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            application,
            settings.host,
            settings.port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            http=connection_class(settings),
            ws="none",
        )
        super().__init__(config)
        self._application, self._life = application, AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        life = self._application.router.lifespan_context(self._application)
        await self._life.enter_async_context(life)
        try:
            await super().startup(sockets)
        except BaseException:  # the port is taken
            await self._life.aclose()
            raise
        for listening in (each for server in self.servers for each in server.sockets):
            host, port = listening.getsockname()[:2]
            log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # jobs save a checkpoint while the last requests are answered
        for leave in self._application.state.leavers:
            leave()
        await self._application.state.watcher.stop()  # nobody waits for a change any more
        await super().shutdown(sockets)
        await self._life.aclose()
        self._captured_signals.clear()  # uvicorn would end this process by them, as if it had not ended well


if __name__ == "__main__":
    sys.exit(main())
