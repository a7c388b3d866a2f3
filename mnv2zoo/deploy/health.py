"""Checks of what models run on: Python, PyTorch, the engines, and the processor."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata

import torch
from packaging.requirements import Requirement

from mnv2zoo.deploy import checks
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.errors import MissingExtraError
from mnv2zoo.runtimes import runners
from mnv2zoo.runtimes.cache import versions
from mnv2zoo.system import posix
from mnv2zoo.system.findings import BROKEN, NOTE, OK, Finding

# Instructions that make a precision faster than fp32, by their names in Linux's list for x86 and ARM.
INSTRUCTIONS = {
    "bf16": ("amx_bf16", "avx512_bf16", "bf16", "svebf16"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"),
}


def findings() -> Iterator[Finding]:
    """Runs all checks.

    Yields:
        What each found.
    """
    yield python()
    yield packages()
    yield processor()
    yield accelerators()
    for name in ENGINES:
        yield engine(name)


def python() -> Finding:
    """Which Python and which system this is."""
    return Finding("Python", OK, f"{platform.python_version()} on {platform.platform()}")


def packages() -> Finding:
    """Whether the installed versions are those that the package needs."""
    try:
        needed = [Requirement(text) for text in metadata.requires("mnv2zoo") or ()]
    except metadata.PackageNotFoundError:
        return Finding("packages", NOTE, "mnv2zoo is not installed, only importable", "Run: pip install -e .")
    found, bad = [], []
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "missing"
        right = version != "missing" and requirement.specifier.contains(version, prereleases=True)
        found.append(f"{requirement.name} {version}")
        if not right:
            bad.append(f"{requirement.name} {version}, needs {requirement.specifier}")
    if bad:
        return Finding("packages", BROKEN, "; ".join(bad), "Install mnv2zoo again with pip, which updates them.")
    return Finding("packages", OK, f"mnv2zoo {metadata.version('mnv2zoo')}, {', '.join(found)}")


def processor() -> Finding:
    """Which instructions PyTorch uses, and how many cores there are."""
    name = posix.cpu_info("model name") or platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    found = f"{name}, {runners.cores()} cores, {capability}"
    if capability == "DEFAULT":
        return Finding("processor", NOTE, found, "PyTorch uses no vector instructions here, so it is slow.")
    return Finding("processor", OK, found)


def accelerators() -> Finding:
    """Which GPUs PyTorch can use."""
    if torch.cuda.is_available():
        return Finding("GPU", OK, ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    if torch.backends.mps.is_available():
        return Finding("GPU", OK, "mps")
    return Finding("GPU", OK, "none that PyTorch can use")


def engine(name: str) -> Finding:
    """Whether an engine is installed and starts, and in which precisions it is fast on this processor."""
    needs = ENGINES[name].needs
    try:
        checks.require(needs, f"engine {name}")
    except MissingExtraError as error:
        return Finding(f"engine {name}", NOTE, error.problem, error.fix)
    try:
        if name == "onnxruntime":
            runners.import_onnxruntime()
        for package in needs[-1:]:
            importlib.import_module(package)
    except Exception as error:  # a broken installation raises nearly anything
        found = f"cannot be imported: {type(error).__name__}: {checks.first_line(error)}"
        return Finding(f"engine {name}", BROKEN, found, f"Install it again: pip install --force-reinstall {needs[-1]}")
    version = versions(needs[-1:] or ("torch",))
    speeds = "; ".join(f"{precision} {speed(precision, instructions())}" for precision in ENGINES[name].precisions)
    found = f"{' '.join(version.values())}: {speeds}"
    compilers = (os.environ.get("CXX", ""), "c++", "g++", "cl")
    if name == "inductor" and not any(map(shutil.which, compilers)):
        return Finding("engine inductor", NOTE, f"{found}, but no C++ compiler", "Install a C++ compiler to use it.")
    return Finding(f"engine {name}", OK, found)


def instructions() -> list[str]:
    """The processor's instructions, by the names that Linux gives them; none where the system does not say."""
    return (posix.cpu_info("flags") or posix.cpu_info("Features")).split()


def speed(precision: str, known: Sequence[str]) -> str:
    """How fast a precision is on a processor.

    Args:
        precision: `fp32`, `bf16` or `int8`.
        known: The processor's instructions.

    Returns:
        `fast` and the instructions that make it so; `slow` if there are none; `unknown` if the system does not say.
    """
    if precision not in INSTRUCTIONS:
        capability = torch.backends.cpu.get_cpu_capability()
        return "slow" if capability == "DEFAULT" else f"fast ({capability})"
    if not known:
        return "unknown"
    found = [name for name in INSTRUCTIONS[precision] if name in known]
    return f"fast ({found[0]})" if found else "slow (no instructions for it)"
