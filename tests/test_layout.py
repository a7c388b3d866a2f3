"""Tests mirror the package: the tests of `mnv2zoo/room/module.py` are in `tests/room/test_module.py`."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ROOT

PACKAGE, TESTS = ROOT / "mnv2zoo", ROOT / "tests"
# Modules without a test file of their own, and why.
EXCEPTIONS = {
    "cli/options.py": "declarations only; tests/cli/test_main.py and each command's tests use them",
    **dict.fromkeys(
        [f"deploy/bundle/{name}.py" for name in ("classify", "detect", "multilabel", "runtime", "segment")],
        "is copied into bundles; tests/deploy/test_export.py and test_contents.py run it there",
    ),
    "models/timm_compat.py": "private API of timm and PyTorch; tests/test_imports.py checks it",
    "version.py": "one constant; tests/test_main.py prints it",
    "weights/hub_private.py": "private API of the Hub's client; tests/test_imports.py checks it",
    **dict.fromkeys(
        [
            *(f"convert/layouts/{name}.py" for name in ("base", "d_li14", "keras", "native", "openmmlab")),
            *(
                f"convert/layouts/{name}.py"
                for name in ("seed", "tensorflow", "timm", "tonylins", "torchvision", "transformers")
            ),
        ],
        "tests/convert/test_layouts.py runs every layout in the same way",
    ),
}


def place(module: Path) -> Path:
    """Where the tests of a module belong."""
    inside = module.relative_to(PACKAGE)
    return TESTS / inside.parent / f"test_{inside.stem.strip('_')}.py"


def untested() -> set[str]:
    modules = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(PACKAGE).as_posix() for path in modules if not place(path).is_file()}


def test_every_module_has_its_test_file() -> None:
    missing = sorted(untested() - EXCEPTIONS.keys())
    assert not missing, f"add tests for {missing}, in the files that tests/test_layout.py names"


def test_every_exception_is_needed() -> None:
    needless = sorted(EXCEPTIONS.keys() - untested())
    assert not needless, f"remove {needless} from the exceptions in tests/test_layout.py"
