"""All private names in timm and PyTorch that this package uses.

If a timm version lacks a function or has changed its arguments, importing the package raises an error here. Private
names of the Hub client are in `weights/hub_private`, which works without PyTorch.
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
        f"timm {timm.__version__} is not compatible with this version of mnv2zoo",
        expected=f"{name}({', '.join(parameters)})",
        found=found,
        where=f"timm.models.{module}",
        fix="Install a supported version of timm (`pip install -U timm`), or update mnv2zoo.",
    )


def _names(module: str, table: str) -> tuple[str, ...]:
    """Returns the names in a table of timm's layers. They are only suggestions, so the table may be missing."""
    return tuple(getattr(importlib.import_module(f"timm.layers.{module}"), table, ()))


def redirect(name: str, when: Callable[[Any], bool], build: Callable[..., Any]) -> None:
    """Makes timm build one of its own models with another function if its pretrained cfg asks for that.

    Args:
        name: timm's name of the model. If timm does not have it, nothing changes.
        when: Whether a `pretrained_cfg` asks for it.
        build: The other function, with the arguments of timm's own.
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
    """Creates a context with other settings for Inductor, the compiler of `torch.compile`.

    Args:
        **settings: Names and values of `torch._inductor.config`.

    Returns:
        The context manager.
    """
    from torch._inductor import config  # takes a second to import

    return config.patch(**settings)


def compile_any_number() -> Any:
    """Creates a context in which `torch.compile` compiles any number of models of the same class.

    By default it compiles the first eight per process and runs the others uncompiled.

    Returns:
        The context manager.
    """
    from torch._dynamo import config

    unlimited = 2**20
    return config.patch(cache_size_limit=unlimited, accumulated_cache_size_limit=unlimited)


def is_of_compiler(error: BaseException) -> bool:
    """Checks whether an error comes from `torch.compile`, whose error classes are private."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def resize_at_evaluation_only(detector: Any) -> None:
    """Disables resizing in a torchvision detector during training.

    Args:
        detector: The detector, which is changed in place.
    """
    detector.transform._skip_resize = True


def reset_accelerator() -> None:
    """Lets the next `accelerate.Accelerator` in this process use different settings from an earlier one.

    The device is one of them, unless several processes are already connected.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())


act_layer_names = _names("create_act", "_ACT_LAYER_DEFAULT")
norm_layer_names = _names("create_norm_act", "_NORM_ACT_MAP")
feature_take_indices = _take("_features", "feature_take_indices", "num_features", "indices")
save_config_for_hf = _take("_hub", "save_config_for_hf", "model", "config_path", "model_config", "data_config")
pytree = _pytree  # nested outputs, in the form that torch.compile and torch.export use
