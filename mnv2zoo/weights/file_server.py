"""Downloads weights from a plain file server.

Any server works: it is only used for files whose SHA-256 is known, and what it sends must match.
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
NAMES_A_FILE = {"filename", "sha256"}  # the URL must contain one of them, or it would be the same for all files


def download(file: HubFile, pin: Record, revision: str | None, hub: Hub, force: bool = False) -> Path:
    """Downloads a file with a known hash from the plain file server, or from the Hub if the server lacks it.

    Args:
        file: The file.
        pin: Its hash, and its size and commit if known.
        revision: Revision to request from the Hub. None means `main`.
        hub: The Hub and its cache.
        force: Download the file even if it is in the cache.

    Returns:
        The path in the cache.

    Raises:
        IntegrityError: If the file server sends a different file.
        WeightsError: If `MNV2ZOO_WEIGHTS_URL` is not a valid URL template.
        WeightsUnavailableError: If the file cannot be downloaded within the time limit.
    """
    template = environment.weights_url()
    if template is None:
        return hub.download(file, revision, force)
    url = address(template, file, pin)
    path = hub.fetch_plain(file, pin, url, force)
    if path is not None:
        return path
    missing = f"{without_secrets(url.partition('?')[0])} does not exist (404)"
    warnings.warn(f"{file.name}: {missing}, so it is downloaded from the Hub", stacklevel=2)
    try:
        return hub.download(file, revision, force)
    except WeightsUnavailableError as error:
        error.found = f"{missing}; on the Hub: {error.found}"
        error.fix = f"Put the file on the server, or check MNV2ZOO_WEIGHTS_URL. For the Hub: {error.fix}"
        raise


def address(template: str, file: HubFile, pin: Record) -> str:
    """Builds the URL of a file from a template.

    Args:
        template: The value of `MNV2ZOO_WEIGHTS_URL`.
        file: The file.
        pin: Its hash, and its commit if known.

    Returns:
        The URL, with special characters in names percent-encoded.

    Raises:
        WeightsError: If the template is not an `http` or `https` URL, has an unknown field, or gives the same URL for
            every file.
    """
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        _refuse(template, str(error))
    if unknown := sorted(fields - {*FIELDS}):
        _refuse(template, f"the unknown field {{{unknown[0]}}}")
    if not fields & NAMES_A_FILE:
        _refuse(template, "the same URL for every file")
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
            _refuse(template, "another kind of URL")
    except ValueError as error:
        _refuse(template, str(error))
    return url


def _refuse(template: str, found: str) -> NoReturn:
    raise WeightsError(
        f"cannot use the URL {without_secrets(template.partition('?')[0])!r}",
        expected=f"an http or https URL with {{filename}} or {{sha256}} and only the fields "
        f"{', '.join(f'{{{field}}}' for field in FIELDS)}",
        found=found,
        where=environment.WEIGHTS_URL.name,
        fix="Set it to a URL such as https://files.example/{repo_id}/{filename}, or unset it.",
    )
