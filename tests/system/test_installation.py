"""Every install command works from where the package came."""

import json
import re
import subprocess
import tomllib

import pytest

from mnv2zoo.system import installation
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Records where an installation came from, as pip does, and imports from no checkout."""
    info = tmp_path / "site-packages" / "mnv2zoo-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: mnv2zoo\nVersion: 0.1.0\n")
    monkeypatch.setattr(installation, "_CHECKOUT", tmp_path / "site-packages")
    monkeypatch.setattr("sys.path", [str(tmp_path / "site-packages")])

    def record(origin):
        if origin is not None:
            (info / "direct_url.json").write_text(json.dumps(origin))

    return record


def test_in_a_checkout_the_command_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert installation.install_command("train") == 'pip install -e ".[train]"'
    monkeypatch.chdir(tmp_path)
    assert installation.install_command("train") == f'pip install -e "{ROOT}[train]"'


@pytest.mark.parametrize("editable", [False, True])
def test_what_was_installed_from_a_folder_is_installed_from_there(installed, tmp_path, editable):
    installed({"url": tmp_path.as_uri(), "dir_info": {"editable": True} if editable else {}})
    flag = "-e " if editable else ""
    assert installation.install_command("deploy") == f'pip install {flag}"{tmp_path}[deploy]"'


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ({"url": "https://h.example/r.git", "vcs_info": {"vcs": "git"}}, "mnv2zoo[ray] @ git+https://h.example/r.git"),
        ({"url": "file:///dist/mnv2zoo.whl", "archive_info": {}}, "mnv2zoo[ray] @ file:///dist/mnv2zoo.whl"),
        (None, "mnv2zoo[ray]"),
    ],
)
def test_what_came_from_elsewhere_comes_from_there(installed, origin, target):
    installed(origin)
    assert installation.install_command("ray") == f'pip install "{target}"'


def install_commands():
    """Every command of the repository's texts that installs this package."""
    listed = ["git", "ls-files", "*.md", "*.py", "*.toml", "*.yml", "*.html", "*.js"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in names:
        if name not in ("mnv2zoo/system/installation.py", "tests/system/test_installation.py"):
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
                for command in re.findall(r"pip3? install [^`|#]*", line):
                    yield name, command


def test_no_text_takes_the_package_from_an_index_that_does_not_have_it():
    from_index = [
        (name, command)
        for name, command in install_commands()
        if re.search(r"(?<![\w./-])mnv2zoo\b", command) and "--find-links" not in command
    ]
    assert not from_index, "name the checkout, as in pip install -e '.[train]', or call install_command"


def test_every_extra_that_a_text_names_is_one():
    named = {extra for _, command in install_commands() for extra in re.findall(r"\.\[(\w+)\]", command)}
    assert {"train", "deploy", "parquet"} <= named
    assert named <= EXTRAS.keys()
