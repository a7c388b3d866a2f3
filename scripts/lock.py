"""Writes the lock files: exact versions with the hashes of their files, for installations that nobody can change.

`requirements/ci.txt` holds what `.[dev,docs]` needs, all but PyTorch, torchvision and what belongs to one build of
PyTorch alone (CUDA's libraries, Triton): which build fits a machine is that machine's matter, and its hash would be
that of one build. They are installed before the lock file, from which pip then takes nothing but what it lists
(`--no-deps`). `requirements/scan.txt` holds the scanner of `make scan`, which has an environment of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CI = ROOT / "requirements/ci.txt"
SCAN = ROOT / "requirements/scan.txt"
SCANNER = "modelaudit>=0.2.54\n"  # of those that look into safetensors files; modelscan 0.8.8 skips them
BOUNDS = """\
backports-strenum<1.3                    # uv overlooks that later releases are for older Pythons alone
pydantic>=2.12; python_version>='3.14'   # uv overlooks that earlier ones have no wheel for it
"""
MACHINES_OWN = re.compile(r"torch|torchvision|triton|(cuda|nvidia)-.+")


def compiled(*words: str, requirements: str) -> str:
    """What uv resolves, newest first, for every system and every Python from 3.11 on, as a requirements file."""
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
