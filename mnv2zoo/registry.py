"""timm entry points for every config, which build a network and fill it with verified weights.

Weights are put into the network as it is built, before timm sees it: timm's own downloader is never
reached, and no tensor gets into a model's cfg. What the package resolves (index, Hub) is verified; what
the user hands over (a file, a folder, a state dict) is the user's own and read as timm reads it. Either
has to fill the network.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from timm.models import (
    PretrainedCfg,
    adapt_input_conv,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from mnv2zoo import architecture, arguments, convert
from mnv2zoo.architecture import Config
from mnv2zoo.errors import ArgumentError, ConversionError, IntegrityError, UnknownArgumentError, WeightsUnavailableError
from mnv2zoo.model import CLASSIFIER_KEYS, MobileNetV2, MobileNetV2Features, init_module, take_indices
from mnv2zoo.weights import index, store
from mnv2zoo.weights.hub import HubFile
from mnv2zoo.weights.index import WeightsEntry

# timm's name for the module of the models: the last part of the entry points' `__module__`.
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


def pretrained_cfg(config: Config, entry: WeightsEntry | None = None) -> PretrainedCfg:
    """Makes timm's description of weights and their preprocessing.

    Args:
        config: The architecture.
        entry: Its weights, None for none.

    Returns:
        The cfg. Its `hf_hub_id` carries the pinned revision.
    """
    cfg = PretrainedCfg(
        architecture=config.name,
        num_classes=config.num_classes,
        pool_size=(7, 7),
        first_conv="conv_stem",
        classifier="classifier",
        paper_ids="arXiv:1801.04381",
        license="Apache-2.0",
    )
    if entry is None:
        return cfg
    _, height, width = entry.input_size
    cfg = replace(
        cfg,
        tag=entry.tag,
        num_classes=entry.num_classes,
        input_size=entry.input_size,
        pool_size=(-(-height // 32), -(-width // 32)),
        crop_pct=entry.crop_pct,
        interpolation=entry.interpolation,
        mean=entry.mean,
        std=entry.std,
        label_names=entry.own_label_names,  # type: ignore[arg-type]  # timm means tuple[str, ...]
        license=entry.license,
        origin_url=entry.origin,
        description=entry.description,
    )
    if entry.bundled is not None:
        return replace(cfg, file=str(store.bundled_path(entry)))
    hub_id = f"{entry.repo_id}@{entry.revision}" if entry.revision else entry.repo_id
    return replace(cfg, hf_hub_id=hub_id, hf_hub_filename=entry.filename)


def weights_source(cfg: PretrainedCfg) -> WeightsEntry | HubFile | None:
    """Decides where a resolved cfg's weights come from, by where it points.

    Args:
        cfg: What timm resolved from name, tag, cfg and overlay.

    Returns:
        An index entry, a file on the Hub that no index lists, or None for weights that the user hands
        over: a state dict, a file, a folder.

    Raises:
        WeightsUnavailableError: If it points nowhere, or to something other than a safetensors file.
    """
    known = index.entries()
    if cfg.source != "hf-hub":
        if cfg.state_dict or cfg.source == "local-dir":
            return None
        if cfg.file:
            bundled = (e for e in known.values() if e.bundled and str(store.bundled_path(e)) == cfg.file)
            return next(bundled, None)
    if not cfg.hf_hub_id:
        raise _no_weights(cfg, known)
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else ""
    file = HubFile.of_hub_id(cfg.hf_hub_id, name, cfg.hf_hub_filename)
    if not file.filename.endswith(".safetensors"):
        raise WeightsUnavailableError(
            "only safetensors files are loaded from the Hub",
            expected="a .safetensors file",
            found=file.filename,
            where=cfg.hf_hub_id,
            fix="Download it yourself if you trust it, and name it by checkpoint_path= or file=.",
        )
    return next((e for e in known.values() if e.bundled is None and e.location == file.location), file)


def _no_weights(cfg: PretrainedCfg, known: dict[str, WeightsEntry]) -> WeightsUnavailableError:
    if cfg.url:
        return WeightsUnavailableError(
            "weights are not loaded from an address that nobody vouches for",
            expected="a name in the index, an hf-hub: name or a local file",
            found=cfg.url,
            fix="Download it yourself if you trust it, and name it by checkpoint_path= or file=.",
        )
    return WeightsUnavailableError(
        f"no pretrained weights are known for {cfg.architecture}",
        expected="one of " + ", ".join(known),
        fix="`mnv2zoo list` tells what has weights; pretrained=False makes a network to be trained.",
    )


def source_tensors(config: Config, cfg: PretrainedCfg, cache_dir: str | None = None) -> dict[str, Tensor]:
    """Reads the state dict that a resolved cfg points to.

    Args:
        config: The architecture.
        cfg: What timm resolved.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The state dict in the native layout.

    Raises:
        WeightsError: If it cannot be found, fetched or verified.
        ConversionError: If its layout is not recognised.
    """
    source = weights_source(cfg)
    if source is not None:
        layout = source.layout if isinstance(source, WeightsEntry) else None
        return store.tensors(store.verified(source, cache_dir), config.name, layout)
    if cfg.source != "local-dir" and cfg.state_dict:
        state_dict = {name: tensor.clone() for name, tensor in cfg.state_dict.items()}  # the user's stay the user's
    else:
        state_dict = _read_file(cfg)
    return state_dict if "conv_stem.weight" in state_dict else convert.to_native(state_dict, config.name)


def _read_file(cfg: PretrainedCfg) -> dict[str, Tensor]:
    try:
        file = convert.in_folder(str(cfg.file)) if cfg.source == "local-dir" else str(cfg.file)
        return dict(convert.read(file).tensors)
    except ConversionError as error:
        raise IntegrityError(
            "cannot read the checkpoint",
            expected=error.expected,
            found=error.found,
            where=error.where,
            fix=error.fix,
        ) from error


def fill(model: MobileNetV2, state_dict: dict[str, Tensor], cfg: PretrainedCfg) -> None:
    """Puts a checkpoint into a network that may not be initialised yet, and initialises the rest.

    The rest is the classifier, where the network was asked for with another number of classes than the
    weights', and counters. A stem for other channels is adapted as timm does it.

    Args:
        model: The network.
        state_dict: The checkpoint in the native layout.
        cfg: The resolved cfg, which tells the number of classes of the weights.

    Raises:
        ConversionError: If it would leave a part of the network random that nobody asked to be new, or
            holds something that the network has no place for.
    """
    state_dict = dict(state_dict)
    _fit_stem(state_dict, model)
    keeps_classifier = _fit_classifier(state_dict, model, cfg)

    own = _tensors(model)
    # Counters of batches are younger than some checkpoints, and nothing depends on them.
    wanted = {name for name in own if not name.endswith("num_batches_tracked")}
    if not keeps_classifier and model.num_classes != cfg.num_classes:
        wanted = {name for name in wanted if not name.startswith(CLASSIFIER_KEYS)}
    missing = sorted(wanted - state_dict.keys())
    unexpected = sorted(state_dict.keys() - own.keys())
    misshapen = [name for name in own if name in state_dict and state_dict[name].shape != own[name].shape]
    if missing or unexpected or misshapen:
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        found = [f"{len(names)} {kind} ({names[0]}, ...)" for kind, names in kinds.items() if names]
        raise _misfit(model.arch_config, model.num_classes, cfg, f"its {len(wanted)} tensors", ", ".join(found))

    for name in sorted({name.rpartition(".")[0] for name in own.keys() - state_dict.keys()}):
        init_module(model.get_submodule(name), model.arch_config)
    with torch.no_grad():
        for name, tensor in state_dict.items():
            target = own[name]
            if tensor.dtype == target.dtype and tensor.device == target.device and tensor.is_contiguous():
                target.data = tensor  # nobody else holds it, so it need not be copied
            else:
                target.copy_(tensor)


def _misfit(config: Config, classes: int, cfg: PretrainedCfg, expected: str, found: str) -> ConversionError:
    return ConversionError(
        f"the checkpoint does not fit {config.name} with {classes} classes",
        expected=expected,
        found=found,
        where=cfg.file or cfg.hf_hub_id,
        fix="Name the architecture and the num_classes that it was made with.",
    )


def _check_classes(config: Config, tensors: dict[str, Tensor], cfg: PretrainedCfg, classes: int) -> None:
    """Refuses a wrong number of classes before memory is taken for a classifier that nothing could fill."""
    weight = tensors.get("classifier.weight")
    found = 0 if weight is None else len(weight)
    if classes == cfg.num_classes > 0 and found - (cfg.label_offset or 0) != classes:
        raise _misfit(config, classes, cfg, f"a classifier for {classes} classes", f"one for {found}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's own tensors by their names in its state dict, which would take longer to make."""
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        for own in (module._parameters, module._buffers)
        for key, tensor in own.items()
        if tensor is not None
    }


