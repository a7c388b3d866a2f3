"""Who imports whom, against the table in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mnv2zoo"
NAMES = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
NAMES = NAMES - {"__init__"} | {"mnv2zoo"}
STANDARD_LIBRARY_ONLY = ("errors", "environment", "architecture")


def allowed() -> dict[str, set[str]]:
    """The table: what each module may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Who may import whom\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", text.partition("\n## ")[0], re.M)
    return {module: set(re.findall(r"`(\w+)`", cell)) for module, cell in rows}


def sources(name: str) -> list[Path]:
    """The files of a module or subpackage."""
    if name == "mnv2zoo":
        return [PACKAGE / "__init__.py"]
    return sorted((PACKAGE / name).rglob("*.py")) or [PACKAGE / f"{name}.py"]


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


def ours(dotted: str) -> str | None:
    """Which of our modules a dotted name belongs to; None for other packages."""
    package, _, rest = dotted.partition(".")
    first = rest.partition(".")[0]
    if package != PACKAGE.name:
        return None
    return first if first in NAMES else PACKAGE.name


def test_the_table_names_every_module_and_no_other() -> None:
    table = allowed()
    unlisted = sorted(NAMES - table.keys())
    assert not unlisted, f"give {unlisted} a row in CONTRIBUTING.md"
    assert set().union(table.keys(), *table.values()) - NAMES <= {"__main__"}, "CONTRIBUTING.md names what is not there"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    for path in sources(name):
        found = {
            module
            for module in map(ours, imported(path.read_text(encoding="utf-8"), path))
            if module not in (None, name)
        }
        breach = sorted(found - allowed().get(name, set()))
        assert not breach, f"{path.relative_to(ROOT)} imports {breach}, which CONTRIBUTING.md does not allow"


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_what_the_command_line_needs_first_uses_the_standard_library_alone(name: str) -> None:
    for path in sources(name):
        packages = {dotted.partition(".")[0] for dotted in imported(path.read_text(encoding="utf-8"), path)}
        assert packages - sys.stdlib_module_names <= {PACKAGE.name}


def test_the_table_keeps_the_rules_of_the_design() -> None:
    table = allowed()
    assert table["errors"] == table["environment"] == set()
    assert table["architecture"] == {"errors"}
    assert not table["weights"] & {"models"}
    assert not table["convert"] & {"models"}
    assert {name for name, others in table.items() if "cli" in others} <= {"__main__"}


def test_the_reader_sees_every_form_of_import() -> None:
    written = (
        "import torch, mnv2zoo.models.mobilenetv2\nfrom mnv2zoo import errors\ndef f():\n"
        "    from mnv2zoo.cli.main import app\n"
    )
    relative = "from . import trust\nfrom .. import models\nfrom ..cli import main\nfrom .index import entry\n"
    found = [ours(dotted) for dotted in imported(written + relative, PACKAGE / "weights" / "store.py")]
    assert found == [None, "models", "errors", "weights", "models", "cli", "weights", "cli"]


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
    expected = f"timm {timm.__version__} does not fit this package\n  expected: {function}\n  found: "
    assert f"\nmnv2zoo.errors.IncompatibleVersionError: {expected}" in run("-c", "import mnv2zoo")
    told = run("-m", "mnv2zoo", "export", "mnv2zoo_100_c20", "--out", "bundle")
    assert told.startswith(f"error: {expected}")
    assert told.endswith("(`pip install -U mnv2zoo timm`).\n")
