"""The API reference is complete: each public name has its place, and each docstring says what it has to."""

from __future__ import annotations

import ast
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import mnv2zoo
from tests.conftest import ROOT
from tests.docs.test_site import pages_of

griffe = pytest.importorskip("griffe", reason="the documentation needs the extra: pip install -e '.[docs]'")

PACKAGE = griffe.load("mnv2zoo", search_paths=[ROOT], docstring_parser="google")
# The fields of a recipe tell what they mean in their metadata, and a generated table on the page shows them.
HAVE_A_TABLE = ("mnv2zoo.tasks.recipe.Recipe",)


def public() -> dict[str, griffe.Object]:
    """Public functions and classes by the name that users know: those of the package and of its public modules."""
    found = {}
    for name in (*PACKAGE.exports, "training"):  # finetune's recipe is documented, but not exported
        member = PACKAGE[name]
        if not member.is_module:
            found[f"mnv2zoo.{name}"] = target(member)
            continue
        for own in member.members.values():
            exported = own.name in map(str, member.exports or ())
            if exported and own.is_module:  # a function that is called like the module it is from
                own = own[own.name]
            if exported or (member.exports is None and own.is_public and not own.is_alias):
                found[f"{member.path}.{own.name}"] = target(own)
    return {name: member for name, member in found.items() if member.is_function or member.is_class}


def target(member: griffe.Object | griffe.Alias) -> griffe.Object:
    return member.final_target if member.is_alias else member


PUBLIC = public()


def missing(member: griffe.Object) -> list[str]:
    """Sections that a docstring ought to have and lacks."""
    if member.docstring is None:
        return ["docstring"]
    sections = {section.kind.value: section for section in member.docstring.parsed}
    function = member.members.get("__init__") if member.is_class else member
    lacks = []
    if "dataclass" in member.labels:
        documented = {item.name for item in sections["attributes"].value} if "attributes" in sections else set()
        fields = {name for name, own in member.members.items() if own.is_attribute and not name.startswith("_")}
        properties = {name for name in fields if "property" in member[name].labels}
        if member.path not in HAVE_A_TABLE:
            lacks += [f"Attributes: {name}" for name in sorted(fields - properties - documented)]
    elif function is not None:
        documented = (
            {item.name.lstrip("*") for item in sections["parameters"].value} if "parameters" in sections else set()
        )
        parameters = {parameter.name.lstrip("*") for parameter in function.parameters} - {"self"}
        lacks += [f"Args: {name}" for name in sorted(parameters ^ documented)]
    if member.is_function:
        if str(member.returns) != "None" and not sections.keys() & {"returns", "yields"}:
            lacks.append("Returns")
        if raises(member) and "raises" not in sections:
            lacks.append("Raises")
    return lacks


def raises(function: griffe.Function) -> bool:
    """Whether a function raises something itself."""
    tree = ast.parse(textwrap.dedent(function.source))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    anchors = set().union(*(page.anchors for path, page in pages_of(site).items() if "api" in path.parts))
    # One place is enough for what has several names.
    placed = {member.path for name, member in PUBLIC.items() if {name, member.path} & anchors}
    lost = [name for name, member in PUBLIC.items() if member.path not in placed]
    modules = [f"mnv2zoo.{name}" for name in PACKAGE.exports if PACKAGE[name].is_module]
    assert lost + [name for name in modules if name not in anchors] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_docstring_has_its_sections(name: str) -> None:
    assert missing(PUBLIC[name]) == []


def test_the_public_names_are_those_of_the_package() -> None:
    # timm adds the entry points to __all__; they are in the zoo's pages, and take what registry.create takes.
    assert {str(name) for name in PACKAGE.exports} == set(mnv2zoo.__all__) - set(mnv2zoo.architecture.CONFIGS)
    for module in ("convert", "deploy", "training", "weights"):
        loaded = import_module(f"mnv2zoo.{module}")
        exported = {name for name in loaded.__all__ if callable(getattr(loaded, name))}
        assert {f"mnv2zoo.{module}.{name}" for name in exported} <= PUBLIC.keys()


def test_what_is_missing_is_seen(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(
        'def f(a: int, b: int) -> int:\n    """Does.\n\n    Args:\n        a: One.\n    """\n    raise ValueError\n\n\n'
        'class C:\n    """Is."""\n\n    def __init__(self, x: int) -> None:\n        pass\n'
    )
    sample = griffe.load("sample", search_paths=[tmp_path], docstring_parser="google")
    assert missing(sample["f"]) == ["Args: b", "Returns", "Raises"]
    assert missing(sample["C"]) == ["Args: x"]
