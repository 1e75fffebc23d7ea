"""What a proxy before us could read otherwise than we do is refused and never guessed: a request whose end or
whose host two programs see in different places is how a stranger's request gets into another one's line.
"""

from collections.abc import Sequence

from app.errors import MalformedRequest

ONCE = frozenset(
    (b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding", b"idempotency-key")
)


def check(version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], *, upgrades: bool) -> None:
    """headers: names in lowercase. upgrades: whether another protocol is asked for, behind which the parser
    sees no body: what belongs to one would be the next request.

    What the parser itself refuses is not looked for again: a length beside chunks, line breaks that are none,
    folded lines. Raises MalformedRequest."""
    if version not in ("1.0", "1.1"):
        raise MalformedRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in ONCE:
            if name in found:
                raise MalformedRequest(f"The header {name.decode().title()} stands twice: send it once.")
            found[name] = value
    if version == "1.1" and b"host" not in found:
        raise MalformedRequest("The header Host is missing: HTTP/1.1 needs it.")
    coding = found.get(b"transfer-encoding")
    if coding is not None and (coding.strip().lower() != b"chunked" or version == "1.0"):
        raise MalformedRequest("Transfer-Encoding may be `chunked` alone, and in HTTP/1.1 alone.")
    if upgrades and (coding is not None or found.get(b"content-length", b"0").strip() != b"0"):
        raise MalformedRequest(
            "Nothing is upgraded here: send a body by HTTP/1.1, without the header Upgrade."
        )
    if b"://" in target and not target.startswith(b"/"):
        authority = target.partition(b"://")[2].replace(b"?", b"/").partition(b"/")[0]
        if authority.lower() != found.get(b"host", authority).strip().lower():
            raise MalformedRequest("The host in the request line is another than in the header Host.")
