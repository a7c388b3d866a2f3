"""Measures `mnv2zoo predict` with SSDLite on a folder of 1,000 photos against torchvision's SSDLite of MobileNetV3.

Whole processes take turns, from start to end. torchvision's side decodes photos with two workers, preprocesses them
with `weights.transforms()` and runs batches in eager mode. Both have 91 classes, 320 pixels and random weights, and
write the boxes of each photo with a score of at least 0.5. There are none, because the time of non-maximum suppression
depends on the image. The photos are ImageNet samples, resized and linked as often as needed. Without options, the
package chooses the engine. Each process of `no option, first` starts with an empty `MNV2ZOO_HOME`, so it runs on
PyTorch. Those of `no option` share one in which the detector has been exported. Goal without options: 2.5 times faster.
The peak memory is measured for this folder and for one of 10,000 photos.

    python benchmarks/detection_folder.py --rounds 3
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import report
import timm
import torch
from detection import CLASSES, SIDE, gmacs, ours, torchvisions
from folder import FIRST, LATER, run, run_first
from photos import fill_small

from mnv2zoo.detection import Head
from mnv2zoo.tasks import find_task

GOAL = 2.5
BATCH = 32
TORCHVISION = """
import json, pathlib, sys
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_image
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights, ssdlite320_mobilenet_v3_large

class Photos(Dataset):
    def __init__(self, files):
        self.files, self.prepare = files, SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.transforms()
    def __len__(self):
        return len(self.files)
    def __getitem__(self, place):
        return self.prepare(decode_image(str(self.files[place]), mode="RGB"))

torch.manual_seed(0)
model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91, score_thresh=0.5).eval()
files = sorted(pathlib.Path(sys.argv[1]).glob("*.jpg"))
loader = DataLoader(Photos(files), batch_size=int(sys.argv[2]), num_workers=2, collate_fn=list)
names = iter(files)
with torch.inference_mode():
    for images in loader:
        for found in model(images):
            print(json.dumps([next(names).name, *(value.tolist() for value in found.values())]))
"""


def make_run(folder: Path) -> None:
    """Writes an untrained detector as a run folder has it."""
    torch.manual_seed(0)
    preprocessing = {
        "input_size": (3, SIDE, SIDE),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    network = timm.create_model("mnv2zoo_100", num_classes=0)
    head, names = Head("ssdlite", score_threshold=0.5), tuple(f"class {number}" for number in range(CLASSES - 1))
    detector = head.build(network, len(names), preprocessing["input_size"])
    vars(detector).update(built_with=head, label_names=names)
    folder.mkdir()
    for name, content in find_task("detect").model_files(detector, preprocessing, names).items():
        (folder / name).write_bytes(content)


def peak(command: list[str], env: dict[str, str]) -> int:
    """MB that the largest process of a command takes at most."""
    code = (
        "import json, resource, subprocess, sys\n"
        "subprocess.run(json.loads(sys.argv[1]), stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    return int(report.in_process("-c", code, json.dumps([sys.executable, *command]), env=env))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="photos in the folder (1,000 by default)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (3 by default)")
    parser.add_argument("--engines", nargs="*", default=["openvino"])
    parser.add_argument("--many", type=int, default=10_000, help="photos for the memory (10,000 by default)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        fill_small(home / "photos", args.images)
        fill_small(home / "many", args.many)
        make_run(home / "run")

        env = {**os.environ, "MNV2ZOO_HOME": str(home / "home")}
        subprocess.run([sys.executable, "-m", "mnv2zoo", "cache", "warm", str(home / "run")], env=env, check=True)

        def ours_on(photos: str, *options: str) -> list[str]:
            return ["-m", "mnv2zoo", "predict", str(home / photos), "--model", str(home / "run"), "--json", *options]

        commands = {LATER: ours_on("photos")}
        commands |= {engine: ours_on("photos", "--engine", engine) for engine in args.engines}
        commands["torchvision"] = ["-c", TORCHVISION, str(home / "photos"), str(BATCH)]
        functions = {name: partial(run, command, env, args.images) for name, command in commands.items()}
        functions[FIRST] = partial(run_first, ours_on("photos"), env, args.images)
        series = report.take_turns(functions, args.rounds, warm_up=1)
        memory = {
            str(count): peak(ours_on(folder), env) for folder, count in (("photos", args.images), ("many", args.many))
        }
    results = {
        name: {
            "median_s": round(statistics.median(seconds), 2),
            "images_per_second": round(args.images / statistics.median(seconds), 1),
            "times_torchvision": round(report.ratio(series["torchvision"], seconds), 2),
        }
        for name, seconds in series.items()
    }
    for name, row in results.items():
        print(f"{name}: {row}")
    facts = {"images": args.images, "goal": GOAL, "gmacs": gmacs(ours()), "torchvision_gmacs": gmacs(torchvisions())}
    report.write("detection_folder", {**facts, "results": results, "peak_mb_by_photos": memory})


if __name__ == "__main__":
    main()
