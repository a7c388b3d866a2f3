"""Splits CIFAR-100's training images, and arranges them by fine classes and by superclasses.

    python split.py cifar100 data

reads `train.tar` (`train/<superclass>/<class>__<number>.jpg`) and writes `train.tar` and `val.tar` into
`data/fine` and `data/coarse`. Both hold out the same images, every tenth of each fine class, so that no
training sees what another is judged by. `test.tar` is linked into `data/coarse` as it is.
"""

import sys
import tarfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path


def main(source: Path, target: Path) -> None:
    """Writes the tar files."""
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        old = stack.enter_context(tarfile.open(source / "train.tar"))
        new = {}
        for kind in ("fine", "coarse"):
            (target / kind).mkdir(parents=True, exist_ok=True)
            for split in ("train", "val"):
                new[kind, split] = stack.enter_context(tarfile.open(target / kind / f"{split}.tar", "w"))
        for member in sorted(filter(tarfile.TarInfo.isfile, old), key=lambda member: member.name):
            _, superclass, file = Path(member.name).parts
            fine = file.partition("__")[0]
            seen[fine] += 1
            split = "val" if seen[fine] % 10 == 0 else "train"
            for kind, label in (("fine", fine), ("coarse", superclass)):
                member.name = f"{split}/{label}/{file}"
                new[kind, split].addfile(member, old.extractfile(member))
    link = target / "coarse/test.tar"
    link.unlink(missing_ok=True)
    link.symlink_to((source / "test.tar").resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
