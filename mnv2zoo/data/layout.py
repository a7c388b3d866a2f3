"""Decides which folders are splits and which are classes, for folders and tar files, training and evaluation.

A class is a folder of images. A split is a folder of classes with one of the names in `SPLITS`. If the folders could be
either, an error asks for a `Layout`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from mnv2zoo.data.discover import SPLIT_OF, SPLITS, Parts, Passed, Unused, below, wanted
from mnv2zoo.data.labels import composed
from mnv2zoo.data.tree import File, Folder, TarFolder, is_compressed, open_place
from mnv2zoo.errors import DataError, ImageReadError

HOW = (
    "Pass --layout classes if each folder is a class, or name the split folders with --train-dir, "
    "--val-dir and --test-dir."
)


@dataclass(frozen=True)
class Layout:
    """How images are laid out, if their folders are ambiguous.

    Attributes:
        layout: `classes` if each folder is a class, `splits` if the folders are splits that contain class folders.
            None decides by the names and contents of the folders.
        train_dir: Folder of the training images, in the data or anywhere else. None uses one of the usual names.
        val_dir: Folder of the validation images.
        test_dir: Folder of the test images.
        ignore_index: Number of mask pixels that belong to no class.
        skip_bad_images: Skip invalid annotations.
        in_chans: Number of channels of the model. Unless it takes RGB, `.npy` files are images too.
        label_separator: Separator of the labels in a CSV file. None detects it.
    """

    layout: str | None = None
    train_dir: str | None = None
    val_dir: str | None = None
    test_dir: str | None = None
    ignore_index: int = 255
    skip_bad_images: bool = False
    in_chans: int = 3
    label_separator: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The given folders, by split."""
        folders = {"train": self.train_dir, "val": self.val_dir, "test": self.test_dir}
        return {split: folder for split, folder in folders.items() if folder is not None}


LAYOUT_FIELDS = tuple(field.name for field in fields(Layout))


@dataclass(frozen=True)
class Found:
    """An image in a split.

    Attributes:
        name: Its path in the data, with its split, its class folder and so on.
        label: Name of its class, in Unicode's composed form.
        file: The file with its bytes.
    """

    name: str
    label: str
    file: File


@dataclass(frozen=True)
class Listing:
    """The images in a folder or tar file.

    Attributes:
        splits: The images by split. Images without a split are in `train`.
        classes: Names of all class folders by split, including those without images.
        notes: Remarks for the user, one sentence each.
        unused: What was found and not used.
    """

    splits: dict[str, list[Found]]
    classes: dict[str, set[str]]
    notes: list[str]
    unused: Unused


def read(place: str | Path, layout: Layout = Layout()) -> Listing:
    """Finds images with their splits and classes.

    Args:
        place: A folder or a tar file.
        layout: How images are laid out, if their folders are ambiguous.

    Returns:
        The images and notes that were found.

    Raises:
        DataError: If there are no images, or it is ambiguous which folders are splits.
    """
    root = open_place(place)
    if layout.layout == "classes" and layout.named:
        raise DataError(
            "--layout classes cannot be combined with split folders",
            expected="either --layout classes or split folders",
            found=", ".join(layout.named.values()),
            fix="Leave out --layout, or --train-dir, --val-dir and --test-dir.",
        )
    tree = _Tree.of(root, wanted(layout.in_chans))
    _refuse_packed_splits(tree, place)
    wrapper = tree.unwrap()
    listing = Listing({}, {}, [], Unused())
    if wrapper and isinstance(root, Folder):  # an outer folder is normal in a tar file
        listing.notes.append(f"the class folders are in {wrapper}/, the only folder in the data")
    if layout.named or layout.layout == "splits" or (layout.layout is None and _are_splits(tree, place)):
        parts = _splits(tree, root, layout, place, wrapper, listing.unused)
    else:
        parts = {"train": tree}
        if layout.layout is None:
            _refuse_splits_within_classes(tree, place)
    for split, part in parts.items():
        if part is not tree:
            part.unwrap_split(split, listing.classes.get("train"))
        _take(part, split, listing)
    if not any(listing.splits.values()):
        tars = ["/".join(path) for path, what in tree.others if what == ".tar file"]
        raise DataError(
            "no images in class folders",
            expected="one folder per class, with images in it",
            found=str(listing.unused) if listing.unused else "an empty folder",
            where=place,
            fix=f"Pass the tar file {tars[0]} itself." if len(tars) == 1 else "Put the images in one folder per class.",
        )
    for split in parts:
        if listing.splits[split]:
            continue
        if split != "test" or layout.test_dir is not None:
            raise DataError(
                f"the split {split} has no images in class folders",
                expected="one folder per class, with images in it",
                found=str(listing.unused) if listing.unused else "an empty folder",
                where=place,
                fix="Put the split's images in one folder per class, or remove it.",
            )
        listing.notes.append("test has no images in class folders and is not used")
    return listing


