"""What is fuzzed: functions of any bytes that raise where a promise is broken, and how sound inputs are altered."""

from __future__ import annotations

import json
import logging
import random
import resource
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch

from attacks import zoo
from attacks.bad_files import MEMORY, NUMBERS, TRAVERSALS, inside
from mnv2zoo import architecture, convert
from mnv2zoo.errors import ConversionError, IntegrityError, UnknownModelError, WeightsError, WeightsIndexError
from mnv2zoo.model_dir import files
from mnv2zoo.models import config_file, pretrained
from mnv2zoo.weights import index, schema, store
from tests.conftest import raw_entry

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
CLASSIFIER = "mnv2zoo_035"


class BrokenPromiseError(AssertionError):
    """An input was taken that must be refused, or took more memory than it may."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        attempt: Handles bytes as the package does in use; raises nothing but for a finding.
        seeds: Makes the inputs to begin with.
        framed: Whether the JSON stands in a safetensors file, behind its length and before other bytes.
    """

    attempt: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    framed: bool = False


def _index(data: bytes) -> dict[str, schema.WeightsEntry]:
    file = FOLDER / "index.json"
    file.write_bytes(data)
    try:
        entries = index.read(file)
    except WeightsIndexError:
        return {}
    if not inside(entries):
        raise BrokenPromiseError("a file outside its folder")
    return entries


def _planted(data: bytes) -> None:
    """Fails on a sound index of a certain kind, so that a run shows that it tells of what it finds."""
    for entry in _index(data).values():
        if entry.description in WORDS:
            raise KeyError("the planted flaw")


def _safetensors(data: bytes) -> None:
    file = store.Verified(FOLDER / "x.safetensors", data, "")
    for layout in ("timm", "torchvision", None):
        try:
            found = store.tensors(file, CLASSIFIER, layout)
        except (IntegrityError, ConversionError):
            continue
        if sum(tensor.nbytes for tensor in found.values()) > 2 * len(data):
            raise BrokenPromiseError("tensors larger than their file")


def _config(data: bytes) -> None:
    folder = FOLDER / "run"
    if not folder.exists():
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(zoo.data())
    (folder / "config.json").write_bytes(data)
    try:
        found = pretrained.load(str(folder), "cpu")
    except (UnknownModelError, WeightsError, ConversionError):
        return
    if len(found.label_names) != found.model.num_classes:
        raise BrokenPromiseError("other names than classes")
    weight = found.model.classifier.weight.squeeze()
    if not torch.equal(weight, zoo.tensors()["classifier.weight"][-len(weight) :]):  # an offset leaves out the first
        raise BrokenPromiseError("another classifier than the file's")


def _index_seeds() -> list[bytes]:
    full = raw_entry(revision="b" * 40, sha256="a" * 64, size=10)
    bundled = {"bundled": "a.safetensors", "sha256": "c" * 64, "labels": None, "label_names": ["a", "b"]}
    other = raw_entry(repo_id=None, filename=None, num_classes=2, **bundled)
    small = [{"mnv2zoo_100.full": full}, {"mnv2zoo_100.full": full, "mnv2zoo_100_c20.bundled": other}]
    documents = [{"schema_version": 1, "weights": entries} for entries in small]
    return [index.shipped_path().read_bytes(), *(json.dumps(document).encode() for document in documents)]


def _safetensors_seeds() -> list[bytes]:
    """Every name of each layout, with as little behind it as can be."""
    layouts = [convert.from_native(zoo.tensors(), CLASSIFIER, name) for name in ("timm", "torchvision", "transformers")]
    tiny = [{name: tensor.flatten()[:1].clone() for name, tensor in tensors.items()} for tensors in layouts]
    return [safetensors.torch.save(tensors, {"format": "pt"}) for tensors in [{"a": torch.zeros(2, 3)}, *tiny]]


def _config_seeds() -> list[bytes]:
    data_config = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    made = []
    for names in ([], [f"class {number}" for number in range(zoo.CLASSES)]):
        model = timm.create_model(CLASSIFIER, num_classes=zoo.CLASSES)
        made.append(files.model_files(model, data_config, names)["config.json"])
    document = json.loads(made[0]) | {"model_args": {"pad_type": "same", "act_layer": "relu", "bn_eps": 1e-3}}
    return [*made, json.dumps(document).encode()]


