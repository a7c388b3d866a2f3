"""Exports the bundled 20-class weights in several formats, and measures each bundle on the test images.

    python examples/cifar100/bundles.py runs/data/coarse

The folder contains train.tar and test.tar from split.py. Formats that are not installed keep their earlier results. The
results are in `docs/results/bundles.json`.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from mnv2zoo import deploy
from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system import posix

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/bundles.json"
MODEL = "mnv2zoo_100_c20"
VARIANTS = (("onnx", "int8"), ("openvino", "int8"), ("litert", "int8"), ("openvino", "bf16"))


def measure(photos: Path, bundle: Path, format: str, precision: str) -> dict[str, Any]:
    """Exports a bundle, and returns its size and its results on the test images."""
    calibration = {"calibration": photos / "train"} if precision == "int8" else {}
    deploy.export(MODEL, bundle, format, precision=precision, data=photos / "test", **calibration)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    model = sum(file.stat().st_size for file in bundle.glob("model.*"))
    found = {name: manifest["measured"][name] for name in ("images", "agreement", "accuracy")}
    row = {"format": format, "precision": precision, "mb": round(model / 1e6, 1), **found}
    row["processor"] = posix.cpu_info("model name")
    print(row, flush=True)
    return row


def main(data: Path) -> None:
    """Measures each format, and writes the results after each."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch)
        for split in ("train", "test"):
            with tarfile.open(data / f"{split}.tar") as tar:
                tar.extractall(photos, filter="data")
        for format, precision in VARIANTS:
            try:
                row = measure(photos, photos / f"{format}-{precision}", format, precision)
            except MissingExtraError as error:
                print(f"left as it was: {format} {precision}: {error.summary}")
                continue
            rows[f"{format} {precision}"] = row
            RESULTS.write_text(json.dumps({"model": MODEL, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
