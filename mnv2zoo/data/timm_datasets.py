"""Reads datasets that timm knows by name, such as `torch/cifar10` and `hfds/owner/name`."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mnv2zoo import environment
from mnv2zoo.data import decode
from mnv2zoo.data.discover import SPLITS
from mnv2zoo.errors import DataError
from mnv2zoo.system.hub_failures import explain

KINDS = ("torch", "hfds")
FOLDERS = ("torch/folder", "torch/image_folder")


@dataclass(frozen=True)
class TimmSample:
    """An image of a timm dataset, with the attributes of `Sample` that are used.

    Attributes:
        name: Its split and number.
        target: Index of its class.
        dataset: The dataset.
        index: Its number in the dataset.
        origin: Name of the dataset.
    """

    name: str
    target: Any
    dataset: Any
    index: int
    origin: str = ""

    def identify(self) -> str:
        """Returns an identifier of the image: the dataset's name, its split and its number."""
        return f"{self.origin}:{self.name}"

    def read(self) -> Image.Image:
        """Reads the image as `Sample.read` does.

        Raises:
            ImageReadError: If the image cannot be read.
        """
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            return decode.to_rgb(self.dataset[self.index][0], self.name)
        # Bypass timm's dataset, which converts images in its own way and skips unreadable ones.
        with reader[self.index][0] as stream:
            return decode.read(BytesIO(stream.read()), self.name)


def find(name: str, root: Path) -> tuple[tuple[str, ...], dict[str, tuple[TimmSample, ...]]]:
    """Returns the class names and samples of a timm dataset, which is downloaded if necessary."""
    try:
        if environment.is_homeless(root):
            raise FileNotFoundError(errno.ENOENT, "this user has no home folder")
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            "there is no folder for the dataset",
            expected="a writable folder",
            found=error.strerror or error,
            where=root,
            fix="Set MNV2ZOO_HOME to a writable folder.",
        ) from error
    splits: dict[str, tuple[TimmSample, ...]] = {}
    names: tuple[str, ...] = ()
    # torchvision's datasets have one split besides the training split, and it is not always called `test`.
    wanted = {"train": SPLITS["train"], "test": ("test", *SPLITS["val"])} if name.startswith("torch/") else SPLITS
    for split, spellings in wanted.items():
        dataset = _open(name, root, spellings, needed=split == "train")
        if dataset is None:
            continue
        labels = [int(target) for target in _targets(dataset)]
        own = _names_of_classes(dataset, labels)
        names = names or own
        if own != names and getattr(getattr(dataset, "reader", None), "class_to_idx", None):
            labels = [_index_of(own[label], names, name) for label in labels]
        splits[split] = tuple(TimmSample(f"{split}/{i}", label, dataset, i, name) for i, label in enumerate(labels))
    return names, splits


def _open(name: str, root: Path, spellings: Sequence[str], needed: bool) -> Any:
    """Opens a split of a dataset under the first of its names that exists. None if none does."""
    from timm.data import create_dataset

    for spelling in spellings:
        try:
            dataset: Any = create_dataset(name, root=str(root), split=spelling, download=True)
        except Exception as error:  # from any of the libraries that timm uses
            # A ValueError means an unknown split. No other error may hide a split.
            if isinstance(error, ValueError) and not (needed and spelling == spellings[-1]):
                continue
            raise DataError(
                f"cannot open the dataset {name!r}",
                expected="a dataset that timm can open",
                found=explain(error).found[:300].rstrip("."),
                where=name,
                fix=f"Check the name and the network, pass a folder, or put the dataset into {root}.",
            ) from error
        if hasattr(dataset, "loader"):  # torchvision's, which converts images in its own way
            dataset.loader = decode.read
        return dataset
    return None


def _index_of(label: str, names: Sequence[str], place: str) -> int:
    if label not in names:
        raise DataError(
            f"a split has the class {label!r}, which train lacks",
            expected=f"some of train's {len(names)} classes",
            found=label,
            where=place,
            fix="Use a dataset whose splits have the same classes.",
        )
    return names.index(label)


def _targets(dataset: Any) -> Sequence[int]:
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(dataset, "targets"):
        return dataset.targets
    if hasattr(reader, "iter_targets"):  # does not read the images
        return list(reader.iter_targets())
    return [(reader or dataset)[i][1] for i in range(len(dataset))]


def _names_of_classes(dataset: Any, labels: Sequence[int]) -> tuple[str, ...]:
    indices = getattr(getattr(dataset, "reader", None), "class_to_idx", None) or {}
    if sorted(indices.values()) == list(range(len(indices))) and len(indices) > max(labels):
        return tuple(sorted(indices, key=indices.__getitem__))
    classes = getattr(dataset, "classes", None)
    return tuple(map(str, classes)) if classes else tuple(str(i) for i in range(max(labels) + 1))
