"""Requests as bytes: methods, targets, headers, bodies and framing, most of them nearly right."""

import re
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

from tests import orders
from tests.fuzz.json_grammar import NUMBERS, STRINGS, bent, from_schema, written

METHODS = [
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "PROPFIND",
    "get",
    "BREW",
    "G" * 40,
]
SEGMENTS = [
    "iris", "botanist", "1", "0", "-1", "999999999999", "champion", "%00", "%ff", "%C0%AF", "..", ".",
    "%2e%2e%2f", "a b",
    "a%20b", "x" * 300, "%F0%9F%98%80", "job_0", "*", "%", "%zz", "~", "model.safetensors", "config.json",
    ";a=b",
]  # fmt: skip
TYPES = [
    "application/json", "application/json; charset=utf-8", "application/JSON",
    "application/merge-patch+json", "text/plain",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=bound", "multipart/form-data",
    "image/png", "", ";",
    "application/octet-stream", "x" * 500,
]  # fmt: skip
HEADERS = {
    "Accept": ["*/*", "application/json", "text/event-stream", "text/csv", "text/markdown", "text/html", ""],
    "Range": ["bytes=0-1", "bytes=-5", "bytes=5-1", "bytes=99999999999999999999-", "bytes=a-b", "lines=1-2"],
    "If-None-Match": ["*", '"x"', 'W/"x"', "x" * 1000],
    "If-Match": ["*", '"1"', "1", ""],
    "Idempotency-Key": ["a", "", "k" * 255, "k" * 256, "\xff"],
    "Last-Event-ID": ["0", "-1", "x", str(2**31), "\xe9"],
    "Content-Encoding": ["gzip", "identity", "br", "deflate, gzip", ""],
    "Origin": ["http://127.0.0.1", "https://evil.example", "null", "x"],
    "X-Request-Id": ["mine", "a b", "x" * 200, "\x80"],
    "Authorization": ["Bearer sh_a_b", "Basic eDp5", "Bearer " + "x" * 5000],
    "X-Forwarded-For": ["1.2.3.4", "x"],
    "traceparent": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-x", "\xff"],
    "Connection": ["close", "keep-alive", "Upgrade", "x"],
    "Upgrade": ["websocket", "h2c"],
    "Transfer-Encoding": ["chunked", "gzip", "chunked, chunked", "identity"],
    "Content-Length": ["0", "-1", "x", "1", "99999999999999999999999"],
    "Cookie": ["a=b", "=" * 100],
}
SLOW_WORDS = ("wait",)  # parameters that make an answer take long by design


@dataclass(frozen=True)
class Request:
    """pieces: sent one after the other. is_whole: whether it ends, so that an answer is due at once."""

    pieces: tuple[bytes, ...]
    method: str
    is_whole: bool


