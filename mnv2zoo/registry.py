"""timm entry points for every config, and the loading of verified weights through timm's own seam.

`build_model_with_cfg` takes weights from a `state_dict` in the pretrained cfg. What goes in there is a
handle on tensors that `weights` has verified; the checkpoint filter takes it out again, so that timm's
own downloader is never reached and no tensor stays behind in a model's cfg.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._pretrained import PretrainedCfg
from torch import Tensor, nn

from mnv2zoo import architecture, convert
from mnv2zoo.architecture import Config
from mnv2zoo.errors import ConversionError, UnknownArgumentError, WeightsUnavailableError
from mnv2zoo.model import MobileNetV2, MobileNetV2Features, init_module, skip_init
from mnv2zoo.weights import index, store
from mnv2zoo.weights.index import WeightsEntry
from mnv2zoo.weights.store import HubFile

# timm's name for the module of the models: the last part of the entry points' `__module__`.
PACKAGE = "mnv2zoo"

CLASSIFIER = ("classifier.", "classifier_bn.")
MODEL_ARGUMENTS = tuple(inspect.signature(MobileNetV2).parameters)[1:]
TIMM_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
    "cache_dir",
    "features_only",
    "out_indices",
    "feature_cls",
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
        label_names=entry.own_label_names,
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
        over (a state dict, a file, a folder), which timm loads.

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
    repo_id, _, revision = cfg.hf_hub_id.partition("@")
    filename = cfg.hf_hub_filename or "model.safetensors"
    if not filename.endswith(".safetensors"):
        raise WeightsUnavailableError(
            "only safetensors files are loaded from the Hub",
            expected="a .safetensors file",
            found=filename,
            where=cfg.hf_hub_id,
            fix="Download it yourself if you trust it, and name it by checkpoint_path= or file=.",
        )
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else f"hf-hub:{cfg.hf_hub_id}"
    file = HubFile(name, repo_id, filename, revision or None)
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
        fix="Use pretrained=False for random weights.",
    )


class Handle:
    """Carries verified tensors through timm's cfg, which copies whatever it holds.

    Args:
        tensors: The state dict, native layout.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        return self


def checkpoint_filter(cfg: PretrainedCfg) -> Callable[[dict[str, Any], nn.Module], dict[str, Tensor]]:
    """Makes the function that timm calls between a checkpoint and the model it goes into.

    Args:
        cfg: The resolved cfg, which the model is left with.

    Returns:
        The function. It brings the checkpoint into the native layout, takes the classifier out where
        another number of classes was asked for, refuses a checkpoint that does not fill the rest, and
        initialises what is not filled.
    """

    def prepare(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        assert isinstance(model, MobileNetV2)
        handle = state_dict.get("verified")
        if isinstance(handle, Handle):
            state_dict = dict(handle.tensors)
        elif "conv_stem.weight" in state_dict:
            state_dict = dict(state_dict)
        else:
            state_dict = convert.to_native(state_dict, model.config.name)

        clean = replace(cfg, state_dict=None).to_dict()
        if _fit_classifier(state_dict, model, cfg):
            clean["num_classes"] = model.num_classes
        # In place, because timm goes on reading this very dict.
        model.pretrained_cfg.clear()
        model.pretrained_cfg.update(clean)

        for name, module in model.named_modules():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            # timm adapts a stem of other channels where it can, and leaves it to us where it cannot.
            adapts = name == "conv_stem" and state_dict["conv_stem.weight"].shape != module.weight.shape
            if adapts or any(f"{name}.{key}" not in state_dict for key, _ in own):
                init_module(module, model.config)
        return state_dict

    return prepare


def _fit_classifier(state_dict: dict[str, Tensor], model: MobileNetV2, cfg: PretrainedCfg) -> bool:
    """Takes the classifier out of a checkpoint if the model's has other classes, and checks the rest.

    Returns whether the classifier is still in. Raises ConversionError for a checkpoint that would
    leave a part of the model random that nobody asked to be new, or that holds more than the model.
    """
    rows = state_dict["classifier.weight"].shape[0] if "classifier.weight" in state_dict else 0
    keeps = rows - (cfg.label_offset or 0) == model.num_classes > 0
    if keeps:
        if "classifier_bn.weight" in state_dict and isinstance(model.classifier_bn, nn.Identity):
            _fold_classifier_norm(state_dict, model)
        # A linear classifier and a 1x1 convolution hold the same numbers.
        trailing = (1,) * (model.classifier.weight.ndim - 2)
        state_dict["classifier.weight"] = state_dict["classifier.weight"].reshape(rows, -1, *trailing)
    elif model.num_classes != cfg.num_classes or not rows:
        for key in [key for key in state_dict if key.startswith(CLASSIFIER)]:
            del state_dict[key]

    # Counters of batches are younger than some checkpoints, and nothing depends on them.
    found = {key for key in state_dict if not key.endswith("num_batches_tracked")}
    wanted = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    if not keeps and model.num_classes != cfg.num_classes:
        wanted = {key for key in wanted if not key.startswith(CLASSIFIER)}
    missing, unexpected = sorted(wanted - found), sorted(found - wanted)
    if missing or unexpected or (rows and not keeps and model.num_classes == cfg.num_classes):
        examples = [f"{len(keys)} {what} ({keys[0]}, ...)" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise ConversionError(
            f"the checkpoint does not fit {model.config.name}",
            expected=f"{len(wanted)} tensors, and {model.num_classes} classes",
            found=" and ".join(examples) or f"{rows} classes",
            where=cfg.file or cfg.hf_hub_id,
            fix="Name the architecture and num_classes that it was made with.",
        )
    return keeps


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
        WeightsError: If weights cannot be found, fetched or verified, or an index file is bad.
        ConversionError: If they do not fit.
    """
    index.entries()  # raises if an index file is bad
    _check_arguments(kwargs)
    cfg = resolve_pretrained_cfg(
        config.name, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    )
    given = cfg if pretrained else replace(cfg, state_dict=None)
    source = weights_source(cfg) if pretrained else None
    if source is not None:
        layout = source.layout if isinstance(source, WeightsEntry) else None
        file = store.verified(source, kwargs.get("cache_dir"))
        handle = Handle(store.tensors(file, config.name, layout))
        given = replace(cfg, state_dict={"verified": handle}, source=None, file=None, hf_hub_id=None)
    if kwargs.get("features_only"):
        kwargs.update(num_classes=0, global_pool="avg")
        kwargs.setdefault("feature_cls", MobileNetV2Features)

    def build(**arguments: Any) -> MobileNetV2:
        with skip_init() if pretrained else nullcontext():
            return MobileNetV2(config, **arguments)

    return build_model_with_cfg(
        build,
        config.name,
        pretrained,
        pretrained_cfg=given,
        pretrained_filter_fn=checkpoint_filter(cfg),
        pretrained_strict=False,  # the filter is stricter, and knows what may be missing
        feature_cfg={"flatten_sequential": True},
        **kwargs,
    )


def _check_arguments(kwargs: dict[str, Any]) -> None:
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
    cfgs = {}
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
