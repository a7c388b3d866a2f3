"""What a record was made on."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version


def machine(*packages: str) -> dict[str, object]:
    """Cores, Python and the versions of packages, by their names."""
    cores = {"cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
    return cores | {name: version(name) for name in packages}
