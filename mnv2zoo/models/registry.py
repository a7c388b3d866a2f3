"""timm entry points for all architectures, which build a model and load verified weights into it.

Weights are loaded while the model is built, before timm sees it. timm's own downloader is never reached, and no
tensors end up in a model's cfg. Weights that the package locates (index, Hub) are verified. Weights that the user
passes (a file, a folder, a state dict) are read as timm reads them. Both must fill the model completely.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.errors import ArgumentError, UnknownArgumentError, unknown
from mnv2zoo.models import arguments, config_file, timm_compat
from mnv2zoo.models.cfg import pretrained_cfg
from mnv2zoo.models.checkpoint import check_classes, fill, pad_type_of, source_tensors
from mnv2zoo.models.mobilenetv2 import MobileNetV2, MobileNetV2Features, take_indices
from mnv2zoo.weights import index

# timm's name for the models' module: the last part of the entry points' `__module__`.
PACKAGE = "mnv2zoo"

MODEL_ARGUMENTS = tuple(p for p in inspect.signature(MobileNetV2).parameters if p not in ("config", "init_weights"))
TIMM_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
    "cache_dir",
    "features_only",
    "out_indices",
    "feature_cls",
    "feature_cfg",
)


def create(config: Config, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a model as timm does, with verified weights.

    Args:
        config: The architecture.
        pretrained: Load the weights that the name, tag, cfg or overlay points to.
        **kwargs: Arguments of `MobileNetV2` and of timm's `build_model_with_cfg`.

    Returns:
        The model. With `features_only=True`, a module that returns feature maps.

    Raises:
        UnknownArgumentError: If an argument is unknown; a TypeError.
        ArgumentError: If an argument has an invalid value; a ValueError.
        WeightsError: If the weights cannot be found, downloaded or verified, or an index file is invalid.
        ConversionError: If the weights do not fit.
    """
    index.entries()  # raises if an index file is invalid
    _check_names(kwargs)
    kwargs = arguments.checked(kwargs)
    cfg = resolve_pretrained_cfg(
        config.name, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    )
    feature_cfg = {"flatten_sequential": True, **kwargs.pop("feature_cfg", {})}
    if not kwargs.get("features_only") and (lost := kwargs.keys() & {"out_indices", "feature_cls"}):
        raise UnknownArgumentError(
            f"{min(lost)} has no effect without features_only=True",
            expected="features_only=True as well",
            found=f"{min(lost)} without it",
            fix=f"Add features_only=True, or leave out {min(lost)}.",
        )
    if kwargs.get("features_only"):
        kwargs.update(num_classes=0, global_pool="avg", **_feature_arguments(config, kwargs, feature_cfg))
    cache_dir = kwargs.get("cache_dir")
    if pretrained and kwargs.get("pad_type") is None and (padding := pad_type_of(cfg)) != "symmetric":
        kwargs["pad_type"] = padding

    def build(**arguments: Any) -> MobileNetV2:
        if not pretrained:
            return MobileNetV2(config, **arguments)
        empty = functools.cache(lambda: MobileNetV2(config, init_weights=False, **arguments))
        tensors = source_tensors(config, cfg, cache_dir, meanwhile=empty)
        check_classes(config, tensors, cfg, arguments["num_classes"])
        model = empty()
        fill(model, tensors, cfg)
        return model

    return build_model_with_cfg(
        build,
        config.name,
        pretrained=False,  # already filled
        pretrained_cfg=replace(cfg, state_dict=None),  # type: ignore[arg-type]  # as timm's own callers do
        feature_cfg=feature_cfg,
        **kwargs,
    )


def _feature_arguments(config: Config, kwargs: dict[str, Any], feature_cfg: dict[str, Any]) -> dict[str, Any]:
    """Checks the arguments that select feature maps, so that timm's `feature_info` matches the output."""
    count = len(architecture.features(config))
    indices = kwargs.get("out_indices", feature_cfg.pop("out_indices", None))
    take, _ = take_indices(count, indices, "out_indices")
    chosen = kwargs.get("feature_cls") or feature_cfg.pop("feature_cls", None) or MobileNetV2Features
    feature_cls = arguments.checked({"feature_cls": chosen})["feature_cls"]
    if feature_cls not in ("getter", MobileNetV2Features) and take != sorted(set(take)):
        raise ArgumentError(
            f"feature_cls={feature_cls!r} returns each map once, from fine to coarse",
            expected=f"out_indices={tuple(sorted(set(take)))}",
            found=f"out_indices={tuple(take)}",
            where="out_indices",
            fix="Sort out_indices, or leave feature_cls out: the default returns the maps in the order you ask for.",
        )
    return {"out_indices": tuple(take), "feature_cls": feature_cls}


def _check_names(kwargs: dict[str, Any]) -> None:
    for name in kwargs:
        if name not in (*MODEL_ARGUMENTS, *TIMM_ARGUMENTS):
            near = difflib.get_close_matches(name, (*MODEL_ARGUMENTS, *TIMM_ARGUMENTS), n=2)
            raise UnknownArgumentError(
                unknown("keyword argument", name, (*MODEL_ARGUMENTS, *TIMM_ARGUMENTS)),
                expected=" or ".join(near or MODEL_ARGUMENTS),
                found=repr(name),
                fix="See the arguments of mnv2zoo.models.mobilenetv2.MobileNetV2 and of timm.create_model.",
            )


def register() -> None:
    """Registers all architectures with timm, under the module name `mnv2zoo`.

    Each entry point is also a function of the package, as timm's are in `timm.models`:
    `mnv2zoo.mnv2zoo_100(pretrained=True)`.
    """
    # With an invalid index file the names are still registered, and using one raises.
    known = list(index.in_use().readable().values())
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for config in architecture.CONFIGS.values():
        own = [entry for entry in known if entry.architecture == config.name]
        cfgs |= {entry.name: PretrainedCfg(**pretrained_cfg(config, entry)) for entry in own} or {
            config.name: PretrainedCfg(**pretrained_cfg(config))
        }
    package = sys.modules[PACKAGE]
    package.default_cfgs = generate_default_cfgs(cfgs)  # type: ignore[attr-defined]  # where timm looks for them
    for config in architecture.CONFIGS.values():
        entry_point = _entry_point(config)
        setattr(package, config.name, entry_point)
        register_model(entry_point)


def _entry_point(config: Config) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(config, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = config.name
    entry_point.__module__ = PACKAGE
    entry_point.__doc__ = f"Builds {config.name}; arguments as for `mnv2zoo.models.registry.create`."
    return entry_point


def _redirect() -> None:
    """Makes timm build models that this package saved under timm names with `create`, to verify their weights.

    Otherwise these names keep their meaning: `timm.create_model("mobilenetv2_100")` builds timm's own model.
    """
    for theirs, ours in architecture.TIMM_NAMES.items():
        timm_compat.redirect(theirs, config_file.is_marked, partial(create, architecture.CONFIGS[ours]))


register()
_redirect()
