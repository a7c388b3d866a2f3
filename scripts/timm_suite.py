"""Runs timm's own model tests on every architecture of this package.

The tests come from the source distribution of the installed timm, which pip downloads once. They are not part of this
repository. `timm_suite_plugin.py` says which of them apply and how. Needs the package installed with its `dev`
extra.

    python scripts/timm_suite.py                 # everything
    python scripts/timm_suite.py -k torchscript  # further arguments go to pytest
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
from timm_suite_plugin import APPLIES, AS_THEY_ARE, OTHERS

from mnv2zoo.architecture import CONFIGS
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.weights import index, schema

ROOT = Path(__file__).resolve().parent.parent


def timm_tests(cache: Path) -> Path:
    """Returns the folder `tests` of the installed timm's source distribution."""
    name = f"timm-{version('timm')}"
    tests = cache / name / "tests"
    if not tests.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
            subprocess.run([*pip, "--dest", scratch, name.replace("-", "==")], check=True)
            with tarfile.open(Path(scratch, f"{name}.tar.gz")) as archive:
                # The safe filter requires Python 3.11.4, which is newer than Debian 12's.
                for member in archive:
                    path = Path(scratch, member.name)
                    if member.isfile() and path.parent == Path(scratch, name, "tests"):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(archive.extractfile(member).read())
            Path(scratch, name).rename(tests.parent)
    return tests


def unclear_tests(tests: Path) -> list[str]:
    """Returns messages about differences between the plugin's lists and timm's files."""
    messages = []
    for file, listed in APPLIES.items():
        tree = ast.parse((tests / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        messages += [f"{file}: {name} is listed, but timm no longer has it" for name in listed if name not in names]
        if file == "test_models.py":
            unlisted = sorted(name for name in names - listed.keys() if name.startswith("test_"))
            others = [name for name in unlisted if any(fnmatchcase(name, pattern) for pattern in OTHERS)]
            messages += [f"{file}: {name} is new; list it in the plugin" for name in unlisted if name not in others]
    return messages


def random_weights(folder: Path) -> Path:
    """Writes an index that gives random weights to every name of the bundled index and to every architecture.

    The index pins them, so timm's tests of pretrained models cover the whole path from a name to verified bytes
    without the Hub.
    """
    entries = {}
    shipped = index.read(index.shipped_path())
    for name, config in CONFIGS.items():
        for key in [key for key in shipped if key.partition(".")[0] == name] or [f"{name}.random"]:
            data = safetensors.torch.save(MobileNetV2(config).state_dict())
            (folder / f"{key}.safetensors").write_bytes(data)
            entries[key] = {
                "bundled": f"{key}.safetensors",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
                "layout": "timm",
                "num_classes": config.num_classes,
                "input_size": [3, 224, 224],
                "crop_pct": 0.875,
                "interpolation": "bicubic",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "license": "none",
            }
    path = folder / "index.json"
    path.write_text(json.dumps({"schema_version": schema.SCHEMA_VERSION, "weights": entries}), encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".venv" / "timm-suite", help="folder for timm's tests")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2; more than 1 needs pytest-xdist)")
    args, pytest_args = parser.parse_known_args()

    tests = timm_tests(args.cache.resolve())
    if unclear := unclear_tests(tests):
        print(*unclear, sep="\n", file=sys.stderr)
        return 1
    jobs = ["-n", str(args.jobs)] if args.jobs > 1 else []
    with tempfile.TemporaryDirectory() as scratch:
        paths = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        env.pop("GITHUB_ACTIONS", None)  # timm skips tests if it is set
        env.setdefault("OMP_NUM_THREADS", "1")
        env |= {"MNV2ZOO_WEIGHTS_INDEX": str(random_weights(Path(scratch))), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "pytest", "-p", "timm_suite_plugin", "-p", "no:cacheprovider", "-q", "-rsfE"]
        options = ["-c", os.devnull, f"--rootdir={tests.parent}", *jobs, *pytest_args]
        files = [f"tests/{file}" for file in (*APPLIES, *AS_THEY_ARE)]
        return subprocess.run([*command, *options, *files], cwd=tests.parent, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
