"""Splits CIFAR-100's training images, and arranges them by fine classes and by superclasses.

    python split.py cifar100 data

Reads `train.tar` (`train/<superclass>/<class>__<number>.jpg`) and writes `train.tar` and `val.tar` to `data/fine` and
`data/coarse`. Both hold out the same images, every tenth of each fine class, so that no run trains on the validation
images of another. In `data/all/fine` and `data/all/coarse`, `train.tar` also contains these images, for a final
training run when all choices have been made. `test.tar` is linked next to the superclasses unchanged.
"""

import sys
import tarfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path


def link(place: Path, to: Path) -> None:
    """Creates a symbolic link, and replaces an existing one."""
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
    for kind in ("fine", "coarse"):  # a validation split, because training would otherwise hold out images again
        link(target / "all" / kind / "val.tar", target / kind / "val.tar")
    for folder in ("coarse", "all/coarse"):
        link(target / folder / "test.tar", source / "test.tar")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
