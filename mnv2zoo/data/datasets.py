"""From what the user points at to batches of tensors.

Images lie in folders, in tar files, or behind a dataset's name that timm knows. Whatever it was, it becomes
a `Data`: named classes, and samples for each split, which can be read at random and in any process.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mnv2zoo import environment
from mnv2zoo.data import decode
from mnv2zoo.data import layout as layouts
from mnv2zoo.data.discover import SPLITS
from mnv2zoo.data.layout import Layout, Listing
from mnv2zoo.data.sampler import seed_augmentation
from mnv2zoo.errors import DataError, ImageReadError


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
    """

    name: str
    target: Any
    place: Path
    offset: int | None = None
    size: int = 0
    key: str | None = None

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
        return self.key or _hash(self.content())

    def read(self) -> Image.Image:
        """Reads the image as upright 8-bit RGB.

        Raises:
            ImageReadError: If it cannot be read.
        """
        return decode.read(self.source(), self.name)


def _hash(content: Path | BytesIO) -> str | None:
    if not isinstance(content, BytesIO):
        return None
    return "sha256:" + hashlib.sha256(content.getbuffer()).hexdigest()


@dataclass(frozen=True)
class TimmSample:
    """An image of a timm dataset, with the attributes of `Sample` that are used.

    Attributes:
        name: Its split and number.
        target: Index of its class.
        dataset: The dataset.
        index: Its number there.
        origin: The dataset's name.
    """

    name: str
    target: Any
    dataset: Any
    index: int
    origin: str = ""

    def identify(self) -> str:
        """What recognizes the image elsewhere: the dataset's name, its split and its number."""
        return f"{self.origin}:{self.name}"

    def read(self) -> Image.Image:
        """Reads the image as `Sample.read` does.

        Raises:
            ImageReadError: If it cannot be read.
        """
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            return decode.to_rgb(self.dataset[self.index][0], self.name)
        # Taken past timm's dataset, which converts images in its own way, and skips those that it cannot read.
        with reader[self.index][0] as stream:
            return decode.read(BytesIO(stream.read()), self.name)


AnySample = Sample | TimmSample


