"""Where a model's tensors come from, and how they get into it."""

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


def source_tensors(
    config: Config, cfg: PretrainedCfg, cache_dir: str | None = None, meanwhile: Callable[[], object] | None = None
) -> dict[str, Tensor]:
    """Reads the state dict that a resolved cfg points to.

    Args:
        config: The architecture.
        cfg: What timm resolved.
        cache_dir: The Hub's cache; its own default if None.
        meanwhile: What to do while a file is hashed; see `store.verified`.

    Returns:
        The state dict in the native layout.

    Raises:
        WeightsError: If it cannot be found, fetched or verified.
        ConversionError: If its layout is not recognised.
    """
    source = weights_source(cfg)
    if source is not None:
        layout = source.layout if isinstance(source, WeightsEntry) else None
        return store.tensors(store.verified(source, cache_dir, meanwhile), config.name, layout)
    if cfg.source != "local-dir" and cfg.state_dict:
        state_dict = {name: tensor.clone() for name, tensor in cfg.state_dict.items()}  # the user's stay the user's
    else:
        state_dict = _read_file(cfg)
    return state_dict if "conv_stem.weight" in state_dict else convert.to_native(state_dict, config.name)


def pad_type_of(cfg: PretrainedCfg) -> str:
    """The padding that the weights of a resolved cfg were trained with, as far as an index entry records it.

    Args:
        cfg: What timm resolved.

    Returns:
        The `pad_type` of `MobileNetV2`; the default for weights that no index lists.

    Raises:
        WeightsUnavailableError: As `weights_source` does.
    """
    source = weights_source(cfg)
    return convert.LAYOUTS[source.layout].pad_type if isinstance(source, WeightsEntry) else "symmetric"


def fill_whole(whole: nn.Module, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Puts the tensors of a detector or a segmenter into it.

    Args:
        whole: The model.
        tensors: Its tensors, as `whole_tensors` reads them.
        description: What its `config.json` says.

    Raises:
        ConversionError: If they are not those of the model.
    """
    own = whole.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    if missing or unexpected or misshapen:
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        raise ConversionError(
            f"the checkpoint does not fit the head {description.head.get('name')!r} in config.json",
            expected=f"its {len(own)} tensors",
            found=", ".join(f"{len(names)} {kind} ({names[0]}, ...)" for kind, names in kinds.items() if names),
            where=description.name,
            fix="Restore model.safetensors or config.json: one of them is of another run.",
        )
    whole.load_state_dict(tensors)


def whole_tensors(description: Description, cache_dir: str | None = None) -> dict[str, Tensor]:
    """Reads the tensors of a detector or a segmenter as they are stored; they are verified as those of others are.

    Args:
        description: Says where they are.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The tensors by name.

    Raises:
        WeightsError: If they cannot be found, fetched or verified.
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
    """Puts a checkpoint into a model that need not be initialized yet, and initializes the rest.

    The rest is the classifier, if the model has another number of classes than the weights, and counters. A stem
    for other channels is adapted as timm does it.

    Args:
        model: The model.
        state_dict: The checkpoint in the native layout.
        cfg: The resolved cfg, which gives the number of classes of the weights.

    Raises:
        ConversionError: If the checkpoint lacks a tensor that was not meant to be new, or has one that the model
            has no place for.
    """
    state_dict = dict(state_dict)
    _fit_stem(state_dict, model)
    keeps_classifier = _fit_classifier(state_dict, model, cfg)

    # A model on the meta device, filled by `load_state_dict(assign=True)`, would take longer.
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
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


def check_classes(config: Config, tensors: dict[str, Tensor], cfg: PretrainedCfg, classes: int) -> None:
    """Refuses a wrong number of classes before memory is allocated for a classifier that nothing could fill.

    Args:
        config: The architecture.
        tensors: The checkpoint in the native layout.
        cfg: The resolved cfg, which gives the number of classes of the weights.
        classes: Classes of the model to build.

    Raises:
        ConversionError: If the checkpoint should have a classifier for as many classes, and has not.
    """
    weight = tensors.get("classifier.weight")
    found = 0 if weight is None else len(weight)
    if classes == cfg.num_classes > 0 and found - (cfg.label_offset or 0) != classes:
        raise _misfit(config, classes, cfg, f"a classifier for {classes} classes", f"one for {found}")


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
