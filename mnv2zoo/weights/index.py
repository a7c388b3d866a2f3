"""The index of weights: reading and signing index files, and the merged index in use.

`weights_index.json` at the top of the repository (inside the package, once installed) is the bundled index.
`MNV2ZOO_WEIGHTS_INDEX` names another one, which is merged over it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mnv2zoo import architecture, environment
from mnv2zoo.errors import MissingExtraError, UnknownModelError, WeightsIndexError
from mnv2zoo.weights import signature
from mnv2zoo.weights.schema import MAX_BYTES, WeightsEntry, check_together, parse


def read(path: Path) -> dict[str, WeightsEntry]:
    """Reads and validates an index file, and checks its signature if `MNV2ZOO_INDEX_PUBKEY` is set.

    The signature is checked on the same in-memory bytes that are then parsed.

    Args:
        path: The file.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If the file cannot be read, is invalid, or lacks a required valid signature.
        MissingExtraError: If a signature is required and the extra `signing` is not installed.
    """
    data = _data(path)
    if key := environment.index_pubkey():
        signature.check(data, path, key)
    return parse(_decoded(data, path), path)


def read_unsigned(path: Path) -> dict[str, WeightsEntry]:
    """Reads and validates an index file without checking its signature, for a maintainer who will sign it.

    Args:
        path: The file.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If the file cannot be read or is invalid.
    """
    return parse(_decoded(_data(path), path), path)


def sign(path: Path, key: Path, ask_password: Callable[[], str]) -> Path:
    """Validates an index file and signs the same bytes.

    Args:
        path: The file.
        key: PEM file of an Ed25519 private key.
        ask_password: Returns the key's password. Only called if the key has one.

    Returns:
        The signature file, next to the index.

    Raises:
        WeightsIndexError: If the index cannot be read or is invalid.
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
            "the index of weights is too large",
            expected=f"at most {MAX_BYTES} bytes",
            found="a larger file",
            where=path,
            fix="Split the index, or unset MNV2ZOO_WEIGHTS_INDEX.",
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
    """Returns the bundled index: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "weights_index.json"
    return installed if installed.is_file() else package.parent / "weights_index.json"


class Index:
    """The merged entries in use.

    An invalid file raises an error on first use rather than here, so that the package can still be imported and the
    user sees the error.

    Args:
        paths: Index files. Entries of a later file take precedence and come first.
    """

    def __init__(self, *paths: Path) -> None:
        self._entries: dict[str, WeightsEntry] = {}
        self._error: WeightsIndexError | MissingExtraError | None = None
        try:
            for path in paths:
                further = read(path)
                # A dict union takes its order from the left side and its values from the right.
                self._entries = further | self._entries | further
                check_together(self._entries, path)
        except (WeightsIndexError, MissingExtraError) as error:
            self._error = error

    def entries(self) -> dict[str, WeightsEntry]:
        """The entries by name. The first of an architecture is its default.

        Raises:
            WeightsIndexError: If a file is invalid.
            MissingExtraError: If signatures are required and the extra `signing` is not installed.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        return dict(self._entries)

    def readable(self) -> dict[str, WeightsEntry]:
        """The entries of all files before the first invalid one."""
        return dict(self._entries)


INDEX: Index | None = None  # the entries in use, once they have been read


def in_use() -> Index:
    """Returns the bundled index with that of `MNV2ZOO_WEIGHTS_INDEX` merged over it.

    The environment is read on the first call, which `models/registry` makes when the package is imported, because timm
    needs the tags then.
    """
    global INDEX
    if INDEX is None:
        further = environment.weights_index()
        INDEX = Index(shipped_path(), *([further] if further else []))
    return INDEX


# The weights to start with, and their uses. A test checks that each is pinned.
RECOMMENDED = {
    "mnv2zoo_100.ra_in1k": "the paper's model at width 1.0: the usual choice, on phones and CPUs",
    "mnv2zoo_140.ra_in1k": "higher accuracy, at twice the MACs",
    "mnv2zoo_100_c20.cifar100_coarse": "a small demo that comes with the package and needs no download",
}


def entries() -> dict[str, WeightsEntry]:
    """Lists all weights.

    Returns:
        The entries by `architecture.tag`. The first of an architecture is its default.

    Raises:
        WeightsIndexError: If an index file is invalid.

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
        The entries, default first.

    Raises:
        WeightsIndexError: If an index file is invalid.
    """
    return [entry for entry in entries().values() if entry.architecture == architecture_name]


def entry_at(repo_id: str, revision: str | None = None) -> WeightsEntry | None:
    """Looks up the weights in a Hub repository.

    Args:
        repo_id: The repository.
        revision: A commit, branch or tag. None matches any revision in the index.

    Returns:
        The entry, or None if no index lists the weights at that revision.

    Raises:
        WeightsIndexError: If an index file is invalid.
    """
    own = (entry for entry in entries().values() if entry.repo_id == repo_id)
    return next((entry for entry in own if revision is None or revision == entry.revision), None)


def entry(name: str) -> WeightsEntry:
    """Looks up weights by name.

    Args:
        name: `architecture.tag`, or an architecture, for its default weights. timm's name works too.

    Returns:
        The entry.

    Raises:
        UnknownModelError: If no weights have that name. The message suggests the closest names.
        WeightsIndexError: If an index file is invalid.

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
        f"unknown weights {name!r}"[:200],
        expected=" or ".join([sibling.name for sibling in siblings] or known),
        found=repr(name),
        fix="Run `mnv2zoo list` to see all weights." if siblings else f"{config.name} has no weights yet.",
    )
