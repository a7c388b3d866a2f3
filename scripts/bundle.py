"""Adds a packaged run to the package: its weights, its index entry, and its record in the documentation.

    python scripts/bundle.py RUN [EARLIER_RUN ...]

RUN contains a `package` without a repository, from `mnv2zoo weights pack`. The recipes and logs of earlier runs that it
started from are stored with its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from mnv2zoo.system.files import whole_file
from mnv2zoo.weights import index

ROOT = Path(__file__).resolve().parent.parent


def index_text(document: dict[str, object]) -> str:
    """Formats an index with one field per line, as it is written by hand."""
    weights = document["weights"]
    assert isinstance(weights, dict)
    entries = (
        f"    {json.dumps(name)}: {{\n"
        + ",\n".join(f"      {json.dumps(field)}: {json.dumps(value)}" for field, value in entry.items())
        + "\n    }"
        for name, entry in weights.items()
    )
    version = json.dumps(document["schema_version"])
    return f'{{\n  "schema_version": {version},\n  "weights": {{\n' + ",\n".join(entries) + "\n  }\n}\n"


def main(run: Path, *earlier: Path) -> None:
    """Copies the weights and the record, and adds the entry, replacing an earlier one with that name."""
    (name, entry), *_ = json.loads((run / "package/index_entry.json").read_text(encoding="utf-8")).items()
    target = ROOT / "mnv2zoo/bundled" / entry["bundled"]
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(run / "package/model.safetensors", target)

    path = index.shipped_path()
    document = json.loads(path.read_text(encoding="utf-8"))
    document["weights"][name] = entry
    with whole_file(path) as file:
        file.write(index_text(document).encode())

    record = ROOT / "docs/models" / name
    record.mkdir(parents=True, exist_ok=True)
    for step, folder in enumerate((*earlier, run), 1):
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        del recipe["data"], recipe["model"]  # paths on one machine
        (record / f"{step}-recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(folder / "metrics.jsonl", record / f"{step}-metrics.jsonl")
        shutil.copyfile(folder / "report/val/curves.png", record / f"{step}-curves.png")
    shutil.copyfile(run / "report/test/confusion.png", record / "confusion.png")
    shutil.copyfile(run / "results.json", record / "results.json")
    print(f"wrote {target}, {path} and {record}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
