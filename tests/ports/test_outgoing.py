"""Requests to addresses that users name: what is refused, where they go, and what they may cost."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from httpcore._backends.sync import SyncStream
from pydantic import ValidationError

from app.errors import UnsafeUrl
from app.ports import outgoing
from app.ports.outgoing import (
    AnswerTooLarge,
    Refused,
    TookTooLong,
    _BoundedStream,
    _Bounds,
    check_url,
    guarded_client,
    is_public,
    resolve_name,
)
from app.settings import Settings

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.255.0.1",
    "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
    "2002:7f00:1::", "2002:a00:1::1",
    "2002:a9fe:a9fe::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1",
    "93.184.215.14",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2002:101:101::1",
]
BAD_URLS = [
    "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "//example.com/", "example.com", "", "https://",
    "https://user@example.com/", "https://user:secret@example.com/", "https://example.com./",
    "https://localhost./", "https://127.0.0.1./", "https://2130706433/", "https://0x7f000001/",
    "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/", "https://0/", "https://1.2.3.0x4/",
    "https://[fe80::1%25eth0]/", "https://[::ffff:7f00:1]/", "https://exa mple.com/", "https://-a.example/",
    "https://a..b/", "https://" + "a" * 64 + ".example/", "https://example.com:99999/", "https://ex\0ample.com/",
    "https://\u2488\u24ea.\u24ea.1/", "https://example.com/#part", "gopher://127.0.0.1:6379/_FLUSHALL",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_as_it_stands(settings: Settings, address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(UnsafeUrl):
        check_url(settings, _url_of(address))


def test_an_address_that_is_not_public_is_refused_behind_a_name_too(settings: Settings) -> None:
    current = [""]
    with guarded_client(settings, resolve=lambda host, port: current) as client:
        for current[0] in NOT_PUBLIC:
            for url in (_url_of(current[0]), "https://hooks.example/"):
                with pytest.raises(Refused):
                    client.get(url)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not_refused(settings: Settings, address: str) -> None:
    assert is_public(ip_address(address))
    check_url(settings, _url_of(address))


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_in_another_form_is_refused(settings: Settings, url: str) -> None:
    with pytest.raises(UnsafeUrl) as error:
        check_url(settings, url, "/endpoint")
    assert error.value.faults[0].pointer == "/endpoint"
    assert error.value.faults[0].fix
    assert "secret" not in error.value.detail


@pytest.mark.parametrize(
    "url", ["https://example.com/a?b=c", "https://EXAMPLE.com:8443", "https://bücher.example/"]
)
def test_an_ordinary_url_is_fine(settings: Settings, url: str) -> None:
    check_url(settings, url)


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1."]
)
def test_no_spelling_of_this_machine_reaches_it(settings: Settings, host: str, served: "Served") -> None:
    """With the system's own resolver, which reads all of these as 127.0.0.1."""
    with guarded_client(settings) as client:
        for scheme in ("http", "https"):
            with pytest.raises((httpx.TransportError, httpx.InvalidURL)):
                client.get(f"{scheme}://{host}:{served.port}/")
    assert served.connections == 0


def test_one_private_address_among_public_ones_refuses_the_name(settings: Settings) -> None:
    mixed = {"a.example": ["1.1.1.1", "10.0.0.1"], "b.example": ["10.0.0.1", "1.1.1.1"],
             "c.example": ["2606:4700::1111", "::1"]}  # fmt: skip
    with guarded_client(settings, resolve=lambda host, port: mixed[host]) as client:
        for name in mixed:
            with pytest.raises(Refused):
                client.get(f"https://{name}/")


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(
    settings: Settings, served: "Served"
) -> None:
    """A name that is rebound between check and connection: the second answer is never asked for."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    allowed = settings.model_copy(update={"outgoing_allow": ("127.0.0.1/32",)})
    with guarded_client(allowed, resolve=resolve) as client:
        assert client.get(f"http://rebound.example:{served.port}/").text == f"rebound.example:{served.port}"
        assert asked == ["rebound.example"]
        with pytest.raises(Refused):
            client.get(f"http://rebound.example:{served.port}/")
    assert served.connections == 1


def test_http_goes_only_where_it_is_allowed(settings: Settings, served: "Served") -> None:
    for allowed in (f"127.0.0.1:{served.port}", "127.0.0.0/8"):
        changed = settings.model_copy(update={"outgoing_allow": (allowed,)})
        check_url(changed, served.url)
        with guarded_client(changed) as client:
            assert client.get(served.url).is_success
    other = settings.model_copy(update={"outgoing_allow": ("127.0.0.1:1", "10.0.0.0/8")})
    with guarded_client(other) as client, pytest.raises(Refused):
        client.get(served.url)
    with guarded_client(other, resolve=lambda host, port: ["127.0.0.1"]) as client, pytest.raises(Refused):
        client.get(f"http://hooks.example:{served.port}/")
    assert served.connections == 2


def test_nothing_is_written_in_the_clear_to_a_public_address() -> None:
    """Where one network is allowed http URLs exist, and a name may lead from there to a public address."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = _BoundedStream(SyncStream(ours), _Bounds(time.monotonic() + 9, 9), may_be_written=False)
        with pytest.raises(Refused):
            stream.write(b"GET /")


def test_a_redirect_is_an_answer_and_not_followed(settings: Settings, served: "Served") -> None:
    with guarded_client(served.allowed(settings)) as client:
        answer = client.get(served.url + "redirect")
    assert (answer.status_code, served.connections) == (302, 1)


