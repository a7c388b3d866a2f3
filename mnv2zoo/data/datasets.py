"""Turns folders, tar files and timm datasets into named samples.

Whatever the source, the result is a `Data`: class names, and samples for each split, which can be read in any order and
from any process.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mnv2zoo import environment
from mnv2zoo.data import decode, timm_datasets
from mnv2zoo.data import layout as layouts
from mnv2zoo.data.copies import Copies, Reader
from mnv2zoo.data.layout import Layout, Listing
from mnv2zoo.data.pixels import PHOTO_CHANNELS
from mnv2zoo.data.sampler import seed_augmentation
from mnv2zoo.data.timm_datasets import TimmSample
from mnv2zoo.errors import DataError
from mnv2zoo.system import collector


@dataclass(frozen=True)
class Sample:
    """An image and its target.

    Attributes:
        name: Its path in the data, as used in messages and `split.json`.
        target: Index of its class, or another target for other tasks.
        place: The file that contains it.
        offset: Start of its bytes in a tar file. None for a separate file.
        size: Number of bytes in a tar file.
        key: Its identifier, from `identify`. None before it is computed.
        channels: Number of channels of the model, as for `decode.read`.
    """

    name: str
    target: Any
    place: Path
    offset: int | None = None
    size: int = 0
    key: str | None = None
    channels: int = 3

    def source(self) -> Path | BytesIO:
        """Returns what `decode.read` takes: the file, or its bytes in the tar file."""
        if self.offset is None:
            return self.place
        with self.place.open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))

    def content(self) -> Path | BytesIO:
        """Returns what `decode.read` takes: the bytes, or a path if the file cannot be read."""
        if self.offset is not None:
            return self.source()
        try:
            return BytesIO(self.place.read_bytes()) if self.place.is_file() else self.place
        except OSError:
            return self.place

    def identify(self) -> str | None:
        """Hashes the image's bytes, which identify it wherever it is stored.

        Returns:
            `sha256:` and the hash in hexadecimal, or None if the file cannot be read.
        """
        return self.key or content_hash(self.content())

    def read(self) -> Any:
        """Reads the image as upright 8-bit RGB, or as `pixels.Bands` if the model takes other channels.

        Raises:
            ImageReadError: If the image cannot be read, or has another number of channels.
        """
        return decode.read(self.source(), self.name, channels=self.channels)


def content_hash(content: Path | BytesIO) -> str | None:
    """Hashes an image's bytes. None for a path, which `Sample.content` returns for an unreadable file."""
    if not isinstance(content, BytesIO):
        return None
    return "sha256:" + hashlib.sha256(content.getbuffer()).hexdigest()


AnySample = Sample | TimmSample


