"""Builds a release: the sdist, the wheel built from it, and the bill of materials of an environment with that wheel.

The bill (CycloneDX) lists what pip installs for the wheel on the day of the release, the versions that were tested.
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

INDEX = ("weights_index.json", "weights_index.json.sig")  # at the top of the repository, inside the package in a wheel
DIST_INFO = f"mnv2zoo-{__version__}.dist-info"
METADATA = {f"{DIST_INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}


def build(folder: Path) -> Path:
    """Builds the sdist and from it the wheel, and returns the path of the wheel."""
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def expected_contents() -> set[str]:
    """Lists the content of a wheel: the package's tracked files (code and bundled weights), the index, and metadata."""
    known = ["git", "ls-files", "mnv2zoo", "_mnv2zoo_entry.py", *INDEX]
    tracked = subprocess.run(known, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    package = {name for name in tracked if name not in INDEX}
    allowed = re.compile(r".+\.py|mnv2zoo/py\.typed|mnv2zoo/bundled/[^/]+\.safetensors|mnv2zoo/deploy/page/[^/]+")
    strange = [name for name in package if not allowed.fullmatch(name)]
    if strange:
        sys.exit(f"unexpected files in the package, which would be shipped: {strange}")
    return package | {f"mnv2zoo/{name}" for name in tracked if name in INDEX} | METADATA


def check_contents(wheel: Path) -> None:
    """Exits if the wheel contains unexpected files or lacks expected ones."""
    found, expected = set(zipfile.ZipFile(wheel).namelist()), expected_contents()
    if found != expected:
        sys.exit(f"{wheel}: unexpected {sorted(found - expected)}, missing {sorted(expected - found)}")


def install(wheel: Path, venv: Path) -> Path:
    """Creates an environment with only the wheel and its dependencies, without pip, and returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", venv], check=True)
    python = python_of(venv)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)
    return python


def bill_of_materials(python: Path, wheel: Path) -> str:
    """Returns a validated CycloneDX document for an environment, with the wheel as its subject."""
    options = ["--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible"]
    version = ["--spec-version", "1.6", "--output-format", "JSON", "--output-file", "-"]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", python, *options, *version]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    document["metadata"]["component"] |= {  # the tool cannot know these, because the version is not in pyproject.toml
        "version": __version__,
        "purl": f"pkg:pypi/mnv2zoo@{__version__}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
    }
    return validated(document)


def validated(document: dict[str, Any]) -> str:
    """Returns a bill of materials as text. Exits if it violates the standard's schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = json.dumps(document, indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"invalid CycloneDX document: {error}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="empty folder for the files of the release")
    parser.add_argument("--venv", type=Path, required=True, help="path of the environment to create for the wheel")
    args = parser.parse_args()
    wheel = build(args.out)
    check_contents(wheel)
    bill = bill_of_materials(install(wheel, args.venv), wheel)
    (args.out / f"mnv2zoo-{__version__}.cdx.json").write_text(bill, encoding="utf-8")


if __name__ == "__main__":
    main()