@dataclass(frozen=True)
class Data:
    """Classes, and the samples of each split.

    Attributes:
        class_names: Names in the order of the class indices; none where targets are not classes.
        splits: Samples by `train`, `val` and `test`; a split without samples is not there.
        notes: What a user should know about the data, a sentence each.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[AnySample, ...]]
    notes: tuple[str, ...] = ()


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
    known = str(place).partition("/")[0] in TIMM_KINDS and "/" in str(place)
    if known and not Path(place).exists() and not Path(place).is_absolute():
        root = root or environment.home() / "datasets"
        if str(place) not in _FOLDERS:
            return _find_timm(str(place), root)
        place = root
    listing = layouts.read(place, layout or Layout())
    return _arrange(listing, place)


def _arrange(listing: Listing, place: str | Path) -> Data:
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
            notes.append(f"{split} has no images of {len(lacking)} of {len(names)} classes: {', '.join(lacking)}")
        splits[split] = tuple(
            Sample(entry.name, index[entry.label], entry.file.place, entry.file.offset, entry.file.size)
            for entry in own
        )
    if listing.unused:
        notes.append(str(listing.unused))
    return Data(tuple(names), splits, tuple(notes))


TIMM_KINDS = ("torch", "hfds")
_FOLDERS = ("torch/folder", "torch/image_folder")


def _find_timm(name: str, root: Path) -> Data:
    """The data of a dataset that timm knows, downloaded by whoever provides it."""
    try:
        if environment.is_homeless(root):
            raise FileNotFoundError(errno.ENOENT, "this user has no home folder")
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            "there is no folder to keep the dataset in",
            expected="a folder that can be written",
            found=error.strerror or error,
            where=root,
            fix="Set MNV2ZOO_HOME to a folder that can be written.",
        ) from error
    splits: dict[str, tuple[AnySample, ...]] = {}
    names: tuple[str, ...] = ()
    # torchvision's datasets have one split beside that for training, and not all call it `test`.
    wanted = {"train": SPLITS["train"], "test": ("test", *SPLITS["val"])} if name.startswith("torch/") else SPLITS
    for split, spellings in wanted.items():
        dataset = _open_timm(name, root, spellings, needed=split == "train")
        if dataset is None:
            continue
        labels = [int(target) for target in _targets(dataset)]
        own = _names_of_classes(dataset, labels)
        names = names or own
        if own != names and getattr(getattr(dataset, "reader", None), "class_to_idx", None):
            labels = [_index_of(own[label], names, name) for label in labels]
        splits[split] = tuple(TimmSample(f"{split}/{i}", label, dataset, i, name) for i, label in enumerate(labels))
    return Data(names, splits)


def _open_timm(name: str, root: Path, spellings: Sequence[str], needed: bool) -> Any:
    """Opens a split of a dataset by the first of its names that the dataset knows; None if it knows none."""
    from timm.data import create_dataset

    from mnv2zoo.weights.hub_failures import explain

    for spelling in spellings:
        try:
            dataset: Any = create_dataset(name, root=str(root), split=spelling, download=True)
        except Exception as error:  # of the many libraries behind it
            # A ValueError means an unknown split. Anything else must not make a split vanish.
            if isinstance(error, ValueError) and not (needed and spelling == spellings[-1]):
                continue
            raise DataError(
                f"cannot open the dataset {name!r}",
                expected="a dataset that timm opens",
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
            "a split has classes that train lacks",
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
    if hasattr(reader, "iter_targets"):  # without reading the images
        return list(reader.iter_targets())
    return [(reader or dataset)[i][1] for i in range(len(dataset))]


def _names_of_classes(dataset: Any, labels: Sequence[int]) -> tuple[str, ...]:
    indices = getattr(getattr(dataset, "reader", None), "class_to_idx", None) or {}
    if sorted(indices.values()) == list(range(len(indices))) and len(indices) > max(labels):
        return tuple(sorted(indices, key=indices.__getitem__))
    classes = getattr(dataset, "classes", None)
    return tuple(map(str, classes)) if classes else tuple(str(i) for i in range(max(labels) + 1))


def with_validation(data: Data, fraction: float, seed: int, learned: Set[str] = frozenset()) -> Data:
    """Takes validation images from the training images, class by class, where the data has none.

    Args:
        data: The data.
        fraction: Part of each class to take; of a class with two images or more at least one is taken
            and at least one is left. Copies of an image, which `check` recognizes, stay together. Data without classes
            is split as a whole.
        seed: Decides which; a class's own choice does not depend on the other classes.
        learned: Keys of images that the weights to start from were trained on. Others are taken as far as there are.

    Returns:
        The data with a split `val`.
    """
    if "val" in data.splits:
        return data
    groups: dict[int | None, dict[str, list[AnySample]]] = {}
    for sample in data.splits["train"]:
        label = sample.target if data.class_names else None
        groups.setdefault(label, {}).setdefault(_key(sample), []).append(sample)
    taken: set[str] = set()
    left: set[str] = set()
    for label, group in groups.items():
        count = min(max(round(len(group) * fraction), 1), len(group) - 1)
        chance = random.Random(f"{seed}/{'' if label is None else data.class_names[label]}")
        chosen = set(chance.sample(list(group), count))
        if not learned.isdisjoint(chosen) and (others := [key for key in group if key not in learned]):
            chosen = set(chance.sample(others, min(count, len(others))))
        taken |= chosen
        left |= group.keys() - chosen
    taken -= left  # what has a copy in another class
    splits = {
        "train": tuple(s for s in data.splits["train"] if _key(s) not in taken),
        "val": tuple(s for s in data.splits["train"] if _key(s) in taken),
    }
    splits |= {name: split for name, split in data.splits.items() if name == "test"}
    return Data(data.class_names, {name: split for name, split in splits.items() if split}, data.notes)


def _key(sample: AnySample) -> str:
    return getattr(sample, "key", None) or sample.name


def restrict(data: Data, splits: Mapping[str, Any]) -> Data:
    """Takes from the data what a written split says.

    Args:
        data: The data as it is found, before it is split.
        splits: Names of samples by split, as `split.json` has them; what else is in it does not matter here.

    Returns:
        The data in these splits.

    Raises:
        DataError: If an image is no longer there.
    """
    known = {sample.name: sample for split in data.splits.values() for sample in split}
    splits = {split: names for split, names in splits.items() if split in SPLITS}
    for split, names in splits.items():
        gone = [name for name in names if name not in known]
        if gone:
            raise DataError(
                "the data has changed since the run began",
                expected=f"the {len(names)} images of {split} in split.json",
                found=f"{len(gone)} of them gone, such as {gone[0]}",
                fix="Restore them, or begin a new run.",
            )
    return Data(
        data.class_names, {split: tuple(known[name] for name in names) for split, names in splits.items()}, data.notes
    )


def check(data: Data, skip_bad: bool, advance: Callable[[int], None] = lambda done: None) -> Data:
    """Reads every image once, so that none fails hours later.

    Args:
        data: The data.
        skip_bad: Leave out images that cannot be read.
        advance: Told of images as they are done.

    Returns:
        The data without those, and with notes that name and count them and whatever else is out of the
        ordinary (rotated, animated, CMYK, 16-bit), which is read as `decode.read` says. Its samples have keys, and
        notes tell of images that come more than once.

    Raises:
        DataError: If images cannot be read and are not to be skipped, or too few are left.
    """
    samples = [sample for split in data.splits.values() for sample in split if isinstance(sample, Sample)]
    odd: dict[str, list[str]] = {}
    bad: dict[str, str] = {}
    keys: dict[str, str | None] = {}

    def examine(sample: Sample) -> tuple[str, ...] | ImageReadError:
        content = sample.content()
        keys[sample.name] = _hash(content)  # of the bytes that are decoded, which are read once
        try:
            return decode.oddities(content, sample.name)
        except ImageReadError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for sample, result in zip(samples, pool.map(examine, samples, chunksize=64), strict=True):
            if isinstance(result, ImageReadError):
                bad[sample.name] = str(result.found)
            else:
                for kind in result:
                    odd.setdefault(kind, []).append(sample.name)
            advance(1)

    notes = [f"{_count(names)} {kind}, and used as `predict` reads them: {_some(names)}" for kind, names in odd.items()]
    if bad and not skip_bad:
        raise DataError(
            f"{len(bad)} of {len(samples)} images cannot be read",
            found=", ".join(f"{name} ({why})" for name, why in list(bad.items())[:5]) + (", …" if len(bad) > 5 else ""),
            fix="Remove or repair them, or leave them out with --skip-bad-images.",
        )
    if bad:
        notes.append(f"{_count(list(bad))} left out because they cannot be read: {_some(list(bad))}")
    kept = {
        split: tuple(replace(s, key=keys[s.name]) if isinstance(s, Sample) else s for s in own if s.name not in bad)
        for split, own in data.splits.items()
    }
    notes += _copies(kept, bool(data.class_names))
    counts = Counter(sample.target for sample in kept.get("train", ()) if data.class_names)
    lost = [name for label, name in enumerate(data.class_names) if not counts[label]]
    if "train" in kept and lost:
        raise DataError(
            "a class without readable images", expected="an image or more in each class", found=", ".join(lost[:5])
        )
    return Data(data.class_names, {split: own for split, own in kept.items() if own}, (*data.notes, *notes))


def _copies(splits: Mapping[str, Sequence[AnySample]], classes: bool) -> Iterator[str]:
    """Notes about images that come more than once, and in more than one class where there are classes."""
    labels: dict[str, set[int]] = {}
    names: dict[str, list[str]] = {}
    for own in splits.values():
        for sample in own:
            if classes:
                labels.setdefault(_key(sample), set()).add(sample.target)
            names.setdefault(_key(sample), []).append(sample.name)
    if several := [names[key][0] for key, own in labels.items() if len(own) > 1]:
        yield f"{_count(several)} in more than one class: {_some(several)}"
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        known = {_key(sample) for sample in splits.get(one, ())}
        shared = [sample.name for sample in splits.get(other, ()) if _key(sample) in known]
        if shared:
            why = "" if one == "val" else ", so figures on them are too good"
            yield f"{len(shared)} of {len(splits[other])} {other} images are also in {one}{why}: {_some(shared)}"
    for split, own in splits.items():
        count = len(own) - len({_key(sample) for sample in own})
        if count:
            yield f"{count} of {len(own)} {split} images are copies of others in it"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} images are" if len(names) > 1 else "1 image is"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


class Photos(Dataset[tuple[Any, Any]]):
    """Samples as inputs and targets.

    Args:
        samples: The samples.
        transform: From an RGB image to a tensor (3, H, W); the target stays as it is.
        transforms: From an RGB image and its target to what a batch is made of, in place of `transform`.
    """

    def __init__(
        self,
        samples: Sequence[AnySample],
        transform: Callable[[Image.Image], Tensor] | None = None,
        transforms: Callable[[Image.Image, Any], tuple[Any, Any]] | None = None,
    ) -> None:
        self.samples, self.transform, self.transforms = samples, transform, transforms

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Any, Any]:
        """Reads a sample; with a pair (index, seed) its augmentation depends on the seed alone."""
        index, seed = key if isinstance(key, tuple) else (key, None)
        sample = self.samples[index]
        image = sample.read()
        if seed is not None:
            seed_augmentation(seed)
        if self.transforms is not None:
            return self.transforms(image, sample.target)
        return (image if self.transform is None else self.transform(image)), sample.target
