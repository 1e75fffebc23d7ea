"""JSON that two readers could understand differently, or that could hurt one, is refused."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.strict_json import NotStrict, parse_json

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('abc[]{}\\"'), inner),
    max_leaves=8,
)


@given(plain, st.booleans())
def test_what_is_plain_json_comes_back_as_it_was(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'"\xed\xa0\x80"',  # half of a surrogate pair, as bytes
        b"\xef\xbb\xbf{}",
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b"[-1e999]",
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
        b'"\\u0000"',
        b'{"\\u0000": 1}',
        b'"\x00"',
        b'"\\ud800"',
        b'"\\uDC00"',
        b'"\\ud800\\ud800\\udc00"',
        b'"\\ud83d\\ude00\\ude00"',
        b'"\\ud800\\\\\\udc00"',
        str(2**63).encode(),
        b"-" + b"9" * 5000,
        b"[" * (33) + b"]" * (33),
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'"\\u12"',
        b'"unfinished \\',
    ],
    ids=lambda body: f"{body[:24]!r} of {len(body)}",
)
def test_everything_else_is_refused(body: bytes) -> None:
    with pytest.raises(NotStrict) as caught:
        parse_json(body)
    assert "9999" not in str(caught.value)


def test_brackets_and_escapes_within_texts_are_texts() -> None:
    assert parse_json(b'["' + b"[" * 50 + b'", "\\"[[[", "\\\\u0000", "\\ud83d\\ude00"]')[2:] == [
        "\\u0000",
        "😀",
    ]


def test_the_deepest_that_is_allowed_is_allowed() -> None:
    assert parse_json(b"[" * 32 + b"]" * 32)


@pytest.mark.parametrize(
    "body",
    [b'"' + b'\\"' * 500_000, b"[]" * 500_000, b'"' * 1_000_000, b"[" * 1_000_000],
    ids=lambda body: repr(body[:4]),
)
def test_no_body_takes_long(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(NotStrict):
        parse_json(body)
    assert time.process_time() - started < 2
