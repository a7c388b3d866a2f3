"""The attacks by name."""

from __future__ import annotations

import importlib
import time

from attacks.tally import Tally

# The attacks by their modules, the longest first, and how few tries of each do for `make test`.
QUICK: dict[str, dict[str, int]] = {
    "crowd": {"rounds": 1, "fresh_rounds": 0, "threads": 4},
    "bad_hub": {"cuts": 1, "random_cuts": 0, "faults": 8},
    "bad_hub_here": {"cuts": 1, "random_cuts": 0, "faults": 8},
    "bounds": {"stalls": 2, "floods": False},
    "tampering": {"alterations": 96, "refetched": 2, "downloads": 1, "races": 5, "things": 2},
    "bad_files": {"examples": 60},
    "long_service": {"predictions": 200},
}


def run(name: str, quick: bool = False) -> Tally:
    """Runs an attack.

    Args:
        name: Its module.
        quick: With a few tries only.

    Returns:
        What came of it.
    """
    tally = Tally()
    importlib.import_module(f"attacks.{name}").run(tally, **(QUICK[name] if quick else {}))
    return tally


def timed(name: str, quick: bool) -> tuple[Tally, float]:
    """Runs an attack and measures its seconds."""
    start = time.monotonic()
    return run(name, quick), time.monotonic() - start
