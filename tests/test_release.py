"""What a release is made of: the wheel's files, its bill of materials, and the lock files of CI."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import lock, release, versions
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("hatchling", reason="the build needs the extra: pip install -e '.[dev]'")
pytest.importorskip("cyclonedx_py", reason="the bill of materials needs the extra: pip install -e '.[dev]'")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(made_once):
    return next(made_once("dist", release.build).glob("*.whl"))


def test_the_wheel_made_of_the_sdist_holds_what_it_should(wheel):
    release.check_contents(wheel)
    data = [name for name in zipfile.ZipFile(wheel).namelist() if not re.search(r"\.py$|\.dist-info/", name)]
    assert sorted(data) == [
        *(f"mnv2zoo/bundled/mnv2zoo_{width}_c20.cifar100_coarse.safetensors" for width in ("050", "100")),
        *(
            f"mnv2zoo/deploy/page/{name}"
            for name in ("classify.js", "index.html", "page.js", "preprocess.js", "style.css")
        ),
        "mnv2zoo/py.typed",  # the types are for users' type checkers, too
        "mnv2zoo/weights_index.json",
        *(["mnv2zoo/weights_index.json.sig"] if (ROOT / "weights_index.json.sig").exists() else []),
    ]


def test_a_wheel_with_one_file_too_much_is_refused(wheel, tmp_path):
    other = shutil.copy(wheel, tmp_path)
    with zipfile.ZipFile(other, "a") as file:
        file.writestr("mnv2zoo/key.pem", "secret")
    with pytest.raises(SystemExit, match=r"unexpected \['mnv2zoo/key\.pem'\], missing \[\]"):
        release.check_contents(other)


@pytest.mark.parametrize("signed", [True, False])
def test_the_signature_of_the_index_comes_with_the_wheel(tmp_path, signed):
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "weights_index.json", "scripts", "mnv2zoo/version.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    if signed:
        (source / "weights_index.json.sig").write_bytes(b"s" * 64)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = tmp_path.glob("*.whl")
    assert ("mnv2zoo/weights_index.json.sig" in zipfile.ZipFile(made).namelist()) == signed


def test_the_bill_of_materials_is_valid_and_names_what_is_needed(wheel):
    text = release.bill_of_materials(sys.executable, wheel)
    bill = json.loads(text)
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"]) == ("mnv2zoo", release.__version__)
    assert about["licenses"][0]["license"]["id"] == "Apache-2.0"
    known = {part["bom-ref"]: part for part in bill["components"]}
    (needed,) = (item["dependsOn"] for item in bill["dependencies"] if item["ref"] == about["bom-ref"])
    names = {canonicalize_name(known[reference]["name"]) for reference in needed}
    assert {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]} <= names
    assert all(known[reference]["version"] and known[reference]["purl"] for reference in needed)
    assert not re.search(r"file:|/site-packages", text)


def test_an_invalid_bill_of_materials_is_no_release():
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}
    release.validated(document)
    with pytest.raises(SystemExit, match="invalid CycloneDX document"):
        release.validated(document | {"components": [{"name": "of no type"}]})


def requirements(*extras, python="3.11"):
    """What the project needs with extras, those that an extra names among them, with a version of Python."""
    for line in [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        if requirement.name == "mnv2zoo":
            yield from requirements(*requirement.extras, python=python)
        else:
            yield requirement


def locked(path, python="3.11"):
    """The versions in a lock file for a version of Python, and how many hashes each has."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    entries = re.split(r"^(?=[\w.-]+==)", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    lines = [(Requirement(re.match(r"[^\\\n]+", entry)[0]), entry.count("--hash=sha256:")) for entry in entries]
    return {
        canonicalize_name(line.name): (str(line.specifier).removeprefix("=="), hashes)
        for line, hashes in lines
        if line.marker is None or line.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_what_the_project_needs_within_its_bounds_but_for_pytorch(python):
    versions_of = locked(lock.CI, python)
    for requirement in requirements("dev", "docs", python=python):
        name = canonicalize_name(requirement.name)
        if name in ("torch", "torchvision"):
            assert name not in versions_of
        else:
            assert name in versions_of, f"`make lock`: {name} is not in {lock.CI}"
            assert requirement.specifier.contains(versions_of[name][0]), f"`make lock`: {requirement}"
    assert not any(lock.MACHINES_OWN.fullmatch(name) for name in versions_of)


@pytest.mark.parametrize("path", [lock.CI, lock.SCAN], ids=lambda path: path.name)
def test_a_lock_has_a_hash_for_everything_and_names_no_host_or_path(path):
    assert all(hashes for _, hashes in locked(path).values())
    assert not re.search(r"://|file:|^-|^/|index-url|find-links", path.read_text(encoding="utf-8"), re.M)


def test_metadata_checks_and_workflow_name_the_same_pythons():
    named = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["pythons"]["strategy"]["matrix"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tuple(named) == tuple(matrix["python"]) == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert settings["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    others = re.search(r"for version in ([\d. ]+);", (ROOT / ".ci/pythons").read_text())[1].split()
    assert set(others) < set(PYTHONS)


def test_a_release_names_the_repository_whose_workflow_built_it(wheel, tmp_path):
    def addresses(file):
        (name,) = (name for name in zipfile.ZipFile(file).namelist() if name.endswith("/METADATA"))
        lines = zipfile.ZipFile(file).read(name).decode().splitlines()
        return [line.removeprefix("Project-URL: ") for line in lines if line.startswith("Project-URL: ")]

    assert addresses(wheel) == []
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT]
    here = {"GITHUB_SERVER_URL": "https://code.example", "GITHUB_REPOSITORY": "someone/mnv2zoo"}
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **here})
    found = dict(line.split(", ") for line in addresses(next(tmp_path.glob("*.whl"))))
    assert found["Repository"] == "https://code.example/someone/mnv2zoo"
    assert found["Issues"] == "https://code.example/someone/mnv2zoo/issues"


def test_the_workflow_of_a_release_publishes_without_a_token():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    publish = jobs["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"}
    assert publish["needs"] == "build"
    assert any(step.get("run") == "make LOCKED=1 release" for step in jobs["build"]["steps"])


def test_every_dependency_has_a_lower_bound_that_is_tested():
    bounds = versions.lower_bounds()
    assert set(bounds) == {Requirement(line).name for line in PROJECT["dependencies"]} | {"cryptography"}
    assert bounds["torch"] == "2.4"
