"""From what the user points at to batches of tensors.

Images lie in folders, in tar files, or behind a dataset's name that timm knows. Whatever it was, it becomes
a `Data`: named classes, and samples for each split, which can be read at random and in any process.
"""

from __future__ import annotations

import math
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mnv2zoo import environment
from mnv2zoo.data import decode, discover
from mnv2zoo.errors import DataError, ImageReadError

# Names that folders and tar files of a split go by.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}


@dataclass(frozen=True)
class Sample:
    """An image and its class.

    Attributes:
        name: Its path within the data, which messages and `split.json` name.
        label: Index of its class.
        place: The file it is in.
        offset: Where its bytes begin, for a tar file; None for a file of its own.
        size: How many there are.
    """

    name: str
    label: int
    place: Path
    offset: int | None = None
    size: int = 0

    def source(self) -> Path | BytesIO:
        """What `decode.read` takes: the file, or the bytes within the tar file."""
        if self.offset is None:
            return self.place
        with self.place.open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))

    def read(self) -> Image.Image:
        """Reads the image as upright 8-bit RGB.

        Raises:
            ImageReadError: If it cannot be read.
        """
        return decode.read(self.source(), self.name)


@dataclass(frozen=True)
class TimmSample:
    """An image of a timm dataset, with the attributes of `Sample` that are used.

    Attributes:
        name: Its split and number.
        label: Index of its class.
        dataset: The dataset.
        index: Its number there.
    """

    name: str
    label: int
    dataset: Any
    index: int

    def read(self) -> Image.Image:
        """Reads the image as `Sample.read` does."""
        image, _ = self.dataset[self.index]
        return image.convert("RGB")


@dataclass(frozen=True)
class Data:
    """Classes, and the samples of each split.

    Attributes:
        class_names: Names in the order of the class indices.
        splits: Samples by `train`, `val` and `test`; a split without samples is not there.
        notes: What a user should know about the data, a sentence each.
    """

    class_names: tuple[str, ...]
    splits: dict[str, tuple[Sample | TimmSample, ...]]
    notes: tuple[str, ...] = ()


# Where an image was found: the parts of its path, and the rest of a Sample.
_Found = tuple[tuple[str, ...], Path, int | None, int]


def find(place: str | Path, root: Path | None = None) -> Data:
    """Finds the images and their classes.

    Args:
        place: A folder with a subfolder a class; one with subfolders `train` and, if there are, `val`
            and `test`, each with a subfolder a class; a tar file of either; a folder with a tar file a
            split; or timm's name for a dataset, such as `torch/cifar10` or `hfds/owner/name`.
        root: Where a dataset that timm knows is kept; `datasets` in `MNV2ZOO_HOME` by default.

    Returns:
        The data. Images that are in no split are in `train`. Classes are those of `train`, in order of
        their names.

    Raises:
        DataError: If there is nothing of that kind, or classes are empty, single, or not in `train`.
    """
    path = Path(place)
    if not path.exists():
        if "/" in str(place) and not path.is_absolute() and str(place).partition("/")[0] in TIMM_KINDS:
            return _find_timm(str(place), root or environment.home() / "datasets")
        raise DataError(
            "no such data",
            expected="a folder, a tar file, or a dataset's name such as torch/cifar10",
            found="nothing of that name",
            where=place,
        )
    found, folders = _list_folder(path) if path.is_dir() else _list_tar(path)
    by_split: dict[str, list[_Found]] = {}
    classes: dict[str, set[str]] = {}
    if any(parts[0].lower() in _SPLIT_OF for parts in [*(f[0] for f in found), *folders]):
        for entry in found:
            split = _SPLIT_OF.get(entry[0][0].lower())
            if split:
                by_split.setdefault(split, []).append((entry[0][1:], *entry[1:]))
        for parts in folders:
            if len(parts) > 1 and (split := _SPLIT_OF.get(parts[0].lower())):
                classes.setdefault(split, set()).add(parts[1])
    else:
        by_split["train"] = found
        classes["train"] = {parts[0] for parts in folders}
    if not by_split:
        raise DataError(
            "no images",
            expected="a folder a class, with images in it",
            found=f"none that ends in {', '.join(sorted(discover.EXTENSIONS))}",
            where=place,
        )
    return _arrange(by_split, classes, place)


