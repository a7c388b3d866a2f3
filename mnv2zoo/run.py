"""Runs a Python script with the zoo's models registered: `python -m mnv2zoo.run SCRIPT ARGS...`.

timm's own `train.py`, `validate.py`, `inference.py` and `benchmark.py` then take
`--model mnv2zoo_100`; under torchrun it is `torchrun ... -m mnv2zoo.run train.py ...`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import mnv2zoo  # noqa: F401  # registers the models

USAGE = "usage: python -m mnv2zoo.run SCRIPT [ARGS...]"


def main() -> None:
    """Runs the script that the command line names, as if it had been started by itself."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__, USAGE, sep="\n")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    script = Path(sys.argv[1])
    if not script.is_file():
        print(f"error: no such script: {script}\n  fix: {USAGE}", file=sys.stderr)
        sys.exit(2)
    sys.argv = sys.argv[1:]
    # As the interpreter does: a script finds its neighbours first.
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