def _fit_stem(state_dict: dict[str, Tensor], model: MobileNetV2) -> None:
    weight = state_dict.get("conv_stem.weight")
    if weight is not None and weight.shape[1] != model.in_chans:
        # As timm does: sum the colours for one channel, repeat them for more than three.
        state_dict["conv_stem.weight"] = adapt_input_conv(model.in_chans, weight, base_chans=weight.shape[1])


def _fit_classifier(state_dict: dict[str, Tensor], model: MobileNetV2, cfg: PretrainedCfg) -> bool:
    """Shapes a checkpoint's classifier for the model, or takes it out; returns whether it is still in."""
    weight = state_dict.get("classifier.weight")
    offset = cfg.label_offset or 0
    if weight is not None and model.num_classes > 0 and weight.shape[0] - offset == model.num_classes:
        # The offset counts background classes, which come first.
        weight = weight[offset:]
        # A linear classifier and a 1x1 convolution hold the same numbers.
        trailing = (1,) * (model.classifier.weight.ndim - 2)
        state_dict["classifier.weight"] = weight.reshape(*weight.shape[:2], *trailing)
        state_dict["classifier.bias"] = state_dict["classifier.bias"][offset:]
        if "classifier_bn.weight" in state_dict and not model.normed:
            _fold_classifier_norm(state_dict, model)
        return True
    if model.num_classes != cfg.num_classes:
        for name in [name for name in state_dict if name.startswith(CLASSIFIER_KEYS)]:
            del state_dict[name]
    return False


