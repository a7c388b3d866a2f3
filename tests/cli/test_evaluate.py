"""`evaluate` reports bad usage before it loads a model."""

import pytest


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "Missing argument 'DATA'"),
        (["photos", "--batch-size", "0"], "'--batch-size'"),
    ],
    ids=str,
)
def test_bad_usage_is_one_block_and_status_2(run, args, told):
    done = run("evaluate", *args)
    assert (done.status, done.out, len(done.errors)) == (2, "", 1)
    assert told in done.err


def test_help_has_an_example(run):
    assert "  mnv2zoo evaluate photos --model run\n" in run("evaluate", "--help").out