@dataclass(frozen=True)
class Data:
    """The classes and samples of a dataset.

    Attributes:
        class_names: Class names in order of the class indices. Empty if the targets are not classes.
        splits: Samples by `train`, `val` and `test`. Splits without samples are left out.
        notes: Remarks for the user, one sentence each.
        form: Format of the annotations, such as `Pascal VOC`. Empty if folders are the classes.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[AnySample, ...]]
    notes: tuple[str, ...] = ()
    form: str = ""


LACKS = " has no images of "


def in_other_splits(data: Data, splits: Mapping[str, Sequence[AnySample]]) -> Data:
    """Assigns the samples to new splits.

    Args:
        data: The data.
        splits: The samples of each split. Empty ones are left out.

    Returns:
        The data, without the notes on classes that its own splits lack.
    """
    notes = tuple(note for note in data.notes if LACKS not in note)
    return replace(data, splits={split: tuple(own) for split, own in splits.items() if own}, notes=notes)


def key_of(sample: AnySample) -> str:
    """Returns an identifier that duplicates share: the hash of the bytes if known, otherwise the name."""
    return getattr(sample, "key", None) or sample.name


@collector.paused()
def find(place: str | Path, root: Path | None = None, layout: Layout | None = None) -> Data:
    """Finds the images and their classes.

    Args:
        place: A folder with one subfolder per class, or with subfolders `train` and optionally `val` and `test`
            that each have one subfolder per class. Also a tar file of either, a folder with one tar file per split, or
            a dataset name that timm accepts, such as `torch/cifar10` or `hfds/owner/name`.
        root: Folder for timm datasets. Default: `datasets` in `MNV2ZOO_HOME`.
        layout: How images are laid out, if their folders are ambiguous.

    Returns:
        The data. Images without a split are in `train`. The classes come from `train`, in alphabetical order.
        The last note says in one line what was found and not used.

    Raises:
        DataError: If no images are found, a class is empty, there is only one class, a split has a class that `train`
            lacks, or it is ambiguous which folders are splits.
    """
    known = str(place).partition("/")[0] in timm_datasets.KINDS and "/" in str(place)
    if known and not Path(place).exists() and not Path(place).is_absolute():
        root = root or environment.home() / "datasets"
        if str(place) not in timm_datasets.FOLDERS:
            _refuse_channels(place, layout or Layout())
            names, splits = timm_datasets.find(str(place), root)
            return Data(names, dict(splits))
        place = root
    layout = layout or Layout()
    return _arrange(layouts.read(place, layout), place, layout.in_chans)


def _refuse_channels(place: str | Path, layout: Layout) -> None:
    if layout.in_chans not in PHOTO_CHANNELS:
        raise DataError(
            f"a model with {layout.in_chans} channels cannot train on a timm dataset",
            expected="a model with 1 or 3 channels, or a folder of your own images",
            found=f"in_chans={layout.in_chans}",
            where=place,
            fix="Leave out --in-chans, or save the images in folders.",
        )


def _arrange(listing: Listing, place: str | Path, channels: int = 3) -> Data:
    notes = list(listing.notes)
    found = {split: own for split, own in listing.splits.items() if own}
    # If there are no training images, take the classes from the images to evaluate.
    labeled = found["train"] if "train" in found else itertools.chain.from_iterable(found.values())
    names = sorted({entry.label for entry in labeled})
    empty = sorted(listing.classes.get("train", set()) - set(names))
    if "train" in found and empty:
        raise DataError(
            f"{len(empty)} class folders have no images"
            if empty[1:]
            else f"the class folder {empty[0]!r} has no images",
            expected="images in every class folder",
            found=f"none in {', '.join(empty[:5])}" + (f" ({listing.unused})" if listing.unused else ""),
            where=place,
            fix="Remove the folder, or add images to it.",
        )
    if "train" in found and len(names) < 2:
        raise DataError(
            f"the data has only one class, {names[0]!r}",
            expected="at least two class folders",
            found=f"{names[0]!r} only",
            where=place,
            fix="Put the images in one folder per class, and these folders in one folder.",
        )
    index = {name: number for number, name in enumerate(names)}
    splits: dict[str, tuple[AnySample, ...]] = {}
    for split, own in found.items():
        present = {entry.label for entry in own}
        if unknown := sorted(present - set(names)):
            raise DataError(
                f"the split {split} has classes that train lacks",
                expected=f"some of train's {len(names)} classes",
                found=", ".join(unknown[:5]),
                where=place,
                fix="Give their folders the names that they have in train, or remove them.",
            )
        if lacking := sorted(set(names) - present):
            notes.append(f"{split}{LACKS}{len(lacking)} of {len(names)} classes: {', '.join(lacking)}")
        splits[split] = tuple(
            Sample(
                entry.name, index[entry.label], entry.file.place, entry.file.offset, entry.file.size, channels=channels
            )
            for entry in own
        )
    if listing.unused:
        notes.append(str(listing.unused))
    return Data(tuple(names), splits, tuple(notes))


class Photos(Dataset[tuple[Any, Any]]):
    """A PyTorch dataset of inputs and targets.

    Args:
        samples: The samples.
        transform: Maps an RGB image to a tensor (3, H, W). The target is unchanged.
        transforms: Maps an RGB image and its target to an item of a batch, instead of `transform`. Its `reader`, if it
            has one, reads images at a reduced size, as for `tasks.base.Task.transforms`.
        copies: Where the reader's smaller copies are stored. None stores none.
    """

    def __init__(
        self,
        samples: Sequence[AnySample],
        transform: Callable[[Image.Image], Tensor] | None = None,
        transforms: Callable[[Image.Image, Any], tuple[Any, Any]] | None = None,
        copies: Copies | None = None,
    ) -> None:
        self.samples, self.transform, self.transforms, self.copies = samples, transform, transforms, copies
        self.reader: Reader | None = getattr(transforms, "reader", None)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Any, Any]:
        """Returns an item. For a pair (index, seed), its augmentation depends only on the seed."""
        index, seed = key if isinstance(key, tuple) else (key, None)
        sample = self.samples[index]
        image = self._read(sample)
        if seed is not None:
            seed_augmentation(seed)
        if self.transforms is not None:
            return self.transforms(image, sample.target)
        return (image if self.transform is None else self.transform(image)), sample.target

    def _read(self, sample: AnySample) -> Any:
        if self.reader is None or not isinstance(sample, Sample):
            return sample.read()
        copies, key = self.copies, sample.identify() if self.copies else None
        if copies is None or key is None:
            return self.reader.read(sample.source(), sample.name, sample.channels)[0]
        image = copies.load(key, self.reader)
        if image is None:
            image, _ = self.reader.read(sample.source(), sample.name, sample.channels)
            copies.keep(key, self.reader, image)
        return image
