"""The functions of timm that are used though timm does not export them: all of them, and nowhere else.

A release or a fork of timm in which one is gone or takes other arguments fails here, when the package is imported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import timm

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
        fix="Install a version of timm that this one was tested with (`pip install -U mnv2zoo timm`).",
    )


def _names(module: str, table: str) -> tuple[str, ...]:
    """The names that a table of timm's layers has. They are for suggestions only, so a release without it works."""
    return tuple(getattr(importlib.import_module(f"timm.layers.{module}"), table, ()))


act_layer_names = _names("create_act", "_ACT_LAYER_DEFAULT")
norm_layer_names = _names("create_norm_act", "_NORM_ACT_MAP")
feature_take_indices = _take("_features", "feature_take_indices", "num_features", "indices")
save_config_for_hf = _take("_hub", "save_config_for_hf", "model", "config_path", "model_config", "data_config")