TARGETS = {
    "planted": Target(_planted, _index_seeds),
    "index": Target(_index, _index_seeds),
    "safetensors": Target(_safetensors, _safetensors_seeds, framed=True),
    "config": Target(_config, _config_seeds),
}

# Words that the code under test compares with, so that they need not be guessed letter by letter.
WORDS: list[str] = [
    *TRAVERSALS,
    *schema.FIELDS,
    *schema.INTERPOLATIONS,
    *config_file.CFG_RULES,
    *config_file.ARGUMENT_RULES,
    *convert.LAYOUTS,
    *architecture.CONFIGS,
    *("schema_version", "weights", "pretrained_cfg", "model_args", "imagenet-1k", "a" * 64, "a" * 40),
    *("url", "file", "source", "state_dict", "custom_load", "hf_hub_id", "hf-hub", "local-dir"),
    *("dtype", "shape", "data_offsets", "__metadata__", "F32", "F16", "BF16", "F8_E4M3", "F4", "C64", "I64", "BOOL"),
    *("relu", "relu6", "prelu", "gelu", "hard_swish", "sigmoid", "tanh", "mish", "swish", "selu"),
    *[
        "batchnorm",
        "batchnorm2d",
        "groupnorm",
        "groupnorm1",
        "layernorm",
        "layernorm2d",
        "frozenbatchnorm2d",
        "rmsnorm",
    ],
]
SIZES = (2, 10, 1000, 10**5, 10**6)
VALUES: list[Any] = [*WORDS, *NUMBERS, *SIZES, None, False, [], {}, "", [1, 1, 1], [4096, 4096, 4096]]


def bounded(target: Target) -> Callable[[bytes], None]:
    """A target's function, which fails too when this process has grown by more than it may since now."""
    warnings.simplefilter("ignore")
    logging.disable()
    limit = _largest_size() + MEMORY

    def attempt(data: bytes) -> None:
        target.attempt(data)
        if _largest_size() > limit:
            raise BrokenPromiseError(f"more than {MEMORY / 2**20:.0f} MB of memory")

    return attempt


def _largest_size() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def alter(data: bytes, seed: int, framed: bool) -> bytes | None:
    """Alters the JSON of an input in a few places, so that it stays JSON.

    Args:
        data: The input.
        seed: What the alterations depend on.
        framed: As in `Target`.

    Returns:
        Another input; None if this one holds no JSON.
    """
    length = int.from_bytes(data[:8], "little") if framed else 0
    text, rest = (data[8 : 8 + length], data[8 + length :]) if framed else (data, b"")
    try:
        document = json.loads(text)
        chance = random.Random(seed)
        for _ in range(chance.choice([1, 1, 2, 4])):
            document = _altered(document, chance)
        altered = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    except (ValueError, OverflowError, RecursionError):
        return None
    if chance.random() < 0.05:  # one key in the place of another, which makes some double
        altered = altered.replace(f'"{chance.choice(WORDS)}":', f'"{chance.choice(WORDS)}":')
    encoded = altered.encode(errors="surrogatepass")
    return (struct.pack("<Q", len(encoded)) if framed else b"") + encoded + rest


def _altered(document: Any, chance: random.Random) -> Any:
    places = [*_places(document)]
    if not places:
        return chance.choice(VALUES)
    where, key = chance.choice(places)
    value = where[key]
    match chance.randrange(7):
        case 0:
            del where[key]
        case 1:
            where[key] = [value]
        case 2:
            other, name = chance.choice(places)
            where[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else value))
        case 3 if isinstance(where, dict):
            where[chance.choice(WORDS)] = where.pop(key)
        case 4 if isinstance(where, dict):
            where[chance.choice(WORDS)] = chance.choice(VALUES)
        case 5 if isinstance(value, int | float):
            where[key] = chance.choice([value + 1, -value, value * 10, value / 3, 1, int(1e9)])
        case _:
            where[key] = chance.choice(VALUES)
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside a JSON value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
