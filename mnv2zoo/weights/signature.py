"""Signatures of index files: Ed25519, 64 bytes in a file next to the index, compatible with `openssl pkeyutl -rawin`.

Functions verify bytes that are already in memory rather than a path, so that the same bytes can be parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mnv2zoo.errors import MissingExtraError, WeightsError, WeightsIndexError
from mnv2zoo.system.files import whole_file
from mnv2zoo.system.installation import install_command

SIGNATURE_BYTES = 64
MAX_KEY_BYTES = 2**16  # a PEM file of an Ed25519 key has a few hundred
PUBLIC_KEY = "a PEM file with an Ed25519 public key"
PRIVATE_KEY = "a PEM file with an Ed25519 private key"


def path_of(index: Path) -> Path:
    """Returns the path of an index file's signature.

    Args:
        index: The index file.

    Returns:
        The file next to it, with `.sig` added to its name. It may not exist.
    """
    return index.with_name(f"{index.name}.sig")


def check(data: bytes, index: Path, key: Path) -> None:
    """Checks that an index was signed by the private key of a public key.

    Args:
        data: The bytes of the index.
        index: The file they were read from. The signature is next to it.
        key: PEM file of the public key.

    Raises:
        WeightsIndexError: If the signature or the key is missing or malformed, or the signature does not match.
        MissingExtraError: If the extra `signing` is not installed.
    """
    serialization = _serialization()
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def bad(problem: str, expected: str, found: object, where: Path, fix: str) -> WeightsIndexError:
        return WeightsIndexError(problem, expected=expected, found=found, where=where, fix=fix)

    fix = "Correct MNV2ZOO_INDEX_PUBKEY, or unset it to use indexes without a signature."
    try:
        public = serialization.load_pem_public_key(_read(key, MAX_KEY_BYTES))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        found = f"{type(error).__name__}: {error}"
        raise bad("cannot read the public key in MNV2ZOO_INDEX_PUBKEY", PUBLIC_KEY, found, key, fix) from error
    if not isinstance(public, Ed25519PublicKey):
        raise bad("the key in MNV2ZOO_INDEX_PUBKEY is of another kind", PUBLIC_KEY, type(public).__name__, key, fix)

    file = path_of(index)
    expected = f"a {SIGNATURE_BYTES}-byte signature by the key {key}"
    fix = "Get the index and its signature again from their maintainer, and make sure that the key is theirs."
    try:
        signature = _read(file, SIGNATURE_BYTES)
    except (OSError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise bad("cannot read the signature of the index of weights", expected, found, file, fix) from error
    try:
        public.verify(signature, data)
    except InvalidSignature as error:
        found = f"{len(signature)} bytes that are not a signature of {index} by that key"
        raise bad("the signature does not match the index of weights", expected, found, file, fix) from error


def sign(data: bytes, index: Path, key: Path, ask_password: Callable[[], str]) -> Path:
    """Signs an index.

    Args:
        data: The bytes of the index.
        index: The file they were read from.
        key: PEM file of the private key.
        ask_password: Returns the key's password. Only called if the key has one.

    Returns:
        The signature file.

    Raises:
        WeightsError: If the key cannot be used.
        MissingExtraError: If the extra `signing` is not installed.
        OSError: If the key cannot be read, or the signature cannot be written.
    """
    signature = _private_key(key, ask_password).sign(data)
    with whole_file(path_of(index)) as file:
        file.write(signature)
    return path_of(index)


def _private_key(path: Path, ask_password: Callable[[], str]) -> Any:
    serialization = _serialization()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        data = _read(path, MAX_KEY_BYTES)
        try:
            private = serialization.load_pem_private_key(data, None)
        except TypeError:  # raised for a key that has a password
            private = serialization.load_pem_private_key(data, ask_password().encode())
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _unusable(path, type(private).__name__)
    return private


def _unusable(path: Path, found: str) -> WeightsError:
    fix = "Create one with `openssl genpkey -algorithm ed25519 -out key.pem`."
    return WeightsError("cannot sign with this key", expected=PRIVATE_KEY, found=found, where=path, fix=fix)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit} bytes")
    return data


def _serialization() -> ModuleType:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise MissingExtraError(
            "signatures of indexes need the package cryptography",
            expected="the extra `signing`",
            found=error,
            fix=f"Run: {install_command('signing')}",
        ) from error
    return serialization
