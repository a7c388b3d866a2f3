"""Functions that take turns, on a clock that only they advance."""

import pytest

from mnv2zoo.runtimes import timing


class Clock:
    """Its time advances by what functions say that they take."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def function(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds(len(self.calls)) if callable(seconds) else seconds

        return run


def never(name, error):
    raise error


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_functions_take_turns_and_the_median_counts(clock):
    times = timing.milliseconds({"fast": clock.function("fast", 0.06), "slow": clock.function("slow", 0.1)}, never, 3)
    assert times == {"fast": pytest.approx(60), "slow": pytest.approx(100)}
    # One call settles, one counts.
    assert clock.calls == (["fast"] * 2 + ["slow"] * 2) * 3


def test_much_slower_functions_get_one_turn(clock):
    seconds = {"slowest": 0.3, "fast": 0.06, "as fast": 0.1}
    times = timing.milliseconds({name: clock.function(name, own) for name, own in seconds.items()}, never, 3)
    assert times == {name: pytest.approx(1000 * own) for name, own in seconds.items()}
    assert {name: clock.calls.count(name) for name in seconds} == {"slowest": 2, "fast": 6, "as fast": 6}


def test_the_time_of_slow_functions_goes_to_the_others(clock):
    """Ten seconds are three for the slow one, and four turns of 1.8 for the others, each with two calls."""
    seconds = {"slow": 3.0, "a": 0.4, "b": 0.5}
    timing.milliseconds({name: clock.function(name, own) for name, own in seconds.items()}, never)
    assert {name: clock.calls.count(name) for name in seconds} == {"slow": 1, "a": 8, "b": 8}


def test_a_call_that_other_work_slowed_does_not_decide(clock):
    slowed = clock.function("a", lambda number: 0.9 if number == 2 else 0.06)
    times = timing.milliseconds({"a": slowed, "b": clock.function("b", 0.07)}, never)
    assert times["a"] == pytest.approx(60)


def test_short_calls_are_repeated(clock):
    timing.milliseconds({"short": clock.function("short", 0.01)}, never, 4)
    assert len(clock.calls) == pytest.approx(4 * 10, abs=4)


def test_slow_functions_get_a_single_turn(clock):
    times = timing.milliseconds({name: clock.function(name, 20.0) for name in "ab"}, never)
    assert times == {"a": pytest.approx(20_000), "b": pytest.approx(20_000)}
    assert clock.calls == ["a", "b"]


def test_a_function_that_fails_is_left_out_and_not_called_again(clock):
    def breaks(number):
        if number > 2:
            raise OSError("out of memory")
        return 0.06

    failures = []
    functions = {"breaks": clock.function("breaks", breaks), "sound": clock.function("sound", 0.06)}
    times = timing.milliseconds(functions, lambda *failure: failures.append(failure), 3)
    assert times == {"sound": pytest.approx(60)}
    assert [(name, str(error)) for name, error in failures] == [("breaks", "out of memory")]
    assert clock.calls.count("breaks") == 3


def test_a_function_that_failed_does_not_make_others_too_slow(clock):
    def breaks(number):
        if number > 4:
            raise OSError("out of memory")
        return 0.06

    functions = {"breaks": clock.function("breaks", breaks), "sound": clock.function("sound", 0.3)}
    timing.milliseconds(functions, lambda *_: None, 3)
    assert clock.calls.count("sound") == 6 - 2  # it missed the second turn
