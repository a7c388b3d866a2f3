"""Changes an entry of the package's index, `weights_index.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mnv2zoo.system.files import whole_file

PATH = Path(__file__).resolve().parents[2] / "weights_index.json"


def read() -> dict[str, Any]:
    """The entries by name."""
    weights: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))["weights"]
    return weights


def write(name: str, entry: dict[str, Any]) -> None:
    """Adds or replaces an entry. The file has one field per line."""
    document = json.loads(PATH.read_text(encoding="utf-8"))
    document["weights"][name] = entry
    entries = (
        f"    {json.dumps(name)}: {{\n"
        + ",\n".join(f"      {json.dumps(field)}: {json.dumps(value)}" for field, value in fields.items())
        + "\n    }"
        for name, fields in document["weights"].items()
    )
    version = json.dumps(document["schema_version"])
    text = f'{{\n  "schema_version": {version},\n  "weights": {{\n' + ",\n".join(entries) + "\n  }\n}\n"
    with whole_file(PATH) as file:
        file.write(text.encode())
