"""A few tries of each attack; `make attack` makes all of them. And the count itself: it must see what is lost."""

import json
import subprocess
import sys
import time

import pytest

from attacks import fuzz, fuzz_targets
from attacks.catalog import QUICK
from attacks.tally import Tally
from mnv2zoo.errors import WeightsError
from tests.conftest import ROOT, raw_entry


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_lost(name):
    # In a process of its own: attacks fork, and set timers and limits.
    command = [sys.executable, "-m", "attacks", "--quick", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert name in done.stdout


def raise_(error):
    raise error


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_what_is_fuzzed_takes_its_seeds(name):
    target = fuzz_targets.TARGETS[name]
    for data in target.seeds():
        target.attempt(data)


def test_the_planted_flaw_is_a_flaw():
    entry = {"mnv2zoo_100.full": raw_entry(description="weights")}
    with pytest.raises(KeyError, match="planted"):
        fuzz_targets.TARGETS["planted"].attempt(json.dumps({"schema_version": 1, "weights": entry}).encode())


def test_alterations_depend_on_their_seed_and_stay_json():
    data = fuzz_targets.TARGETS["index"].seeds()[1]
    made = [fuzz_targets.alter(data, seed, framed=False) for seed in range(50)]
    assert made == [fuzz_targets.alter(data, seed, framed=False) for seed in range(50)]
    assert len(set(made)) > 40
    for altered in made:
        json.loads(altered)


def test_the_report_tells_what_the_fuzzer_found():
    sound = "#2 INITED cov: 3 ft: 4 corp: 1/1b\n#99 DONE cov: 20 ft: 30\nDone 120 runs in 7 second(s)\n"
    assert fuzz.report(sound, 0) == {"executions": 120, "edges": 20, "features": 30, "seconds": 7, "findings": []}
    failed = "#9 NEW    cov: 3 ft: 4\n === Uncaught Python exception: ===\nValueError: no\n"
    assert fuzz.report(failed, 77)["findings"] == ["ValueError: no"]
    assert fuzz.report("#9 NEW    cov: 3 ft: 4\n", 1)["findings"] == ["exit status 1"]
    with pytest.raises(SystemExit, match="did not start"):
        fuzz.report("no module named atheris", 1)
