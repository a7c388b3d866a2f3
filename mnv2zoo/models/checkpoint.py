"""Locates a model's tensors and loads them into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from timm.models import PretrainedCfg, adapt_input_conv, resolve_pretrained_cfg
from torch import Tensor, nn

from mnv2zoo import convert
from mnv2zoo.architecture import Config
from mnv2zoo.errors import ConversionError, IntegrityError, WeightsUnavailableError
from mnv2zoo.models.mobilenetv2 import CLASSIFIER_KEYS, MobileNetV2, init_module
from mnv2zoo.models.names import Description
from mnv2zoo.weights import index, store
from mnv2zoo.weights.hub import HubFile
from mnv2zoo.weights.schema import WeightsEntry


def weights_source(cfg: PretrainedCfg) -> WeightsEntry | HubFile | None:
    """Finds the source of the weights that a resolved cfg points to.

    Args:
        cfg: The cfg that timm resolved from name, tag, cfg and overlay.

    Returns:
        An index entry, a Hub file that is not in the index, or None for weights that the user supplies: a state
        dict, a file or a folder.

    Raises:
        WeightsUnavailableError: If the cfg points to no weights, or to a Hub file other than safetensors.
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
            f"cannot load {file.filename} from the Hub: only safetensors files are supported"[:200],
            expected="a .safetensors file",
            found=file.filename,
            where=cfg.hf_hub_id,
            fix="If you trust the file, download it and pass its path as checkpoint_path= or file=.",
        )
    return next((e for e in known.values() if e.bundled is None and e.location == file.location), file)


def _no_weights(cfg: PretrainedCfg, known: dict[str, WeightsEntry]) -> WeightsUnavailableError:
    if cfg.url:
        return WeightsUnavailableError(
            f"cannot load weights from the URL {cfg.url}: nothing verifies them"[:200],
            expected="a name in the index, an hf-hub: name or a local file",
            found=cfg.url,
            fix="If you trust the file, download it and pass its path as checkpoint_path= or file=.",
        )
    return WeightsUnavailableError(
        f"no pretrained weights are known for {cfg.architecture}",
        expected="one of " + ", ".join(known),
        fix="Run `mnv2zoo list` to see which models have weights, or pass pretrained=False for random weights.",
    )


def source_tensors(
    config: Config, cfg: PretrainedCfg, cache_dir: str | None = None, meanwhile: Callable[[], object] | None = None
) -> dict[str, Tensor]:
    """Reads the state dict that a resolved cfg points to.

    Args:
        config: The architecture.
        cfg: The cfg that timm resolved.
        cache_dir: The Hub cache. None uses the default.
        meanwhile: Called while a file is hashed; see `store.verified`.

    Returns:
        The state dict in the native layout.

    Raises:
        WeightsError: If the weights cannot be found, downloaded or verified.
        ConversionError: If the layout is not recognized.
    """
    source = weights_source(cfg)
    if source is not None:
        layout = source.layout if isinstance(source, WeightsEntry) else None
        return store.tensors(store.verified(source, cache_dir, meanwhile), config.name, layout)
    if cfg.source != "local-dir" and cfg.state_dict:
        state_dict = {name: tensor.clone() for name, tensor in cfg.state_dict.items()}  # leave the user's unchanged
    else:
        state_dict = _read_file(cfg)
    return state_dict if "conv_stem.weight" in state_dict else convert.to_native(state_dict, config.name)


def pad_type_of(cfg: PretrainedCfg) -> str:
    """Returns the padding that a cfg's weights were trained with, if the index records it.

    Args:
        cfg: The cfg that timm resolved.

    Returns:
        The `pad_type` for `MobileNetV2`. The default for weights that are not in the index.

    Raises:
        WeightsUnavailableError: As for `weights_source`.
    """
    source = weights_source(cfg)
    return convert.LAYOUTS[source.layout].pad_type if isinstance(source, WeightsEntry) else "symmetric"


