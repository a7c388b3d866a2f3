"""Tampered bytes: a weight file is altered where it lies, on its way, or while it is read.

No altered tensor may reach a state dict or a model; every refusal is a `WeightsError` that comes in time; and
where the Hub has a good copy, it is fetched and put in the place of the bad one.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import safetensors.torch
import timm
import torch

from attacks import zoo
from attacks.tally import Tally
from attacks.zoo import BUNDLED, PINNED, UNPINNED, Zoo
from mnv2zoo import weights

SEEDS = {PINNED: 0, UNPINNED: 1, BUNDLED: 2}


def run(
    tally: Tally,
    alterations: int = 2200,
    refetched: int = 120,
    downloads: int = 16,
    races: int = 150,
    things: int = 9,
) -> None:
    with zoo.zoo() as place:
        randomness = random.Random(8)
        for number, (what, alter) in enumerate(_alterations(randomness, alterations)):
            name = (PINNED, UNPINNED, BUNDLED, "mirror")[number % 4]
            _altered_without_a_hub(tally, place, name, what, alter, as_model=number % 20 < 4)
        for number, (what, alter) in enumerate(_alterations(randomness, refetched)):
            _altered_with_a_hub(tally, place, (PINNED, UNPINNED)[number % 2], what, alter)
        for number, (what, put) in enumerate([*_things().items()][:things]):
            _something_in_its_place(tally, place, (PINNED, UNPINNED)[number % 2], what, put)
        for what, alter in _alterations(randomness, downloads):
            _altered_on_the_way(tally, place, what, alter)
        _replaced_while_it_is_read(tally, place, races)


Alteration = Callable[[bytes], bytes]


def _alterations(randomness: random.Random, count: int) -> Iterator[tuple[str, Alteration]]:
    """So many alterations, of all kinds in turn: of the length field every bit, of the rest at random."""
    kinds = (_bit_of_the_header, _bit_of_a_tensor, _truncation, _appendix, _swap, _other_values, _other_header, _whole)
    for number in range(count):
        if number < min(64, count // 4):
            yield f"bit {number} of the length", lambda data, bit=number: _flipped(data, bit)
            continue
        kind = kinds[number % len(kinds)]
        seed = randomness.random()
        yield f"{kind.__name__} {seed}", lambda data, kind=kind, seed=seed: kind(data, random.Random(seed))


def _flipped(data: bytes, bit: int) -> bytes:
    altered = bytearray(data)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def _header_size(data: bytes) -> int:
    size: int = struct.unpack("<Q", data[:8])[0]
    return size


def _bit_of_the_header(data: bytes, randomness: random.Random) -> bytes:
    return _flipped(data, randomness.randrange(64, 8 * (8 + _header_size(data))))


def _bit_of_a_tensor(data: bytes, randomness: random.Random) -> bytes:
    return _flipped(data, randomness.randrange(8 * (8 + _header_size(data)), 8 * len(data)))


def _truncation(data: bytes, randomness: random.Random) -> bytes:
    return data[: randomness.randrange(len(data))]


def _appendix(data: bytes, randomness: random.Random) -> bytes:
    return data + randomness.randbytes(randomness.randint(1, 4096))


def _swap(data: bytes, randomness: random.Random) -> bytes:
    """Two tensors of one shape change places: the file stays sound, and as long as it was."""
    start = 8 + _header_size(data)
    header = {name: value for name, value in json.loads(data[8:start]).items() if name != "__metadata__"}
    while True:
        one, other = (header[name] for name in randomness.sample(sorted(header), 2))
        (a, b), (c, d) = sorted([one["data_offsets"], other["data_offsets"]])
        if one["shape"] == other["shape"] and data[start + a : start + b] != data[start + c : start + d]:
            return (
                data[: start + a]
                + data[start + c : start + d]
                + data[start + b : start + c]
                + data[start + a : start + b]
                + data[start + d :]
            )


def _other_values(data: bytes, randomness: random.Random) -> bytes:
    """A sound file of one tensor with other values."""
    found = safetensors.torch.load(data)
    name = randomness.choice([name for name, tensor in found.items() if tensor.is_floating_point()])
    found[name] = found[name] * (1 + randomness.random()) + 1e-3
    return safetensors.torch.save(found)


def _other_header(data: bytes, randomness: random.Random) -> bytes:
    """A sound file of the same tensors, with an inscription."""
    return safetensors.torch.save(safetensors.torch.load(data), metadata={"format": str(randomness.random())})


def _whole(data: bytes, randomness: random.Random) -> bytes:
    """Something else altogether."""
    return randomness.choice(
        [b"", b"\0" * len(data), randomness.randbytes(len(data)), b"\x80\x04K\x01.", b"\xff" * 8, b"<html></html>" * 99]
    )


def _right(name: str) -> Callable[[object], bool]:
    return lambda found: zoo.right(
        found.state_dict() if isinstance(found, torch.nn.Module) else found,  # type: ignore[arg-type]
        SEEDS[name],
    )


def _altered_without_a_hub(
    tally: Tally, place: Zoo, name: str, what: str, alter: Alteration, as_model: bool = False
) -> None:
    """The one copy that is in reach is bad."""
    if in_mirror := name == "mirror":
        name = PINNED
        file = place.folder.parent / "mirror/zoo/pinned/model.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.environ["MNV2ZOO_WEIGHTS_DIR"] = str(place.folder.parent / "mirror")
    else:
        place.load(name)
        file = weights.fetch(name)
    good = zoo.data(SEEDS[name])
    bad = alter(good)
    assert bad != good
    file.write_bytes(bad)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        tally.attempt(
            f"{what} of {name} in {file}",
            (lambda: timm.create_model(name, pretrained=True, num_classes=10))
            if as_model
            else lambda: place.load(name),
        )
        tally.check(f"{what}: the bad file of {name} was touched", file.read_bytes() == bad)
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        os.environ.pop("MNV2ZOO_WEIGHTS_DIR", None)
        if in_mirror:
            file.unlink()
        else:
            file.write_bytes(good)


def _altered_with_a_hub(tally: Tally, place: Zoo, name: str, what: str, alter: Alteration) -> None:
    """The copy in the cache is bad, and the Hub's is good."""
    place.load(name)
    file = weights.fetch(name)
    file.write_bytes(alter(zoo.data(SEEDS[name])))
    tally.attempt(f"{what}, with a Hub", lambda: place.load(name), _right(name), errors=())
    tally.check(f"{what}: not repaired", file.read_bytes() == zoo.data(SEEDS[name]))