def _list_folder(folder: Path) -> tuple[list[_Found], list[tuple[str, ...]]]:
    """The images below a folder, those within tar files of splits included, and its folders."""
    found: list[_Found] = []
    folders: list[tuple[str, ...]] = []
    seen: set[Path] = set()

    def walk(place: Path, parts: tuple[str, ...]) -> None:
        real = place.resolve()
        if real in seen:  # a link to a folder above would never end
            return
        seen.add(real)
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            raise DataError("cannot search a folder", found=error.strerror, where=place) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if discover.is_run(entry):  # the pictures of its report are no photos
                    continue
                folders.append((*parts, entry.name))
                walk(entry, (*parts, entry.name))
            elif entry.suffix.lower() in discover.EXTENSIONS:
                found.append(((*parts, entry.name), entry, None, 0))

    walk(folder, ())
    for tar in sorted(folder.glob("*.tar")):
        if tar.stem.lower() in _SPLIT_OF:
            within, own_folders = _list_tar(tar, tar.stem)
            found += within
            folders += own_folders
    return found, folders


def _list_tar(path: Path, split: str | None = None) -> tuple[list[_Found], list[tuple[str, ...]]]:
    """The images in a tar file and its folders; of a split's own tar file, below the split's name."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            "cannot read the tar file",
            expected="a folder, or an uncompressed tar file, which can be read at random",
            found=str(error).rstrip("."),
            where=path,
            fix="Unpack a compressed one.",
        ) from error
    rows = [(PurePosixPath(m.name).parts, m) for m in members]
    rows = [(tuple(p for p in parts if p not in (".", "/")), m) for parts, m in rows]
    rows = [(parts, m) for parts, m in rows if parts and not parts[-1].startswith(".")]
    while True:  # a folder around everything means nothing, except where it is a split or the one class
        tops = {parts[0] for parts, _ in rows}
        depth = max((len(parts) for parts, m in rows if m.isfile()), default=0)
        if len(tops) != 1 or depth < 3 or next(iter(tops)).lower() in _SPLIT_OF:
            break
        rows = [(parts[1:], m) for parts, m in rows if len(parts) > 1]
    if split is not None and {parts[0].lower() for parts, _ in rows} - {split.lower()}:
        rows = [((split, *parts), m) for parts, m in rows]
    found: list[_Found] = [
        (parts, path, m.offset_data, m.size)
        for parts, m in rows
        if m.isfile() and PurePosixPath(parts[-1]).suffix.lower() in discover.EXTENSIONS
    ]
    folders = {parts[:-1] for parts, m in rows if m.isfile()} | {parts for parts, m in rows if m.isdir()}
    return found, sorted(folder for folder in folders if folder)


def _arrange(by_split: dict[str, list[_Found]], classes: dict[str, set[str]], place: str | Path) -> Data:
    notes = []
    for split, found in by_split.items():
        loose = [parts for parts, *_ in found if len(parts) < 2]
        if loose:
            notes.append(
                f"{len(loose)} images of {split} lie in no class's folder and are left out ({loose[0][-1]}, …)"
            )
    if "train" not in by_split:  # to evaluate on, not to train on
        names = sorted({parts[0] for found in by_split.values() for parts, *_ in found if len(parts) > 1})
    else:
        names = sorted({parts[0] for parts, *_ in by_split["train"] if len(parts) > 1})
        empty = sorted(classes.get("train", set()) - set(names))
        if empty:
            raise DataError(
                "a class without images",
                expected="images in every class's folder",
                found=f"none in {', '.join(empty[:5])}",
                where=place,
                fix="Remove the folder, or put images into it.",
            )
    if len(names) < 2 and "train" in by_split:
        raise DataError(
            "too few classes",
            expected="a folder for each of two classes or more",
            found=f"{names[0]!r} alone" if names else "images in no folder",
            where=place,
        )
    index = {name: number for number, name in enumerate(names)}
    splits: dict[str, tuple[Sample | TimmSample, ...]] = {}
    for split in SPLITS:
        found = [entry for entry in by_split.get(split, []) if len(entry[0]) > 1]
        unknown = sorted({parts[0] for parts, *_ in found} - set(names))
        if unknown:
            raise DataError(
                f"classes in {split} that train lacks",
                expected=f"some of train's {len(names)} classes",
                found=", ".join(unknown[:5]),
                where=place,
            )
        lacking = sorted(set(names) - {parts[0] for parts, *_ in found})
        if found and lacking:
            notes.append(f"{split} has no images of {len(lacking)} of {len(names)} classes: {', '.join(lacking)}")
        if found:
            # A name that no two images share, as tar files may repeat a path.
            splits[split] = tuple(
                Sample("/".join((split, *parts)), index[parts[0]], file, offset, size)
                for parts, file, offset, size in sorted(found, key=lambda entry: entry[0])
            )
    return Data(tuple(names), splits, tuple(notes))


TIMM_KINDS = ("torch", "hfds", "folder", "image_folder")


def _find_timm(name: str, root: Path) -> Data:
    """The data of a dataset that timm knows, downloaded by whoever provides it."""
    from timm.data import create_dataset

    splits: dict[str, tuple[Sample | TimmSample, ...]] = {}
    names: tuple[str, ...] = ()
    root.mkdir(parents=True, exist_ok=True)
    # torchvision's datasets have one split beside that for training, which timm gives under either name.
    for split in ("train", "test") if name.startswith("torch/") else SPLITS:
        try:
            dataset: Any = create_dataset(name, root=str(root), split=split, download=True)
        except Exception as error:  # of the many libraries behind it
            if split == "train":
                raise DataError(
                    "cannot open the dataset",
                    expected="a dataset that timm opens",
                    found=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip("."),
                    where=name,
                ) from error
            continue
        labels = [int(target) for target in _targets(dataset)]
        splits[split] = tuple(TimmSample(f"{split}/{i}", label, dataset, i) for i, label in enumerate(labels))
        names = names or _names_of_classes(dataset, labels)
    return Data(names, splits)


def _targets(dataset: Any) -> Sequence[int]:
    if hasattr(dataset, "targets"):
        return dataset.targets
    return [dataset[i][1] for i in range(len(dataset))]


def _names_of_classes(dataset: Any, labels: Sequence[int]) -> tuple[str, ...]:
    classes = getattr(dataset, "classes", None)
    return tuple(map(str, classes)) if classes else tuple(str(i) for i in range(max(labels) + 1))


def with_validation(data: Data, fraction: float, seed: int) -> Data:
    """Takes validation images from the training images, class by class, where the data has none.

    Args:
        data: The data.
        fraction: Part of each class to take; of a class with two images or more at least one is taken
            and at least one is left.
        seed: Decides which; a class's own choice does not depend on the other classes.

    Returns:
        The data with a split `val`.
    """
    if "val" in data.splits:
        return data
    groups: dict[int, list[Sample | TimmSample]] = {}
    for sample in data.splits["train"]:
        groups.setdefault(sample.label, []).append(sample)
    taken: set[str] = set()
    for label, group in groups.items():
        count = min(max(round(len(group) * fraction), 1), len(group) - 1)
        taken |= {s.name for s in random.Random(f"{seed}/{data.class_names[label]}").sample(group, count)}
    splits = {
        "train": tuple(s for s in data.splits["train"] if s.name not in taken),
        "val": tuple(s for s in data.splits["train"] if s.name in taken),
    }
    splits |= {name: split for name, split in data.splits.items() if name == "test"}
    return Data(data.class_names, {name: split for name, split in splits.items() if split}, data.notes)


def restrict(data: Data, splits: dict[str, Sequence[str]]) -> Data:
    """Takes from the data what a written split says.

    Args:
        data: The data as it is found, before it is split.
        splits: Names of samples by split.

    Returns:
        The data in these splits.

    Raises:
        DataError: If an image is no longer there.
    """
    known = {sample.name: sample for split in data.splits.values() for sample in split}
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
        ordinary (rotated, animated, CMYK, 16-bit), which is read as `decode.read` says.

    Raises:
        DataError: If images cannot be read and are not to be skipped, or too few are left.
    """
    samples = [sample for split in data.splits.values() for sample in split if isinstance(sample, Sample)]
    odd: dict[str, list[str]] = {}
    bad: dict[str, str] = {}

    def examine(sample: Sample) -> tuple[str, ...] | ImageReadError:
        try:
            return decode.oddities(sample.source(), sample.name)
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
    kept = {split: tuple(s for s in own if s.name not in bad) for split, own in data.splits.items()}
    counts = Counter(sample.label for sample in kept.get("train", ()))
    lost = [name for label, name in enumerate(data.class_names) if not counts[label]]
    if "train" in kept and lost:
        raise DataError(
            "a class without readable images", expected="an image or more in each class", found=", ".join(lost[:5])
        )
    return Data(data.class_names, {split: own for split, own in kept.items() if own}, (*data.notes, *notes))


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} images are" if len(names) > 1 else "1 image is"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


