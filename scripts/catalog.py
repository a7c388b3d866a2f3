"""The sources of the generated documentation, and the form of its tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.weights import index
from mnv2zoo.weights.schema import WeightsEntry

ROOT = Path(__file__).resolve().parent.parent
TIMES = "\u00a0\u00d7\u00a0"  # a multiplication sign that no line is broken at
# The shipped index alone: weights from MNV2ZOO_WEIGHTS_INDEX are private to this machine.
WEIGHTS = index.read(index.shipped_path())


def table(header: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; `header` is its first row, as Markdown, and figures under `name:` are set right."""
    titles = header.split(" | ")
    lines = [
        [title.rstrip(":") for title in titles],
        ["--:" if title.endswith(":") else "---" for title in titles],
        *rows,
    ]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def weights_of(config: Config) -> list[WeightsEntry]:
    return [entry for entry in WEIGHTS.values() if entry.architecture == config.name]


def input_size(config: Config, entry: WeightsEntry | None = None) -> tuple[int, int]:
    """Height and width that figures refer to: those of the weights, by default the first ones, or 224."""
    known = [entry] if entry else weights_of(config)
    return known[0].input_size[1:] if known else (224, 224)


def figures(config: Config, entry: WeightsEntry | None) -> tuple[str, str]:
    """Millions of parameters and billions of MACs, as published."""
    macs = architecture.macs(config, input_size(config, entry))
    return f"{architecture.parameters(config) / 1e6:.2f}", f"{macs / 1e9:.4f}"


def measured(benchmark: str) -> dict[str, Any]:
    """The last results of a benchmark."""
    return _read(f"benchmarks/results/{benchmark}.json")


def is_measured(benchmark: str) -> bool:
    """Whether a benchmark has results."""
    return (ROOT / f"benchmarks/results/{benchmark}.json").is_file()


def recorded(name: str) -> dict[str, Any]:
    """The last results of an example, or of the attacks, for the documentation."""
    return _read(f"docs/results/{name}.json")


def _read(place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / place).read_text(encoding="utf-8"))
    return found