def _fold_classifier_norm(state_dict: dict[str, Tensor], model: MobileNetV2) -> None:
    # The model is built without the batch norm, which is folded into the classifier: the logits stay
    # what they were before the activation.
    norm = {key: state_dict.pop(f"classifier_bn.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
    state_dict.pop("classifier_bn.num_batches_tracked", None)
    scale = norm["weight"] / (norm["running_var"] + getattr(model.bn1, "eps", 1e-5)).sqrt()
    weight, bias = state_dict["classifier.weight"], state_dict["classifier.bias"]
    state_dict["classifier.weight"] = weight * scale.view(-1, *(1,) * (weight.ndim - 1))
    state_dict["classifier.bias"] = (bias - norm["running_mean"]) * scale + norm["bias"]


def create(config: Config, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a network the way timm does, with verified weights.

    Args:
        config: The architecture.
        pretrained: Load the weights that the name, tag, cfg or overlay points to.
        **kwargs: `MobileNetV2`'s arguments and those of timm's `build_model_with_cfg`.

    Returns:
        The network; with `features_only=True` a module that returns feature maps.

    Raises:
        UnknownArgumentError: If nothing takes an argument; a TypeError.
        ArgumentError: If an argument has a value that it cannot have; a ValueError.
        WeightsError: If weights cannot be found, fetched or verified, or an index file is bad.
        ConversionError: If they do not fit.
    """
    index.entries()  # raises if an index file is bad
    _check_names(kwargs)
    kwargs = arguments.checked(kwargs)
    cfg = resolve_pretrained_cfg(
        config.name, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    )
    feature_cfg = {"flatten_sequential": True, **kwargs.pop("feature_cfg", {})}
    if not kwargs.get("features_only") and (lost := kwargs.keys() & {"out_indices", "feature_cls"}):
        raise UnknownArgumentError(
            f"{min(lost)} has no effect without features_only=True",
            expected="features_only=True with it",
            found=f"{min(lost)} alone",
            fix=f"Add features_only=True, or leave out {min(lost)}.",
        )
    if kwargs.get("features_only"):
        kwargs.update(num_classes=0, global_pool="avg", **_feature_arguments(config, kwargs, feature_cfg))
    tensors = source_tensors(config, cfg, kwargs.get("cache_dir")) if pretrained else None

    def build(**arguments: Any) -> MobileNetV2:
        if tensors is None:
            return MobileNetV2(config, **arguments)
        _check_classes(config, tensors, cfg, arguments["num_classes"])
        model = MobileNetV2(config, init_weights=False, **arguments)
        fill(model, tensors, cfg)
        return model

    return build_model_with_cfg(
        build,
        config.name,
        pretrained=False,  # filled already
        pretrained_cfg=replace(cfg, state_dict=None),  # type: ignore[arg-type]  # as timm's own callers do
        feature_cfg=feature_cfg,
        **kwargs,
    )


def _feature_arguments(config: Config, kwargs: dict[str, Any], feature_cfg: dict[str, Any]) -> dict[str, Any]:
    """Checks which maps are wanted and how, so that timm's `feature_info` tells the maps that come out."""
    count = len(architecture.features(config))
    indices = kwargs.get("out_indices", feature_cfg.pop("out_indices", None))
    take, _ = take_indices(count, indices, "out_indices")
    chosen = kwargs.get("feature_cls") or feature_cfg.pop("feature_cls", None) or MobileNetV2Features
    feature_cls = arguments.checked({"feature_cls": chosen})["feature_cls"]
    if feature_cls not in ("getter", MobileNetV2Features) and take != sorted(set(take)):
        raise ArgumentError(
            f"feature_cls={feature_cls!r} gives each map once and from fine to coarse",
            expected=f"out_indices={tuple(sorted(set(take)))}",
            found=f"out_indices={tuple(take)}",
            where="out_indices",
            fix="Sort out_indices, or leave out feature_cls: the default gives the maps in the order you ask for.",
        )
    return {"out_indices": tuple(take), "feature_cls": feature_cls}


def _check_names(kwargs: dict[str, Any]) -> None:
    for name in kwargs:
        if name not in (*MODEL_ARGUMENTS, *TIMM_ARGUMENTS):
            near = difflib.get_close_matches(name, (*MODEL_ARGUMENTS, *TIMM_ARGUMENTS), n=2)
            raise UnknownArgumentError(
                "unexpected keyword argument",
                expected=" or ".join(near or MODEL_ARGUMENTS),
                found=repr(name),
                fix="Arguments are those of mnv2zoo.model.MobileNetV2 and of timm.create_model.",
            )


def register() -> None:
    """Registers every config with timm, under the module name `mnv2zoo`.

    Each entry point is a function of the package too, as timm's are of `timm.models`:
    `mnv2zoo.mnv2zoo_100(pretrained=True)`.
    """
    # With a bad index file the names are there all the same, and using one raises.
    known = list(index.INDEX.readable().values())
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for config in architecture.CONFIGS.values():
        own = [entry for entry in known if entry.architecture == config.name]
        cfgs |= {entry.name: pretrained_cfg(config, entry) for entry in own} or {config.name: pretrained_cfg(config)}
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
    entry_point.__doc__ = f"Builds {config.name}; arguments as for `mnv2zoo.registry.create`."
    return entry_point


register()
