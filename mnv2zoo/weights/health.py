"""Checks for `mnv2zoo doctor`: the connection to the Hub, writable folders, and the index."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants

from mnv2zoo import environment
from mnv2zoo.errors import MissingExtraError, WeightsError
from mnv2zoo.system.findings import BROKEN, NOTE, OK, Finding
from mnv2zoo.system.hub_failures import FIXES, Failure, without_secrets
from mnv2zoo.weights import file_server, index, store, trust
from mnv2zoo.weights.hub import Hub, HubFile
from mnv2zoo.weights.trust import Record

SECONDS = 15  # timeout for the Hub
SPACE_BYTES = 2**28  # enough for several sets of weights of 7 to 25 MB each


def findings() -> Iterator[Finding]:
    """Runs all checks.

    Yields:
        One finding per check.
    """
    yield from hub()
    yield proxy()
    yield certificates()
    if (template := environment.weights_url()) is not None:
        yield plain_server(template)
    yield timeout()
    yield from folder("cache of the Hub", Path(constants.HF_HUB_CACHE), "HF_HOME")
    yield from folder("state folder", environment.home(), environment.HOME.name)
    yield first_use()
    if (mirror := environment.weights_dir()) is not None:
        yield mirror_folder(mirror)
    for path in (index.shipped_path(), environment.weights_index()):
        if path is not None:
            yield index_file(path)
    yield bundled()


def hub() -> Iterator[Finding]:
    """Checks that the Hub can be reached and accepts the token."""
    endpoint, has_token = constants.ENDPOINT, bool(huggingface_hub.get_token())
    if constants.HF_HUB_OFFLINE:
        yield Finding("Hub", NOTE, "not checked, because HF_HUB_OFFLINE is set", "Unset it to download weights.")
        return
    reached = Hub().reach(f"{endpoint}/api/whoami-v2", SECONDS, send_token=True)
    if isinstance(reached, int) and reached >= 500:
        reached = Failure("hub", f"status {reached} from {endpoint}")
    if isinstance(reached, Failure):
        fix = reached.fix("the repository", endpoint, constants.HF_HUB_CACHE)
        yield Finding("Hub", BROKEN, reached.found, f"{fix} Without a network, set HF_HUB_OFFLINE=1.")
        return
    yield Finding("Hub", OK, f"{endpoint} answers")
    if not has_token:
        yield Finding("token", OK, "none, which public weights do not need")
    elif reached in (401, 403):
        yield Finding("token", BROKEN, f"not valid: the Hub returned {reached}", FIXES["token"])
    elif reached == 200:
        yield Finding("token", OK, "valid")
    else:
        yield Finding("token", NOTE, f"not checked: the Hub returned {reached} for its user")


def proxy() -> Finding:
    """Reports the proxy for the Hub."""
    parts = urlsplit(constants.ENDPOINT)
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found:
        return Finding("proxy", OK, "none")
    if urllib.request.proxy_bypass(parts.netloc):
        return Finding("proxy", OK, f"none for {parts.hostname}, because of NO_PROXY")
    return Finding("proxy", OK, without_secrets(found))


def certificates() -> Finding:
    """Reports which certificates are trusted."""
    for name, is_right in (("SSL_CERT_FILE", Path.is_file), ("SSL_CERT_DIR", Path.is_dir)):
        if value := os.environ.get(name):
            if is_right(Path(value)):
                return Finding("certificates", OK, f"{name}={value}")
            return Finding("certificates", BROKEN, f"{name}={value}, which does not exist", f"Correct or unset {name}.")
    return Finding("certificates", OK, "the default certificates")


def plain_server(template: str) -> Finding:
    """Checks that a plain file server responds and has the first pinned weights of the bundled index."""
    name = "file server"
    try:
        entry = next(e for e in index.read_unsigned(index.shipped_path()).values() if e.repo_id and e.sha256)
        file = HubFile(entry.name, entry.repo_id or "", entry.filename or "", entry.revision)
        url = file_server.address(template, file, Record(entry.revision, entry.sha256 or "", 0))
    except WeightsError as error:
        return Finding(name, BROKEN, error.summary, error.fix)
    if constants.HF_HUB_OFFLINE:
        return Finding(name, NOTE, "not checked, because HF_HUB_OFFLINE is set", "Unset it to download weights.")
    shown = without_secrets(url.partition("?")[0])
    reached = Hub().reach(url, SECONDS, send_token=False)
    if isinstance(reached, Failure):
        return Finding(name, BROKEN, reached.found, reached.fix("", shown, constants.HF_HUB_CACHE, plain=True))
    if reached == 200:
        return Finding(name, OK, f"has {entry.name}")
    if reached == 404:
        return Finding(
            name, NOTE, f"{shown} does not exist (404)", "Put the file there, or correct MNV2ZOO_WEIGHTS_URL."
        )
    return Finding(name, BROKEN, f"{reached} for {shown}", "Check MNV2ZOO_WEIGHTS_URL, and its user and password.")


def timeout() -> Finding:
    """Reports the time limit of downloads."""
    seconds, name = environment.download_timeout(), environment.DOWNLOAD_TIMEOUT.name
    if 0 < seconds < math.inf:
        return Finding("time limit", OK, f"{seconds:g} s per download")
    return Finding("time limit", BROKEN, f"{name}={os.environ.get(name)}", FIXES["setting"])


def folder(check: str, path: Path, variable: str, needed: int = SPACE_BYTES) -> Iterator[Finding]:
    """Checks that a folder is writable and that there is enough free space.

    Args:
        check: Name of the folder in the report.
        path: The folder. If it does not exist, its nearest existing parent is checked.
        variable: The variable that sets it.
        needed: Required free space in bytes.
    """
    if environment.is_homeless(path):
        yield Finding(check, BROKEN, f"{path}, and this user has no home folder", f"Set {variable} to a folder.")
        return
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        fix = f"Make it writable for this user, or set {variable} to another folder."
        yield Finding(check, BROKEN, f"cannot write to {place}: {error.strerror or error}", fix)
        return
    yield Finding(check, OK, f"{path} is writable")
    if free < needed:
        fix = f"Free {needed / 1e6:.0f} MB, or set {variable} to a folder on another disk."
        yield Finding(f"space for the {check}", BROKEN, f"{free / 1e6:.0f} MB free", fix)
    else:
        yield Finding(f"space for the {check}", OK, f"{free / 1e9:.1f} GB free")


def first_use() -> Finding:
    """Checks that the record of first use can be read."""
    try:
        return Finding("record of first use", OK, f"{len(trust.records())} entries")
    except WeightsError as error:
        return Finding("record of first use", BROKEN, error.summary, error.fix)


def mirror_folder(path: Path) -> Finding:
    """Checks that the mirror is a folder."""
    if path.is_dir():
        return Finding("mirror", OK, str(path))
    fix = f"Correct or unset {environment.WEIGHTS_DIR.name}."
    return Finding("mirror", BROKEN, f"{path} is not a folder", fix)


def index_file(path: Path) -> Finding:
    """Checks that an index is valid, and signed if that is required."""
    name = "index" if path == index.shipped_path() else "further index"
    try:
        entries = index.read(path)
    except (WeightsError, MissingExtraError) as error:
        return Finding(name, BROKEN, error.summary, error.fix)
    pinned = sum(entry.pinned for entry in entries.values())
    key = environment.index_pubkey()
    signed = f"signed by the key of {key}" if key else "signatures are not checked"
    return Finding(name, OK, f"{path}: {len(entries)} entries, {pinned} pinned; {signed}")


def bundled() -> Finding:
    """Checks that the weights in the package are intact."""
    name, checked = "bundled weights", 0
    try:
        for entry in index.read_unsigned(index.shipped_path()).values():
            checked += entry.bundled is not None and store.verify_local(entry) is not None
    except WeightsError as error:
        return Finding(name, BROKEN, error.summary, error.fix)
    return Finding(name, OK, f"{checked} verified")
