"""Records in `split.json` which images a run trained on and held out, and finds them again.

Images are recognized by a hash of their content. You can move, rename, repack or reorganize the data, or add images:
the images that the run trained on are still recognized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2zoo.data.datasets import AnySample, Data
from mnv2zoo.data.discover import SPLITS
from mnv2zoo.errors import DataError, RunError
from mnv2zoo.model_dir import records
from mnv2zoo.model_dir.records import SPLIT, run_folder

ALL = "all"
HOW = "Pass --split val, test or train for one part of the run's split, or --all for all images."


def record(data: Data, folds: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """Builds the content of `split.json`.

    Args:
        data: The images, checked and split.
        folds: Names of the images in each fold, if there are folds.

    Returns:
        The image names by split, those of each fold under `folds`, and an identifier of each image under `images`:
        the hash of its bytes or, in a timm dataset, the dataset's name with the image's split and number.
    """
    images = {s.name: s.identify() for own in data.splits.values() for s in own}
    by_fold = {"folds": folds} if folds else {}
    return {split: [s.name for s in own] for split, own in data.splits.items()} | by_fold | {"images": images}


@dataclass(frozen=True)
class Record:
    """The images of a run.

    Attributes:
        keys: Identifiers of the images in each split: hashes or, for runs that recorded none, names.
        hashed: Whether the identifiers are hashes.
    """

    keys: Mapping[str, frozenset[str]]
    hashed: bool

    @staticmethod
    def of(model: str) -> Record | None:
        """Reads a run's record.

        Args:
            model: A model name or a run folder.

        Returns:
            The images, or None if there is no record.

        Raises:
            RunError: If `split.json` is corrupt.
        """
        folder = run_folder(model)
        file = folder / SPLIT
        if not file.is_file():
            return None
        document = records.read_json(folder, SPLIT)
        if not isinstance(document, dict) or not all(_names(own) for name, own in document.items() if name in SPLITS):
            raise RunError(
                "the run's split.json is corrupt",
                expected="names of images by split",
                found="a different JSON document",
                where=file,
                fix="Restore the file, or remove it and pass --all.",
            )
        images = document.get("images")
        splits = {split: document[split] for split in SPLITS if split in document}
        if not isinstance(images, dict):
            return Record({split: frozenset(names) for split, names in splits.items()}, hashed=False)
        keys = {split: frozenset(str(images[n]) for n in names if images.get(n)) for split, names in splits.items()}
        return Record(keys, hashed=True)

    def identify(self, samples: Sequence[AnySample]) -> list[str]:
        """Returns the images' identifiers in this record. Unreadable images get an empty string."""
        if not self.hashed:
            return [sample.name for sample in samples]
        with ThreadPoolExecutor() as pool:
            return [key or "" for key in pool.map(lambda sample: sample.identify(), samples, chunksize=64)]


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def learned(name: str | None) -> frozenset[str]:
    """Returns the identifiers of the images that weights were trained on, if a run recorded them.

    Args:
        name: The run folder, or any other name.

    Returns:
        The identifiers of its training images. Empty if there is no record.
    """
    run = Record.of(name) if name else None
    return run.keys.get("train", frozenset()) if run and run.hashed else frozenset()


def with_notes_of_learned(data: Data, known: frozenset[str], name: str | None) -> Data:
    """Adds notes about held-out images that the initial weights were trained on.

    Args:
        data: The images, checked and split.
        known: The result of `learned`.
        name: Name of the weights, for messages.

    Returns:
        The data with these notes.
    """
    notes = list(data.notes)
    for split in ("val", "test") if known else ():
        own = data.splits.get(split, ())
        if count := sum(sample.identify() in known for sample in own):
            notes.append(f"{name} was trained on {count} of {len(own)} {split} images, so their metrics are too high")
    return replace(data, notes=tuple(notes))


@dataclass(frozen=True)
class Choice:
    """Images to evaluate on.

    Attributes:
        samples: The images.
        measured: A description, such as `37 val images that the run held out`.
    """

    samples: tuple[AnySample, ...]
    measured: str


