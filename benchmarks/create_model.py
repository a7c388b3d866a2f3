"""Measures `timm.create_model("mnv2zoo_100", pretrained=True)` against timm's own `mobilenetv2_100`.

Both load the same file from a warm Hub cache, on one thread and in turns. mnv2zoo verifies its hash, as on every load.
The measured process is offline and fails if it opens a connection. The time of the hash alone is measured in the same
turns. Goal: at most 0.4 times timm's time if the processor has SHA instructions, and otherwise at most the time of the
hash plus a fifth of the time in timm.

    python benchmarks/create_model.py --weights model.safetensors --rounds 25
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import report

GOAL, GOAL_BESIDE_HASH = 0.4, 0.2  # parts of timm's time: with SHA instructions, and without
REPO, REVISION, FILENAME = "benchmark/weights", "0" * 40, "model.safetensors"


def random_weights() -> bytes:
    import safetensors.torch

    import mnv2zoo

    return safetensors.torch.save(
        mnv2zoo.models.mobilenetv2.MobileNetV2(mnv2zoo.architecture.get("mnv2zoo_100")).state_dict()
    )


def lay_out(data: bytes, home: Path) -> Path:
    """Writes the weights to a Hub cache like the Hub's client, and an index that pins them next to it."""
    sha256 = report.write_index(home / "index.json", data, repo_id=REPO, revision=REVISION, filename=FILENAME)
    repo = home / "hub" / f"models--{REPO.replace('/', '--')}"
    blob, snapshot = repo / "blobs" / sha256, repo / "snapshots" / REVISION / FILENAME
    for path in (blob, snapshot):
        path.parent.mkdir(parents=True)
    blob.write_bytes(data)
    snapshot.symlink_to(Path("../../blobs") / sha256)
    return snapshot


def refuse_connections(event: str, args: tuple[object, ...]) -> None:
    assert event != "socket.connect", f"a connection was opened: {args[1:]}"


def measure(file: str, rounds: int) -> None:
    """Runs in the measured process; prints the two series as JSON."""
    import timm
    import torch

    import mnv2zoo

    assert mnv2zoo.weights.entry("mnv2zoo_100").name == "mnv2zoo_100.benchmark"
    sys.addaudithook(refuse_connections)
    torch.set_num_threads(1)

    def ours() -> torch.nn.Module:
        return timm.create_model("mnv2zoo_100", pretrained=True)

    def theirs() -> torch.nn.Module:
        return timm.create_model("mobilenetv2_100", pretrained=True, pretrained_cfg_overlay={"file": file})

    mine, others = ours().state_dict(), theirs().state_dict()  # also warms up
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[key], others[key]) for key in mine), "the two did not load the same numbers"
    data = Path(file).read_bytes()
    functions = {"mnv2zoo": ours, "timm": theirs, "hash": lambda: hashlib.sha256(data).digest()}
    print(json.dumps(report.take_turns(functions, rounds)))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument(
        "--weights", type=Path, help="a safetensors file of timm's mobilenetv2_100; else random numbers"
    )
    parser.add_argument("--rounds", type=int, default=25, help="models of each kind (25 by default)")
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.rounds)
        return

    weights = args.weights or (report.GOOGLE if report.GOOGLE.is_file() else None)
    data = weights.read_bytes() if weights else random_weights()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        file = lay_out(data, home)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MNV2ZOO_", "HF_"))}
        env |= {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "MNV2ZOO_WEIGHTS_INDEX": str(home / "index.json")}
        env |= {"MNV2ZOO_HOME": scratch, "MNV2ZOO_REQUIRE_PINNED": "1", "OMP_NUM_THREADS": "1"}
        series = report.in_process(__file__, "--measure", str(file), "--rounds", str(args.rounds), env=env)

    medians = {name: statistics.median(values) for name, values in series.items()}
    ratio, hashed = (medians[name] / medians["timm"] for name in ("mnv2zoo", "hash"))
    goal = GOAL if report.has_sha() else round(hashed + GOAL_BESIDE_HASH, 3)
    results = {name: report.summary(values) for name, values in series.items()}
    facts = {"weights_bytes": len(data), "random_weights": weights is None, "threads": 1, "sha": report.has_sha()}
    report.write("create_model", {**facts, **results, "ratio": round(ratio, 3), "goal": goal})
    for name, seconds in medians.items():
        print(f"{name}: {seconds * 1000:.1f} ms (median of {args.rounds})")
    print(f"mnv2zoo takes {ratio:.2f} of timm's time; the goal is at most {goal}.")


if __name__ == "__main__":
    main()
