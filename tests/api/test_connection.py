"""Connections that hurt, as raw bytes against the real process: each ends in time, and others are served."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest

from tests.service import serving, settings_in

HEAD = b"POST /v1/jobs/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
LIMITS: dict[str, Any] = {
    "header_s": 0.6,
    "body_s": 0.8,
    "min_body_rate": 1000,
    "max_header_bytes": 8192,
    "max_headers": 30,
    "max_connections": 60,
}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving(settings_in(tmp_path_factory.mktemp("door"), **LIMITS)) as client:
        yield client


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """With the deadlines that are usual."""
    with serving(settings_in(tmp_path_factory.mktemp("patient"))) as client:
        yield client


def dial(door: httpx.Client) -> socket.socket:
    return socket.create_connection((door.base_url.host, door.base_url.port or 80), timeout=20)


def read_all(line: socket.socket) -> bytes:
    """Until the other side ends."""
    received = bytearray()
    try:
        while chunk := line.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


def problem(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, answer[:300]
    assert b"content-type: application/problem+json" in head
    assert b"x-request-id: req_" in head
    assert json.loads(body)["code"] == code


@contextmanager
def dripping(line: socket.socket, piece: bytes, every_s: float) -> Iterator[None]:
    """Sends a piece again and again, in a thread, until the other side ends."""
    stop = threading.Event()

    def drip() -> None:
        try:
            while not stop.wait(every_s):
                line.sendall(piece)
        except OSError:
            pass

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


SLOW = {
    "nothing at all": (b"", b"", None),
    "half a request line": (b"GET /heal", b"", 408),
    "slow headers": (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-A: b\r\n", 408),
    "one endless header, slowly": (b"GET /healthz HTTP/1.1\r\nX: ", b"a", 408),
    "empty lines for ever": (b"\r\n", b"\r\n", 408),
    "a body that stops": (HEAD + b"Content-Length: 1000\r\n\r\n{", b"", 408),
    "a slow body": (HEAD + b"Content-Length: 100000\r\n\r\n{", b" ", 408),
    "slow endless chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 408),
    "a slow form": (
        b"POST /v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n",
        b"-",
        408,
    ),
    "the body of a request that was answered": (
        b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n",
        b" ",
        404,
    ),
}


def test_the_slow_are_sent_away_and_others_served_meanwhile(door: httpx.Client) -> None:
    """All at once: each line ends within its deadline, and the service answers all the time."""
    ends: dict[str, tuple[float, bytes]] = {}

    def suffer(name: str, first: bytes, again: bytes) -> None:
        started = time.monotonic()
        with dial(door) as line:
            line.sendall(first)
            with dripping(line, again, 0.05):
                answer = read_all(line)
        ends[name] = time.monotonic() - started, answer

    threads = [
        threading.Thread(target=suffer, args=(name, first, again)) for name, (first, again, _) in SLOW.items()
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert door.get("/healthz").is_success
        assert time.monotonic() - started < 1.0
        time.sleep(0.05)
    for name, (_, _, status) in SLOW.items():
        seconds, answer = ends[name]
        assert seconds < 4, name
        if status is None:
            assert answer == b""
        else:
            problem(answer, status, "request_timed_out" if status == 408 else "not_found")


def test_headers_have_a_size_and_a_number(door: httpx.Client) -> None:
    start = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    for sent in (
        start + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        start + b"X: " + b"a" * 20_000,
        b"GET /" + b"a" * 20_000,
        start + b"".join(b"X-%d: a\r\n" % number for number in range(40)) + b"\r\n",
    ):
        with dial(door) as line:
            line.sendall(sent)
            problem(read_all(line), 431, "headers_too_large")
    with dial(door) as line:
        line.sendall(start + b"X: " + b"a" * 7000 + b"\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in read_all(line)


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"HELO x\r\n\r\n",
     b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", b"GET / HTTP/1.1\r\n: c\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ids=lambda sent: repr(sent[:40]),
)  # fmt: skip
def test_what_is_no_request_is_400_with_a_face(door: httpx.Client, sent: bytes) -> None:
    with dial(door) as line:
        line.sendall(sent)
        answer = read_all(line)
    assert answer.split()[1] in (b"400", b"404", b"403"), answer[:200]
    assert b"application/problem+json" in answer


NEXT = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: smuggled\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(NEXT)
ONE_CHUNK = b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(NEXT), NEXT)
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
TWO_WAYS = {  # heads that two programs may read unlike, and what of them one may take for the next request
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "the same host twice": GET + b"Host: 127.0.0.1\r\n\r\n",
    "no host": GET.replace(b"Host", b"X-Host") + b"\r\n",
    "another host in the request line": GET.replace(b"/healthz", b"http://evil.example/healthz") + b"\r\n",
    "two keys": GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "two types": HEAD + b"Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 0\r\n" + LENGTH + b"\r\n",
    "the same length twice": HEAD + LENGTH + LENGTH + b"\r\n",
    "lengths in a list": HEAD + LENGTH.replace(b"\r", b", 0\r") + b"\r\n",
    "a length with a sign": HEAD + LENGTH.replace(b": ", b": +") + b"\r\n",
    "a space before the colon": HEAD + LENGTH.replace(b":", b" :") + b"\r\n",
    "a length beside chunks": HEAD + LENGTH + CHUNKED + ONE_CHUNK,
    "chunks beside a length": HEAD + CHUNKED + LENGTH + ONE_CHUNK,
    "chunks twice": HEAD + CHUNKED + CHUNKED + ONE_CHUNK,
    "a coding that is no chunks": HEAD + CHUNKED.replace(b"chunked", b"xchunked") + ONE_CHUNK,
    "chunks of something packed": HEAD + CHUNKED.replace(b"chunked", b"gzip, chunked") + ONE_CHUNK,
    "chunks that are not last": HEAD + CHUNKED.replace(b"chunked", b"chunked, gzip") + ONE_CHUNK,
    "chunks in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + CHUNKED + ONE_CHUNK,
    "no such version": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "a folded line": GET + b"X: a\r\n b\r\n\r\n",
    "a folded coding": HEAD + CHUNKED.replace(b": ", b":\r\n ") + ONE_CHUNK,
    "a line that ends by LF": GET + b"X: a\nY: b\r\n\r\n",
    "a head that ends by LF": GET + b"\n",
    "all lines end by LF": GET.replace(b"\r", b"") + b"\n",
    "a line that ends by CR": GET + b"X: a\rY: b\r\n\r\n",
    "chunks that end by LF": HEAD
    + CHUNKED
    + b"\r\n"
    + ONE_CHUNK[2:].replace(b"\r\n%s\r" % NEXT, b"\n%s" % NEXT),
    "a size of chunks that overflows": HEAD + CHUNKED + b"\r\n1000000000000000" + ONE_CHUNK[2:],
    "a body behind an upgrade": HEAD + UPGRADE + LENGTH + b"\r\n",
    "chunks behind an upgrade": HEAD + UPGRADE + CHUNKED + ONE_CHUNK,
    "a body behind CONNECT": HEAD.replace(b"POST", b"CONNECT") + LENGTH + b"\r\n",
}


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_what_can_be_read_in_two_ways_is_read_in_none(patient: httpx.Client, pause_s: float) -> None:
    """pause_s: before the bytes behind the head, for a parser may treat what it has not got yet otherwise."""
    for name, sent in TWO_WAYS.items():
        with dial(patient) as line:
            head, _, rest = sent.partition(b"\r\n\r\n")
            line.sendall(head + b"\r\n\r\n" * (b"\r\n\r\n" in sent))
            time.sleep(pause_s)
            with suppress(OSError):
                line.sendall(rest + NEXT)
            answer = read_all(line)
        assert answer.count(b"\r\nx-request-id: ") == 1, name
        assert b"x-request-id: smuggled" not in answer, name
        problem(answer, 400, "malformed_request")


def test_a_header_behind_the_body_is_none(door: httpx.Client) -> None:
    with dial(door) as line:
        chunks = b"\r\n2\r\n{}\r\n0\r\nX-Request-Id: behind\r\n\r\n"
        line.sendall(HEAD + b"Connection: close\r\n" + CHUNKED + chunks)
        problem(read_all(line), 422, "invalid_spec")


def test_an_upgrade_is_answered_as_if_it_had_not_been_asked_for(door: httpx.Client) -> None:
    with dial(door) as line:
        line.sendall(GET + UPGRADE + b"\r\n")
        time.sleep(0.05)
        line.sendall(NEXT)
        answer = read_all(line)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"smuggled" not in answer


def test_what_is_refused_once_is_refused_no_second_time(
    door: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with dial(door) as line:
        for piece in (HEAD + CHUNKED + b"\r\n1;", b"z" * 8000, b"z" * 400 + b"\x00"):
            line.sendall(piece)
            time.sleep(0.1)  # each is read apart: the last one is malformed, and too long with the one before
        problem(read_all(line), 400, "malformed_request")
    (log,) = tmp_path_factory.getbasetemp().rglob(f"service-{door.base_url.port}.log")
    assert "Traceback" not in log.read_text()


def test_nothing_is_said_behind_an_answer(door: httpx.Client) -> None:
    """It would be taken for the answer to the next request on the line."""
    with dial(door) as line:
        line.sendall(b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n" + CHUNKED + b"\r\n")
        first = line.recv(65536)
        line.sendall(b"no size\r\n")
        problem(first + read_all(line), 404, "not_found")


def test_requests_sent_ahead_are_answered_in_order_up_to_a_number(door: httpx.Client) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with dial(door) as line:
        line.sendall(one * 8 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(line).count(b"200 OK") == 9
    with dial(door) as line:
        line.sendall(one * 3000)
        assert 0 < read_all(line).count(b"200 OK") <= 40
    with dial(door) as line:
        line.sendall(one + b"\x00garbage" * 1000)
        assert read_all(line).count(b"200 OK") == 1


def test_connections_have_a_number_and_come_back(door: httpx.Client) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(dial(door)) for _ in range(90)]
        refused = read_all(lines[-1])
        problem(refused, 503, "unavailable")
        assert b"retry-after" in refused
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with dial(door) as line:
            line.sendall(GET + b"Connection: close\r\n\r\n")
            if b"200 OK" in read_all(line):
                return
    raise AssertionError("nobody is served any more")


def test_who_does_not_read_the_answer_is_hung_up_on(door: httpx.Client) -> None:
    """/docs has a script of more than a megabyte, more than sockets hold."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20)
        line.connect((door.base_url.host, door.base_url.port))
        get = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        line.sendall(get * 6)
        time.sleep(2.5)
        received = len(read_all(line))
    assert received < 6 * 1_000_000


def test_memory_stays_flat_under_what_never_ends(door: httpx.Client) -> None:
    before = resident_kb(door)
    head = b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    trailers = HEAD + CHUNKED + b"\r\n0\r\n"
    more = {head: chunk, HEAD + CHUNKED + b"\r\n": chunk, trailers: b"X-Trailer: %s\r\n" % (b"x" * 5000) * 12}
    more[trailers + b"X-Endless: "] = b"x" * 65536
    for first, again in more.items():
        with dial(door) as line:
            try:
                line.sendall(first)
                for _ in range(2000):
                    line.sendall(again)
            except OSError:
                pass
            answer = read_all(line)
        assert answer.split()[1] in (b"404", b"413", b"431"), answer[:200]
    assert door.get("/healthz").is_success
    assert resident_kb(door) - before < 80_000


def resident_kb(door: httpx.Client) -> int:
    text = door.get("/metrics").text
    found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
    assert found
    return int(float(found[1])) // 1024
