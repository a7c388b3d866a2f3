"""What a network on an engine depends on, so that another is never taken for it."""

from __future__ import annotations

import hashlib
import pickle
import platform
from collections import OrderedDict
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes.cache import versions
from mnv2zoo.version import __version__


def facts_about(model: nn.Module, example: Tensor, calibration: str = "") -> dict[str, str]:
    """What any entry depends on: the network, the images' kind, versions and the processor.

    Args:
        model: The network.
        example: Images (N, C, H, W).
        calibration: A hash of the images that int8 ranges are measured on, if any.

    Returns:
        The facts.

    Raises:
        DeployError: If the model holds something that cannot be pickled, such as a lambda.
    """
    return {
        "model": _fingerprint(model),
        "calibration": calibration,
        "images": f"{example.dtype} {tuple(example.shape[1:])}",
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "mnv2zoo": __version__,
        **versions(("timm", "torch")),
    }


class _Pickler(pickle.Pickler):
    """Pickles tensors as the hash of their numbers, and hooks without the numbers that this process gave them."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, OrderedDict) and all(isinstance(key, int) for key in value):
            return OrderedDict, (list(enumerate(value.values())),)
        return NotImplemented

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, Tensor):
            return None
        numbers = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(numbers.data).hexdigest()


def _fingerprint(model: nn.Module) -> str:
    """A hash of all that a network holds: its weights, and what its modules are and how they are set."""
    pickled = BytesIO()
    try:
        _Pickler(pickled, protocol=4).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DeployError(
            "the model's content cannot be told from another's",
            expected="a model that can be pickled",
            found=str(error),
            fix="Leave out the cache.",
        ) from error
    return hashlib.sha256(pickled.getvalue()).hexdigest()