def choose(data: Data, model: str, split: str | None, place: str | Path) -> Choice:
    """Chooses the images to evaluate a model on.

    If the data is what the run trained on, these are the images that the run held out: its test images or, without
    any, its validation images. If the data shares no image with the run's, all images are used, or the data's last
    split.

    Args:
        data: The images that were found.
        model: The model. A run folder records the images that it trained on.
        split: `train`, `val`, `test` or `all`. None chooses as described.
        place: Location of the data, for messages.

    Returns:
        The images.

    Raises:
        DataError: If the split does not exist, or only some of the images are the run's, so that the measurement
            would be ambiguous.
        RunError: If the run's `split.json` is corrupt.
    """
    if split not in (None, ALL, *SPLITS):
        raise DataError(
            f"unknown split {split!r}", expected="train, val, test or all", found=repr(split), where="split", fix=HOW
        )
    run = Record.of(model)
    everything = tuple(sample for own in data.splits.values() for sample in own)
    keys = run.identify(everything) if run else []
    known = frozenset().union(*run.keys.values()) if run else frozenset()
    if run is None or known.isdisjoint(keys):
        return _of_data(data, everything, split, place, _note(run, model))

    trained = run.keys.get("train", frozenset())
    seen = sum(key in trained for key in keys)
    if split == ALL:
        return Choice(everything, f"all {_images(everything)}, {seen} of which the run trained on")
    if split is not None:
        return _of_run(data, everything, keys, run, split, place)
    if not seen:
        return Choice(everything, f"all {_images(everything)}, none of which the run trained on")
    if missing := len(known - set(keys)):
        raise DataError(
            "only some of the images are the run's, so it is unclear what to measure",
            expected=f"all {len(known)} images of the run, or none that it trained on",
            found=f"{seen} that it trained on, and {missing} of its images missing",
            where=place,
            fix=HOW,
        )
    for held in ("test", "val"):
        own = run.keys.get(held, frozenset()) - trained
        if own:
            return _held_out(everything, keys, run, held, own, known)
    raise DataError(
        "the run held out none of the images",
        expected="validation or test images that it did not train on",
        found=f"{len(known)} images that it trained on",
        where=place,
        fix="Evaluate on other images, or pass --all to measure on the training images.",
    )


def _note(run: Record | None, model: str) -> str:
    if run is not None:
        return "none of which the run trained on"
    return "which may include training images: there is no split.json" if run_folder(model).is_dir() else ""


def _of_data(data: Data, everything: tuple[AnySample, ...], split: str | None, place: str | Path, note: str) -> Choice:
    """Chooses images that are not the run's, by the data's own splits."""
    tail = f", {note}" if note else ""
    if split == ALL or (split is None and list(data.splits) == ["train"]):
        return Choice(everything, f"all {_images(everything)}{tail}")
    chosen = split or [name for name in SPLITS if name in data.splits][-1]
    if chosen not in data.splits:
        raise _no_split(chosen, data.splits, place)
    return Choice(data.splits[chosen], f"{_images(data.splits[chosen], chosen)} of the data{tail}")


def _of_run(
    data: Data,
    everything: Sequence[AnySample],
    keys: Sequence[str],
    run: Record,
    split: str,
    place: str | Path,
) -> Choice:
    """Chooses the available images of one of the run's splits."""
    if not run.keys.get(split):
        known = frozenset().union(*run.keys.values())
        of = dict(zip((sample.name for sample in everything), keys, strict=True))
        own = data.splits.get(split, ())
        if own and split != "train" and not any(of[sample.name] in known for sample in own):
            return Choice(own, f"{_images(own, split)} of the data, which the run has not seen")
        raise _no_split(split, [name for name in SPLITS if run.keys.get(name)], place)
    wanted = run.keys[split]
    chosen = tuple(sample for sample, key in zip(everything, keys, strict=True) if key in wanted)
    if not chosen:
        raise DataError(
            f"the data has none of the run's {split} images",
            expected=f"some of {len(wanted)} images",
            found=f"{len(everything)} other images",
            where=place,
            fix="Pass the data that the run trained on, another --split, or --all.",
        )
    learned = "trained on" if split == "train" else "held out"
    measured = f"{_images(chosen, split)} that the run {learned}"
    if missing := len(wanted - set(keys)):
        measured += f"; {missing} more are missing"
    if split != "train" and (seen := sum(key in run.keys.get("train", ()) for key in keys if key in wanted)):
        measured += f"; it trained on copies of {seen} of them"
    return Choice(chosen, measured)


def _held_out(
    everything: Sequence[AnySample],
    keys: Sequence[str],
    run: Record,
    split: str,
    own: frozenset[str],
    known: frozenset[str],
) -> Choice:
    chosen = tuple(sample for sample, key in zip(everything, keys, strict=True) if key in own)
    measured = f"{_images(chosen, split)} that the run held out"
    if new := sum(key not in known for key in keys):
        measured += f"; {new} new image{'s' if new > 1 else ''} left out"
    if copies := len(run.keys[split] - own):
        measured += f"; {copies} left out because it trained on copies of them"
    if not run.hashed:
        measured += "; recognized by name, as this run recorded no hashes"
    return Choice(chosen, measured)


def _no_split(split: str, there: Iterable[str], place: str | Path) -> DataError:
    known = " or ".join(there)
    fix = f"Pass --split {known}, or --all for all images."
    return DataError(f"the data has no split {split!r}", expected=known, found=repr(split), where=place, fix=fix)


def _images(samples: Sequence[object], split: str = "") -> str:
    words = f"{split} image" if split else "image"
    return f"{len(samples)} {words}{'' if len(samples) == 1 else 's'}"
