"""A few tries of each attack; `make attack` makes all of them. And the count itself: it must see what is lost."""

import subprocess
import sys
import time

import pytest

from attacks.catalogue import QUICK
from attacks.tally import Tally
from mnv2zoo.errors import WeightsError
from tests.conftest import ROOT


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_lost(name):
    # In a process of its own: attacks fork, and set timers and limits.
    command = [sys.executable, "-m", "attacks", "--quick", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert name in done.stdout


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("action", "sound", "errors"),
    [
        (lambda: 1, None, (WeightsError,)),  # was taken where it had to be refused
        (lambda: 1, lambda found: found == 2, ()),  # a wrong result
        (lambda: raise_(KeyError("x")), None, (WeightsError,)),  # another error than it may be
        (lambda: raise_(WeightsError("x")), lambda found: True, ()),  # an error where there may be none
        (lambda: time.sleep(60), lambda found: True, (WeightsError,)),  # no end
    ],
)
def test_what_is_lost_is_counted(action, sound, errors):
    tally = Tally()
    tally.attempt("a try", action, sound, errors, seconds=0.2)
    assert (tally.tries, len(tally.losses)) == (1, 1)


def test_what_holds_is_counted():
    tally = Tally()
    tally.attempt("a try", lambda: 1, lambda found: found == 1)
    tally.attempt("a try", lambda: raise_(WeightsError("x")))
    assert (tally.survived, tally.refused, tally.losses) == (1, 1, [])
