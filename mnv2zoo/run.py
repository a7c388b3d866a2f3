"""Runs a Python script with this package's models registered: `python -m mnv2zoo.run SCRIPT ARGS...`.

Use it with timm's `train.py`, `validate.py`, `inference.py` and `benchmark.py`, which then accept
`--model mnv2zoo_100`. With torchrun, run `torchrun ... -m mnv2zoo.run train.py ...`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import mnv2zoo  # noqa: F401  # registers the models

USAGE = "usage: python -m mnv2zoo.run SCRIPT [ARGS...]"


def main() -> None:
    """Runs the script named on the command line as `__main__`."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__, USAGE, sep="\n")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    script = Path(sys.argv[1])
    if not script.is_file():
        print(f"error: no such file: {script}\n  fix: {USAGE}", file=sys.stderr)
        sys.exit(2)
    sys.argv = sys.argv[1:]
    # As the interpreter does: the script's own folder comes first.
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
