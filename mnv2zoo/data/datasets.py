"""From what the user points at to named samples.

Images lie in folders, in tar files, or behind a dataset's name that timm knows. Whatever it was, it becomes
a `Data`: named classes, and samples for each split, which can be read at random and in any process.
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


@dataclass(frozen=True)
class Sample:
    """An image and its target.

    Attributes:
        name: Its path within the data, which messages and `split.json` name.
        target: Index of its class, or whatever else a task trains on.
        place: The file it is in.
        offset: Where its bytes begin, for a tar file; None for a file of its own.
        size: How many there are.
        key: What recognizes the image elsewhere, as `identify` gives it; None before that.
        channels: Channels that the network takes, as for `decode.read`.
    """

    name: str
    target: Any
    place: Path
    offset: int | None = None
    size: int = 0
    key: str | None = None
    channels: int = 3

    def source(self) -> Path | BytesIO:
        """What `decode.read` takes: the file, or the bytes within the tar file."""
        if self.offset is None:
            return self.place
        with self.place.open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))

    def content(self) -> Path | BytesIO:
        """What `decode.read` takes: the bytes, read now, or a path that cannot be read."""
        if self.offset is not None:
            return self.source()
        try:
            return BytesIO(self.place.read_bytes()) if self.place.is_file() else self.place
        except OSError:
            return self.place

    def identify(self) -> str | None:
        """Hashes the image's bytes, which recognizes it wherever it lies.

        Returns:
            `sha256:` and the hash in hexadecimal; None if there are no bytes.
        """
        return self.key or content_hash(self.content())

    def read(self) -> Any:
        """Reads the image as upright 8-bit RGB, or as `pixels.Bands` for a network with other channels.

        Raises:
            ImageReadError: If it cannot be read, or has another number of channels.
        """
        return decode.read(self.source(), self.name, channels=self.channels)


def content_hash(content: Path | BytesIO) -> str | None:
    """Hashes an image's bytes; None for a path, which `Sample.content` gives where there are none."""
    if not isinstance(content, BytesIO):
        return None
    return "sha256:" + hashlib.sha256(content.getbuffer()).hexdigest()


AnySample = Sample | TimmSample


@dataclass(frozen=True)
class Data:
    """Classes, and the samples of each split.

    Attributes:
        class_names: Names in the order of the class indices; none where targets are not classes.
        splits: Samples by `train`, `val` and `test`; a split without samples is not there.
        notes: What a user should know about the data, a sentence each.
        form: The format of the annotations, such as `Pascal VOC`; empty where folders are the classes.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[AnySample, ...]]
    notes: tuple[str, ...] = ()
    form: str = ""


LACKS = " has no images of "


def in_other_splits(data: Data, splits: Mapping[str, Sequence[AnySample]]) -> Data:
    """Puts the images of the data into other splits.

    Args:
        data: The data.
        splits: The samples of each split; empty ones are left out.

    Returns:
        The data, without the notes on classes that its own splits lack.
    """
    notes = tuple(note for note in data.notes if LACKS not in note)
    return replace(data, splits={split: tuple(own) for split, own in splits.items() if own}, notes=notes)


def key_of(sample: AnySample) -> str:
    """What copies of an image have in common: the hash of its bytes once it was checked, and its name before."""
    return getattr(sample, "key", None) or sample.name


def find(place: str | Path, root: Path | None = None, layout: Layout | None = None) -> Data:
    """Finds the images and their classes.

    Args:
        place: A folder with one subfolder per class; one with subfolders `train` and, if there are, `val` and `test`,
            each with one subfolder per class; a tar file of either; a folder with one tar file per split; or timm's
            name for a dataset, such as `torch/cifar10` or `hfds/owner/name`.
        root: Where a dataset that timm knows is kept; `datasets` in `MNV2ZOO_HOME` by default.
        layout: How images are laid out, where their folders do not tell.

    Returns:
        The data. Images that are in no split are in `train`. Classes are those of `train`, in order of
        their names. The last of the notes says in one line what was found and not used.

    Raises:
        DataError: If there is nothing of that kind, if classes are empty, single, or not in `train`, or if it cannot
            be told which folders are splits.
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
            f"a network with {layout.in_chans} channels cannot train on this dataset",
            expected="a dataset of photos with a network for 1 or 3 channels, or a folder of your own images",
            found=f"in_chans={layout.in_chans}",
            where=place,
            fix="Leave out --in-chans, or save the images in folders.",
        )


def _arrange(listing: Listing, place: str | Path, channels: int = 3) -> Data:
    notes = list(listing.notes)
    found = {split: own for split, own in listing.splits.items() if own}
    # Without images to train on, there are some to evaluate on.
    labelled = found["train"] if "train" in found else itertools.chain.from_iterable(found.values())
    names = sorted({entry.label for entry in labelled})
    empty = sorted(listing.classes.get("train", set()) - set(names))
    if "train" in found and empty:
        raise DataError(
            f"{len(empty)} class folders are without images"
            if empty[1:]
            else f"{empty[0]!r} is a class without images",
            expected="images in every class folder",
            found=f"none in {', '.join(empty[:5])}" + (f" ({listing.unused})" if listing.unused else ""),
            where=place,
            fix="Remove the folder, or put images into it.",
        )
    if "train" in found and len(names) < 2:
        raise DataError(
            "too few classes",
            expected="a folder for each of two classes or more",
            found=f"{names[0]!r} alone",
            where=place,
            fix="Put the images into one folder per class, and these into one folder.",
        )
    index = {name: number for number, name in enumerate(names)}
    splits: dict[str, tuple[AnySample, ...]] = {}
    for split, own in found.items():
        present = {entry.label for entry in own}
        if unknown := sorted(present - set(names)):
            raise DataError(
                f"there are classes in {split} that train lacks",
                expected=f"some of train's {len(names)} classes",
                found=", ".join(unknown[:5]),
                where=place,
                fix="Rename their folders as they are in train, or remove them.",
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
    """Samples as inputs and targets.

    Args:
        samples: The samples.
        transform: From an RGB image to a tensor (3, H, W); the target stays as it is.
        transforms: From an RGB image and its target to what a batch is made of, in place of `transform`. Where it has a
            `reader`, as `tasks.base.ImageTransform`, images are read by that.
        copies: Where the images that the reader made are kept; None for nowhere.
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
        """Reads a sample; with a pair (index, seed) its augmentation depends on the seed alone."""
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
