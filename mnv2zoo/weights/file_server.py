"""A plain file server: where it has a file, and how the file is fetched from it.

Any server will do, since only files whose SHA-256 is known are asked for: what it sends must match.
"""

from __future__ import annotations

import string
import warnings
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit

from mnv2zoo import environment
from mnv2zoo.errors import WeightsError, WeightsUnavailableError
from mnv2zoo.system.hub_failures import without_secrets
from mnv2zoo.weights.hub import Hub, HubFile
from mnv2zoo.weights.trust import Record

FIELDS = ("repo_id", "filename", "revision", "sha256")
NAMES_A_FILE = {"filename", "sha256"}  # one of them must be in the address, else all files had the same


def download(file: HubFile, pin: Record, revision: str | None, hub: Hub, force: bool = False) -> Path:
    """Fetches a file of a known hash: from the plain file server that has it, else from the Hub.

    Args:
        file: The file.
        pin: Its hash, and its size and commit as far as they are known.
        revision: The revision to ask the Hub for; None for `main`.
        hub: The Hub and its cache.
        force: Fetch it even if it is in the cache.

    Returns:
        Its path in the cache.

    Raises:
        IntegrityError: If the file server sends another file.
        WeightsError: If `MNV2ZOO_WEIGHTS_URL` is no address of files.
        WeightsUnavailableError: If the file cannot be fetched, or not in time.
    """
    template = environment.weights_url()
    if template is None:
        return hub.download(file, revision, force)
    url = address(template, file, pin)
    path = hub.fetch_plain(file, pin, url, force)
    if path is not None:
        return path
    missing = f"{without_secrets(url.partition('?')[0])} does not exist (404)"
    warnings.warn(f"{file.name}: {missing}, so the Hub is asked", stacklevel=2)
    try:
        return hub.download(file, revision, force)
    except WeightsUnavailableError as error:
        error.found = f"{missing}; on the Hub: {error.found}"
        error.fix = f"Put the file on the server, or check MNV2ZOO_WEIGHTS_URL. For the Hub: {error.fix}"
        raise


def address(template: str, file: HubFile, pin: Record) -> str:
    """Fills in the address of a file.

    Args:
        template: What `MNV2ZOO_WEIGHTS_URL` holds.
        file: The file.
        pin: Its hash, and its commit if it is known.

    Returns:
        The address, with a file's own characters percent-encoded.

    Raises:
        WeightsError: If the template is no `http` or `https` address, has other fields than it may, or is the same for
            every file.
    """
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        _refuse(template, str(error))
    if unknown := sorted(fields - {*FIELDS}):
        _refuse(template, f"the unknown field {{{unknown[0]}}}")
    if not fields & NAMES_A_FILE:
        _refuse(template, "the same address for every file")
    known = {
        "repo_id": file.repo_id,
        "filename": file.filename,
        "revision": pin.commit or file.revision or "main",
        "sha256": pin.sha256,
    }
    url = template.format(**{name: quote(value) for name, value in known.items()})
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            _refuse(template, "no http or https address")
    except ValueError as error:
        _refuse(template, str(error))
    return url


def _refuse(template: str, found: str) -> NoReturn:
    raise WeightsError(
        f"cannot use the address {without_secrets(template.partition('?')[0])!r}",
        expected=f"an http or https address with {{filename}} or {{sha256}}, of the fields "
        f"{', '.join(f'{{{field}}}' for field in FIELDS)}",
        found=found,
        where=environment.WEIGHTS_URL.name,
        fix="Set it to an address such as https://files.example/{repo_id}/{filename}, or unset it.",
    )
