"""Batches are whole, and depend on the seed, the epoch and the step alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mnv2zoo.data.sampler import Batches


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
