"""All environment variables of the package, documented here only. Each is read when its value is needed.

Downloads use huggingface_hub, which reads its own variables (`HF_HOME`, `HF_ENDPOINT`,
`HF_TOKEN`, `HF_HUB_OFFLINE` and more).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Variable:
    """An environment variable.

    Attributes:
        name: Its name.
        meaning: What it does, as Markdown.
        default: The behavior when it is not set.
    """

    name: str
    meaning: str
    default: str


WEIGHTS_DIR = Variable(
    "MNV2ZOO_WEIGHTS_DIR",
    "Local mirror of weights, searched first: `<dir>/<repo_id>/<filename>` or "
    "`<dir>/<sha256>.safetensors`. Its files are verified like all others. A corrupt file is reported, never deleted. "
    "`mnv2zoo weights fetch --mirror DIR` fills one.",
    "no mirror",
)
WEIGHTS_URL = Variable(
    "MNV2ZOO_WEIGHTS_URL",
    "URL template of a plain file server, such as Artifactory, S3 or nginx: "
    "`https://files.example/{repo_id}/{filename}`. You can also use `{revision}` and `{sha256}`. The server is queried "
    "after the mirror and the cache and before the Hub, and only for weights whose SHA-256 is known.",
    "no file server",
)
WEIGHTS_INDEX = Variable(
    "MNV2ZOO_WEIGHTS_INDEX",
    "Your own weights index, merged over the bundled one. Its entries take precedence, and come first when an "
    "architecture's default weights are chosen. Read when the package is imported.",
    "the bundled index only",
)
INDEX_PUBKEY = Variable(
    "MNV2ZOO_INDEX_PUBKEY",
    "PEM file with an Ed25519 public key. If set, every index, bundled or your own, needs a valid signature by that "
    "key in a file next to it, named after the index plus `.sig`. Needs "
    '`pip install -e ".[signing]"` in a checkout. Read when the package is imported.',
    "signatures are not checked",
)
REQUIRE_PINNED = Variable(
    "MNV2ZOO_REQUIRE_PINNED",
    "`1` rejects weights that the package locates itself (`hf-hub:` names included) unless an index lists their "
    "SHA-256. Files that you pass by path are always accepted.",
    "`0`: trust on first use",
)
HOME = Variable(
    "MNV2ZOO_HOME",
    "Folder for the package's own state: the hashes recorded on first use, inference engines in `engines`, and cached "
    "copies of large training images in `images`. `mnv2zoo cache` lists and clears the last two. Set it if your user "
    "has no home folder and you use unpinned weights.",
    "`~/.cache/mnv2zoo`",
)
DOWNLOAD_TIMEOUT = Variable(
    "MNV2ZOO_DOWNLOAD_TIMEOUT",
    "Time limit in seconds for downloading one set of weights, retries and waits included.",
    "`600`",
)
VARIABLES = (WEIGHTS_DIR, WEIGHTS_URL, WEIGHTS_INDEX, INDEX_PUBKEY, REQUIRE_PINNED, HOME, DOWNLOAD_TIMEOUT)


def _path(variable: Variable) -> Path | None:
    value = os.environ.get(variable.name, "")
    return _expanded(value) if value else None


def _expanded(value: str) -> Path:
    return Path(os.path.expanduser(value))  # noqa: PTH111  # that of pathlib raises where there is no home folder


def is_homeless(path: Path) -> bool:
    """Checks whether a path still begins with `~` because its user has no home folder.

    Args:
        path: A path from this module, or from a library that expands `~` in the same way.

    Returns:
        True if the path cannot be used.
    """
    return path.parts[:1] != () and path.parts[0].startswith("~")


def weights_dir() -> Path | None:
    """Returns the local mirror of weights.

    Returns:
        The folder in `MNV2ZOO_WEIGHTS_DIR`, or None if it is not set.
    """
    return _path(WEIGHTS_DIR)


def weights_url() -> str | None:
    """Returns the URL template of the plain file server.

    Returns:
        The template in `MNV2ZOO_WEIGHTS_URL`, or None if it is not set.
    """
    return os.environ.get(WEIGHTS_URL.name) or None


def weights_index() -> Path | None:
    """Returns the user's own weights index.

    Returns:
        The file in `MNV2ZOO_WEIGHTS_INDEX`, or None if it is not set.
    """
    return _path(WEIGHTS_INDEX)


def index_pubkey() -> Path | None:
    """Returns the public key that must have signed each index.

    Returns:
        The PEM file in `MNV2ZOO_INDEX_PUBKEY`, or None if it is not set.
    """
    return _path(INDEX_PUBKEY)


def require_pinned() -> bool:
    """Checks whether unpinned weights are rejected.

    Returns:
        True if `MNV2ZOO_REQUIRE_PINNED` is set, and not to `0`, `false`, `no` or `off`.
    """
    return os.environ.get(REQUIRE_PINNED.name, "").strip().lower() not in ("", "0", "false", "no", "off")


def home() -> Path:
    """Returns the folder of the package's own state.

    Returns:
        The folder, which may not exist yet. It begins with `~` if the user has no home folder.
    """
    return _path(HOME) or _expanded("~/.cache/mnv2zoo")


def download_timeout() -> float:
    """Returns the time limit for downloading one set of weights.

    Returns:
        The limit in seconds, or NaN if the variable is not a number.
    """
    try:
        return float(os.environ.get(DOWNLOAD_TIMEOUT.name) or 600)
    except ValueError:
        return float("nan")