@dataclass
class _Tree:
    """The content of a folder by path: images, folders, and skipped items."""

    images: list[tuple[Parts, File]]
    folders: list[Parts]
    others: list[tuple[Parts, Passed]]

    @staticmethod
    def of(root: Folder | TarFolder, wanted: Callable[[str], bool]) -> _Tree:
        """Lists a folder. A tar file that is named after a split counts as a folder with that name."""
        tree = _Tree([], [], [])
        for parts, item in below(root, wanted=wanted):
            if isinstance(item, ImageReadError):
                raise DataError(
                    item.problem,
                    expected=item.expected,
                    found=item.found,
                    where=item.where,
                    fix=item.fix or "Make it readable, or remove it.",
                ) from item
            if isinstance(item, File):
                tree.images.append((parts, item))
            elif isinstance(item, Passed):
                name, dot, ending = parts[-1].rpartition(".")
                if isinstance(root, Folder) and dot and ending.lower() == "tar" and name.lower() in SPLIT_OF:
                    tree._mount(root.path.joinpath(*parts), (*parts[:-1], name), wanted)
                else:
                    tree.others.append((parts, item))
            else:
                tree.folders.append(parts)
        return tree

    def _mount(self, tar: Path, parts: Parts, wanted: Callable[[str], bool]) -> None:
        if parts in self.folders or any(parts == own for own, _ in self.images):
            raise DataError(
                f"the data has both a folder {parts[-1]}/ and a file {tar.name}",
                expected="one folder or tar file per split",
                found="both",
                where=tar.parent,
                fix="Remove one of the two, or move it elsewhere.",
            )
        within = _Tree.of(open_place(tar), wanted)
        self.folders += [parts, *((*parts, *own) for own in within.folders)]
        self.images += [((*parts, *own), file) for own, file in within.images]
        self.others += [((*parts, *own), what) for own, what in within.others]

    def part(self, prefix: Parts) -> _Tree:
        """Returns the content of one of its folders."""
        count = len(prefix)
        return _Tree(
            [(parts[count:], file) for parts, file in self.images if parts[:count] == prefix and len(parts) > count],
            [parts[count:] for parts in self.folders if parts[:count] == prefix and len(parts) > count],
            [(parts[count:], what) for parts, what in self.others if parts[:count] == prefix and len(parts) > count],
        )

    def remove(self, prefix: Parts) -> None:
        """Removes one of its folders."""
        count = len(prefix)
        self.images = [(parts, file) for parts, file in self.images if parts[:count] != prefix]
        self.folders = [parts for parts in self.folders if parts[:count] != prefix]
        self.others = [(parts, what) for parts, what in self.others if parts[:count] != prefix]

    def tops(self) -> list[str]:
        """Names of its top-level folders."""
        return sorted({parts[0] for parts in self.folders if len(parts) == 1})

    def unwrap(self) -> str:
        """Removes outer folders that contain everything, unless they are a split or the only class.

        Returns:
            The path of the removed folders.
        """
        taken: list[str] = []
        while self._wrapped() and (top := self.tops()[0]).lower() not in SPLIT_OF and self._leads_to_more(top):
            self._enter(top)
            taken.append(top)
        return "/".join(taken)

    def unwrap_split(self, split: str, classes: set[str] | None) -> None:
        """Removes folders around all classes of a split, such as `train/train` and `train/images`."""
        known = classes or set()
        while self._wrapped() and composed(top := self.tops()[0]) not in known:
            of_split = SPLIT_OF.get(top.lower()) == split
            if not (of_split or self._leads_to_more(top) or known & set(map(composed, self.part((top,)).tops()))):
                break  # a class with subfolders
            self._enter(top)

    def _leads_to_more(self, top: str) -> bool:
        """Checks whether an outer folder leads to several folders, or to a single split."""
        within = self.part((top,))
        while within._wrapped() and within.tops()[0].lower() not in SPLIT_OF:
            within = within.part((within.tops()[0],))
        return len(within.tops()) > 1 or any(top.lower() in SPLIT_OF for top in within.tops())

    def _wrapped(self) -> bool:
        tops = self.tops()
        depths = {len(parts) for parts, _ in self.images}
        return len(tops) == 1 and 1 not in depths and max(depths, default=0) > 2

    def _enter(self, top: str) -> None:
        within = self.part((top,))
        beside = [(parts, what) for parts, what in self.others if parts[0] != top]
        self.images, self.folders, self.others = within.images, within.folders, [*beside, *within.others]


