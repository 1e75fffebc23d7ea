"""`python -m app`: the API, with a local worker unless the queue is elsewhere."""

import socket
import sys

import structlog
import uvicorn
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.errors import Misconfigured
from app.logs import configure_logs
from app.main import create_app
from app.settings import Settings

GRACE_S = 5  # for requests in flight, once a stop was asked for
log = structlog.get_logger()


class Server(uvicorn.Server):
    """Says where it listens, in one line, once it does; and lets nobody wait for a change while it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")


def main() -> int:
    try:
        settings = Settings()
        configure_logs(settings)
        application = create_app(settings)
    except ValidationError as error:
        return _refuse("; ".join(map(_complaint, error.errors())))
    except Misconfigured as error:
        return _refuse(error.detail)
    server = Server(
        uvicorn.Config(
            application,
            settings.host,
            settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    server.run()
    return 0 if server.started else 1


def _complaint(error: ErrorDetails) -> str:
    """Without the value, which may be a secret."""
    return f"STILLHOUSE_{str(error['loc'][0]).upper()}: {error['msg']}"


def _refuse(reason: str) -> int:
    sys.stderr.write(f"stillhouse: {reason}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
