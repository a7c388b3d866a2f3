"""Every environment variable of the package, read when asked and documented here only.

Downloads go through huggingface_hub, which reads its own variables (`HF_HOME`, `HF_ENDPOINT`,
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
        default: What holds where it is not set.
    """

    name: str
    meaning: str
    default: str


WEIGHTS_DIR = Variable(
    "MNV2ZOO_WEIGHTS_DIR",
    "A local mirror of weights, looked in before anything else: `<dir>/<repo_id>/<filename>` or "
    "`<dir>/<sha256>.safetensors`. Its files are verified like any other; a bad one is reported, never deleted. "
    "`mnv2zoo weights fetch --mirror DIR` fills one.",
    "no mirror",
)
WEIGHTS_URL = Variable(
    "MNV2ZOO_WEIGHTS_URL",
    "Address of a plain file server, such as Artifactory, S3 or nginx: "
    "`https://files.example/{repo_id}/{filename}`. `{revision}` and `{sha256}` are filled in too. It is asked "
    "after the mirror folder and the cache and before the Hub, and only for weights whose SHA-256 is known.",
    "no file server",
)
WEIGHTS_INDEX = Variable(
    "MNV2ZOO_WEIGHTS_INDEX",
    "A further index of weights laid over the shipped one: its entries win, and come first where an "
    "architecture's default weights are chosen. Read when the package is imported.",
    "the shipped index alone",
)
INDEX_PUBKEY = Variable(
    "MNV2ZOO_INDEX_PUBKEY",
    "PEM file of an Ed25519 public key. Every index that is read, the shipped one and a further one, must then have a "
    "signature by that key beside it, in a file of its name with `.sig` behind. Needs "
    '`pip install -e ".[signing]"` in a checkout. Read when the package is imported.',
    "signatures are not looked at",
)
REQUIRE_PINNED = Variable(
    "MNV2ZOO_REQUIRE_PINNED",
    "`1` refuses weights that the package finds by itself (`hf-hub:` names included) unless their SHA-256 is in an "
    "index. A file that you name by its path is your own.",
    "`0`: trust on first use",
)
HOME = Variable(
    "MNV2ZOO_HOME",
    "Folder of what the package keeps: the record of first use, inference engines in `engines`, and copies of large "
    "training photos in `images`. `mnv2zoo cache` lists and clears the last two. A "
    "user without a home folder has to set it for weights without a hash.",
    "`~/.cache/mnv2zoo`",
)
DOWNLOAD_TIMEOUT = Variable(
    "MNV2ZOO_DOWNLOAD_TIMEOUT",
    "Seconds that fetching one set of weights may take in all, with every repetition and wait.",
    "`600`",
)
VARIABLES = (WEIGHTS_DIR, WEIGHTS_URL, WEIGHTS_INDEX, INDEX_PUBKEY, REQUIRE_PINNED, HOME, DOWNLOAD_TIMEOUT)


def _path(variable: Variable) -> Path | None:
    value = os.environ.get(variable.name, "")
    return _expanded(value) if value else None


def _expanded(value: str) -> Path:
    return Path(os.path.expanduser(value))  # noqa: PTH111  # that of pathlib raises where there is no home folder


def is_homeless(path: Path) -> bool:
    """Whether a path still begins with `~`, because the user it names has no home folder.

    Args:
        path: A path of this module, or of a library that expands `~` in the same way.

    Returns:
        Whether it cannot be used.
    """
    return path.parts[:1] != () and path.parts[0].startswith("~")


def weights_dir() -> Path | None:
    """Where the local mirror is.

    Returns:
        The folder that `MNV2ZOO_WEIGHTS_DIR` names, None where it is not set.
    """
    return _path(WEIGHTS_DIR)


def weights_url() -> str | None:
    """How files are addressed on a plain file server.

    Returns:
        The template that `MNV2ZOO_WEIGHTS_URL` holds, None where it is not set.
    """
    return os.environ.get(WEIGHTS_URL.name) or None


def weights_index() -> Path | None:
    """Where the further index is.

    Returns:
        The file that `MNV2ZOO_WEIGHTS_INDEX` names, None where it is not set.
    """
    return _path(WEIGHTS_INDEX)


def index_pubkey() -> Path | None:
    """Which key indexes must be signed with.

    Returns:
        The file of its public half that `MNV2ZOO_INDEX_PUBKEY` names, None where it is not set.
    """
    return _path(INDEX_PUBKEY)


def require_pinned() -> bool:
    """Whether weights whose hash no index has are refused.

    Returns:
        True if `MNV2ZOO_REQUIRE_PINNED` says so.
    """
    return os.environ.get(REQUIRE_PINNED.name, "").strip().lower() not in ("", "0", "false", "no", "off")


def home() -> Path:
    """Where the package keeps its small state.

    Returns:
        The folder. It need not exist; it begins with `~` if the user has no home folder.
    """
    return _path(HOME) or _expanded("~/.cache/mnv2zoo")


def download_timeout() -> float:
    """The time that fetching one set of weights may take.

    Returns:
        Seconds; NaN if what is set is no number.
    """
    try:
        return float(os.environ.get(DOWNLOAD_TIMEOUT.name) or 600)
    except ValueError:
        return float("nan")
