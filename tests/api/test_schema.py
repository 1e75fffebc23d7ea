"""Chains of requests that schemathesis draws from the OpenAPI document of a real service: what one answer
gives is asked for by the next. A short run; SCHEMA_RUNS=100 makes it a long one.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import FlakyStrategyDefinition

from app.db.migrate import upgrade
from app.db.session import Sessions
from app.db.tables import Project
from tests import orders
from tests.service import serving, settings_in

RUNS = int(os.environ.get("SCHEMA_RUNS", "2"))
STEPS = 12
SLOW = ("/v1/datasets", "/v1/models")  # an upload starts a child; tests/hostile sends those


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a service that is stocked and has no worker, so that what is ordered stays in line."""
    changed = settings_in(tmp_path_factory.mktemp("schema"), queue_url="redis://127.0.0.1:1/0")
    upgrade(changed.database_url)
    sessions = Sessions(changed.database_url)
    with sessions.write() as session:
        session.add(Project(id=orders.PROJECT, name="default"))
        session.flush()
        orders.stock(session)
    sessions.close()
    with serving(changed) as client:
        yield str(client.base_url)


def test_chains_of_requests_end_in_no_error_of_ours(address: str) -> None:
    seen: Counter[int] = Counter()
    wrong: list[str] = []
    schema: Any = schemathesis.openapi.from_url(f"{address}/openapi.json", timeout=120)
    for path in SLOW:
        schema = schema.exclude(path=path, method="POST")

    class Chains(schema.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            status, kind = response.status_code, response.headers.get("content-type", [""])
            seen[status] += 1
            if (status >= 500 and status != 503) or (status >= 400 and kind != ["application/problem+json"]):
                wrong.append(f"{status} {kind}: {case.as_curl_command()}")

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            case.query.pop("wait", None)  # a long poll is as long as it says
            case.headers.pop("Accept", None)  # an event stream does not end
            return {"timeout": 20}

    ways = settings(
        max_examples=4, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for number in range(RUNS):
        with suppress(FlakyStrategyDefinition):  # the service remembers, so nothing can be drawn twice alike
            seed(number)(Chains).run(settings=ways)
    assert not wrong
    assert sum(seen.values()) >= RUNS
    assert set(seen) & {200, 202, 422}, seen
