"""Shared code of the benchmarks: arguments, processes, weights, machine information and the form of the results."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
# Data next to the repository, if available: photos, and Google's weights of MobileNetV2.
SHARED = ROOT.parent / "shared"
SAMPLES = SHARED / "data/imagenet_samples"
GOOGLE = SHARED / "weights/google_mobilenet_v2_1.0_224/model.safetensors"


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """Creates a parser whose help is the docstring of a benchmark."""
    return argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)


def in_process(*words: str, env: Mapping[str, str] | None = None) -> Any:
    """Runs Python with these arguments in a new process, and returns the JSON on the last line of its output."""
    done = subprocess.run([sys.executable, *words], env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def network(name: str = "mnv2zoo_100") -> nn.Module:
    """Creates a MobileNetV2 of width 1.0 with Google's weights, or with the same random weights in every process."""
    import timm
    import torch
    from safetensors.torch import load_file

    import mnv2zoo  # noqa: F401  # registers the models

    torch.manual_seed(0)
    weights = load_file(GOOGLE) if GOOGLE.is_file() else timm.create_model("mobilenetv2_100").state_dict()
    model: nn.Module = timm.create_model(name).eval()
    model.load_state_dict(weights)
    return model


def cpu_name() -> str:
    """Returns the name of the processor."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def processor(cpu: str) -> str:
    """The short name of a CPU, such as `Intel Xeon`."""
    return cpu.replace("(R)", "").removesuffix(" Processor")


def folder(cpu: str) -> str:
    """The name of the folder with the results of a CPU, such as `intel-xeon`."""
    return re.sub("[^a-z0-9]+", "-", processor(cpu).lower()).strip("-")


def _cpu_info(field: str) -> str:
    """Returns a field of `/proc/cpuinfo` for the first core; empty on other systems than Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == field), "")


# Linux's names of the CPU features that make bf16 and int8 fast. The name of the CPU may not reveal them.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def has_sha() -> bool:
    """Returns whether the CPU has instructions for SHA-256."""
    return "sha_ni" in _cpu_info("flags").split()


def machine() -> dict[str, object]:
    """Describes the machine and the versions that affect results."""
    versions = {name: version(name) for name in ("timm", "torch")}
    return {
        "cpu": cpu_name(),
        "flags": [flag for flag in FLAGS if flag in _cpu_info("flags").split()],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }


def write_index(path: Path, data: bytes, **fields: object) -> str:
    """Writes a weights index with the entry `mnv2zoo_100.benchmark`, and returns the SHA-256 of its weights.

    The weights use the normalization of Google's weights. Pass their location in `fields`.
    """
    entry = {
        "repo_id": "benchmark/weights",
        "revision": None,
        "filename": "model.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "layout": "timm",
        "num_classes": 1000,
        "input_size": [3, 224, 224],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "labels": "imagenet-1k",
        "license": "none",
    } | fields
    index = {"schema_version": 1, "weights": {"mnv2zoo_100.benchmark": entry}}
    path.write_text(json.dumps(index), encoding="utf-8")
    return str(entry["sha256"])


def take_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 0, settle: float | None = None
) -> dict[str, list[float]]:
    """Runs functions in turn, and returns the seconds of each call.

    A round calls each function once. The first `warm_up` rounds are not recorded. Every other round runs in reverse
    order, because each function affects the caches and the memory of the next one. With `settle`, each turn starts
    with unrecorded calls, at least one and for that many seconds.
    """
    series: dict[str, list[float]] = {name: [] for name in functions}
    turns = list(functions.items())
    for number in range(-warm_up, rounds):
        for name, function in turns if number % 2 else reversed(turns):
            if settle is not None:
                settled = time.perf_counter() + settle
                function()
                while time.perf_counter() < settled:
                    function()
            start = time.perf_counter()
            function()
            if number >= 0:
                series[name].append(time.perf_counter() - start)
    return series


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Returns the time of one series relative to another from the same rounds, as the median over the rounds.

    Background load slows both halves of a round, so it cancels out.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def peak_growth(function: Callable[[], object]) -> float:
    """Returns the growth of this process's peak memory in MB while a function runs. It only works on Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = _memory("VmRSS")
    function()
    return peak() - before


def peak() -> float:
    """Returns the peak memory of this process in MB. It only works on Linux."""
    return _memory("VmHWM")


def _memory(line: str) -> float:
    found = re.search(rf"{line}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 1024 if found else 0.0


def summary(seconds: list[float]) -> dict[str, object]:
    """Summarizes a series of seconds, in milliseconds."""
    values = {"median_ms": statistics.median(seconds), "min_ms": min(seconds), "max_ms": max(seconds)}
    return {"rounds": len(seconds), **{name: round(1000 * value, 2) for name, value in values.items()}}


def written(name: str) -> dict[str, Any]:
    """Returns the results that were last written on this machine; empty if there are none, or of another machine."""
    path = RESULTS / folder(cpu_name()) / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if found.get("machine") == machine() else {}


def write(name: str, results: Mapping[str, object]) -> None:
    """Writes results with a description of the machine, to its processor's folder, and prints the path of the file."""
    path = RESULTS / folder(cpu_name()) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"benchmark": name, "date": datetime.date.today().isoformat(), "machine": machine()}
    path.write_text(json.dumps({**about, **results}, indent=2) + "\n", encoding="utf-8")
    print(f"Written to {path}")
