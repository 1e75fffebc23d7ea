"""Requests to addresses that users name: webhooks, hubs, buckets. They must not become requests to our own
network.

Only https, only to public addresses. A name is resolved once, *every* address it has is checked, and the
connection goes to an address that was checked, with the name kept for SNI, the certificate and Host: a name
that answers otherwise the second time gains nothing. No redirects, proxies, cookies or unpacking; a request
has one deadline, the look-up included, and one cap for all that comes back, headers included, so each has its
own connection.

`outgoing_allow` in the settings lists exceptions: networks (10.1.0.0/16) and places (hooks.internal:8080).
What they cover is reached by http, too.
"""

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore
import httpx

from app.errors import Fault, UnsafeUrl
from app.settings import MIB, Settings

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], list[str]]
MAX_ADDRESSES = 16  # of one name; more are not tried, but all are checked
LOOK_UPS = 32  # at once; those that hang are left behind, each with its thread, until the system gives up
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_6TO4 = IPv6Network("2002::/16")
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # what IANA gives out; the rest is local, special or unused
_SPECIAL = (ip_network("192.88.99.0/24"), ip_network("3fff::/20"))  # 6to4 relays, documentation
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_free_look_ups = threading.Semaphore(LOOK_UPS)
_ENDS_IN_A_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")  # what resolvers read as an IPv4 address


class Refused(httpx.ConnectError):
    """The address is none that may be called."""


class TookTooLong(httpx.ReadTimeout):
    """The whole exchange passed its deadline."""


class AnswerTooLarge(httpx.ReadError):
    """More came back than is read."""


def guarded_client(
    settings: Settings,
    *,
    max_s: float = 15.0,
    max_bytes: int = 1 * MIB,
    resolve: Resolve | None = None,
) -> httpx.Client:
    """A client for URLs that users name. Raises httpx.TransportError only, its subclasses above among them.

    max_s, max_bytes: of a whole exchange, from the look-up to the answer's last byte. resolve: every address
    of a name; None: as the system does.
    """
    transport = _Transport(_Guard(settings, resolve or resolve_name, max_s, max_bytes))
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    identity = {"Accept-Encoding": "identity"}
    return httpx.Client(
        transport=transport, headers=identity, cookies=no_cookies, timeout=max_s, trust_env=False
    )


def check_url(settings: Settings, url: str, pointer: str = "/url") -> None:
    """What can be said of a URL without a look-up, for the moment it is handed in. Raises UnsafeUrl."""
    try:
        parsed = httpx.URL(url)
        _check_form(settings, parsed)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, Refused, ValueError) as error:
        reason = str(error) if isinstance(error, httpx.TransportError) else "it is not a URL"
        detail = f"The URL cannot be called: {reason}."
        fix = (
            "Name an https:// URL of a public host, or let an operator allow it in STILLHOUSE_OUTGOING_ALLOW."
        )
        raise UnsafeUrl(detail, Fault(pointer, "unsafe_url", detail, fix)) from None


def checked_addresses(
    settings: Settings, host: str, port: int, resolve: Resolve | None = None
) -> list[Address]:
    """Every address of a host, all of which may be called. Raises Refused, httpx.ConnectError."""
    _check_host(host)
    try:
        found = [_literal(text) for text in (resolve or resolve_name)(host, port)]
    except OSError:
        raise httpx.ConnectError("the name has no address") from None
    if not found:
        raise httpx.ConnectError("the name has no address")
    if not _is_allowed_place(settings, host, port):
        for address in found:
            if not (is_public(address) or _in_allowed_network(settings, address)):
                raise Refused("it leads to an address that is not public")
    return found


def resolve_name(host: str, port: int) -> list[str]:
    """Raises OSError."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that no name can have
        raise OSError("no name") from None
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def is_public(address: Address) -> bool:
    """Whether it means a host of the public internet, whatever it is wrapped in."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or (address.sixtofour if address in _6TO4 else None)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    special = any(address in network for network in _SPECIAL)
    return address.is_global and not address.is_multicast and not special


def _check_form(settings: Settings, url: httpx.URL) -> None:
    """Raises httpx.UnsupportedProtocol, Refused."""
    host, port = url.raw_host.decode("ascii"), url.port or {"https": 443, "http": 80}.get(url.scheme, 0)
    if url.scheme not in ("https", "http"):
        raise httpx.UnsupportedProtocol("only https is called")
    if url.userinfo:
        raise Refused("it holds a user name or a password")
    if url.fragment:
        raise Refused("it has a fragment, which is never sent")
    if port > 65535:
        raise Refused("its port is larger than 65535")
    _check_host(host)
    literal = _literal_or_none(host)
    listed = _is_allowed_place(settings, host, port)
    if literal is not None and not (listed or is_public(literal) or _in_allowed_network(settings, literal)):
        raise Refused("its address is not public")
    if url.scheme == "http" and not (listed or _networks(settings)):
        raise httpx.UnsupportedProtocol("only https is called")


