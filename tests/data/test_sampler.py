"""Batches are whole, and depend on the seed, the epoch and the step alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv2zoo.data.sampler import Batches, balanced_weights


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 60), batch_size=st.integers(2, 40), seed=st.integers(0, 9), epoch=st.integers(0, 5))
def test_every_image_comes_in_every_epoch_and_every_batch_is_whole(count, batch_size, seed, epoch):
    batches = Batches(count, batch_size, seed)
    batches.epoch = epoch
    steps = list(batches)
    assert len(steps) == len(batches) == batches.steps
    assert all(len(batch) == batch_size for batch in steps)
    indices = [index for batch in steps for index, _ in batch]
    assert sorted(indices[:count]) == list(range(count))
    assert set(indices) == set(range(count))
    assert list(batches) == steps
    batches.first = min(2, batches.steps - 1)
    assert list(batches) == steps[batches.first :]


def test_epochs_differ():
    batches = Batches(100, 10, 0)
    first = list(batches)
    batches.epoch = 1
    assert list(batches) != first


def test_balanced_batches_show_all_classes_equally_often():
    classes = [(0,)] * 90 + [(1,)] * 9 + [(0, 2)]
    weights = balanced_weights(classes)
    assert [sum(weights[:90]), sum(weights[90:99]), weights[99]] == pytest.approx([1, 1, 1])
    batches = Batches(len(classes), 30, 0, weights)
    counts = [0, 0, 0]
    for batches.epoch in range(30):
        steps = list(batches)
        assert [len(batch) for batch in steps] == [30] * 4
        for index, _ in (key for batch in steps for key in batch):
            counts[0 if index < 90 else 1 if index < 99 else 2] += 1
    assert [count / sum(counts) for count in counts] == pytest.approx([1 / 3] * 3, abs=0.03)
    batches.first = 2
    assert list(batches) == steps[2:]