def _are_splits(tree: _Tree, place: str | Path) -> bool:
    """Decides whether folders are splits rather than classes.

    A split contains class folders, a class contains images. If some folders have names of splits and others do not,
    they are splits only if the others have the same structure and some of the same classes.
    """
    classes: dict[str, set[str]] = {
        top: {composed(parts[1]) for parts, _ in tree.images if parts[0] == top and len(parts) > 2}
        for top in tree.tops()
    }
    named = {top for top in classes if top.lower() in SPLIT_OF}
    if not named:
        return False
    splits = [top for top in named if classes[top]]
    holding = {parts[0] for parts, _ in tree.images if len(parts) > 1}
    others = holding - named
    shared = [top for top in splits if any(classes[top] & classes[other] for other in splits if other != top)]
    alike = all(any(classes[other] & classes[split] for split in splits) for other in others)
    if splits and (not others or alike or shared):
        return True
    if not named & holding and not others:
        return True  # of empty folders, which are reported
    several = len(named) > 1
    raise DataError(
        f"the folder{'s' if several else ''} {', '.join(sorted(named))} may be {'splits' if several else 'a split'} "
        f"or {'classes' if several else 'a class'}",
        expected="only class folders, or train, val and test folders that contain class folders",
        found=f"the folders {', '.join(sorted(classes))}",
        where=place,
        fix=HOW,
    )


def _splits(
    tree: _Tree, root: Folder | TarFolder, layout: Layout, place: str | Path, wrapper: str, unused: Unused
) -> dict[str, _Tree]:
    """Returns the folders of the splits: those named in the layout, and otherwise those with usual names."""
    taken: dict[str, Parts] = {}
    elsewhere: dict[str, _Tree] = {}
    for split, name in layout.named.items():
        around = Path(wrapper).parts if wrapper else ()
        parts = tuple(part for part in Path(name).parts if part != ".")
        parts = parts[len(around) :] if parts not in tree.folders and parts[: len(around)] == around else parts
        if not parts or parts in tree.folders:
            taken[split] = parts
        elif isinstance(root, Folder) and (root.path / name).exists():
            elsewhere[split] = _Tree.of(open_place(root.path / name), wanted(layout.in_chans))
        else:
            raise DataError(
                f"the folder {name!r} for {split} is not in the data",
                expected="one of the data's folders",
                found=", ".join(tree.tops()[:5]) or "no folder",
                where=place,
                fix=f"Correct --{split}-dir.",
            )
    usual: dict[str, list[str]] = {}
    for top in tree.tops():
        split = SPLIT_OF.get(top.lower(), "")
        if split and split not in layout.named and not any(parts[:1] in ((top,), ()) for parts in taken.values()):
            usual.setdefault(split, []).append(top)
    for split, tops in usual.items():
        if len(tops) > 1:
            raise DataError(
                f"{len(tops)} folders may be the split {split}: {', '.join(tops)}",
                expected="one folder per split",
                found=", ".join(f"{top}/" for top in tops),
                where=place,
                fix=f"Name the one to use with --{split}-dir.",
            )
        taken[split] = (tops[0],)
    if not taken and not elsewhere:
        raise DataError(
            "no folder is named after a split",
            expected="folders named train, val and test",
            found=", ".join(tree.tops()[:5]) or "no folder",
            where=place,
            fix="Name the folders with --train-dir, --val-dir and --test-dir, or leave out --layout.",
        )
    _count_beside(tree, list(taken.values()), unused)
    found = elsewhere | {split: tree.part(parts) for split, parts in taken.items()}
    for split, parts in taken.items():  # a split's folder may be inside another's
        for within in (own[len(parts) :] for own in taken.values() if own != parts and own[: len(parts)] == parts):
            found[split].remove(within)
    return {split: found[split] for split in SPLITS if split in found}


