"""Which images a run trained on and which it held out: what `split.json` records, and how it is used afterwards.

Images are recognized by their bytes. A folder may be moved, renamed, packed into a tar file or laid out anew, and
photos may be added to it: what the run trained on stays known.
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
HOW = "Pass --split val, test or train for what is there of the run's split, or --all for all images."


def record(data: Data, folds: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """Makes the content of `split.json`.

    Args:
        data: The images, checked and split.
        folds: Names of the images of each fold, where there are folds.

    Returns:
        Their names by split, under `folds` those of each fold, and under `images` what recognizes each: the hash of its
        bytes or, in a dataset of timm, the dataset's name with the image's split and number.
    """
    images = {s.name: s.identify() for own in data.splits.values() for s in own}
    by_fold = {"folds": folds} if folds else {}
    return {split: [s.name for s in own] for split, own in data.splits.items()} | by_fold | {"images": images}


@dataclass(frozen=True)
class Record:
    """The images of a run.

    Attributes:
        keys: What recognizes the images of each split: hashes or, from runs that recorded none, names.
        hashed: Whether these are hashes.
    """

    keys: Mapping[str, frozenset[str]]
    hashed: bool

    @staticmethod
    def of(model: str) -> Record | None:
        """Reads what a run recorded.

        Args:
            model: A name of the zoo or a run folder.

        Returns:
            Its images; None if there is no such record.

        Raises:
            RunError: If `split.json` is damaged.
        """
        folder = run_folder(model)
        file = folder / SPLIT
        if not file.is_file():
            return None
        document = records.read_json(folder, SPLIT)
        if not isinstance(document, dict) or not all(_names(own) for name, own in document.items() if name in SPLITS):
            raise RunError(
                "cannot read the run's split",
                expected="names of images by split",
                found="another JSON document",
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
        """What the images would be called in this record; an empty text where they cannot be read."""
        if not self.hashed:
            return [sample.name for sample in samples]
        with ThreadPoolExecutor() as pool:
            return [key or "" for key in pool.map(lambda sample: sample.identify(), samples, chunksize=64)]


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def learned(name: str | None) -> frozenset[str]:
    """What recognizes the images that weights were trained on, as far as a run recorded it.

    Args:
        name: The run folder, or any other name.

    Returns:
        The keys of its training images; none if there is no such record.
    """
    run = Record.of(name) if name else None
    return run.keys.get("train", frozenset()) if run and run.hashed else frozenset()


def with_notes_of_learned(data: Data, known: frozenset[str], name: str | None) -> Data:
    """Adds notes about held-out images that the weights to start from were trained on.

    Args:
        data: The images, checked and split.
        known: As `learned` gives it.
        name: What messages call the weights.

    Returns:
        The data with these notes.
    """
    notes = list(data.notes)
    for split in ("val", "test") if known else ():
        own = data.splits.get(split, ())
        if count := sum(sample.identify() in known for sample in own):
            notes.append(f"{name} was trained on {count} of {len(own)} {split} images, so figures on them are too good")
    return replace(data, notes=tuple(notes))


@dataclass(frozen=True)
class Choice:
    """Images to evaluate on.

    Attributes:
        samples: The images.
        measured: What they are, in words such as `37 val images that the run held out`.
    """

    samples: tuple[AnySample, ...]
    measured: str


def choose(data: Data, model: str, split: str | None, place: str | Path) -> Choice:
    """Chooses the images to evaluate a network on.

    Where the data are those that a run trained on, that is the part it held out: its test images if it has some, or
    else its validation images. Images without an overlap with the run's are all used, or the last split of them.

    Args:
        data: The images that were found.
        model: The network. A run folder tells which images it trained on.
        split: `train`, `val`, `test` or `all`; None to choose as described.
        place: Where the data is, for messages.

    Returns:
        The images.

    Raises:
        DataError: If there is no such split, or part of the images are the run's and part are not, so that it cannot
            be told what would be measured.
        RunError: If the run's `split.json` is damaged.
    """
    if split not in (None, ALL, *SPLITS):
        raise DataError(f"no split is called {split!r}", expected="train, val, test or all", found=repr(split), fix=HOW)
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
            "only some of the images are the run's, so it is not clear what to measure",
            expected=f"all {len(known)} images of the run, or none that it trained on",
            found=f"{seen} that it trained on, {missing} of its images missing",
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
    return "which may include training images: no split.json tells" if run_folder(model).is_dir() else ""


def _of_data(data: Data, everything: tuple[AnySample, ...], split: str | None, place: str | Path, note: str) -> Choice:
    """Images that are not the run's, by the splits of their own."""
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
    """The images of a split of the run, as far as they are there."""
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
            f"none of the run's {split} images is in the data",
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
    return DataError(f"there is no split {split!r}", expected=known, found=repr(split), where=place, fix=fix)


def _images(samples: Sequence[object], split: str = "") -> str:
    words = f"{split} image" if split else "image"
    return f"{len(samples)} {words}{'' if len(samples) == 1 else 's'}"
