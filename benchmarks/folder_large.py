"""Measures `mnv2zoo predict` on a folder of photos of 12 megapixels against the steps of timm's `inference.py`.

As in `folder.py`, whole processes take turns, without options. The photos are enlarged ones of the Grocery Store
dataset with camera-like noise, linked as often as needed. They and Google's weights must be available next to the
repository. Goal: later processes 4 times as fast as timm.

    python benchmarks/folder_large.py --images 300
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import report
from folder import LATER, compare, environment, timms
from photos import GROCERY, fill_large

GOALS = {LATER: 4.0}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--archive", type=Path, default=GROCERY, help="tar file of photos")
    parser.add_argument("--images", type=int, default=300, help="photos in the folder (300 by default)")
    parser.add_argument("--distinct", type=int, default=100, help="different ones among them (100 by default)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="processes of each kind that count, after one more (1 by default)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home, photos = Path(scratch), Path(scratch) / "photos"
        size = fill_large(photos, args.images, args.distinct, args.archive)
        results = compare({"timm": timms(photos)}, photos, args.images, args.rounds, environment(home))
    facts = {"images": args.images, "megabytes": round(size, 1), "goals_no_option": GOALS}
    report.write("folder_large", {**facts, **results})


if __name__ == "__main__":
    main()