def _count_beside(tree: _Tree, taken: list[Parts], unused: Unused) -> None:
    """Counts what is next to the split folders."""

    def related(parts: Parts) -> bool:
        return any(parts[: len(own)] == own or own[: len(parts)] == parts for own in taken)

    def beside(parts: Parts) -> bool:
        return not related(parts) and (len(parts) == 1 or related(parts[:-1]))

    for parts in tree.folders:
        if beside(parts):
            unused.add(f"folder {'/'.join(parts)}/")
    for parts, what in tree.others:
        if beside(parts):
            unused.add(what)
    if loose := sum(beside(parts) for parts, _ in tree.images):
        unused.add("image outside class folders", loose)


def _take(tree: _Tree, split: str, listing: Listing) -> None:
    """Adds the images of a split folder to a listing."""
    spellings: dict[str, set[str]] = {}
    for top in tree.tops():
        spellings.setdefault(composed(top), set()).add(top)
    twice = sorted(label for label, own in spellings.items() if len(own) > 1)
    if twice:
        listing.notes.append(
            f"folders of {split} whose names differ only in Unicode form count as one class: {', '.join(twice)}"
        )
    listing.classes[split] = set(spellings)
    listing.splits[split] = [
        Found("/".join((split, *parts)), composed(parts[0]), file)
        for parts, file in sorted(tree.images, key=lambda image: image[0])
        if len(parts) > 1
    ]
    for _, what in tree.others:
        listing.unused.add(what)
    if loose := sum(len(parts) == 1 for parts, _ in tree.images):
        listing.unused.add("image outside class folders", loose)


def _refuse_packed_splits(tree: _Tree, place: str | Path) -> None:
    for parts, _ in tree.others:
        if is_compressed(parts[-1]) and parts[-1].lower().partition(".")[0] in SPLIT_OF:
            raise DataError(
                f"the compressed file {parts[-1]} cannot be read",
                expected="a folder or an uncompressed tar file per split",
                found=parts[-1],
                where=place,
                fix="Unpack it, or repack it as an uncompressed .tar file.",
            )


def _refuse_splits_within_classes(tree: _Tree, place: str | Path) -> None:
    within: dict[str, set[str]] = {top: set() for top in tree.tops()}
    for parts in tree.folders:
        if len(parts) == 2:
            within[parts[0]].add(parts[1])
    count = Counter(SPLIT_OF[name.lower()] for names in within.values() for name in names if name.lower() in SPLIT_OF)
    if within and len(count) > 1 and all(any(n.lower() in SPLIT_OF for n in names) for names in within.values()):
        raise DataError(
            "the class folders contain split folders",
            expected="train, val and test folders that each contain class folders",
            found=", ".join(f"{top}/{name}" for top, names in sorted(within.items()) for name in sorted(names))[:200],
            where=place,
            fix="Move the splits to the top level, or pass --layout classes to use all of them for training.",
        )
