"""Builds segmenters, and freezes the part that is not trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo import architecture, features, segmentation
from mnv2zoo.data import transforms
from mnv2zoo.data.datasets import AnySample, Data
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.errors import ConversionError, RecipeError, nearest, unknown
from mnv2zoo.model_dir import files
from mnv2zoo.models import checkpoint, config_file, names
from mnv2zoo.models.names import Description
from mnv2zoo.segmentation import Segmenter
from mnv2zoo.tasks import initialization
from mnv2zoo.tasks.initialization import Start
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.tasks.segment.data import input_size

SHORT_SIDE = 320  # highest default short side of the input, in pixels


def head_of(recipe: Recipe) -> dict[str, Any]:
    """The head that a recipe describes."""
    stride = {} if recipe.output_stride is None else {"output_stride": recipe.output_stride}
    return {"name": recipe.head, **stride}


def build(target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
    """Builds a segmenter with its initial weights.

    If the initial weights are a segmenter's with the same head and classes, as in a run on the same data, all of them
    are loaded. Otherwise only those of the backbone are.

    Args:
        target: The model, from `initialization.find`.
        source: The weights, from `initialization.find`.
        recipe: The recipe.
        data: The images and masks.

    Returns:
        The segmenter, in training mode.

    Raises:
        WeightsError: If weights cannot be found, downloaded or verified.
        ConversionError: If the weights do not match the model.
        RecipeError: If a recipe value does not suit the model.
        DataError: If a class name contains a line break.
    """
    config_file.check_labels(data.class_names, "data")
    head, samples = head_of(recipe), data.splits["train"]
    preprocessing = {
        test: _preprocessing(source if isinstance(source, Description) else target, recipe, samples, test)
        for test in (False, True)
    }
    initialization.check_growth(recipe, min(preprocessing[False]["input_size"][1:]))
    trained = _trained(source)
    arguments = initialization.build_arguments(target, source, recipe, 0)
    arguments.pop("classifier", None)  # there is none
    arguments |= segmentation.backbone_arguments(head)
    torch.manual_seed(recipe.seed)
    network, tensors, origin = initialization.with_weights(
        target, None if trained else source, arguments, samples, preprocessing[True]
    )
    own = {key: arguments[key] for key in segmentation.BUILT_WITH if key in arguments}
    torch.manual_seed(recipe.seed)
    model = segmentation.on_backbone(network, own, head, data.class_names)
    if trained is not None:
        tensors, origin = _take_over(model, trained), str(getattr(source, "name", source))
    facts = target.config.name, own, head, list(data.class_names)
    mark = initialization.fingerprint(tensors, *facts)
    return Start(model, origin, preprocessing[False], preprocessing[True], mark)


def _trained(source: Description | Path | None) -> Segmenter | None:
    """The segmenter with the initial weights, if they are a segmenter's."""
    if not isinstance(source, Description) or source.task != "segment":
        return None
    model = segmentation.untrained(source)
    checkpoint.fill_whole(model, checkpoint.whole_tensors(source), source)
    return model


def _take_over(model: Segmenter, trained: Segmenter) -> dict[str, Tensor]:
    """Copies the weights of a trained segmenter to a new one, and returns the copied tensors."""
    if trained.architecture != model.architecture:
        raise ConversionError(
            f"the initial weights belong to another architecture than {model.architecture}",
            expected=model.architecture,
            found=trained.architecture,
            where="init",
            fix="Choose other weights with --init, or another --model.",
        )
    if trained.head == model.head and trained.label_names == model.label_names:
        tensors = trained.state_dict()
        model.load_state_dict(tensors)
        return tensors
    own, known = model.backbone.state_dict(), trained.backbone.state_dict()
    # Parts that the other head does not use, such as the last stage, keep their values.
    tensors = {name: known[name] for name in own if name in known and known[name].shape == own[name].shape}
    if missing := sorted(own.keys() - tensors.keys()):
        raise ConversionError(
            f"the initial weights with the head {trained.head['name']!r} lack a part of the backbone that the head "
            f"{model.head['name']!r} needs",
            expected=f"{len(own)} tensors of the backbone",
            found=f"{len(missing)} missing tensors, such as {missing[0]}",
            where="init",
            fix="Start from the weights of a classifier with --init, or train the same head.",
        )
    model.backbone.load_state_dict(tensors)
    return tensors


def _preprocessing(described: Description, recipe: Recipe, samples: Sequence[AnySample], test: bool) -> dict[str, Any]:
    data = transforms.image_config(described.cfg, 3, test=False)
    trained = tuple(data["input_size"][1:]) if described.task == "segment" else None
    short = (recipe.test_input_size if test else None) or recipe.input_size
    if short is None and trained is None:
        sides = median(min(sample.target.size) for sample in samples)
        short = max(32, min(SHORT_SIDE, round(sides / 8) * 8))
    size = trained if short is None else short if isinstance(short, tuple) else input_size(samples, short)
    assert size is not None
    return {
        "input_size": (3, *size),
        "mean": per_channel(recipe.mean or data["mean"], 3),
        "std": per_channel(recipe.std or data["std"], 3),
        "interpolation": recipe.interpolation or "bilinear",
        "crop_pct": 1.0,
    }


def model_files(model: Segmenter, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
    """The files of a model directory with a segmenter.

    Args:
        model: The segmenter.
        preprocessing: Its preprocessing, as timm names it.
        label_names: Names of its classes.

    Returns:
        The content of each file, by name.
    """
    # timm can only describe its own models, so use a classifier with the same backbone.
    classes = {"num_classes": len(label_names)}
    network = names.describe(model.architecture).build(pretrained=False, **model.arguments, **classes)
    return files.model_files(network, preprocessing, label_names, whole=model, task="segment", head=model.head)


def freeze(model: Segmenter, recipe: Recipe) -> list[nn.Module]:
    """Freezes the part that is not trained.

    Args:
        model: The segmenter; its frozen parameters no longer require gradients.
        recipe: The recipe. Its `train` is `all`, `head`, or a bottleneck: it and everything after it are trained.

    Returns:
        Modules that stay in evaluation mode: the frozen ones, and with `keep_statistics` the backbone's batch norms.

    Raises:
        RecipeError: If the model has no such layer. The message suggests the closest name.
    """
    parts = _parts(model)
    known = ["all", *(name for name in parts if name != features.STEM), "head"]
    if recipe.train not in known:
        raise RecipeError(
            unknown("value of train", recipe.train, known),
            expected=nearest(recipe.train, known, 3),
            found=repr(recipe.train),
            where="train",
            fix="Correct --train.",
        )
    order = [*parts, "head"]
    before = order[: 0 if recipe.train == "all" else order.index(recipe.train)]
    frozen = [module for name in before for module in parts[name]]
    for module in frozen:
        module.requires_grad_(False)
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    return [*frozen, *(norms if recipe.keep_statistics else [])]


def _parts(model: Segmenter) -> dict[str, list[nn.Module]]:
    """The backbone's modules by the names of its levels, in order."""
    backbone: Any = model.backbone
    parts: dict[str, list[nn.Module]] = {features.STEM: [backbone.conv_stem, backbone.bn1]}
    for block in architecture.bottlenecks(architecture.get(model.architecture)):
        if block.stage < len(backbone.blocks) and block.index < len(backbone.blocks[block.stage]):
            parts[block.name] = [backbone.blocks[block.stage][block.index]]
    return parts
