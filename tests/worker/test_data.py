"""Canonical files as arrays: encoded once, in order, with the labels of the job."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from app.catalog.spec import PinnedData, Resolved
from app.catalog.tasks.image_classification import ImageClassification
from app.catalog.tasks.image_classification.preprocessing import plain
from app.catalog.tasks.tabular_classification import TabularClassification
from app.errors import DataUnusable
from tests.worker.workshop import TABULAR, Workshop, digits, images, order, table
from worker.data import Tables, holdout

X, Y = digits()


def tables(workshop: Workshop, resolved: Resolved, folder: Path) -> Tables:
    data = resolved.data
    for pin in (data.train, data.validation, data.test, *data.unlabeled):
        if isinstance(pin, PinnedData):
            workshop.parts.blobs.fetch(pin.sha256, folder / pin.sha256)
    return Tables(resolved, folder, 2)


def test_unlabeled_rows_follow_the_training_rows_and_their_labels_are_ignored(
    workshop: Workshop, expert: nn.Module, tmp_path: Path
) -> None:
    labels: list[Any] = [*Y[:40], None, None]
    train, more = workshop.data(table(X[:42], labels)), workshop.data(table(X[42:60], Y[42:60]), "more")
    teacher = workshop.perceptron(expert, (64, 64))
    made = tables(workshop, order([teacher], train, spec={}, unlabeled=[more]), tmp_path)
    training, validation, report = made.splits(seed=0)
    assert len(training.labels) == 60
    assert (training.labels[40:] == -100).all()
    assert report is validation
    assert len(validation.rows) == 8  # a fifth of the 40 labeled ones
    assert set(training.rows) | set(validation.rows) == set(range(60))
    assert not set(training.rows) & set(validation.rows)
    encoded = made.laid_end_to_end(training, TabularClassification(), TABULAR)
    np.testing.assert_allclose(encoded, (X[:60] - 8) / 6, rtol=1e-6)
    assert (
        made.laid_end_to_end(training, TabularClassification(), TABULAR) is not encoded
    )  # the file is there


def test_images_are_encoded_across_row_groups_in_order(
    workshop: Workshop, expert: nn.Module, tmp_path: Path
) -> None:
    rows = workshop.data(images(X[:1100], Y[:1100]))
    preprocessing = plain(1, (8, 8))
    teacher = workshop.perceptron(expert, (64, 64)).model_copy(
        update={"preprocessing": preprocessing.model_dump(mode="json")}
    )
    spec = {"task": {"kind": "image_classification"}, "student": {"architecture": {"kind": "resnet"}}}
    made = tables(workshop, order([teacher], rows, spec=spec), tmp_path)
    encoded = made.encoded(rows, ImageClassification(), preprocessing)
    assert encoded.dtype == np.uint8
    assert (encoded.reshape(1100, 64) == (X[:1100] * 15).astype(np.uint8)).all()
    assert (made.sample(rows, ImageClassification(), preprocessing, 3) == encoded[:3]).all()
    torch.from_numpy(encoded)  # without a warning that it cannot be written to


def test_a_row_that_cannot_be_encoded_is_named_by_its_place(
    workshop: Workshop, expert: nn.Module, tmp_path: Path
) -> None:
    broken = table(X[:20], Y[:20]).set_column(3, "p3", pa.array([1.0] * 19 + [1e308]))
    train = workshop.data(broken)
    made = tables(workshop, order([workshop.perceptron(expert, (64, 64))], train, spec={}), tmp_path)
    with pytest.raises(DataUnusable, match=r"dataset:digits@1#train, rows 1 to 20: Column 'p3'"):
        made.encoded(train, TabularClassification(), TABULAR)


def test_a_holdout_is_stratified_and_a_function_of_its_seed() -> None:
    labels = np.repeat([0, 1, 2, -100], [100, 50, 10, 40])
    held = holdout(labels, 0.2, seed=1)
    assert np.bincount(labels[held]).tolist() == [20, 10, 2]
    assert (holdout(labels, 0.2, seed=1) == held).all()
    assert set(holdout(labels, 0.2, seed=2)) != set(held)


def test_a_holdout_of_few_rows_takes_some_and_leaves_every_class_one() -> None:
    labels = np.repeat(np.arange(10), 5)
    held = holdout(labels, 0.1, seed=0)
    assert len(held) == 5
    assert len(set(labels[held])) == 5
    only = np.array([0, 1, 2, 2])
    assert set(only[holdout(only, 0.25, seed=0)]) == {2}
    assert len(holdout(np.full(10, -100), 0.3, seed=0)) == 3
