"""Dividing rows by their content."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.intake.splits import divide

SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 3)), max_size=80),
    weights=SHARES,
    seed=st.integers(0, 2**32 - 1),
)
def test_equal_rows_go_together_wherever_they_stand(
    rows: list[tuple[int, int]], weights: list[int], seed: int
) -> None:
    hashes = np.array([content for content, _ in rows], np.uint64)
    labels = np.array([label for _, label in rows], np.int32)
    shares = [weight / sum(weights) for weight in weights]
    places = divide(hashes, labels, shares, seed)
    assert places.shape == hashes.shape
    assert set(places.tolist()) <= set(range(len(shares)))
    for content in set(hashes.tolist()):
        assert len(set(places[hashes == content].tolist())) == 1


def test_each_class_is_divided_by_the_shares() -> None:
    hashes = np.arange(1000, dtype=np.uint64)
    labels = (np.arange(1000) % 4).astype(np.int32)
    places = divide(hashes, labels, [0.7, 0.2, 0.1], seed=3)
    for label in range(4):
        assert np.bincount(places[labels == label]).tolist() == [175, 50, 25]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_place_depends_on_the_content_and_the_seed_alone(seed: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 500).astype(np.uint64)
    labels = np.zeros(500, np.int32)
    shuffled = np.random.default_rng(1).permutation(500)
    places = divide(hashes, labels, [0.5, 0.5], seed)
    assert (divide(hashes[shuffled], labels, [0.5, 0.5], seed) == places[shuffled]).all()
    assert (divide(hashes, labels, [0.5, 0.5], seed + 7) != places).any()
