"""Splits CIFAR-100's training images, and arranges them by fine classes and by superclasses.

    python split.py cifar100 data

reads `train.tar` (`train/<superclass>/<class>__<number>.jpg`) and writes `train.tar` and `val.tar` into
`data/fine` and `data/coarse`. Both hold out the same images, every tenth of each fine class, so that no
training sees what another is judged by. In `data/all/fine` and `data/all/coarse`, `train.tar` has these images
too, for a training when nothing is left to be chosen. `test.tar` is linked beside the superclasses as it is.
"""

import sys
import tarfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path


def link(place: Path, to: Path) -> None:
    """Makes a symbolic link, in place of one that may be there."""
    place.unlink(missing_ok=True)
    place.symlink_to(to.resolve())


def main(source: Path, target: Path) -> None:
    """Writes the tar files."""
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        old = stack.enter_context(tarfile.open(source / "train.tar"))
        new = {}
        for kind in ("fine", "coarse"):
            for file in (f"{kind}/train.tar", f"{kind}/val.tar", f"all/{kind}/train.tar"):
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                new[file] = stack.enter_context(tarfile.open(target / file, "w"))
        for member in sorted(filter(tarfile.TarInfo.isfile, old), key=lambda member: member.name):
            _, superclass, image = Path(member.name).parts
            fine = image.partition("__")[0]
            seen[fine] += 1
            split = "val" if seen[fine] % 10 == 0 else "train"
            for kind, label in (("fine", fine), ("coarse", superclass)):
                for file, folder in ((f"{kind}/{split}.tar", split), (f"all/{kind}/train.tar", "train")):
                    member.name = f"{folder}/{label}/{image}"
                    new[file].addfile(member, old.extractfile(member))
    for kind in ("fine", "coarse"):  # without a split to validate on, a training would hold out images again
        link(target / "all" / kind / "val.tar", target / kind / "val.tar")
    for folder in ("coarse", "all/coarse"):
        link(target / folder / "test.tar", source / "test.tar")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
