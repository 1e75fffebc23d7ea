"""Chains of requests that schemathesis draws from the OpenAPI document of a real service: what one answer
gives is asked for by the next. A short run; SCHEMA_CHAINS=200 makes it a long one.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from app.db.migrate import upgrade
from app.db.session import Sessions
from app.db.tables import Project
from tests import orders
from tests.service import serving, settings_in

CHAINS = int(os.environ.get("SCHEMA_CHAINS", "4"))
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
    schema: Any = schemathesis.openapi.from_url(f"{address}/openapi.json")
    for path in SLOW:
        schema = schema.exclude(path=path, method="POST")

    class Chains(schema.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            seen[response.status_code] += 1
            assert response.status_code < 500 or response.status_code == 503, case.as_curl_command()
            if response.status_code >= 400 and case.method != "HEAD":
                assert response.headers["content-type"] == ["application/problem+json"], (
                    case.as_curl_command()
                )
                assert response.json()["code"]

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            case.query.pop("wait", None)  # a long poll is as long as it says
            case.headers.pop("Accept", None)  # an event stream does not end
            return {"timeout": 20}

    Chains.run(
        settings=settings(
            max_examples=CHAINS, stateful_step_count=STEPS, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )
    )  # fmt: skip
    assert sum(seen.values()) >= CHAINS
    assert set(seen) & {200, 202, 422}, seen
