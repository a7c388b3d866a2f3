"""The results file of detectors and segmenters, `docs/results/heads.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import filelock
import torch

from mnv2zoo.system import posix
from mnv2zoo.system.files import whole_file

PATH = Path(__file__).resolve().parents[2] / "docs/results/heads.json"


def add(path: Path, name: str, row: dict[str, Any]) -> None:
    """Adds a row, or values to an existing row. Safe to call from several processes."""
    with filelock.FileLock(path.with_suffix(".lock")):
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        rows[name] = rows.get(name, {}) | row
        with whole_file(path) as file:
            file.write((json.dumps(dict(sorted(rows.items())), indent=2) + "\n").encode())


def machine(device: str | torch.device | None) -> dict[str, Any]:
    """Describes the machine: the GPU, or the CPU with its number of threads."""
    where = torch.device(device or "cpu")
    if where.type == "cuda":
        return {"processor": torch.cuda.get_device_name(where)}
    return {"processor": posix.cpu_info("model name"), "threads": torch.get_num_threads()}