def _things() -> dict[str, Callable[[Path], object]]:
    """What can lie in a file's place without being an altered file."""

    def other(path: Path) -> Path:
        elsewhere = path.with_name("elsewhere")
        elsewhere.write_bytes(zoo.data(3))
        return elsewhere

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(path.parent, os.O_RDONLY)  # a socket's whole path may have 107 bytes at most
            try:
                server.bind(f"/proc/self/fd/{here}/{path.name}")
            finally:
                os.close(here)

    return {
        "a folder": lambda path: path.mkdir(),
        "a FIFO": os.mkfifo,
        "a dangling link": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to other weights": lambda path: path.symlink_to(other(path)),
        "a link to endless zeros": lambda path: path.symlink_to("/dev/zero"),
        "a link to a folder": lambda path: path.symlink_to(path.parent),
        "a socket": listening,
        "a plain file with other weights": lambda path: path.write_bytes(zoo.data(3)),
    }


def _something_in_its_place(tally: Tally, place: Zoo, name: str, what: str, put: Callable[[Path], object]) -> None:
    place.forget()
    place.load(name)
    link = weights.fetch(name)
    assert link.is_symlink(), "the cache holds no links here"
    blob = link.resolve()
    for file in (link, blob):
        file.unlink()
        put(file)
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        tally.attempt(f"{what} in the place of {file}, without a Hub", lambda: place.load(name))
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        # A folder where the client keeps its blobs it cannot replace.
        errors = (weights.IntegrityError,) if what == "a folder" and file is blob else ()
        tally.attempt(
            f"{what} in the place of {file.name}, with a Hub", lambda: place.load(name), _right(name), errors=errors
        )
    place.forget()
    place.load(name)
    link = weights.fetch(name)
    link.resolve().rename(place.folder / "moved")
    link.unlink()
    link.symlink_to(place.folder / "moved")
    place.hub.clear()
    tally.attempt("a link to the right bytes elsewhere", lambda: place.load(name), _right(name), errors=())
    tally.check("the right bytes were fetched again", not place.hub.downloads())


def _altered_on_the_way(tally: Tally, place: Zoo, what: str, alter: Alteration) -> None:
    """The Hub, or somebody before it, serves other bytes under the right headers; then the right ones again."""
    for name in (PINNED, UNPINNED):
        place.forget()
        bad = alter(zoo.data(SEEDS[name]))
        place.hub.trick = lambda request, bad=bad: (
            request.wants_body and request.answer(200, {"Content-Length": len(bad)}, bad)
        )
        tally.attempt(f"{what} of {name} on the way", lambda name=name: place.load(name))
        place.hub.trick = None
        tally.attempt(
            f"{what} of {name}, then the right bytes", lambda name=name: place.load(name), _right(name), errors=()
        )


def _replaced_while_it_is_read(tally: Tally, place: Zoo, races: int) -> None:
    """Another process swaps good and bad files, whole ones by rename and half ones by writing into them."""
    place.forget()
    place.load(PINNED)
    file = weights.fetch(PINNED)
    good, bad = zoo.data(0), zoo.data(3)
    done = threading.Event()

    def swap() -> None:
        aside = file.with_name("aside")
        while not done.is_set():
            for content in (bad, good):
                aside.write_bytes(content)
                aside.replace(file)
            with file.open("r+b") as open_file:
                for content in (bad, good):
                    open_file.seek(len(good) // 2)
                    open_file.write(content[len(good) // 2 :])
                    open_file.flush()

    pid = os.fork()
    if pid == 0:
        swap()
    try:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        for number in range(races):
            tally.attempt(f"race {number}", lambda: place.load(PINNED), _right(PINNED))
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        os.kill(pid, 9)
        os.waitpid(pid, 0)
