"""Writes the lock files: exact versions with file hashes, for reproducible installations.

`requirements/ci.txt` contains everything that `.[dev,docs]` needs except PyTorch, torchvision and packages that belong
to one build of PyTorch (CUDA libraries, Triton), because the right build depends on the machine. Install those first,
and then only what the lock file lists (`--no-deps`). `requirements/scan.txt` contains the scanner for `make scan`,
which has its own environment.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CI = ROOT / "requirements/ci.txt"
SCAN = ROOT / "requirements/scan.txt"
SCANNER = "modelaudit>=0.2.54\n"  # it reads safetensors files; modelscan 0.8.8 skips them
BOUNDS = """\
backports-strenum<1.3                    # uv overlooks that later releases are only for older Pythons
pydantic>=2.12; python_version>='3.14'   # uv overlooks that earlier ones have no wheel for it
"""
MACHINES_OWN = re.compile(r"torch|torchvision|triton|(cuda|nvidia)-.+")


def compiled(*words: str, requirements: str) -> str:
    """Resolves requirements with uv to the newest versions for every system and for Python 3.11 and later."""
    options = [
        "--quiet",
        "--no-annotate",
        "--universal",
        "--python-version",
        "3.11",
        "--custom-compile-command",
        "make lock",
    ]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, *words]
    return subprocess.run(command, cwd=ROOT, input=requirements, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    CI.parent.mkdir(exist_ok=True)
    project = ["pyproject.toml", "-", "--extra", "dev", "--extra", "docs"]
    names = re.findall(r"^([\w.-]+)==", compiled(*project, requirements=BOUNDS), re.M)
    left_out = [f"--no-emit-package={name}" for name in names if MACHINES_OWN.fullmatch(name)]
    locked = compiled("--generate-hashes", *left_out, *project, requirements=BOUNDS)
    CI.write_text(locked, encoding="utf-8")
    SCAN.write_text(compiled("--generate-hashes", "-", requirements=SCANNER), encoding="utf-8")


if __name__ == "__main__":
    main()