def test_no_cookie_is_kept_and_nothing_packed_is_read(settings: Settings, served: "Served") -> None:
    with guarded_client(served.allowed(settings)) as client:
        client.get(served.url + "cookie")
        assert client.get(served.url + "cookie").text == "None"
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(served.url + "packed")


@pytest.mark.parametrize("path", ["endless", "long-header"])
def test_an_answer_is_read_up_to_its_cap(settings: Settings, served: "Served", path: str) -> None:
    client = guarded_client(served.allowed(settings), max_bytes=50_000)
    with client, pytest.raises((AnswerTooLarge, httpx.RemoteProtocolError)):
        client.get(served.url + path)


@pytest.mark.parametrize("path", ["drip-header", "drip-body", "silent"])
def test_an_exchange_has_one_deadline(settings: Settings, served: "Served", path: str) -> None:
    started = time.monotonic()
    client = guarded_client(served.allowed(settings), max_s=0.4)
    with client, pytest.raises((TookTooLong, httpx.ReadTimeout)):
        client.get(served.url + path)
    assert time.monotonic() - started < 1.5


def test_a_look_up_that_hangs_has_the_same_deadline(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that hang are not many: the next one finds no place, until they are over."""
    monkeypatch.setattr(outgoing, "_free_look_ups", threading.Semaphore(1))
    over = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        over.wait(60)
        raise OSError("no answer")

    with guarded_client(settings, max_s=0.2, resolve=hang) as client:
        for said in ("the look-up took too long", "too many look-ups hang"):
            started = time.monotonic()
            with pytest.raises(TookTooLong, match=said):
                client.get("https://hangs.example/")
            assert time.monotonic() - started < 10
        over.set()
    with (
        guarded_client(settings, resolve=hang) as client,
        pytest.raises(httpx.ConnectError, match="no address"),
    ):
        client.get("https://hangs.example/")


def test_https_verifies_the_name_that_was_asked_for(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = _certificate(tmp_path, "hooks.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    allowed = settings.model_copy(update={"outgoing_allow": ("127.0.0.0/8",)})
    client = guarded_client(allowed, resolve=lambda host, port: ["127.0.0.1"])
    with client, _served(context) as served:
        answer = client.get(f"https://hooks.example:{served.port}/")
        assert answer.text == f"hooks.example:{served.port}"
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            client.get(f"https://other.example:{served.port}/")


def test_a_name_without_an_address_is_an_ordinary_failure(settings: Settings) -> None:
    client = guarded_client(settings, resolve=lambda host, port: [])
    with client, pytest.raises(httpx.ConnectError):
        client.get("https://nowhere.example/")


def test_the_system_resolver_gives_plain_addresses() -> None:
    assert "127.0.0.1" in resolve_name("127.0.0.1", 443)
    with pytest.raises(OSError, match="no name"):
        resolve_name("a" * 70 + ".example", 443)


@pytest.mark.parametrize("text", ["10.0.0.0/99", "hooks", "http://hooks:80", "10.0.0.1/8"])
def test_an_exception_that_means_nothing_stops_the_start(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(outgoing_allow=(text,))


def _url_of(address: str) -> str:
    return f"https://[{address}]/" if ":" in address else f"https://{address}/"


# ---- a server that misbehaves


class Served:
    def __init__(self, port: int) -> None:
        self.port, self.connections = port, 0
        self.url = f"http://127.0.0.1:{port}/"

    def allowed(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"outgoing_allow": (f"127.0.0.1:{self.port}",)})


@pytest.fixture
def served() -> Iterator[Served]:
    with _served() as served:
        yield served


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        ways: dict[str, Callable[[], None]] = {
            "/redirect": lambda: self._say("", Location="http://169.254.169.254/"),
            "/cookie": lambda: self._say(str(self.headers["Cookie"]), **{"Set-Cookie": "a=b"}),
            "/packed": lambda: self._say("", **{"Content-Encoding": "gzip"}),
            "/endless": lambda: self._raw(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000, 0),
            "/long-header": lambda: self._raw(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000, 0),
            "/drip-header": lambda: self._raw(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
            "/drip-body": lambda: self._raw(b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.05),
            "/silent": lambda: self._raw(b"", b"", 0.05),
        }
        ways.get(self.path, lambda: self._say(self.headers["Host"]))()

    def _say(self, text: str, **headers: str) -> None:
        self.send_response(302 if "Location" in headers else 200)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def _raw(self, first: bytes, again: bytes, pause_s: float) -> None:
        """For ever, that is until the client hangs up or 3 seconds have passed."""
        self.close_connection = True
        ends = time.monotonic() + 3
        try:
            self.connection.sendall(first)
            while time.monotonic() < ends:
                self.connection.sendall(again)
                time.sleep(pause_s)
        except OSError:
            pass


@contextmanager
def _served(context: ssl.SSLContext | None = None) -> Iterator[Served]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def process_request(self, request: object, client_address: object) -> None:
            counted.connections += 1
            super().process_request(request, client_address)  # type: ignore[arg-type]

        def handle_error(self, *_: object) -> None:
            pass  # a client that hangs up is what these tests are about

    with Server(("127.0.0.1", 0), _Answers) as server:
        counted = Served(server.server_port)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield counted
        finally:
            server.shutdown()
            thread.join()


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key,
         "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
