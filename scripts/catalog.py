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


def measurements(benchmark: str) -> list[dict[str, Any]]:
    """The results of a benchmark on each processor: the newest first, and those of one day by the processor's name."""
    found = [_read(path) for path in sorted((ROOT / "benchmarks/results").glob(f"*/{benchmark}.json"))]
    return sorted(found, key=lambda results: results.get("date", ""), reverse=True)


def measured(benchmark: str) -> dict[str, Any]:
    """The newest results of a benchmark."""
    return measurements(benchmark)[0]


def is_measured(benchmark: str) -> bool:
    """Whether a benchmark has results."""
    return bool(measurements(benchmark))


def recorded(name: str) -> dict[str, Any]:
    """The last results of an example, or of the attacks, for the documentation."""
    return _read(ROOT / f"docs/results/{name}.json")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
