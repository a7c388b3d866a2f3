"""A Hub that is slow is left in the time that the user set."""

import pytest

from mnv2zoo import weights
from tests.weights.conftest import NAME


@pytest.mark.slow
def test_a_hub_that_never_ends_its_answer_is_left_in_time(pinned, monkeypatch):
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "3")
    pinned.fail(status=429, retry_after=3600)
    with pytest.raises(weights.WeightsUnavailableError, match="MNV2ZOO_DOWNLOAD_TIMEOUT"):
        weights.load(NAME)
    pinned.heal()
    weights.load(NAME)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(pinned, monkeypatch, value):
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", value)
    with pytest.raises(weights.WeightsUnavailableError, match="MNV2ZOO_DOWNLOAD_TIMEOUT"):
        weights.load(NAME)
