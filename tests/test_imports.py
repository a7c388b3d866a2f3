"""Who imports whom, by the contracts in pyproject.toml, and which private names of other libraries are used."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
import timm

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mnv2zoo"


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the package in a folder that has a pyproject.toml too."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package's sources and of its contracts."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_package_keeps_its_contracts() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "written", "contract"),
    [
        ("system/files.py", "from mnv2zoo import models", "Rooms import downward only"),
        ("model_dir/files.py", "def later():\n    from mnv2zoo.deploy import fold", "Rooms import downward only"),
        ("data/decode.py", "if TYPE_CHECKING:\n    from ..training import recipe", "Rooms import downward only"),
        ("segmentation.py", "from mnv2zoo import detection", "Rooms import downward only"),
        ("attic.py", "", "Rooms import downward only"),
        ("data/decode.py", "import mnv2zoo", "Nothing below the command line imports the package's own __init__"),
        ("run.py", "from .cli import output", "Nothing imports the command line"),
        ("convert/files.py", "from ..models import zoo", "Weights are verified and converted without any model"),
        ("runtimes/cache.py", "def later():\n    import torch.nn", "Runtimes run without PyTorch and timm"),
    ],
)
def test_an_import_that_breaks_a_contract_fails(copied: Path, file: str, written: str, contract: str) -> None:
    with (copied / PACKAGE.name / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{written}\n")
    done = lint(copied)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


@pytest.mark.parametrize("name", ["architecture", "environment", "errors"])
def test_modules_that_help_texts_need_import_only_the_standard_library(name: str) -> None:
    graph = grimp.build_graph(PACKAGE.name, include_external_packages=True, cache_dir=None)
    found = {module.partition(".")[0] for module in graph.find_upstream_modules(f"{PACKAGE.name}.{name}")}
    assert found - sys.stdlib_module_names <= {PACKAGE.name}


def imported(text: str, path: Path) -> Iterator[str]:
    """The dotted names of all that a file with this text imports, wherever in it."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


OTHERS = ("timm", "torch", "accelerate", "typer", "huggingface_hub")
# The one place for private names, and that of the Hub's client, which has to work without PyTorch.
HOMES = {PACKAGE / "models" / "timm_compat.py", PACKAGE / "weights" / "hub_private.py"}


def used(text: str, path: Path) -> set[str]:
    """The dotted names of other packages that a file goes through: imported, as attributes, or in strings."""
    names = set(imported(text, path))
    origin = {}  # what a name in the file stands for
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origin[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            origin |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            names.add(f"{origin.get(root, '')}.{rest}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # for import_module and the like
            names |= set(re.findall(rf"\b(?:{'|'.join(OTHERS)})(?:\.\w+)+", node.value))
    return names


def private(dotted: str) -> bool:
    """Whether a dotted name goes through something that another library keeps private."""
    package, *parts = dotted.split(".")
    return package in OTHERS and any(re.match(r"_(?!_)", part) for part in parts)


@pytest.mark.parametrize(
    ("written", "takes"),
    [
        ("from timm.models._hub import save_config_for_hf", True),
        ("import timm.models._hub as hub", True),
        ("import timm\ntimm.models._hub.save_config_for_hf()", True),
        ("from timm import models as m\nf = m._hub", True),
        ("import huggingface_hub as h\nprint(h.file_download._request_wrapper)", True),
        ("from importlib import import_module\nimport_module('timm.models._features')", True),
        ("import timm\nprint(timm.__version__, timm.models.load_state_dict)", False),
        ("import torch\ntorch._C", True),
        ("from torch.utils import _pytree", True),
        ("from accelerate.state import AcceleratorState as State\nState._reset_state()", True),
        ("import typer\ntyper.core._split_opt", True),
        ("import torch\nprint(torch.__version__, torch.nn.functional)", False),
        ("_hub = own()\n_hub._private", False),
    ],
)
def test_the_reader_sees_every_use_of_a_private_name(written: str, takes: bool) -> None:
    assert any(map(private, used(written, PACKAGE / "model.py"))) == takes


def test_what_others_keep_private_is_taken_in_one_place() -> None:
    for path in {*PACKAGE.rglob("*.py")} - HOMES:
        found = sorted(filter(private, used(path.read_text(encoding="utf-8"), path)))
        assert not found, f"{path.relative_to(ROOT)} uses {found}, which belongs into mnv2zoo/models/timm_compat.py"


@pytest.mark.slow
@pytest.mark.parametrize("change", ["del _hub.save_config_for_hf", "_hub.save_config_for_hf = lambda where: None"])
def test_a_fork_of_timm_that_changed_is_one_error_at_import(tmp_path: Path, change: str) -> None:
    fork = tmp_path / "timm"
    shutil.copytree(Path(timm.__file__).parent, fork, ignore=shutil.ignore_patterns("__pycache__"))
    with (fork / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(f"\nfrom timm.models import _hub\n{change}\n")

    def run(*words: str) -> str:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1
        return done.stderr

    function = "save_config_for_hf(model, config_path, model_config, data_config)"
    expected = (
        f"timm {timm.__version__} is not compatible with this version of mnv2zoo\n  expected: {function}\n  found: "
    )
    assert f"\nmnv2zoo.errors.IncompatibleVersionError: {expected}" in run("-c", "import mnv2zoo")
    told = run("-m", "mnv2zoo", "export", "mnv2zoo_100_c20", "--out", "bundle")
    assert told.startswith(f"error: {expected}")
    assert told.endswith("(`pip install -U timm`), or update mnv2zoo.\n")


@pytest.mark.slow
def test_public_names_are_imported_at_their_first_use() -> None:
    script = (
        "import sys, mnv2zoo\n"
        "assert not {'mnv2zoo.deploy', 'mnv2zoo.detection', 'mnv2zoo.training'} & sys.modules.keys()\n"
        "assert not {'PIL.TiffImagePlugin', 'PIL.PdfImagePlugin'} & sys.modules.keys()\n"
        "print(all(getattr(mnv2zoo, name).__name__.endswith(name) for name in mnv2zoo.__all__))\n"
        "print(set(mnv2zoo.__all__) <= set(dir(mnv2zoo)), hasattr(mnv2zoo, 'models_of_others'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\nTrue False\n"
