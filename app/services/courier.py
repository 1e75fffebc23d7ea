"""A thread beside the API that hands on what lies in the outbox and sends what is due to webhooks."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import structlog

from app import traces
from app.ports.outgoing import guarded_client
from app.ports.parts import Parts
from app.services import deliveries, outbox
from app.services.deliveries import Letter, Reply
from app.services.stumbling import survived

INTERVAL_S = 0.5
SENDERS = 8  # receivers that may be slow at once
LONGEST_S = 15.0  # of one exchange; less than a delivery's claim lasts
MOST_BYTES = 65_536  # of an answer, which nobody reads

log = structlog.get_logger()


class Courier(threading.Thread):
    """Works in every API process; rows say who sends what, and let no slow receiver have all senders."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(name="courier", daemon=True)
        self._parts, self._stopping = parts, threading.Event()
        self._bell = threading.Event()  # a sender is free, so the next of its webhook may go
        self._free = threading.Semaphore(SENDERS)
        self._client = guarded_client(parts.settings, max_s=LONGEST_S, max_bytes=MOST_BYTES)

    def run(self) -> None:
        with self._client, ThreadPoolExecutor(SENDERS, thread_name_prefix="courier") as senders:
            while not self._stopping.is_set():
                self._bell.wait(INTERVAL_S)
                self._bell.clear()
                with survived("courier"):
                    self._hand_on()
                    self._send_due(senders)

    def stop(self) -> None:
        self._stopping.set()
        self._bell.set()

    def _hand_on(self) -> None:
        """Looks first, for a look takes no lock."""
        while not self._stopping.is_set():
            with self._parts.sessions.read() as session:
                if not outbox.waiting(session):
                    return
            with self._parts.sessions.write() as session:
                outbox.hand_on(session)

    def _send_due(self, senders: ThreadPoolExecutor) -> None:
        with self._parts.sessions.read() as session:
            if not deliveries.waiting(session):
                return
        while not self._stopping.is_set() and self._free.acquire(blocking=False):
            with self._parts.sessions.write() as session:
                letter = deliveries.claim(session)
            if letter is None:
                self._free.release()
                return
            senders.submit(self._carry, letter)

    def _carry(self, letter: Letter) -> None:
        try:
            with traces.span(
                "delivery", letter.traceparent, delivery_id=letter.id, attempt=letter.attempt
            ) as span:
                reply = send(self._client, letter)
                if span is not None:
                    span.set_attribute("http.response.status_code", reply.status or 0)
            with self._parts.sessions.write() as session:
                deliveries.record(session, letter, reply)
            log.info("delivery", delivery=letter.id, attempt=letter.attempt, status=reply.status)
        except Exception:
            log.exception("a delivery was not recorded", delivery=letter.id)
        finally:
            self._free.release()
            self._bell.set()


def send(http: httpx.Client, letter: Letter) -> Reply:
    """Never fails: what went wrong is in the reply, without addresses."""
    try:
        answer = http.post(letter.url, content=letter.body, headers=letter.headers)
    except (httpx.TransportError, httpx.InvalidURL) as error:  # the latter: where it would redirect to
        return Reply(None, str(error)[:200] or type(error).__name__)
    return Reply(answer.status_code, retry_after_s=_retry_after_s(answer))


def _retry_after_s(answer: httpx.Response) -> float:
    """Its seconds, at most a day; a date is not read."""
    given = answer.headers.get("retry-after", "")
    return float(min(int(given), 86_400)) if re.fullmatch("[0-9]{1,8}", given) else 0.0