class Grammar:
    """Draws requests to a service that is described by its OpenAPI document."""

    def __init__(self, seed: int, document: dict[str, Any]) -> None:
        self.chance = Random(seed)
        self.known: list[str] = []  # ids that may stand in a path
        self._document = document
        self._operations = [
            (method.upper(), path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]

    def request(self) -> Request:
        chance = self.chance
        if chance.random() < 0.02:
            return self._garbage()
        method, path, operation = chance.choice(self._operations)
        media_type, body = self._body(operation)
        if chance.random() < 0.04:
            method = chance.choice(METHODS)
        headers = self._headers(media_type if body or method == "POST" else None)
        target = self._target(path, operation)
        framing, payload, is_whole = self._framed(body)
        lines = [f"{method} {target} HTTP/1.1", *headers, *framing, "", ""]
        raw = "\r\n".join(lines).encode("latin-1", "replace") + payload
        return Request(self._pieces(raw), method, is_whole and not _is_bent_in_framing(headers))

    # ---- the line

    def _target(self, path: str, operation: dict[str, Any]) -> str:
        chance = self.chance
        target = re.sub(r"\{[^}]*\}", lambda found: self._segment(found[0]), path)
        query = []
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query" and chance.random() < 0.3:
                value = from_schema(chance, parameter["schema"], self._document)
                value = value if chance.random() < 0.5 else chance.choice(STRINGS + NUMBERS)  # type: ignore[operator]
                value = chance.choice(("0.01", "x", "-1")) if parameter["name"] in SLOW_WORDS else value
                query.append(f"{quote(parameter['name'])}={quote(str(value).encode('utf-8', 'replace'))}")
        if chance.random() < 0.05:
            query.append(
                chance.choice(
                    ("x=1", "%00=1", "a", "=", "&&&", "%ff=%fe", "q=" + "y" * 3000, "limit=1&limit=2")
                )
            )
        way = chance.random()
        if way < 0.01:
            target = chance.choice(
                ("*", "http://evil.example" + target, "//" + target, target + "/", "/" + "a" * 9000, "?")
            )
        return target + ("?" + "&".join(query) if query else "")

    def _segment(self, name: str) -> str:
        if self.known and name.endswith("_id}") and self.chance.random() < 0.8:
            return self.chance.choice(self.known)
        if self.chance.random() < 0.4:
            return {"{name}": "iris", "{version}": "1", "{alias}": "champion"}.get(name, "botanist")
        return self.chance.choice(SEGMENTS).replace(" ", "%20")

    def _headers(self, media_type: str | None) -> list[str]:
        chance = self.chance
        headers = ["Host: 127.0.0.1"]
        if chance.random() < 0.02:
            headers = chance.choice(([], ["Host: evil.example"], ["Host: 127.0.0.1", "Host: x"], ["Host:"]))
        if media_type is not None:
            headers.append(f"Content-Type: {chance.choice(TYPES) if chance.random() < 0.04 else media_type}")
        for name, values in HEADERS.items():
            likely = 0.004 if name in ("Transfer-Encoding", "Content-Length", "Upgrade") else 0.03
            if chance.random() < likely:
                headers.append(f"{name}: {chance.choice(values)}")
        if chance.random() < 0.01:
            odd = [
                "A b: c",
                ": x",
                "X",
                "X: \x00",
                "X: a\tb",
                " folded",
                "X" * 200 + ": y",
                "X:" + "z" * 40_000,
            ]
            headers.append(chance.choice(odd))
        return headers

    # ---- the body

    def _body(self, operation: dict[str, Any]) -> tuple[str, bytes]:
        chance = self.chance
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            return "application/json", b"{}" if chance.random() < 0.02 else b""
        media_type = chance.choice(list(content))
        schema = content[media_type].get("schema", {})
        if media_type == "multipart/form-data":
            return "multipart/form-data; boundary=bound", self._form(schema)
        if media_type.startswith("image/"):
            return "image/png", chance.choice(
                (b"", b"\x89PNG\r\n\x1a\n" + chance.randbytes(50), b"GIF89a", b"BM")
            )
        if chance.random() < 0.02:
            return media_type, chance.randbytes(chance.randrange(200))
        return media_type, written(chance, bent(chance, self._value(schema)))

    def _value(self, schema: dict[str, Any]) -> Any:
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if self.chance.random() < 0.8:
            if name.startswith("JobSpec"):
                return self._spec()
            if name.startswith("SweepSpec"):
                space = {"/training/optimizer/lr": {"kind": "float", "low": 0.001, "high": 0.1, "log": True}}
                return {
                    "spec": self._spec(),
                    "space": space,
                    "objective": {"metric": "accuracy"},
                    "budget": {"trials": 3},
                }
        return from_schema(self.chance, schema, self._document)

    def _spec(self) -> dict[str, Any]:
        chance = self.chance
        spec = orders.spec()
        schemas = self._document["components"]["schemas"]
        form = next(schemas[name] for name in schemas if name.startswith("JobSpec"))
        for name in chance.sample(sorted(form["properties"]), 2):
            if chance.random() < 0.4:
                spec[name] = from_schema(chance, form["properties"][name], self._document)
        return spec

    def _form(self, schema: dict[str, Any]) -> bytes:
        """Hardly any is whole, for a whole one starts a child that reads it."""
        chance = self.chance
        names = [*schema.get("properties", {}), "file", "nope", "", '"', "a\xff", "name*"]
        parts = []
        for name in chance.sample(names, min(len(names), chance.choice((0, 1, 2, 3)))):
            file = f'; filename="{chance.choice(STRINGS)}"' if chance.random() < 0.3 else ""
            head = f'Content-Disposition: form-data; name="{name}"{file}'
            if chance.random() < 0.05:
                head = chance.choice(
                    ("X: y", "Content-Disposition: form-data", "Content-Disposition", "\x00")
                )
            value = chance.choice(
                (b"iris", b"", b"a,b\n1,2\n", b"\xff\xfe", b"\0", b"{", b"PK\x03\x04", b"x" * 5000)
            )
            parts.append(b"--bound\r\n" + head.encode("utf-8", "replace") + b"\r\n\r\n" + value + b"\r\n")
        end = (
            b"--bound--\r\n"
            if chance.random() < 0.8
            else chance.choice((b"", b"--bound", b"--bou", b"--bound--x"))
        )
        return b"".join(parts) + end

    # ---- framing

    def _framed(self, body: bytes) -> tuple[list[str], bytes, bool]:
        chance = self.chance
        if not body and chance.random() < 0.9:
            return [], b"", True
        way = chance.random()
        if way < 0.8:
            return [f"Content-Length: {len(body)}"], body, True
        if way < 0.805:
            return [f"Content-Length: {len(body) + 5}"], body, False
        if way < 0.82:
            return [f"Content-Length: {max(len(body) - 3, 0)}"], body, True
        return self._chunked(body)

    def _chunked(self, body: bytes) -> tuple[list[str], bytes, bool]:
        chance = self.chance
        chunks, rest = [], body
        while rest:
            size = chance.randrange(1, len(rest) + 1)
            extension = chance.choice((b"", b"", b"", b";a=b", b' ;x="y"', b";" + b"e" * 300))
            chunks.append(b"%x%s\r\n%s\r\n" % (size, extension, rest[:size]))
            rest = rest[size:]
        raw = b"".join(chunks)
        end = b"0\r\n\r\n"
        way = chance.random()
        if way < 0.06:
            end = chance.choice((b"0\r\nX: y\r\n\r\n", b"0\r\n" + b"T: u\r\n" * 200 + b"\r\n", b"zz\r\n",
            b"-1\r\n\r\n",
                                 b"ffffffffffffffffff\r\n", b"0\n\n", b"\r\n"))  # fmt: skip
        if way < 0.01:
            end = b""
        return ["Transfer-Encoding: chunked"], raw + end, end.startswith(b"0\r\n") or end[:1] in (b"z", b"-")

    def _pieces(self, raw: bytes) -> tuple[bytes, ...]:
        if self.chance.random() < 0.9:
            return (raw,)
        cuts = sorted(self.chance.randrange(len(raw) + 1) for _ in range(3))
        return tuple(raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True))

    def _garbage(self) -> Request:
        chance = self.chance
        raw = chance.choice((
            chance.randbytes(chance.randrange(1, 2000)), b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
            b"\r\n" * 50,
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3, b"\0" * 100, b"{}",
            b"GET  /  HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\n\r\n",
        ))  # fmt: skip
        return Request((raw,), "GARBAGE", False)


def _is_bent_in_framing(headers: list[str]) -> bool:
    names = {header.partition(":")[0] for header in headers}
    return bool(names & {"Transfer-Encoding", "Content-Length", "Upgrade", "Expect"})
