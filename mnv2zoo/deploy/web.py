"""Bundles for the browser: a page that classifies images with onnxruntime-web, and the download of this runtime."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import tarfile
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from mnv2zoo.errors import DeployError

PAGE = Path(__file__).parent / "page"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
ADDRESS = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
# As `npm view onnxruntime-web@1.30.0 dist.integrity` prints it.
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SIZE = 33_106_585  # bytes
SECONDS = 60  # timeout

# The files of the package, and their names in the bundle: some hosts send no JavaScript type for `.mjs`.
FILES = {"dist/ort.wasm.bundle.min.mjs": "ort.js", "dist/ort-wasm-simd-threaded.wasm": "ort.wasm"}
MIT = """onnxruntime-web (ort.js, ort.wasm)

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # in preprocess.js
CROP_MODES = ("center", "squash", "border")


def check(preprocessing: Mapping[str, Any]) -> None:
    """Checks that the page's script supports a preprocessing.

    Args:
        preprocessing: The bundle's `preprocess.json`.

    Raises:
        DeployError: If the script does not support it.
    """
    known = {
        "channels": (preprocessing["input_size"][0], (3,)),
        "interpolation": (preprocessing["interpolation"].lower(), INTERPOLATIONS),
        "crop_mode": (preprocessing.get("crop_mode", "center"), CROP_MODES),
    }
    for what, (found, able) in known.items():
        if found not in able:
            raise DeployError(
                f"the format web does not support {what} {found}",
                expected=", ".join(map(str, able)),
                found=found,
                where="preprocessing",
                fix="Choose the format onnx.",
            )


def runtime(folder: Path | None) -> dict[str, bytes]:
    """Finds the files of onnxruntime-web.

    Args:
        folder: The unpacked package, such as `node_modules/onnxruntime-web`, or its `dist`. None downloads the tarball
            from npm and checks it against `SHA512`.

    Returns:
        The files, by their names in the bundle.

    Raises:
        DeployError: If a file is missing, or the tarball cannot be downloaded or does not match its hash.
    """
    return _unpacked(fetch(ADDRESS)) if folder is None else _in(folder)


def fetch(address: str) -> bytes:
    """Downloads the tarball of onnxruntime-web from npm.

    Args:
        address: Its URL.

    Returns:
        Its bytes.

    Raises:
        DeployError: If it cannot be downloaded, or does not match its hash.
    """
    fix = f"Run `npm pack {PACKAGE}@{VERSION}` on another machine, unpack it, and pass its folder as runtime."
    if constants.HF_HUB_OFFLINE:  # forbids network access for the whole package
        raise DeployError(
            f"{PACKAGE} {VERSION} cannot be downloaded",
            expected="network access",
            found="HF_HUB_OFFLINE is set",
            fix=fix,
        )
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as response:
            data: bytes = response.read(SIZE + 1)
    except (OSError, HTTPException) as error:
        raise DeployError(
            f"{PACKAGE} {VERSION} cannot be downloaded",
            expected="the tarball from npm",
            found=getattr(error, "reason", error),
            where=address,
            fix=fix,
        ) from error
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != SHA512:
        raise DeployError(
            f"the tarball of {PACKAGE} {VERSION} does not match its pinned hash",
            expected=f"SHA-512 {SHA512}",
            found=f"SHA-512 {found}",
            where=address,
            fix=fix,
        )
    return data


def _unpacked(tarball: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        members = {name: archive.extractfile(f"package/{name}") for name in FILES}
        return {FILES[name]: member.read() for name, member in members.items() if member}


def _in(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, own in FILES.items():
        places = [folder / name, folder / Path(name).name]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DeployError(
                f"the folder of the runtime does not contain {Path(name).name}",
                expected=f"the unpacked npm package {PACKAGE}, or its dist",
                found="a folder without this file" if folder.is_dir() else "no such folder",
                where=folder,
                fix=f"Run `npm pack {PACKAGE}@{VERSION}`, unpack it and pass its folder, or leave out runtime.",
            )
        found[own] = file.read_bytes()
    return found


def write(runtime: dict[str, bytes], bundle: Path) -> list[str]:
    """Writes the page and its runtime.

    Args:
        runtime: The runtime's files.
        bundle: The folder.

    Returns:
        The names of the files.
    """
    for name, data in runtime.items():
        (bundle / name).write_bytes(data)
    (bundle / "LICENSE.onnxruntime-web.txt").write_text(MIT, encoding="utf-8")
    pages = sorted(file for file in PAGE.iterdir() if file.is_file())
    for file in pages:
        shutil.copyfile(file, bundle / file.name)
    return [*(file.name for file in pages), *runtime]
