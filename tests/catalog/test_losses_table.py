"""The page of losses is the catalog's own."""

import pytest

from app.catalog.spec import LOSSES
from tests.catalog.losses_table import PAGE, page


def test_the_page_is_that_of_this_catalog() -> None:
    assert PAGE.read_text() == page(), "docs/losses.md is stale: make docs"


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_says_its_formula_and_its_paper(kind: str) -> None:
    loss = LOSSES[kind]
    assert loss.definition
    assert "\n" not in loss.definition
    assert loss.definition.isascii()
    assert loss.paper or "labels" in loss.needs
    assert all(field.description for name, field in loss.model_fields.items() if name != "kind")
