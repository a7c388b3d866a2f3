"""Checks that every image can be read, and notes what users should know about the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mnv2zoo.data import decode
from mnv2zoo.data.copies import Copies, Smaller
from mnv2zoo.data.datasets import AnySample, Data, Sample, content_hash, key_of
from mnv2zoo.data.labels import classes_of
from mnv2zoo.data.pixels import WrongChannels
from mnv2zoo.errors import DataError, ImageReadError


def check(
    data: Data,
    skip_bad: bool,
    advance: Callable[[int], None] = lambda done: None,
    reader: Smaller | None = None,
    copies: Copies | None = None,
) -> Data:
    """Reads every image once, so that an unreadable one is reported before training rather than hours later.

    Args:
        data: The data.
        skip_bad: Skip images that cannot be read.
        advance: Called with the number of images just checked.
        reader: How training reads images. None reads all pixels.
        copies: Where to store the smaller copies of training images. None stores none.

    Returns:
        The data without skipped images. Its samples have keys. Its notes name and count the skipped images, unusual
        ones (rotated, animated, CMYK, 16-bit; see `decode.read` for how they are read), and duplicates.

    Raises:
        DataError: If images cannot be read and may not be skipped, or too few remain.
    """
    training = {sample.name for sample in data.splits.get("train", ())}
    samples = [sample for split in data.splits.values() for sample in split if isinstance(sample, Sample)]
    odd: dict[str, list[str]] = {}
    bad: dict[str, str] = {}
    keys: dict[str, str | None] = {}
    channels = False  # whether an image has a different number of channels than the model

    def examine(sample: Sample) -> tuple[str, ...] | ImageReadError:
        content = sample.content()
        key = keys[sample.name] = content_hash(content)  # of the bytes that are decoded, which are read only once
        try:
            if reader is None:
                return decode.examined(content, sample.name, channels=sample.channels)[1]
            image, odd = reader.read(content, sample.name, sample.channels)
        except ImageReadError as error:
            return error
        if copies and key and sample.name in training:
            copies.keep(key, reader, image)
        return odd

    with ThreadPoolExecutor() as pool:
        for sample, result in zip(samples, pool.map(examine, samples, chunksize=64), strict=True):
            if isinstance(result, ImageReadError):
                cause = result.__cause__
                channels = channels or isinstance(cause, WrongChannels)
                bad[sample.name] = str(cause if isinstance(cause, WrongChannels) else result.found)
            else:
                for kind in result:
                    odd.setdefault(kind, []).append(sample.name)
            advance(1)

    notes = [f"{_count(names)} {kind}, and used as `predict` reads them: {_some(names)}" for kind, names in odd.items()]
    if bad and not skip_bad:
        raise DataError(
            f"{len(bad)} of {len(samples)} images cannot be read",
            expected="readable images",
            found=", ".join(f"{name} ({why})" for name, why in list(bad.items())[:5]) + (", …" if len(bad) > 5 else ""),
            fix="Remove or repair them, or skip them with --skip-bad-images"
            + (", or train on other channels with --in-chans." if channels else "."),
        )
    if bad:
        notes.append(f"{_count(list(bad))} skipped because they cannot be read: {_some(list(bad))}")
    kept = {
        split: tuple(replace(s, key=keys[s.name]) if isinstance(s, Sample) else s for s in own if s.name not in bad)
        for split, own in data.splits.items()
    }
    notes += _copies(kept, bool(data.class_names))
    _refuse_empty_classes(kept, data.class_names)
    return replace(data, splits={split: own for split, own in kept.items() if own}, notes=(*data.notes, *notes))


def _refuse_empty_classes(splits: Mapping[str, Sequence[AnySample]], class_names: Sequence[str]) -> None:
    targets = [sample.target for sample in splits.get("train", ())]
    if any(not isinstance(target, int) for target in targets):  # masks may show fewer classes than have names
        return
    shown = set(targets)
    lost = [name for label, name in enumerate(class_names) if label not in shown]
    if "train" in splits and lost:
        raise DataError(
            f"the class {lost[0]!r} has no readable images",
            expected="at least one image per class",
            found=f"none in {', '.join(lost[:5])}",
            fix="Add images to the class, or remove it.",
        )


def _copies(splits: Mapping[str, Sequence[AnySample]], classes: bool) -> Iterator[str]:
    """Yields notes about duplicate images, and about duplicates in several classes if there are classes."""
    labels: dict[str, set[tuple[int, ...]]] = {}
    names: dict[str, list[str]] = {}
    for own in splits.values():
        for sample in own:
            if classes:
                labels.setdefault(key_of(sample), set()).add(classes_of(sample.target))
            names.setdefault(key_of(sample), []).append(sample.name)
    if several := [names[key][0] for key, own in labels.items() if len(own) > 1]:
        yield f"{_count(several)} in more than one class: {_some(several)}"
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        known = {key_of(sample) for sample in splits.get(one, ())}
        shared = [sample.name for sample in splits.get(other, ()) if key_of(sample) in known]
        if shared:
            why = "" if one == "val" else ", so metrics on them are too high"
            yield f"{len(shared)} of {len(splits[other])} {other} images are also in {one}{why}: {_some(shared)}"
    for split, own in splits.items():
        count = len(own) - len({key_of(sample) for sample in own})
        if count:
            yield f"{count} of {len(own)} {split} images are duplicates"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} images are" if len(names) > 1 else "1 image is"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
