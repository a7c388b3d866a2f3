"""Measures `mnv2zoo predict` on a folder of 1,000 ImageNet-sized JPEGs against the steps of timm's `inference.py`.

Whole processes take turns, from start to end. timm's side is its `create_dataset` and `create_loader` with batches of
32 and 2 workers, the model in eager mode, and the top 5 classes: once as it is, once in channels-last format. The
photos are ImageNet samples, resized and linked as often as needed, and the weights are Google's. Both must be available
next to the repository. Without options, the package chooses the engine. Each process of `no option, first` starts with
an empty `MNV2ZOO_HOME`; those of `no option` share one. Named engines are cached in `--cache`, and the first process,
which fills the cache, is reported separately. Goals: without options 7 times as fast as timm, and 3.5 times with an
empty `MNV2ZOO_HOME`; with named engines 6 times, and 3.5 times as fast as in channels-last format.

    python benchmarks/folder.py --rounds 3
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import report
from photos import fill_small
from report import GOOGLE, ROOT

GOALS = {"timm": 6.0, "timm, channels last": 3.5}
FIRST, LATER = "no option, first", "no option"
GOALS_WITHOUT_OPTION = {FIRST: 3.5, LATER: 7.0}
Results = dict[str, dict[str, object]]
TIMM = """
import json, sys
import timm, torch
from timm.data import create_dataset, create_loader, resolve_data_config

root, weights, memory_format = sys.argv[1:]
model = timm.create_model("mobilenetv2_100", checkpoint_path=weights).eval()
model = model.to(memory_format=getattr(torch, memory_format))
data = resolve_data_config({"mean": [0.5] * 3, "std": [0.5] * 3}, model=model)
dataset = create_dataset("", root=root)
loader = create_loader(dataset, batch_size=32, num_workers=2, device=torch.device("cpu"), **data)
names = iter(dataset.filenames(basename=True))
with torch.inference_mode():
    for images, _ in loader:
        images = images.to(memory_format=getattr(torch, memory_format))
        scores, classes = model(images).softmax(-1).topk(5)
        for row in zip(classes.tolist(), scores.tolist()):
            print(json.dumps([next(names), *row]))
"""


def environment(home: Path) -> dict[str, str]:
    """In which `mnv2zoo_100` has Google's weights."""
    sha256 = report.write_index(home / "index.json", GOOGLE.read_bytes())
    (home / f"{sha256}.safetensors").symlink_to(GOOGLE)
    ours = {"MNV2ZOO_WEIGHTS_INDEX": str(home / "index.json"), "MNV2ZOO_WEIGHTS_DIR": str(home)}
    return {**os.environ, **ours, "MNV2ZOO_HOME": str(home / "home"), "PYTHONPATH": str(ROOT)}


def run(command: list[str], env: dict[str, str], count: int) -> None:
    done = subprocess.run([sys.executable, *command], env=env, stdout=subprocess.PIPE, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == count, f"{len(lines)} rows of {count} images"


def run_first(command: list[str], env: dict[str, str], count: int) -> None:
    """Runs a process that finds nothing that another has kept."""
    home = f"{env['MNV2ZOO_HOME']}-first"
    shutil.rmtree(home, ignore_errors=True)
    run(command, {**env, "MNV2ZOO_HOME": home}, count)


def timms(photos: Path, memory_format: str = "contiguous_format") -> list[str]:
    """The arguments of timm's side."""
    return ["-c", TIMM, str(photos), str(GOOGLE), memory_format]


def ours(photos: Path) -> list[str]:
    """The arguments of `mnv2zoo predict` without options."""
    return ["-m", "mnv2zoo", "predict", str(photos), "--model", "mnv2zoo_100.benchmark", "--json"]


def compare(commands: dict[str, list[str]], photos: Path, count: int, rounds: int, env: dict[str, str]) -> Results:
    """Measures whole processes of these commands, and of `mnv2zoo predict` without options, which take turns."""
    functions = {name: partial(run, command, env, count) for name, command in commands.items()}
    functions |= {FIRST: partial(run_first, ours(photos), env, count), LATER: partial(run, ours(photos), env, count)}
    first = report.take_turns(functions, 1)
    series = report.take_turns(functions, rounds)
    rivals = [name for name in GOALS if name in commands]
    results: Results = {}
    for name, seconds in series.items():
        results[name] = {
            "median_s": round(statistics.median(seconds), 2),
            "first_s": round(first[name][0], 2),
            "seconds": seconds,
            **{f"times_{rival}": round(report.ratio(series[rival], seconds), 2) for rival in rivals},
        }
        print(f"{name}: {results[name]}")
    return results


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="photos in the folder")
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes of each kind that count, after one that does not"
    )
    parser.add_argument(
        "--engines",
        nargs="*",
        default=["torch fp32", "onnxruntime fp32", "openvino fp32", "openvino bf16", "openvino int8"],
        help="engine and precision in one word",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home, photos = Path(scratch), Path(scratch) / "photos"
        fill_small(photos, args.images)
        commands = {
            name: timms(photos, memory_format)
            for name, memory_format in zip(GOALS, ("contiguous_format", "channels_last"), strict=True)
        }
        for engine in args.engines:
            name, precision = engine.split()
            commands[engine] = [
                *(*ours(photos), "--engine", name, "--precision", precision, "--cache", str(home / "engines")),
                *(("--calibration", str(photos)) if precision == "int8" else ()),
            ]
        results = compare(commands, photos, args.images, args.rounds, environment(home))
    goals = {"goals": GOALS, "goals_no_option": GOALS_WITHOUT_OPTION}
    report.write("folder", {"images": args.images, **goals, **results})


if __name__ == "__main__":
    main()
