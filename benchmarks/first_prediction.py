"""Measures the time from the start of a process to its first prediction, against timm.

All classify the same photo with the same weights, in turns, each in its own process: a script that imports timm, loads
a checkpoint and applies timm's preprocessing; `predict.py` of an onnx bundle; and `mnv2zoo predict` without options,
with an empty `MNV2ZOO_HOME` and with the engines that earlier processes stored there. Goals: `predict.py` takes at most
a tenth of timm's time, `mnv2zoo predict` 1.5 s with an empty home and 0.6 s later. Google's weights are used if they
are available next to the repository; otherwise weights are random.

    python benchmarks/first_prediction.py --rounds 9
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import report
from report import ROOT
from safetensors.torch import save_file

from mnv2zoo import deploy

PHOTO = ROOT / "examples/coffee.jpg"
GOAL = 10
FIRST, LATER = "mnv2zoo predict, first", "mnv2zoo predict"
GOALS_MS = {FIRST: 1500, LATER: 600}
THEIRS = """
import sys

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

checkpoint, photo = sys.argv[1:]
model = timm.create_model("mobilenetv2_100", checkpoint_path=checkpoint).eval()
transform = create_transform(**resolve_data_config({}, model=model))
image = transform(Image.open(photo).convert("RGB"))
with torch.inference_mode():
    scores, classes = model(image[None])[0].softmax(0).topk(5)
for score, number in zip(scores.tolist(), classes.tolist()):
    print(f"{score:.4f} {number}")
"""


def run(command: list[str], env: dict[str, str] | None = None, forget: Path | None = None) -> None:
    if forget is not None:
        shutil.rmtree(forget, ignore_errors=True)
    subprocess.run([sys.executable, *command], env=env, check=True, capture_output=True)


def without_option(folder: Path, checkpoint: Path) -> dict[str, Callable[[], None]]:
    """`mnv2zoo predict` with the checkpoint in an index, as the first process of its home and as a later one."""
    sha256 = report.write_index(folder / "index.json", checkpoint.read_bytes())
    (folder / f"{sha256}.safetensors").symlink_to(checkpoint)
    ours = {"MNV2ZOO_WEIGHTS_INDEX": str(folder / "index.json"), "MNV2ZOO_WEIGHTS_DIR": str(folder)}
    env = {**os.environ, **ours, "PYTHONPATH": str(ROOT)}
    command = ["-m", "mnv2zoo", "predict", str(PHOTO), "--model", "mnv2zoo_100.benchmark"]
    first, later = (folder / name for name in ("first", "later"))
    return {
        FIRST: partial(run, command, {**env, "MNV2ZOO_HOME": str(first)}, first),
        LATER: partial(run, command, {**env, "MNV2ZOO_HOME": str(later)}),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="processes of each (9 by default)")
    rounds = parser.parse_args().rounds

    with tempfile.TemporaryDirectory() as folder:
        checkpoint, script = Path(folder) / "model.safetensors", Path(folder) / "theirs.py"
        model = report.network()
        save_file(model.state_dict(), checkpoint)
        script.write_text(THEIRS, encoding="utf-8")
        bundle = deploy.export(model, Path(folder) / "bundle", "onnx")
        commands = {
            "timm": [str(script), str(checkpoint), str(PHOTO)],
            "predict.py": [str(bundle / "predict.py"), str(PHOTO)],
        }
        functions = {name: partial(run, command) for name, command in commands.items()}
        functions |= without_option(Path(folder), checkpoint)
        series = report.take_turns(functions, rounds, 1)

    ratio = statistics.median(series["timm"]) / statistics.median(series["predict.py"])
    results = {name: report.summary(seconds) for name, seconds in series.items()}
    for name in GOALS_MS:
        results[name]["times_timm"] = round(report.ratio(series["timm"], series[name]), 1)
    goals = {"goal": GOAL, "goals_ms": GOALS_MS}
    report.write("first_prediction", {**results, "times_faster": round(ratio, 1), **goals})
    for name, seconds in series.items():
        print(f"{name}: {1000 * statistics.median(seconds):.0f} ms (median of {rounds})")
    print(f"predict.py is {ratio:.1f} times faster; the goal is {GOAL}.")


if __name__ == "__main__":
    main()