def _check_host(host: str) -> None:
    """One spelling a host: no other than dotted decimals for IPv4, no final dot, no zone. Raises Refused."""
    if _literal_or_none(host) is not None:
        return
    name = host.lower()
    if not _NAME.fullmatch(name) or _ENDS_IN_A_NUMBER.fullmatch(name):
        raise Refused("its host is neither a name nor an address in its usual form")


def _literal_or_none(host: str) -> Address | None:
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _literal(text: str) -> Address:
    """An address as the system's resolver writes it, with a zone perhaps."""
    return ip_address(text.partition("%")[0])


def _is_allowed_place(settings: Settings, host: str, port: int) -> bool:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return place.lower() in settings.outgoing_allow


def _in_allowed_network(settings: Settings, address: Address) -> bool:
    """Unwrapped, so that 10.0.0.0/8 also allows ::ffff:10.0.0.1."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((inner or address) in network for network in _networks(settings))


def _networks(settings: Settings) -> list[IPv4Network | IPv6Network]:
    return [ip_network(text) for text in settings.outgoing_allow if "/" in text]


@dataclass(frozen=True)
class _Guard(httpcore.NetworkBackend):
    """Opens connections, each bounded in time and bytes from its first moment."""

    settings: Settings
    resolve: Resolve
    max_s: float
    max_bytes: int

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        bounds = _Bounds(time.monotonic() + self.max_s, self.max_bytes)
        addresses = checked_addresses(self.settings, host, port, _within(bounds, self.resolve))
        listed = _is_allowed_place(self.settings, host, port)
        last: Exception = httpcore.ConnectError("no address answers")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                opened = httpcore.SyncBackend().connect_tcp(
                    str(address), port, bounds.left_s(), local_address, socket_options
                )
                may_be_plain = listed or _in_allowed_network(self.settings, address)
                return _BoundedStream(opened, bounds, may_be_plain)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last


class _Bounds:
    """What is left of an exchange: until `deadline` on the monotonic clock, so many bytes."""

    def __init__(self, deadline: float, max_bytes: int) -> None:
        self._deadline, self._bytes = deadline, max_bytes

    def left_s(self) -> float:
        """Raises TookTooLong."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TookTooLong("the exchange took too long")
        return left

    def take(self, count: int) -> None:
        """Raises AnswerTooLarge."""
        self._bytes -= count
        if self._bytes < 0:
            raise AnswerTooLarge("the answer is too large")


def _within(bounds: _Bounds, resolve: Resolve) -> Resolve:
    """In a thread that can be left behind: the system's resolver knows no deadline. Raises TookTooLong."""

    def look_up(host: str, port: int) -> list[str]:
        found: Future[list[str]] = Future()

        def run() -> None:
            try:
                found.set_result(resolve(host, port))
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                found.set_exception(error)
            finally:
                _free_look_ups.release()

        if not _free_look_ups.acquire(timeout=bounds.left_s()):
            raise TookTooLong("too many look-ups hang")
        threading.Thread(target=run, name="look-up", daemon=True).start()
        try:
            return found.result(bounds.left_s())
        except TimeoutError:
            raise TookTooLong("the look-up took too long") from None

    return look_up


class _BoundedStream(httpcore.NetworkStream):
    """Nothing is written in the clear but to a place that is allowed."""

    def __init__(self, stream: httpcore.NetworkStream, bounds: _Bounds, may_be_written: bool) -> None:
        self._stream, self._bounds, self._may_be_written = stream, bounds, may_be_written

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        chunk = self._stream.read(max_bytes, self._bounds.left_s())
        self._bounds.take(len(chunk))
        return chunk

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self._may_be_written:
            raise Refused("only https is called")
        self._stream.write(buffer, self._bounds.left_s())

    def start_tls(
        self, ssl_context: object, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._bounds.left_s())  # type: ignore[arg-type]
        return _BoundedStream(secure, self._bounds, may_be_written=True)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


@cache
def _authorities(*_named: str | None) -> ssl.SSLContext:
    """Whose certificates count: those that the environment names, else the usual ones. To read them takes
    tens of milliseconds, and a service has two such clients."""
    return httpx.create_ssl_context()


class _Transport(httpx.HTTPTransport):
    """httpx's own, its connections made by the guard."""

    def __init__(self, guard: _Guard) -> None:
        context = _authorities(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        super().__init__(verify=context)
        self._guard = guard
        self._pool = httpcore.ConnectionPool(
            context, max_keepalive_connections=0, network_backend=guard, http2=False
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        _check_form(self._guard.settings, request.url)
        response = super().handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise httpx.RemoteProtocolError("the answer is packed, which nobody asked for")
        return response
