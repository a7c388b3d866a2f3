"""Finds out how this package was installed, and the command that adds an extra to the installation."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "mnv2zoo"
_CHECKOUT = Path(__file__).resolve().parents[2]  # the root of a checkout


def install_command(extra: str) -> str:
    """Returns the command that installs an extra from the source of the current installation.

    Args:
        extra: The extra, such as `train`.

    Returns:
        In a checkout, `pip install -e ".[train]"`, with a path if that is not the current folder. For a wheel, an
        archive or a repository, a command with its URL. For a package index, `pip install "mnv2zoo[train]"`.
    """
    if (_CHECKOUT / "pyproject.toml").is_file():
        return _from_folder(_CHECKOUT, extra, editable=True)
    address, editable = _origin()
    if not address:
        return f'pip install "{NAME}[{extra}]"'
    parts = urlsplit(address)
    folder = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
    if folder is not None and folder.is_dir():
        return _from_folder(folder, extra, editable)
    return f'pip install "{NAME}[{extra}] @ {address}"'


def _from_folder(folder: Path, extra: str, editable: bool) -> str:
    place = "." if folder == Path.cwd() else folder.as_posix()
    return f'pip install {"-e " if editable else ""}"{place}[{extra}]"'


def _origin() -> tuple[str, bool]:
    """Returns the URL that pip installed the package from, and whether it is editable. Empty for a package index.

    pip records both in `direct_url.json`:
    https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """
    try:
        recorded = json.loads(importlib.metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "", False
    vcs = recorded.get("vcs_info", {}).get("vcs")
    address = f"{vcs}+{recorded['url']}" if vcs else recorded.get("url", "")
    return address, bool(recorded.get("dir_info", {}).get("editable"))
