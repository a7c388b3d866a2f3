"""Measures the time from the start of a process to its first prediction: a bundle's predict.py against timm.

Both classify the same photo with the same weights, in turns, each in its own process: `predict.py` of an onnx bundle,
and a script that imports timm, loads a checkpoint and applies timm's preprocessing. Goal: at most a tenth of the time.
Google's weights are used if they are available next to the repository; otherwise weights are random.

    python benchmarks/first_prediction.py --rounds 9
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import report
from report import ROOT
from safetensors.torch import save_file

from mnv2zoo import deploy

PHOTO = ROOT / "examples/coffee.jpg"
GOAL = 10
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


def run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], check=True, capture_output=True)


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
        series = report.take_turns({name: partial(run, command) for name, command in commands.items()}, rounds, 1)

    ratio = statistics.median(series["timm"]) / statistics.median(series["predict.py"])
    results = {name: report.summary(seconds) for name, seconds in series.items()}
    report.write("first_prediction", {**results, "times_faster": round(ratio, 1), "goal": GOAL})
    for name, seconds in series.items():
        print(f"{name}: {1000 * statistics.median(seconds):.0f} ms (median of {rounds})")
    print(f"predict.py is {ratio:.1f} times faster; the goal is {GOAL}.")


if __name__ == "__main__":
    main()
