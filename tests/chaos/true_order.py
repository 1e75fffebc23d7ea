"""An order for the real worker."""

from typing import Any

import httpx

from tests.chaos.stack import Stack
from tests.irises import iris_order


def true_order(stack: Stack, **training: Any) -> dict[str, Any]:
    with httpx.Client(base_url=stack.urls[0], timeout=60) as client:
        return iris_order(
            client,
            stack.folder,
            training={"epochs": 3, "batch_size": 16} | training,
            evaluation={"compare": ["teacher"], "bootstrap": 100},
        )
