"""Explains why a request to the Hub failed, and how to fix it.

The client wraps failures in errors that say "check your connection". The actual reason is the last cause in the chain.
This module uses only the standard library, because the download process imports it.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class UnsoundAnswerError(Exception):
    """An invalid response that no Hub would send."""


@dataclass(frozen=True)
class Failure:
    """Why a request failed.

    Attributes:
        kind: A key of `FIXES`.
        found: What was found, without secrets.
    """

    kind: str
    found: str

    def fix(self, repo: object, endpoint: object, cache: object, plain: bool = False) -> str:
        """Returns the fix.

        Args:
            repo: The repository.
            endpoint: The URL of the Hub or of the plain file server.
            cache: The folder for downloaded files.
            plain: Whether the request went to a plain file server.

        Returns:
            The fix, as a sentence.
        """
        # Only the inserted values can contain a secret. Our own texts show where a password goes.
        filled = {"repo": repo, "endpoint": endpoint, "cache": cache}
        fixes = FIXES | PLAIN_FIXES if plain else FIXES
        return fixes[self.kind].format(**{name: without_secrets(str(value)) for name, value in filled.items()})


# The fix by kind of failure. `{repo}`, `{endpoint}` and `{cache}` are inserted.
FIXES = {
    "name": "Check the spelling of HF_ENDPOINT and of a proxy in HTTPS_PROXY, and that this machine is online.",
    "refused": "Check that a Hub is running at {endpoint} (HF_ENDPOINT), and that no firewall blocks it.",
    "certificate": "If the Hub or a proxy uses a certificate of your own authority, set SSL_CERT_FILE to the PEM file "
    "of that authority.",
    "tls": "Check that HF_ENDPOINT, or the proxy in HTTPS_PROXY, begins with the right scheme: https:// or http://.",
    "proxy": "Correct the proxy in HTTPS_PROXY or HTTP_PROXY, or list the Hub's host in NO_PROXY.",
    "proxy password": "Put the proxy's user and password into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT.",
    "timeout": "Try again later, or check HF_ENDPOINT and the network.",
    "late": "Set MNV2ZOO_DOWNLOAD_TIMEOUT to more seconds, or check the network.",
    "rate limit": "Wait a few minutes, or set HF_TOKEN: the limit is higher for users with a token.",
    "hub": "Try again later: {endpoint} has a problem.",
    "token": "Set HF_TOKEN to a valid token, or run `hf auth login`.",
    "forbidden": "Set HF_TOKEN to a token with access to {repo}.",
    "gated": "Accept the conditions on the page of {repo}, and set HF_TOKEN to a token of that account.",
    "repository": "Check the name {repo}. If the repository is private, set HF_TOKEN to a token with access to it.",
    "revision": "Check the revision of {repo}. If its history was rewritten since the first use, run `mnv2zoo weights "
    "forget NAME`.",
    "file": "Check the file name in {repo}.",
    "unsound": "Check HF_ENDPOINT, and whether a proxy or a firewall responds instead of the Hub.",
    "endpoint": "Set HF_ENDPOINT to a URL such as https://huggingface.co.",
    "offline": "Unset HF_HUB_OFFLINE, or fetch the file on a machine that is online.",
    "full": "Free some space on the disk of {cache}, or set HF_HOME to a folder on another disk.",
    "denied": "Make {cache} writable for this user, or set HF_HOME to a writable folder.",
    "folder": "Set HF_HOME to a folder: {cache} cannot be one.",
    "homeless": "Set HF_HOME to a writable folder, and MNV2ZOO_HOME to another one.",
    "setting": "Set MNV2ZOO_DOWNLOAD_TIMEOUT to a positive number of seconds, or unset it.",
    "unknown": "Check the network, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.",
}
# The fixes that differ for a plain file server.
PLAIN_FIXES = {
    "name": "Check the host in MNV2ZOO_WEIGHTS_URL and in a proxy in HTTPS_PROXY, and that this machine is online.",
    "refused": "Check that a file server is running there (MNV2ZOO_WEIGHTS_URL), and that no firewall blocks it.",
    "certificate": "If the server uses a certificate of your own authority, set SSL_CERT_FILE to the PEM file of that "
    "authority.",
    "tls": "Check that MNV2ZOO_WEIGHTS_URL, or the proxy in HTTPS_PROXY, begins with the right scheme: https:// or "
    "http://.",
    "proxy": "Correct the proxy in HTTPS_PROXY or HTTP_PROXY, or list the server's host in NO_PROXY.",
    "timeout": "Try again later, or check MNV2ZOO_WEIGHTS_URL and the network.",
    "rate limit": "Try again in a few minutes.",
    "hub": "Try again later: the server has a problem.",
    "token": "Put the user and password into MNV2ZOO_WEIGHTS_URL: https://USER:PASSWORD@HOST/...",
    "forbidden": "Check the user and password in MNV2ZOO_WEIGHTS_URL, and that the file exists: S3 also returns 403 "
    "for a missing file.",
    "unsound": "Check MNV2ZOO_WEIGHTS_URL, and whether a proxy or a firewall responds instead of the server.",
    "endpoint": "Set MNV2ZOO_WEIGHTS_URL to a URL such as https://files.example/{{repo_id}}/{{filename}}.",
    "unknown": "Check the network and MNV2ZOO_WEIGHTS_URL.",
}
LOCAL = ("full", "denied", "folder", "setting")  # another copy of the file does not help with these

# How often a failed connection is retried. Other failures are retried as often as the client decides.
TRIES = {"name": 2, "certificate": 2, "tls": 2, "proxy": 2, "proxy password": 1, "refused": 4}

STATUS = {401: "token", 403: "forbidden", 404: "file", 407: "proxy password", 408: "timeout", 429: "rate limit"}
CODES = {
    "GatedRepo": "gated",
    "RepoNotFound": "repository",
    "RevisionNotFound": "revision",
    "EntryNotFound": "file",
}
# Classes of the Hub client and of its HTTP library, which may be httpx or its successor.
CLASSES = {
    "ProxyError": "proxy",
    "TimeoutException": "timeout",
    "UnsupportedProtocol": "endpoint",
    "InvalidURL": "endpoint",
    "OfflineModeIsEnabled": "offline",
    "GatedRepoError": "gated",
    "RepositoryNotFoundError": "repository",
    "HFValidationError": "repository",
    "FileMetadataError": "unsound",
    "UnsoundAnswerError": "unsound",
    "MemoryError": "unsound",
}
UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
ON_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "full"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "denied"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), "folder"),
    errno.EFBIG: "unsound",
}


def explain(error: BaseException, tokens: Iterable[str] = ()) -> Failure:
    """Finds the actual cause of an error.

    Args:
        error: The Hub client's error.
        tokens: Secrets that were sent.

    Returns:
        The failure. This function never raises.
    """
    try:
        causes = [*_causes(error)]
        for cause in reversed(causes):
            if kind := _kind(cause, causes):
                return Failure(kind, without_secrets(_words(kind, cause, causes), tokens))
        return Failure("unknown", without_secrets(_told(error), tokens))
    except Exception as fault:  # an error that cannot even be printed
        return Failure("unknown", f"{type(error).__name__}, which cannot be described ({type(fault).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # the HTTP library hides causes with `from None`


def _kind(cause: BaseException, causes: list[BaseException]) -> str | None:
    """Returns the kind of an error, or None if it is unknown."""
    response = getattr(cause, "response", None)
    if response is not None:
        return _kind_of_answer(cause, response)
    if isinstance(cause, socket.gaierror):
        return "name"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(cause, ssl.SSLError):
        return "tls"
    classes = [kind.__name__ for kind in type(cause).__mro__]
    if "ProxyError" in classes and "407" in str(cause):
        return "proxy password"
    for name in classes:
        if name in CLASSES:
            return CLASSES[name]
    if isinstance(cause, OSError):
        on_the_way = any("TransportError" in [kind.__name__ for kind in type(c).__mro__] for c in causes)
        return ("refused" if cause.errno in UNREACHABLE else None) if on_the_way else ON_DISK.get(cause.errno or 0)
    return None


def _kind_of_answer(cause: BaseException, response: Any) -> str | None:
    status = response.status_code
    code = response.headers.get("x-error-code", "")
    if "RepositoryNotFoundError" in [kind.__name__ for kind in type(cause).__mro__]:
        code = "RepoNotFound"  # also 401, which the Hub returns for private and for missing repositories
    if status >= 500:
        return "hub"
    return CODES.get(code) or STATUS.get(status)


def _words(kind: str, cause: BaseException, causes: list[BaseException]) -> str:
    response = getattr(cause, "response", None)
    if response is not None:
        request = getattr(response, "_request", None) or getattr(cause, "request", None)
        code = response.headers.get("x-error-code") or getattr(response, "reason_phrase", "")
        return f"{response.status_code} {code} for {_address(request)}"
    if kind in ("name", "refused"):
        reason = getattr(cause, "strerror", None) or cause
        address = _peer(causes)
        problem = "cannot be resolved" if kind == "name" else "cannot be reached"
        return f"{address} {problem} ({type(cause).__name__}: {reason})"
    return _told(cause)


def _told(error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    file = f", {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return f"{type(error).__name__}: {reason}{file}"


def _address(request: Any) -> str:
    return str(request.url).partition("?")[0] if request is not None else "the request"  # a query can be a signature


def _peer(causes: list[BaseException]) -> str:
    """Returns the host that could not be resolved: the Hub, its storage or a proxy."""
    for cause in causes:
        request = getattr(cause, "_request", None)
        if request is not None:
            url = urlsplit(str(request.url))
            host = url.hostname or ""
            proxies = urllib.request.getproxies()
            proxy = proxies.get(url.scheme) or proxies.get("all")
            if proxy and not urllib.request.proxy_bypass(host):
                return f"the proxy {urlsplit(proxy).hostname}"
            return f"the host {url.netloc.rpartition('@')[2]}"
    return "the host"


def without_secrets(text: str, tokens: Iterable[str] = ()) -> str:
    """Removes tokens and passwords from a message.

    Args:
        text: The message of an error.
        tokens: Secrets besides those that the environment and the Hub client know.

    Returns:
        The message on one line, with secrets and everything before an `@` in a URL replaced. Never raises.
    """
    secrets = {*tokens, *_secrets()}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"//[^/\s'\"]+@", "//***@", text)
    return " ".join(text.split())


def _secrets() -> Iterator[str]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        yield from os.environ.get(name, "").split()
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy") or name == "HF_ENDPOINT":
            try:
                yield urlsplit(value).password or ""
            except ValueError:
                continue
    if os.environ.get("HF_OIDC_RESOURCE"):
        return  # the client would request the token over the network
    try:
        import huggingface_hub

        yield from (huggingface_hub.get_token() or "").split()
    except Exception:  # it reads a file, which may contain anything
        return
