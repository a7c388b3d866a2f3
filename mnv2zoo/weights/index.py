"""The index of weights: its schema, the rules it must keep, and the one merged copy in use.

`weights_index.json` at the top of the repository (inside the package, once installed) is the one list
of weights. `MNV2ZOO_WEIGHTS_INDEX` lays a further one over it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mnv2zoo import architecture, environment
from mnv2zoo.errors import MissingExtraError, UnknownModelError, WeightsIndexError
from mnv2zoo.weights import signature
from mnv2zoo.weights.schema import MAX_BYTES, WeightsEntry, check_together, parse


def read(path: Path) -> dict[str, WeightsEntry]:
    """Reads and validates an index file, and its signature where `MNV2ZOO_INDEX_PUBKEY` demands one.

    The bytes whose signature is checked are the bytes that are parsed.

    Args:
        path: The file.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If it cannot be read, is not valid, or is not signed as is demanded.
        MissingExtraError: If a signature is demanded and the extra `signing` is not installed.
    """
    data = _data(path)
    if key := environment.index_pubkey():
        signature.check(data, path, key)
    return parse(_decoded(data, path), path)


def read_unsigned(path: Path) -> dict[str, WeightsEntry]:
    """Reads and validates an index file whatever its signature, for a maintainer who is about to sign it.

    Args:
        path: The file.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If it cannot be read or is not valid.
    """
    return parse(_decoded(_data(path), path), path)


def sign(path: Path, key: Path, ask_password: Callable[[], str]) -> Path:
    """Signs an index file that is valid, in the bytes that were validated.

    Args:
        path: The file.
        key: PEM file of an Ed25519 private key.
        ask_password: Gives the key's password; called only if it has one.

    Returns:
        Where the signature was put: beside the file.

    Raises:
        WeightsIndexError: If the file cannot be read or is not valid.
        WeightsError: If the key cannot be used.
        MissingExtraError: If the extra `signing` is not installed.
        OSError: If the key cannot be read, or the signature cannot be written.
    """
    data = _data(path)
    parse(_decoded(data, path), path)
    return signature.sign(data, path, key, ask_password)


def _data(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > MAX_BYTES:
        raise WeightsIndexError(
            "index of weights too large", expected=f"at most {MAX_BYTES} bytes", found="more", where=path
        )
    return data


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsIndexError:
    return WeightsIndexError(
        "cannot read the index of weights",
        expected="a UTF-8 JSON file",
        found=f"{type(error).__name__}: {error}",
        where=path,
        fix="Correct MNV2ZOO_WEIGHTS_INDEX, or unset it.",
    )


def shipped_path() -> Path:
    """The shipped index: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "weights_index.json"
    return installed if installed.is_file() else package.parent / "weights_index.json"


class Index:
    """The merged entries in use.

    A bad file does not raise here but at the first use, so that the package can still be imported and
    its user told what to do.

    Args:
        paths: Index files; entries of a later one win and come first.
    """

    def __init__(self, *paths: Path) -> None:
        self._entries: dict[str, WeightsEntry] = {}
        self._error: WeightsIndexError | MissingExtraError | None = None
        try:
            for path in paths:
                further = read(path)
                # A dict union keeps the left side's order and the right side's values.
                self._entries = further | self._entries | further
                check_together(self._entries, path)
        except (WeightsIndexError, MissingExtraError) as error:
            self._error = error

    def entries(self) -> dict[str, WeightsEntry]:
        """The entries by name; the first of an architecture is its default.

        Raises:
            WeightsIndexError: If a file was bad.
            MissingExtraError: If signatures are demanded and the extra `signing` is not installed.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        return dict(self._entries)

    def readable(self) -> dict[str, WeightsEntry]:
        """The entries of the files before the first bad one."""
        return dict(self._entries)


INDEX: Index | None = None  # the entries in use, once they have been asked for


def in_use() -> Index:
    """The shipped index with that of `MNV2ZOO_WEIGHTS_INDEX` over it.

    The environment is read at the first call, which `models/registry` makes when the package is imported: timm needs
    the tags then.
    """
    global INDEX
    if INDEX is None:
        further = environment.weights_index()
        INDEX = Index(shipped_path(), *([further] if further else []))
    return INDEX


# The weights to begin with, and what for. A test makes sure that each is pinned.
RECOMMENDED = {
    "mnv2zoo_100.ra_in1k": "the paper's network at width 1.0: the usual choice, on phones and CPUs",
    "mnv2zoo_140.ra_in1k": "higher accuracy, at twice the MACs",
    "mnv2zoo_100_c20.cifar100_coarse": "a small demo that comes with the package and needs no download",
}


def entries() -> dict[str, WeightsEntry]:
    """Lists all weights.

    Returns:
        The entries by `architecture.tag`; the first of an architecture is its default.

    Raises:
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> sorted(mnv2zoo.weights.entries())[:2]
        ['mnv2zoo_035.google_in1k', 'mnv2zoo_050.lamb_in1k']
    """
    return in_use().entries()


def entries_of(architecture_name: str) -> list[WeightsEntry]:
    """Lists the weights of an architecture.

    Args:
        architecture_name: The architecture.

    Returns:
        Its entries, the default first.

    Raises:
        WeightsIndexError: If an index file is bad.
    """
    return [entry for entry in entries().values() if entry.architecture == architecture_name]


def entry_at(repo_id: str, revision: str | None = None) -> WeightsEntry | None:
    """Looks up the weights in a repository on the Hub.

    Args:
        repo_id: The repository.
        revision: The commit, branch or tag that is wanted; None for whichever the index lists.

    Returns:
        Their entry; None if no index lists them at that revision.

    Raises:
        WeightsIndexError: If an index file is bad.
    """
    own = (entry for entry in entries().values() if entry.repo_id == repo_id)
    return next((entry for entry in own if revision is None or revision == entry.revision), None)


def entry(name: str) -> WeightsEntry:
    """Looks up weights.

    Args:
        name: `architecture.tag`, or an architecture, whose default weights are meant. timm's name will do too.

    Returns:
        The entry.

    Raises:
        UnknownModelError: If there is none; the message names those that are nearest.
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> entry = mnv2zoo.weights.entry("mnv2zoo_100_c20")
        >>> entry.name, entry.license, entry.input_size, entry.label_names[:2]
        ('mnv2zoo_100_c20.cifar100_coarse', 'Apache-2.0', (3, 64, 64), ('aquatic_mammals', 'fish'))
    """
    known, name = entries(), architecture.native_name(name)
    config = architecture.get(name)
    siblings = entries_of(config.name)
    if name in known:
        return known[name]
    if siblings and "." not in name:
        return siblings[0]
    raise UnknownModelError(
        "no such weights",
        expected=" or ".join([sibling.name for sibling in siblings] or known),
        found=repr(name),
        fix="List them with `mnv2zoo list`." if siblings else f"No weights are known for {config.name} yet.",
    )
