"""JSON that is almost right: made from a schema or taken from an order, then bent, then written oddly."""

import copy
import json
from random import Random
from typing import Any

Json = Any
STRINGS = [
    "", "a", "iris", "model:botanist", "model:botanist@1", "dataset:iris", "dataset:iris#train",
    "dataset:iris@9",
    "model:botanist@\u202e", "../../etc/passwd", "%00", "NaN", "1", "true", "\ud83d\ude00", "\u0000",
    "\ufeff",
    "a" * 300, "x" * 5000, "=cmd()", "https://hooks.invalid/x", "http://127.0.0.1/",
    "https://user:pw@h.invalid/",
    "auto", "cpu", "tabular_classification", "\u2028", "'; DROP TABLE jobs; --", "{{7*7}}",
    "2026-11-21T09:00:00Z",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 64, 10**4, 10**9, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**30, 0.5, -0.5, 1e-300,
    1e300,
    5e-324, 1.0000000001,
]  # fmt: skip
TOKENS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0x10", b"01", b"1.", b".5", b"+1", b"nul", b"'a'",
    b'"\\ud800"', b'"\\u0000"', b'"\\x"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b"[" * 40 + b"]" * 40,
    b'{"a":' * 40 + b"1" + b"}" * 40, b"[" * 5000, b'"\n"', b"9" * 400, b"1e-400", b"/**/1", b"{,}", b"[1,]",
    b'{"a":1,"a":2}', b"\xef\xbb\xbf1", b'"\\ud83d\\ude00"', b"",
]  # fmt: skip


class Token:
    """Bytes that stand in the text as they are."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


def from_schema(chance: Random, schema: Json, root: Json, depth: int = 0) -> Json:
    """A value of the schema, more or less; root: the document with its components."""
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return from_schema(chance, target, root, depth)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return from_schema(chance, chance.choice(schema[union]), root, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object" and depth < 8:
        properties, needed = schema.get("properties", {}), schema.get("required", ())
        return {
            name: from_schema(chance, form, root, depth + 1)
            for name, form in properties.items()
            if name in needed or chance.random() < 0.3
        }
    if kind == "array" and depth < 8:
        item = schema.get("items") or {}
        return [from_schema(chance, item, root, depth + 1) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    plain: dict[str, list[Any]] = {
        "integer": NUMBERS,
        "number": NUMBERS,
        "boolean": [True, False],
        "null": [None],
    }
    return chance.choice(plain.get(str(kind), STRINGS))


def bent(chance: Random, value: Json) -> Json:
    """A copy in which some places hold something else."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        holder, key = _place(chance, value)
        if holder is None:
            value = _odd(chance)
        else:
            _bend(chance, holder, key)
    return value


def _place(chance: Random, value: Json) -> tuple[Json, Json]:
    """A container with one of its keys, anywhere in the value; None: there is none."""
    places = []
    stack = [value]
    while stack:
        holder = stack.pop()
        keys = (
            list(holder)
            if isinstance(holder, dict)
            else range(len(holder))
            if isinstance(holder, list)
            else ()
        )
        for key in keys:
            places.append((holder, key))
            stack.append(holder[key])
    return chance.choice(places) if places else (None, None)


def _bend(chance: Random, holder: Json, key: Json) -> None:
    way = chance.randrange(8)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[chance.choice(STRINGS)] = _odd(chance)
    elif way == 2:
        holder[key] = [holder[key]] * chance.choice((1, 2, 200))
    elif way == 3:
        holder[key] = {"kind": holder[key]}
    elif way == 4 and isinstance(holder[key], int | float):
        holder[key] = chance.choice((str(holder[key]), -holder[key], holder[key] * 10**6, True))
    else:
        holder[key] = _odd(chance)


def _odd(chance: Random) -> Json:
    pools: list[list[Any]] = [STRINGS, NUMBERS, [None, True, False, [], {}, [[]], {"kind": "x"}]]
    if chance.random() < 0.15:
        return Token(chance.choice(TOKENS))
    return chance.choice(chance.choice(pools))


def written(chance: Random, value: Json) -> bytes:
    """As text, seldom broken."""
    raw = _text(value)
    way = chance.random()
    if way < 0.03:
        return raw[: chance.randrange(len(raw) + 1)]
    if way < 0.06 and raw:
        at = chance.randrange(len(raw))
        return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    if way < 0.08:
        return raw + chance.choice((b"x", b"{}", b"\0", b" " * 1000))
    return raw


def _text(value: Json) -> bytes:
    if isinstance(value, Token):
        return value.raw
    if isinstance(value, dict):
        return b"{" + b",".join(_text(key) + b":" + _text(inner) for key, inner in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_text, value)) + b"]"
    return json.dumps(value).encode()
