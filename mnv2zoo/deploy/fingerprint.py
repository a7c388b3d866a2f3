"""The cache key of a model on an engine. It distinguishes any two models."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import platform
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes.cache import versions
from mnv2zoo.version import __version__

VERSIONED = ("mnv2zoo", "timm", "torch")  # the key contains their versions, so it does not need their source code
PLAIN = (type(None), bool, int, float, complex, str, bytes)
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# State of `nn.Module` that does not affect inference: flags of hooks, and hooks of training, saving and loading.
BOOKKEEPING = (
    *(f"{hooks}_{flag}" for hooks in HOOKS for flag in ("with_kwargs", "always_called")),
    *("_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook", "_non_persistent_buffers_set"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def cache_key(model: nn.Module, example: Tensor, calibration: str = "") -> dict[str, str]:
    """The facts that every cache entry depends on: the model, the type of images, versions and the CPU.

    Args:
        model: The model.
        example: Images (N, C, H, W).
        calibration: A hash of the calibration images for int8, if any.

    Returns:
        The parts of the key by name.

    Raises:
        DeployError: If the model contains an object that cannot be identified, such as a lambda.
    """
    return {
        "model": fingerprint(model),
        "calibration": calibration,
        "images": f"{example.dtype} {tuple(example.shape[1:])}",
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "mnv2zoo": __version__,
        **versions(("timm", "torch")),
    }


def fingerprint(model: nn.Module) -> str:
    """Hashes everything that affects the outputs of a model.

    This includes every tensor (name, dtype, shape and bytes), and the class, the attributes and the forward hooks of
    each module, in order. The attributes of a zoo model contain its config and arguments. A class or function is hashed
    by its name, and by its source code unless the key contains the version of its package.

    Args:
        model: The model.

    Returns:
        A SHA-256 hash in hexadecimal. Models that were built in the same way have the same hash in every process.

    Raises:
        DeployError: If the model contains an object that cannot be identified, such as a lambda.
    """
    try:
        return _Digests().of(model)
    except (TypeError, ValueError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise DeployError(
            "the model cannot be cached, because some of its content cannot be identified",
            expected="attributes and hooks without lambdas, local functions and open files",
            found=str(error),
            fix="Leave out cache=.",
        ) from error


class _Digests:
    """Hashes values by their content, independent of the process."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._alive: list[Any] = []  # keeps values alive, so that their ids stay unique
        self._open: list[int] = []  # the values being hashed, each one inside the one before

    def of(self, value: Any) -> str:
        if type(value) in PLAIN:
            return _hash(type(value).__name__, repr(value))
        number = id(value)
        if number in self._open:  # a value that contains itself
            return _hash("outer", str(self._open.index(number)))
        if number not in self._known:
            self._open.append(number)
            self._known[number] = self._of_content(value)
            self._alive.append(value)
            self._open.pop()
        return self._known[number]

    def _of_all(self, kind: str, values: Iterable[Any]) -> str:
        return _hash(kind, *map(self.of, values))

    def _of_content(self, value: Any) -> str:
        if isinstance(value, type | FunctionType):
            return self._of_name(value)
        if isinstance(value, Tensor):
            numbers = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return _hash("tensor", str(value.dtype), str(tuple(value.shape)), hashlib.sha256(numbers.data).hexdigest())
        if type(value) in (list, tuple):
            return self._of_all(type(value).__name__, value)
        if type(value) is dict:
            return self._of_all("dict", (part for item in value.items() for part in item))
        if type(value) in (set, frozenset):
            return _hash("set", *sorted(map(self.of, value)))
        # The protocol of `pickle` and `copy`, which describes the content of any other object.
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return _hash("name", type(value).__qualname__, str(getattr(value, "__module__", "")), reduced)
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if isinstance(value, nn.Module) and isinstance(state, Mapping):
            state = _computing(state)
        return self._of_all("object", (make, arguments, state, list(items or ()), [*(pairs or ())]))

    def _of_name(self, value: type | FunctionType) -> str:
        """The hash of a class or function, which must be importable by its name in any process."""
        name = f"{value.__module__}.{value.__qualname__}"
        found: Any = sys.modules.get(value.__module__)
        for part in value.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is not value:
            raise TypeError(f"{name} cannot be imported by its name")
        bases = value.__mro__[:-1] if isinstance(value, type) else (value,)
        return _hash("name", name, *map(_source, bases))


def _computing(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a module's state that its forward pass depends on, without process-specific ids of hooks."""
    computing = {name: value for name, value in state.items() if name not in (*BOOKKEEPING, *HOOKS)}
    for hooks in HOOKS:
        flags = [state.get(f"{hooks}_{flag}", {}) for flag in ("with_kwargs", "always_called")]
        own = state.get(hooks, {})
        computing[hooks] = [(hook, *(number in flag for flag in flags)) for number, hook in own.items()]
    return computing


def _source(value: type | FunctionType) -> str:
    package = value.__module__.partition(".")[0]
    if package in VERSIONED or package in sys.stdlib_module_names:
        return f"{value.__module__}.{value.__qualname__}"
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # typed at a prompt, or compiled
        return f"{value.__module__}.{value.__qualname__}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode(errors="surrogatepass")).hexdigest()
