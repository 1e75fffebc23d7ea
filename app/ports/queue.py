"""The bell: it says that there is work, never which. A lost or doubled ring changes nothing."""

import queue
import threading
from contextlib import suppress
from typing import Protocol

import structlog

log = structlog.get_logger()

TASK = "stillhouse.work"
QUEUES = {
    "cpu": ("stillhouse.cpu",),
    "cuda": ("stillhouse.cuda",),
    "auto": ("stillhouse.cpu", "stillhouse.cuda"),
}
EXPIRES_S = 60.0  # a hint that nobody took by then has been given again
UNSENT = 100  # rings kept while the broker is away
UNHEARD = 100  # rings in a queue that nobody listens to; they all say the same


class Queue(Protocol):
    def ring(self, job_id: str, accelerator: str = "auto") -> None:
        """Wakes a worker that may have the accelerator. Never blocks, never fails; the id is for the log."""

    def close(self) -> None:
        """Rings no more."""


class LocalQueue:
    """A flag in this process, which its slots wait for."""

    def __init__(self) -> None:
        self.bell = threading.Event()

    def ring(self, job_id: str, accelerator: str = "auto") -> None:
        self.bell.set()

    def close(self) -> None:
        pass


class CeleryQueue:
    """A Celery message, sent by a thread of its own: no request ever waits for the broker."""

    def __init__(self, url: str) -> None:
        from celery import Celery

        self._celery = Celery("stillhouse", broker=url)
        self._celery.conf.update(BROKER_MANNERS)
        self._closing = False
        self._rings: queue.Queue[tuple[str, str] | None] = queue.Queue(UNSENT)
        self._sender = threading.Thread(target=self._send, name="bell", daemon=True)
        self._sender.start()

    def ring(self, job_id: str, accelerator: str = "auto") -> None:
        try:
            self._rings.put_nowait((job_id, accelerator))
        except queue.Full:
            log.warning("the bell is choked: the lookout will ring again", job_id=job_id)

    def close(self) -> None:
        self._closing = True
        with suppress(queue.Full):  # then the sender is awake
            self._rings.put_nowait(None)
        self._sender.join(timeout=2.0)
        self._celery.close()

    def _send(self) -> None:
        away = False
        while (ring := self._rings.get()) is not None and not self._closing:
            try:
                self._tell(*ring)
            except Exception as error:  # noqa: BLE001 - whatever a client of a broker raises
                if not away:
                    log.warning(
                        "the broker takes no ring: workers look by themselves", why=type(error).__name__
                    )
                away = True
            else:
                if away:
                    log.info("the broker takes rings again")
                away = False

    def _tell(self, job_id: str, accelerator: str) -> None:
        """In every queue that can serve the job, where a ring is still news."""
        with self._celery.producer_pool.acquire(block=True) as producer:
            for name in QUEUES[accelerator]:
                if producer.channel.client.llen(name) < UNHEARD:
                    self._celery.send_task(
                        TASK,
                        args=[job_id],
                        queue=name,
                        producer=producer,
                        expires=EXPIRES_S,
                        retry=False,
                        ignore_result=True,
                    )


BROKER_MANNERS = {
    "accept_content": ["json"],
    "broker_channel_error_retry": True,  # a broker that answers with an error is one that is away
    "broker_connection_max_retries": None,  # a broker that is away for an hour must not end the workers
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {
        "socket_timeout": 10.0,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
    },
    "result_backend": None,
    "task_acks_late": False,
    "task_ignore_result": True,
    "task_serializer": "json",
    "worker_disable_prefetch": True,
    "worker_enable_remote_control": False,
    "worker_hijack_root_logger": False,
    "worker_prefetch_multiplier": 1,
    "worker_redirect_stdouts": False,  # our log writes to stderr itself
    "worker_send_task_events": False,
}
