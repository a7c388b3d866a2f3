"""Builds a release: the sdist, the wheel made of it, and the bill of materials of an environment with that wheel.

The bill (CycloneDX) lists what pip installs for the wheel on the day of the release: the versions that were tested.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mnv2zoo.version import __version__  # noqa: E402
from scripts.versions import python_of  # noqa: E402

INDEX = ("weights_index.json", "weights_index.json.sig")  # at the top of the repository, in the package in a wheel
DIST_INFO = f"mnv2zoo-{__version__}.dist-info"
METADATA = {f"{DIST_INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}


def build(folder: Path) -> Path:
    """Makes the sdist and, of that, the wheel, whose path is returned."""
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def expected_contents() -> set[str]:
    """What a wheel holds: the files of the package that git knows, code and bundled weights; the index; metadata."""
    known = ["git", "ls-files", "mnv2zoo", "_mnv2zoo_entry.py", *INDEX]
    tracked = subprocess.run(known, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    package = {name for name in tracked if name not in INDEX}
    allowed = re.compile(r".+\.py|mnv2zoo/py\.typed|mnv2zoo/bundled/[^/]+\.safetensors|mnv2zoo/deploy/page/[^/]+")
    strange = [name for name in package if not allowed.fullmatch(name)]
    if strange:
        sys.exit(f"neither code nor bundled weights, so they would be shipped by mistake: {strange}")
    return package | {f"mnv2zoo/{name}" for name in tracked if name in INDEX} | METADATA


def check_contents(wheel: Path) -> None:
    """Ends the program if the wheel holds anything else than it should."""
    found, expected = set(zipfile.ZipFile(wheel).namelist()), expected_contents()
    if found != expected:
        sys.exit(f"{wheel}: too much {sorted(found - expected)}, too little {sorted(expected - found)}")


def install(wheel: Path, venv: Path) -> Path:
    """Makes an environment that holds the wheel and what it needs, not even pip; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", venv], check=True)
    python = python_of(venv)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)
    return python


def bill_of_materials(python: Path, wheel: Path) -> str:
    """The CycloneDX document of an environment, which is about the wheel, validated."""
    options = ["--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible"]
    version = ["--spec-version", "1.6", "--output-format", "JSON", "--output-file", "-"]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", python, *options, *version]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    document["metadata"]["component"] |= {  # what the tool cannot know: the version is not in pyproject.toml
        "version": __version__,
        "purl": f"pkg:pypi/mnv2zoo@{__version__}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
    }
    return validated(document)


def validated(document: dict[str, Any]) -> str:
    """A bill of materials as text; ends the program if it breaks the standard's schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = json.dumps(document, indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"no valid CycloneDX document: {error}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for the files of the release")
    parser.add_argument("--venv", type=Path, required=True, help="where to make the environment with the wheel alone")
    args = parser.parse_args()
    wheel = build(args.out)
    check_contents(wheel)
    bill = bill_of_materials(install(wheel, args.venv), wheel)
    (args.out / f"mnv2zoo-{__version__}.cdx.json").write_text(bill, encoding="utf-8")


if __name__ == "__main__":
    main()
