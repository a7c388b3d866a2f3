"""A zoo to attack: one small network with weights on a Hub of our own, pinned and not.

Importing `tests.environment` sets up an environment in which neither the user's token nor their cache is in reach.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  # first, because the Hub's client reads its environment when it is imported

# isort: split
import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import huggingface_hub
import torch
from torch import Tensor

from attacks.hostile_hub import HostileHub
from mnv2zoo import weights
from mnv2zoo.models import registry
from mnv2zoo.weights import index
from tests.conftest import as_bytes, random_state_dict, raw_entry

PINNED, UNPINNED, BUNDLED = "mnv2zoo_035.pinned", "mnv2zoo_035.unpinned", "mnv2zoo_035.bundled"
TOKEN = "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"
CLASSES = 10


@cache
def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Weights of the smallest network of the zoo, with ten classes: 1.7 MB, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return random_state_dict("mnv2zoo_035", seed, num_classes=CLASSES)


@cache
def data(seed: int = 0) -> bytes:
    return as_bytes(tensors(seed))


def right(found: dict[str, Tensor], seed: int = 0) -> bool:
    """Whether every tensor is the original's, bit by bit."""
    own = tensors(seed)
    return found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)


@dataclass
class Zoo:
    """The folder and the Hub of an attack."""

    folder: Path
    hub: HostileHub
    commit: str

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def forget(self) -> None:
        """Starts anew: an empty cache and no record of first use, under a name not used before."""
        self.folder = Path(tempfile.mkdtemp(dir=self.folder.parent))
        huggingface_hub.constants.HF_HUB_CACHE = str(self.cache)
        os.environ["MNV2ZOO_HOME"] = str(self.folder / "home")

    def load(self, name: str = PINNED) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that unpinned weights are trusted on first use
            return weights.load(name)


@contextlib.contextmanager
def zoo() -> Iterator[Zoo]:
    """Serves a Hub and lays an index over the shipped one, which are taken away again."""
    constants, before = huggingface_hub.constants, index.INDEX
    saved = constants.ENDPOINT, constants.HF_HUB_CACHE
    environ = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as folder, HostileHub() as hub:
        commit = hub.add("zoo/pinned", "model.safetensors", data())
        hub.add("zoo/unpinned", "model.safetensors", data(1))
        os.environ["HF_TOKEN"] = TOKEN
        os.environ["HF_ENDPOINT"] = hub.endpoint
        use_hub(hub.endpoint)
        found = Zoo(Path(folder) / "first", hub, commit)
        (Path(folder) / "bundled.safetensors").write_bytes(data(2))
        sizes = {"num_classes": CLASSES, "labels": None, "input_size": [3, 64, 64]}

        def pin(seed: int) -> dict[str, object]:
            return {"sha256": hashlib.sha256(data(seed)).hexdigest(), "size": len(data(seed)), **sizes}

        entries = {
            PINNED: raw_entry(repo_id="zoo/pinned", revision=commit, **pin(0)),
            UNPINNED: raw_entry(repo_id="zoo/unpinned", **sizes),
            BUNDLED: raw_entry(repo_id=None, filename=None, bundled="bundled.safetensors", **pin(2)),
        }
        further = Path(folder) / "weights_index.json"
        further.write_text(json.dumps({"schema_version": 1, "weights": entries}), encoding="utf-8")
        os.environ["MNV2ZOO_WEIGHTS_INDEX"] = str(further)
        try:
            _use(index.Index(index.shipped_path(), further))
            found.forget()
            yield found
        finally:
            use_hub(saved[0])
            constants.HF_HUB_CACHE = saved[1]
            os.environ.clear()
            os.environ.update(environ)
            _use(before)


def use_hub(endpoint: str) -> None:
    """Sets the address of the Hub, which the client reads from its environment only when it is imported."""
    constants = huggingface_hub.constants
    constants.ENDPOINT = endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"


def _use(entries: index.Index) -> None:
    index.INDEX = entries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # timm tells that names are registered anew
        registry.register()


def within(seconds: float, action: Callable[[], object]) -> Callable[[], object]:
    """Does something with so many seconds for downloads."""

    def limited() -> object:
        os.environ["MNV2ZOO_DOWNLOAD_TIMEOUT"] = str(seconds)
        try:
            return action()
        finally:
            del os.environ["MNV2ZOO_DOWNLOAD_TIMEOUT"]

    return limited
