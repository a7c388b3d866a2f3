"""One spelling for each argument, or an error that names the nearest."""

import numpy as np
import pytest

from mnv2zoo.errors import ArgumentError
from mnv2zoo.models import arguments


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pad_type": ""}, {"pad_type": "symmetric"}),
        ({"pad_type": "SAME"}, {"pad_type": "same"}),
        ({"num_classes": np.int64(5)}, {"num_classes": 5}),
        ({"drop_rate": 1}, {"drop_rate": 1.0}),
        ({"output_stride": np.int64(16)}, {"output_stride": 16}),
        ({"global_pool": "FastAvg"}, {"global_pool": "fastavg"}),
        ({"act_layer": None, "unknown": object}, {"act_layer": None, "unknown": object}),
    ],
    ids=str,
)
def test_a_value_has_one_spelling(given, expected):
    assert arguments.checked(given) == expected
    assert all(type(value) is type(expected[name]) for name, value in arguments.checked(given).items())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pad_type": "smae"}, "same"),
        ({"num_classes": -1}, "a whole number, 0 or more"),
        ({"in_chans": 3.0}, "a whole number, 1 or more"),
        ({"output_stride": 4}, "8 or 16 or 32"),
        ({"drop_rate": float("nan")}, "a number from 0 to 1"),
        ({"act_layer": "relu7"}, "relu6"),
    ],
    ids=str,
)
def test_another_value_is_an_error_that_says_what_is_expected(given, expected):
    with pytest.raises(ArgumentError) as error:
        arguments.checked(given)
    assert expected in error.value.expected
    assert (error.value.where, error.value.found) == (next(iter(given)), repr(next(iter(given.values()))))