def fill_whole(whole: nn.Module, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Loads tensors into a detector or a segmenter.

    Args:
        whole: The model.
        tensors: Its tensors, from `whole_tensors`.
        description: The model's description, for the error.

    Raises:
        ConversionError: If names or shapes do not match the model's.
    """
    own = whole.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    if missing or unexpected or misshapen:
        kinds = {"missing": missing, "unexpected": unexpected, "with another shape": misshapen}
        raise ConversionError(
            f"the checkpoint does not match the head {description.head.get('name')!r} in config.json",
            expected=f"its {len(own)} tensors",
            found=", ".join(f"{len(names)} {kind} ({names[0]}, ...)" for kind, names in kinds.items() if names),
            where=description.name,
            fix="Restore model.safetensors or config.json: they come from different runs.",
        )
    whole.load_state_dict(tensors)


def whole_tensors(description: Description, cache_dir: str | None = None) -> dict[str, Tensor]:
    """Reads and verifies the stored tensors of a detector or a segmenter.

    Args:
        description: The model's description, with the location of its weights.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The tensors by name.

    Raises:
        WeightsError: If the weights cannot be found, downloaded or verified.
    """
    cfg = resolve_pretrained_cfg(description.config.name, description.cfg, None)
    source = weights_source(cfg)
    if source is None:
        return _read_file(cfg, whole=True)
    return store.tensors(store.verified(source, cache_dir), description.config.name, "timm")


def _read_file(cfg: PretrainedCfg, whole: bool = False) -> dict[str, Tensor]:
    try:
        file = convert.in_folder(str(cfg.file)) if cfg.source == "local-dir" else str(cfg.file)
        return dict(convert.read(file, whole=whole).tensors)
    except ConversionError as error:
        raise IntegrityError(
            "cannot read the checkpoint",
            expected=error.expected,
            found=error.found,
            where=error.where,
            fix=error.fix,
        ) from error


def fill(model: MobileNetV2, state_dict: dict[str, Tensor], cfg: PretrainedCfg) -> None:
    """Loads a checkpoint into a model that may be uninitialized, and initializes the remaining tensors.

    Those are the classifier, if the model and the weights differ in their number of classes, and batch counters. If
    the channels differ, the stem is adapted with timm's rule.

    Args:
        model: The model.
        state_dict: The checkpoint in the native layout.
        cfg: The resolved cfg, with the weights' number of classes.

    Raises:
        ConversionError: If the checkpoint lacks a tensor that should not be initialized, or has one that is not in
            the model.
    """
    state_dict = dict(state_dict)
    _fit_stem(state_dict, model)
    keeps_classifier = _fit_classifier(state_dict, model, cfg)

    # Filling a model on the meta device with `load_state_dict(assign=True)` would take longer.
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    # Older checkpoints have no batch counters, and nothing depends on them.
    wanted = {name for name in own if not name.endswith("num_batches_tracked")}
    if not keeps_classifier and model.num_classes != cfg.num_classes:
        wanted = {name for name in wanted if not name.startswith(CLASSIFIER_KEYS)}
    missing = sorted(wanted - state_dict.keys())
    unexpected = sorted(state_dict.keys() - own.keys())
    misshapen = [name for name in own if name in state_dict and state_dict[name].shape != own[name].shape]
    if missing or unexpected or misshapen:
        kinds = {"missing": missing, "unexpected": unexpected, "with another shape": misshapen}
        found = [f"{len(names)} {kind} ({names[0]}, ...)" for kind, names in kinds.items() if names]
        raise _misfit(model.arch_config, model.num_classes, cfg, f"its {len(wanted)} tensors", ", ".join(found))

    for name in sorted({name.rpartition(".")[0] for name in own.keys() - state_dict.keys()}):
        init_module(model.get_submodule(name), model.arch_config)
    with torch.no_grad():
        for name, tensor in state_dict.items():
            target = own[name]
            if tensor.dtype == target.dtype and tensor.device == target.device and tensor.is_contiguous():
                target.data = tensor  # nothing else refers to it, so no copy is needed
            else:
                target.copy_(tensor)


def _misfit(config: Config, classes: int, cfg: PretrainedCfg, expected: str, found: str) -> ConversionError:
    return ConversionError(
        f"the checkpoint does not fit {config.name} with {classes} classes",
        expected=expected,
        found=found,
        where=cfg.file or cfg.hf_hub_id,
        fix="Use the architecture and the num_classes that the checkpoint was trained with.",
    )


def check_classes(config: Config, tensors: dict[str, Tensor], cfg: PretrainedCfg, classes: int) -> None:
    """Rejects a wrong number of classes before memory is allocated for the classifier.

    Args:
        config: The architecture.
        tensors: The checkpoint in the native layout.
        cfg: The resolved cfg, with the weights' number of classes.
        classes: Number of classes of the model to build.

    Raises:
        ConversionError: If the checkpoint has no classifier for that many classes although it should.
    """
    weight = tensors.get("classifier.weight")
    found = 0 if weight is None else len(weight)
    if classes == cfg.num_classes > 0 and found - (cfg.label_offset or 0) != classes:
        raise _misfit(config, classes, cfg, f"a classifier for {classes} classes", f"a classifier for {found}")


def _fit_stem(state_dict: dict[str, Tensor], model: MobileNetV2) -> None:
    weight = state_dict.get("conv_stem.weight")
    if weight is not None and weight.shape[1] != model.in_chans:
        # timm's rule: sum the colors for one channel, repeat them for more than three.
        state_dict["conv_stem.weight"] = adapt_input_conv(model.in_chans, weight, base_chans=weight.shape[1])


def _fit_classifier(state_dict: dict[str, Tensor], model: MobileNetV2, cfg: PretrainedCfg) -> bool:
    """Adapts a checkpoint's classifier to the model, or removes it. Returns whether it was kept."""
    weight = state_dict.get("classifier.weight")
    offset = cfg.label_offset or 0
    if weight is not None and model.num_classes > 0 and weight.shape[0] - offset == model.num_classes:
        # The offset counts background classes at the start.
        weight = weight[offset:]
        # A linear classifier and a 1x1 convolution have the same parameters.
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
    # Fold the batch norm into the classifier, because the model is built without it. Logits stay what they were
    # before the activation.
    norm = {key: state_dict.pop(f"classifier_bn.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
    state_dict.pop("classifier_bn.num_batches_tracked", None)
    scale = norm["weight"] / (norm["running_var"] + getattr(model.bn1, "eps", 1e-5)).sqrt()
    weight, bias = state_dict["classifier.weight"], state_dict["classifier.bias"]
    state_dict["classifier.weight"] = weight * scale.view(-1, *(1,) * (weight.ndim - 1))
    state_dict["classifier.bias"] = (bias - norm["running_mean"]) * scale + norm["bias"]
