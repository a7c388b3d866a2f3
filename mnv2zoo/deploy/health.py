"""Checks of Python, the installed packages, the engines and the processor."""

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

# CPU instructions that make a precision faster than fp32, with their names in Linux for x86 and ARM.
INSTRUCTIONS = {
    "bf16": ("amx_bf16", "avx512_bf16", "bf16", "svebf16"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"),
}


def findings() -> Iterator[Finding]:
    """Runs all checks.

    Yields:
        The finding of each check.
    """
    yield python()
    yield packages()
    yield processor()
    yield accelerators()
    for name in ENGINES:
        yield engine(name)


def python() -> Finding:
    """Reports the versions of Python and the operating system."""
    return Finding("Python", OK, f"{platform.python_version()} on {platform.platform()}")


def packages() -> Finding:
    """Checks that the installed packages have the required versions."""
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
        return Finding("packages", BROKEN, "; ".join(bad), "Reinstall mnv2zoo with pip, which updates the packages.")
    return Finding("packages", OK, f"mnv2zoo {metadata.version('mnv2zoo')}, {', '.join(found)}")


def processor() -> Finding:
    """Reports the CPU instructions that PyTorch uses, and the number of cores."""
    name = posix.cpu_info("model name") or platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    found = f"{name}, {runners.cores()} cores, {capability}"
    if capability == "DEFAULT":
        return Finding("processor", NOTE, found, "PyTorch uses no vector instructions on this CPU, so it is slow.")
    return Finding("processor", OK, found)


def accelerators() -> Finding:
    """Reports the GPUs that PyTorch can use."""
    if torch.cuda.is_available():
        return Finding("GPU", OK, ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    if torch.backends.mps.is_available():
        return Finding("GPU", OK, "mps")
    return Finding("GPU", OK, "no GPU that PyTorch can use")


def engine(name: str) -> Finding:
    """Checks that an engine is installed and can be imported, and reports its speed in each precision on this CPU."""
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
    except Exception as error:  # a broken installation can raise any error
        found = f"cannot be imported: {type(error).__name__}: {checks.first_line(error)}"
        return Finding(f"engine {name}", BROKEN, found, f"Reinstall it: pip install --force-reinstall {needs[-1]}")
    version = versions(needs[-1:] or ("torch",))
    speeds = "; ".join(f"{precision} {speed(precision, instructions())}" for precision in ENGINES[name].precisions)
    found = f"{' '.join(version.values())}: {speeds}"
    compilers = (os.environ.get("CXX", ""), "c++", "g++", "cl")
    if name == "inductor" and not any(map(shutil.which, compilers)):
        return Finding("engine inductor", NOTE, f"{found}, but no C++ compiler", "Install a C++ compiler to use it.")
    return Finding(f"engine {name}", OK, found)


def instructions() -> list[str]:
    """The CPU's instructions, with their names in Linux; empty if the system does not report them."""
    return (posix.cpu_info("flags") or posix.cpu_info("Features")).split()


def speed(precision: str, known: Sequence[str]) -> str:
    """Describes the speed of a precision on a CPU.

    Args:
        precision: `fp32`, `bf16` or `int8`.
        known: The CPU's instructions.

    Returns:
        `fast` with the instruction set; `slow` if there is none; `unknown` if the system does not report instructions.
    """
    if precision not in INSTRUCTIONS:
        capability = torch.backends.cpu.get_cpu_capability()
        return "slow" if capability == "DEFAULT" else f"fast ({capability})"
    if not known:
        return "unknown"
    found = [name for name in INSTRUCTIONS[precision] if name in known]
    return f"fast ({found[0]})" if found else "slow (no instructions for it)"
