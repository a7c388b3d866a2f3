"""Times functions that take turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

MOST_SECONDS = 10.0  # there are no further rounds after so many
# The threads of PyTorch and ONNX Runtime spin for a while after a call, and would take a core from the next function.
SETTLE_SECONDS = 0.05
COUNTED_SECONDS = 0.05
LONG_SECONDS = 1.0  # during calls that take longer, threads that spin at the beginning do not matter
TOO_SLOW = 2.0  # functions whose best call took this many times as long as another's get no further turns


def milliseconds(
    functions: Mapping[str, Callable[[], object]], failed: Callable[[str, Exception], None], rounds: int = 5
) -> dict[str, float]:
    """Times functions in turns, so that other work on the machine slows all of them.

    Each turn begins with calls that do not count, unless one takes longer than a second. Functions that are much slower
    than another get one turn, so that the time goes to those that may be the fastest.

    Args:
        functions: The functions by name.
        failed: Called with the name and the exception of a function that raises one. It is not called again.
        rounds: Maximum number of turns of each.

    Returns:
        The median time of a call of each function that raised nothing, in milliseconds.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    best: dict[str, float] = {}
    end = time.perf_counter() + MOST_SECONDS
    for _ in range(rounds):
        limit = TOO_SLOW * min(best.values(), default=math.inf)
        for name in [name for name in times if best.get(name, 0) <= limit]:
            try:
                settling = _durations(functions[name], SETTLE_SECONDS)
                counted = settling if settling[0] > LONG_SECONDS else _durations(functions[name], COUNTED_SECONDS)
            except Exception as error:  # runtimes raise nearly any exception
                del times[name]
                best.pop(name, None)
                failed(name, error)
                continue
            times[name] += counted
            best[name] = min(best.get(name, math.inf), *settling, *counted)
        if time.perf_counter() > end:
            break
    return {name: 1000 * statistics.median(own) for name, own in times.items()}


def _durations(function: Callable[[], object], seconds: float) -> list[float]:
    """Calls a function at least once and for so long, and returns the duration of each call in seconds."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return found
