"""Everything that the package uses of other libraries and that is private there.

A release or a fork of timm in which a function is gone or takes other arguments fails here, when the package is
imported. What belongs to the Hub's client is in `weights/hub_private`, which works without PyTorch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch.utils import _pytree

from mnv2zoo.errors import IncompatibleVersionError


def _take(module: str, name: str, *parameters: str) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(f"timm.models.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise _incompatible(module, name, parameters, "no such function") from error
    found = tuple(inspect.signature(function).parameters)
    if not set(parameters) <= set(found):
        raise _incompatible(module, name, parameters, f"({', '.join(found)})")
    return function


def _incompatible(module: str, name: str, parameters: tuple[str, ...], found: str) -> IncompatibleVersionError:
    return IncompatibleVersionError(
        f"timm {timm.__version__} does not fit this package",
        expected=f"{name}({', '.join(parameters)})",
        found=found,
        where=f"timm.models.{module}",
        fix="Install a version of timm that this one was tested with (`pip install -U timm`), or update mnv2zoo.",
    )


def _names(module: str, table: str) -> tuple[str, ...]:
    """The names that a table of timm's layers has. They are for suggestions only, so a release without it works."""
    return tuple(getattr(importlib.import_module(f"timm.layers.{module}"), table, ()))


def redirect(name: str, when: Callable[[Any], bool], build: Callable[..., Any]) -> None:
    """Lets timm build a network of its own by another function where its description of the weights asks for that.

    Args:
        name: The network's name in timm. A timm without it is left as it is.
        when: Whether a `pretrained_cfg` asks for it.
        build: What builds the network then, with the arguments that timm's own function takes.
    """
    entry_points = importlib.import_module("timm.models._registry")._model_entrypoints
    theirs = entry_points.get(name)
    if theirs is None:
        return

    @functools.wraps(theirs)
    def entry_point(pretrained: bool = False, **kwargs: Any) -> Any:
        return (build if when(kwargs.get("pretrained_cfg")) else theirs)(pretrained=pretrained, **kwargs)

    entry_points[name] = entry_point


def inductor_settings(**settings: Any) -> Any:
    """Makes a context in which Inductor, the compiler of `torch.compile`, has other settings.

    Args:
        **settings: Names and values of `torch._inductor.config`.

    Returns:
        The context manager.
    """
    from torch._inductor import config  # takes a second to import

    return config.patch(**settings)


def compile_any_number() -> Any:
    """Makes a context in which `torch.compile` compiles any number of networks of one class.

    By default it compiles the first eight in a process, and runs the others as they are.

    Returns:
        The context manager.
    """
    from torch._dynamo import config

    unlimited = 2**20
    return config.patch(cache_size_limit=unlimited, accumulated_cache_size_limit=unlimited)


def is_of_compiler(error: BaseException) -> bool:
    """Whether an error is one of `torch.compile`, whose classes are private."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def resize_at_evaluation_only(detector: Any) -> None:
    """Lets a detector of torchvision train on images of the size that they have.

    Args:
        detector: The detector. It is changed in place.
    """
    detector.transform._skip_resize = True


def reset_accelerator() -> None:
    """Lets the next `accelerate.Accelerator` have other settings than an earlier one in this process.

    The device is one of them, except where several processes are connected already.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())


act_layer_names = _names("create_act", "_ACT_LAYER_DEFAULT")
norm_layer_names = _names("create_norm_act", "_NORM_ACT_MAP")
feature_take_indices = _take("_features", "feature_take_indices", "num_features", "indices")
save_config_for_hf = _take("_hub", "save_config_for_hf", "model", "config_path", "model_config", "data_config")
pytree = _pytree  # nested outputs, as torch.compile and torch.export see them
