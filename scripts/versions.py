"""Tests the package with the oldest versions that pyproject.toml allows, or the newest, in a separate environment.

python scripts/versions.py                     # the newest of everything
python scripts/versions.py --oldest            # the oldest of every dependency, together
python scripts/versions.py --oldest timm rich  # the oldest of these, with the newest of the others
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("signing",)
TOOLS = ("hypothesis", "import-linter", "pytest", "pytest-timeout")
# Tests of the code that uses timm, the Hub client and PyTorch. Tests that need a missing extra are skipped.
TESTS = (
    "tests/test_architecture.py",
    "tests/test_imports.py",
    "tests/models",
    "tests/test_features.py",
    "tests/convert/test_conversion.py",
    "tests/convert/test_fit.py",
    "tests/convert/test_layouts.py",
    "tests/convert/test_recognize.py",
    "tests/convert/test_state_dict.py",
    "tests/weights",
    "tests/cli/test_list.py",
    "tests/cli/test_weights.py",
)


def lower_bounds() -> dict[str, str]:
    """Returns the version after `>=` of each dependency in pyproject.toml, including those of `EXTRAS`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [project["optional-dependencies"][extra] for extra in EXTRAS]
    requirements = sum(extras, project["dependencies"])
    return dict(re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement).groups() for requirement in requirements)


def python_of(venv: Path) -> Path:
    """Returns the Python of an environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main() -> int:
    bounds = lower_bounds()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oldest", nargs="*", metavar="NAME", choices=list(bounds), help=", ".join(bounds))
    parser.add_argument("--venv", type=Path, help="path of the environment, which is created if it does not exist")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="tests to run instead of the default ones")
    args = parser.parse_args()
    oldest = () if args.oldest is None else args.oldest or bounds

    with tempfile.TemporaryDirectory(prefix="mnv2zoo-versions-") as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{name}=={bounds[name]}\n" for name in oldest))
        venv = (args.venv or Path(folder, "venv")).resolve()
        python = str(python_of(venv))
        if not venv.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        package = f"{ROOT}[{','.join(EXTRAS)}]"
        install = ["install", "--quiet", "--disable-pip-version-check", "--upgrade", "--upgrade-strategy", "eager"]
        subprocess.run(
            [python, "-m", "pip", *install, "--constraint", constraints, "--editable", package, *TOOLS], check=True
        )
        subprocess.run([python, "-m", "pip", "check"], check=True)
        subprocess.run([python, "-m", "pip", "list", "--disable-pip-version-check"], check=True)
        env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([python, "-m", "pytest", "-q", *args.tests], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
