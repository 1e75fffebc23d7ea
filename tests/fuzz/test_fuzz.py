"""A short run of `make fuzz`, and that its eyes are open."""

import json
from pathlib import Path

import pytest

from tests.fuzz.run import _wrong, fuzz

GROWTH_KB = 100 * 1024
SEED = 20_261_121


def test_no_request_breaks_the_service(tmp_path: Path) -> None:
    found = fuzz(tmp_path, 800, SEED)
    assert not found.failures, str(found)
    assert sum(found.statuses.values()) > 750
    assert {200, 400, 404, 405, 415, 422} <= set(found.statuses), str(found)
    assert found.growth_kb < GROWTH_KB, str(found)


PROBLEM = {"status": 422, "code": "invalid_request", "detail": "It is wrong.", "errors": []}
HEADERS = {"content-type": "application/problem+json", "x-request-id": "req_1"}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [(500, HEADERS, PROBLEM | {"status": 500}), (503, HEADERS, PROBLEM | {"status": 503}),
     (422, {**HEADERS, "content-type": "text/plain"}, PROBLEM), (200, {}, PROBLEM), (400, HEADERS, PROBLEM),
     (422, HEADERS, PROBLEM | {"detail": ""}), (422, HEADERS, PROBLEM | {"errors": [{"code": "",
     "detail": "x"}]}),
     (422, HEADERS, PROBLEM | {"detail": "SELECT * FROM jobs"}), (422, HEADERS,
     PROBLEM | {"detail": "x" * 99_999})],
)  # fmt: skip
def test_what_must_not_be_is_found(status: int, headers: dict[str, str], body: dict[str, object]) -> None:
    assert list(_wrong(status, headers, json.dumps(body).encode(), "GET"))


def test_what_may_be_is_not_found() -> None:
    assert not list(_wrong(422, HEADERS, json.dumps(PROBLEM).encode(), "GET"))
    busy = {**HEADERS, "retry-after": "1"}
    assert not list(_wrong(503, busy, json.dumps(PROBLEM | {"status": 503}).encode(), "GET"))
    assert not list(_wrong(422, HEADERS, b"", "HEAD"))
