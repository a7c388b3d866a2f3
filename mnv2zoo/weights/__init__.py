"""Verified weights: `entries`, `entry`, `fetch` and `load`, and the errors that they raise."""

from mnv2zoo.errors import (
    IntegrityError,
    UnpinnedWeightsError,
    WeightsError,
    WeightsIndexError,
    WeightsUnavailableError,
)
from mnv2zoo.weights.index import entries, entry
from mnv2zoo.weights.schema import WeightsEntry
from mnv2zoo.weights.store import fetch, load

__all__ = [
    "IntegrityError",
    "UnpinnedWeightsError",
    "WeightsEntry",
    "WeightsError",
    "WeightsIndexError",
    "WeightsUnavailableError",
    "entries",
    "entry",
    "fetch",
    "load",
]