class Photos(Dataset[tuple[Tensor, int]]):
    """Samples as tensors.

    Args:
        samples: The samples.
        transform: From an RGB image to a tensor (3, H, W).
    """

    def __init__(self, samples: Sequence[Sample | TimmSample], transform: Callable[[Image.Image], Tensor]) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        """Reads a sample; with a pair (index, seed) its augmentation depends on the seed alone."""
        index, seed = key if isinstance(key, tuple) else (key, None)
        sample = self.samples[index]
        image = sample.read()
        if seed is not None:
            seed_augmentation(seed)
        return self.transform(image), sample.label


def seed_augmentation(seed: int) -> None:
    """Seeds Python's, NumPy's and PyTorch's generators for the CPU, which timm's augmentations draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed looks at every kind of device, which takes longer than to read a small image.
    torch.default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seeds the same generators, and those of all devices."""
    seed_augmentation(seed)
    torch.manual_seed(seed)


def derive_seed(*parts: int) -> int:
    """Makes a seed from numbers, such as a run's seed, an epoch and a step."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class Batches(Sampler[list[Any]]):
    """The batches of an epoch, as pairs of an index and a seed for its augmentation.

    Every image comes once, in an order of the epoch's own. The last batch is filled up with images of
    another order, so that all batches are whole: a batch norm cannot train on a batch of one. Nothing
    but the run's seed, the epoch and the step decides what is in a batch, so that an interrupted run goes
    on as if it had not been.

    Args:
        count: Images.
        batch_size: Images a batch, over all processes.
        seed: The run's seed.

    Attributes:
        epoch: The epoch, from 0, whose batches come next.
        first: The step within it, from 0, to begin with.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.drop_last = False
        self.epoch, self.first = 0, 0

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return math.ceil(self.count / self.batch_size)

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[Any]]:
        total = self.steps * self.batch_size
        orders = []
        for part in range(math.ceil(total / self.count)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, part))
            orders.append(torch.randperm(self.count, generator=generator))
        order = torch.cat(orders)[:total].tolist()
        seeds = np.random.SeedSequence((self.seed, self.epoch)).generate_state(total, np.uint32).tolist()
        keys = list(zip(order, seeds, strict=True))
        for start in range(self.first * self.batch_size, total, self.batch_size):
            yield keys[start : start + self.batch_size]
