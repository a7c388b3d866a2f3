"""Builds the model to train with its initial weights, and freezes the part that is not trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from mnv2zoo import features
from mnv2zoo.data import transforms
from mnv2zoo.data.datasets import AnySample
from mnv2zoo.data.discover import ARRAY
from mnv2zoo.data.labels import composed
from mnv2zoo.data.pixels import PHOTO_CHANNELS
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.errors import RecipeError, UnknownModelError, nearest, unknown
from mnv2zoo.models import checkpoint, config_file, names
from mnv2zoo.models.mobilenetv2 import CLASSIFIER_KEYS, MobileNetV2
from mnv2zoo.models.names import Description
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.weights.schema import WeightsEntry


@dataclass(frozen=True)
class Start:
    """A model that is ready for training.

    Attributes:
        model: The model, with a head for the data.
        origin: Its initial weights, as text.
        preprocessing: The preprocessing of training images: timm's `input_size`, `mean`, `std`, `interpolation`,
            `crop_pct` and `crop_mode`.
        test_preprocessing: The preprocessing of all other images.
        fingerprint: A hash of the initial weights and of the arguments they are used with.
    """

    model: nn.Module
    origin: str
    preprocessing: dict[str, Any]
    test_preprocessing: dict[str, Any]
    fingerprint: str


def find(name: str, recipe: Recipe, rgb_only: bool = False) -> tuple[Description, Description | Path | None]:
    """Finds the model and its initial weights without loading them, so that misspelled names are reported early.

    Args:
        name: A model name from the zoo, or a folder or `hf-hub:` repository with `config.json`.
        recipe: The recipe, with the initial weights in `init` and the teacher.
        rgb_only: Whether to reject models for images other than RGB.

    Returns:
        The description of the model; and the description of its initial weights, their file, or None for random
        weights.

    Raises:
        UnknownModelError: If the model or the weights are unknown.
        WeightsUnavailableError: If a `config.json` cannot be read.
        RecipeError: If the number of input channels does not suit the task, the teacher or the recipe.
    """
    target = names.describe(name)
    channels = in_chans(target, recipe)
    if rgb_only and channels != 3:
        raise RecipeError(
            f"this task does not support models with {channels} input channels",
            expected="a model with 3 input channels",
            found=f"{channels} input channels in {name}",
            where="model",
            fix="Start from a zoo model, such as mnv2zoo_100.",
        )
    _check_channels(channels, recipe)
    if recipe.teacher is not None and (found := names.describe(recipe.teacher).in_chans) != channels:
        raise RecipeError(
            "the teacher has another number of input channels than the model",
            expected=f"a teacher with {channels} input channels",
            found=f"{found} input channels in {recipe.teacher}",
            where="teacher",
            fix="Choose another --teacher, or leave it out.",
        )
    return target, _source(recipe.init, target)


def in_chans(target: Description, recipe: Recipe) -> int:
    """The number of image channels: the recipe's, or else the model's."""
    return recipe.in_chans or target.in_chans


def _check_channels(channels: int, recipe: Recipe) -> None:
    """Checks that the augmentation, the mean and the standard deviation suit the number of channels."""
    transforms.check_channels(channels, "in_chans")
    for name in ("mean", "std"):
        value = getattr(recipe, name)
        if value is not None and len(value) not in (1, channels):
            raise RecipeError(
                f"{name} does not have one value per image channel",
                expected="1 number" if channels == 1 else f"{channels} numbers, or one for all channels",
                found=f"{len(value)} numbers",
                where=name,
                fix=f"Pass one number per channel, as a list in --recipe FILE or in Python, or leave out --{name}.",
            )
    only_photos = {"auto_augment": recipe.auto_augment is not None and channels not in PHOTO_CHANNELS}
    only_rgb = {"augment_on": recipe.augment_on == "device" and channels != 3}
    for name, wrong in {**only_photos, **only_rgb}.items():
        if wrong:
            raise RecipeError(
                f"{name} does not work on images with {channels} channels",
                expected="the default value",
                found=repr(getattr(recipe, name)),
                where=name,
                fix=f"Leave out --{name.replace('_', '-')}.",
            )


def build(
    target: Description,
    source: Description | Path | None,
    recipe: Recipe,
    class_names: Sequence[str],
    samples: Sequence[AnySample],
    num_outputs: int | None = None,
) -> Start:
    """Builds the model with its initial weights.

    If the weights have a classifier for the classes of the data, as those of a run on the same data, it is loaded too.
    Otherwise the classifier is initialized at random.

    Args:
        target: The model, from `find`.
        source: The weights, from `find`.
        recipe: The recipe.
        class_names: The classes of the data; empty if outputs are not classes.
        samples: Training images, on which `c20_from_paper` measures activations if needed.
        num_outputs: The number of outputs, by default one per class.

    Returns:
        The model, in training mode.

    Raises:
        UnknownModelError: If there are no weights for the model.
        WeightsError: If weights cannot be found, downloaded or verified.
        ConversionError: If the weights do not match the model.
        RecipeError: If a recipe value does not suit the model.
        DataError: If a class name contains a line break.
    """
    config_file.check_labels(class_names, "data")
    if recipe.auto_augment is not None and (arrays := [s.name for s in samples if s.name.lower().endswith(ARRAY)]):
        raise RecipeError(
            "auto_augment does not work on .npy files",
            expected="8-bit images, such as PNG or JPEG files",
            found=arrays[0],
            where="auto_augment",
            fix="Leave out --auto-augment, or save the images as PNG.",
        )
    num_outputs = len(class_names) if num_outputs is None else num_outputs
    arguments = build_arguments(target, source, recipe, num_outputs)
    torch.manual_seed(recipe.seed)

    described = source if isinstance(source, Description) else target
    preprocessing, test_preprocessing = (preprocessing_of(target, source, recipe, test) for test in (False, True))
    check_growth(recipe, min(preprocessing["input_size"][1:]))
    model, tensors, origin = with_weights(target, source, arguments, samples, test_preprocessing)
    new_classifier = source is None or not _fits_classes(described, class_names, num_outputs)
    kept = {k: t for k, t in tensors.items() if not (new_classifier and k.startswith(CLASSIFIER_KEYS))}
    mark = fingerprint(kept, target.config.name, arguments)
    if new_classifier:
        # PyTorch's default initialization. The model's own has a larger variance the fewer classes there are, and
        # fine-tuning on a few images does not remove that noise.
        model.reset_classifier(num_outputs)
    return Start(model, origin, preprocessing, test_preprocessing, mark)


def build_arguments(
    target: Description, source: Description | Path | None, recipe: Recipe, num_outputs: int
) -> dict[str, Any]:
    """The arguments to build the model with.

    Args:
        target: The model, from `find`.
        source: The weights, from `find`.
        recipe: The recipe.
        num_outputs: The number of outputs; 0 for a model without a classifier.

    Returns:
        The arguments by name.
    """
    # The arguments of an index entry belong to its weights, and do not apply to other weights.
    others = isinstance(target.source, WeightsEntry) and source is not target
    arguments = {} if others else dict(target.arguments)
    for key in ("pad_type", "classifier"):
        value = getattr(recipe, key)
        if value is None and isinstance(source, Description):
            value = source.arguments.get(key)
        if value is not None:
            arguments[key] = value
    arguments |= {"num_classes": num_outputs, "in_chans": in_chans(target, recipe)}
    return arguments | {key: value for key in ("drop_rate", "drop_path_rate") if (value := getattr(recipe, key))}


def check_growth(recipe: Recipe, side: int) -> None:
    """Checks that progressive resizing increases the image size.

    Args:
        recipe: The recipe.
        side: The shorter side of the images at the end of training, in pixels.

    Raises:
        RecipeError: If `start_input_size` is not smaller than that.
    """
    if recipe.start_input_size is not None and recipe.start_input_size >= side:
        raise RecipeError(
            f"start_input_size {recipe.start_input_size} is not smaller than the final image size",
            expected=f"less than {side} pixels, the final shorter side",
            found=recipe.start_input_size,
            where="start_input_size",
            fix="Choose a smaller --start-input-size, or a larger --input-size.",
        )


def with_weights(
    target: Description,
    source: Description | Path | None,
    arguments: dict[str, Any],
    samples: Sequence[AnySample],
    preprocessing: dict[str, Any],
) -> tuple[MobileNetV2, dict[str, Tensor], str]:
    """Builds a model and loads its initial weights.

    Args:
        target: The model, from `find`.
        source: The weights, from `find`.
        arguments: The arguments of the model.
        samples: Training images, as for `build`.
        preprocessing: Their preprocessing, with timm's names.

    Returns:
        The model, its initial tensors, and their origin as text.

    Raises:
        WeightsError: If weights cannot be found, downloaded or verified.
        ConversionError: If the weights do not match the model.
        RecipeError: If the weights belong to another architecture.
    """
    if source is None:
        return target.build(pretrained=False, **arguments), {}, "random initialization"
    if isinstance(source, Path):
        own: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(source)}}
        model = target.build(**{**arguments, **own})
        return model, model.state_dict(), str(source)
    if source.config == target.config:
        model = Description(source.name, source.config, source.cfg).build(**arguments)
        return model, model.state_dict(), source.name
    if target.config.expand_first and not source.config.expand_first and source.config.width == target.config.width:
        model = target.build(pretrained=False, **arguments)
        tensors = checkpoint.source_tensors(source.config, _resolved(source))
        tensors["conv_stem.weight"] = adapt_input_conv(model.in_chans, tensors["conv_stem.weight"])
        images = torch.stack([transforms.image_transform(preprocessing)(s.read()) for s in samples[:64]])
        c20_from_paper(model, tensors, images)
        return model, tensors, source.name
    raise RecipeError(
        f"the initial weights belong to another architecture than {target.config.name}",
        expected=f"weights of {target.config.name}, or the paper's weights of that width for a 20-class model",
        found=source.config.name,
        where="init",
        fix="Choose other weights with --init, or another --model.",
    )


def _fits_classes(described: Description, class_names: Sequence[str], num_outputs: int) -> bool:
    """Whether weights have a classifier for these classes or, if there are no classes, for as many unnamed outputs."""
    names = class_names or [str(number) for number in range(num_outputs)]
    return [*map(composed, described.label_names)] == list(names)


def fingerprint(tensors: Mapping[str, Tensor], *facts: Any) -> str:
    """Hashes the initial weights, so that a resumed run can check them.

    Args:
        tensors: The weights.
        *facts: Other values to include, which `json.dumps` accepts.

    Returns:
        The SHA-256 hash in hexadecimal.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(init: str, target: Description) -> Description | Path | None:
    """The weights that a recipe's `init` refers to: a description, a file, or None for random weights."""
    if init == "random":
        return None
    if init == "pretrained":
        return target
    if Path(init).is_file():
        return Path(init)
    try:
        return names.describe(init)
    except UnknownModelError as error:
        raise UnknownModelError(
            f"unknown initial weights {init!r}",
            expected="pretrained, random, a model name from the zoo, a run folder or a checkpoint file",
            found=repr(init),
            fix="Check the path, or list the zoo models with `mnv2zoo list`.",
        ) from error


def _resolved(source: Description) -> Any:
    from timm.models import resolve_pretrained_cfg

    return resolve_pretrained_cfg(source.config.name, source.cfg, None)


# timm's `crop_mode` for each value of the recipe's `resize`.
CROP_MODES = {"crop": "center", "squash": "squash", "letterbox": "border"}


def preprocessing_of(
    target: Description, source: Description | Path | None, recipe: Recipe, test: bool
) -> dict[str, Any]:
    """The preprocessing of the images of a run.

    Args:
        target: The model, from `find`.
        source: The weights, from `find`.
        recipe: The recipe.
        test: False for training images, True for all others.

    Returns:
        timm's `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`.
    """
    described = source if isinstance(source, Description) else target
    return _preprocessing(described.cfg, recipe, in_chans(target, recipe), test)


def _preprocessing(cfg: dict[str, Any], recipe: Recipe, channels: int, test: bool) -> dict[str, Any]:
    data = transforms.image_config(cfg, channels, test=test and recipe.input_size is None)
    mode = data["crop_mode"] if recipe.resize is None else CROP_MODES[recipe.resize]
    if mode not in ("center", data["crop_mode"]):
        data["crop_pct"] = 1.0  # nothing is cut off
    data["crop_mode"] = mode
    for key in ("mean", "std", "interpolation", "crop_pct"):
        if (value := getattr(recipe, key)) is not None:
            data[key] = per_channel(value, channels) if key in ("mean", "std") else value
    size = (recipe.test_input_size if test else None) or recipe.input_size
    if size is not None:
        data["input_size"] = (channels, *(size if isinstance(size, tuple) else (size, size)))
    return {key: data[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")}


def c20_from_paper(model: MobileNetV2, state_dict: dict[str, Tensor], images: Tensor) -> None:
    """Initializes a 20-class model from the weights of the paper's model of the same width.

    Layers that both models have are copied. The expansion that only the 20-class model has in its first bottleneck
    becomes the identity: the convolution is a unit matrix, and the batch norm after it undoes its own normalization.
    Its running mean and variance are measured on images, and its shift and scale are set to invert them. In training
    mode, with the statistics of each batch, it is the identity as far as the batch resembles these images. The ReLU
    after it has no effect, because its input has already passed a ReLU. Biases, which the paper's model lacks, become
    zero. The classifier is not changed.

    This is an initialization and not an exact conversion, because two differences remain. The stride of the 64-channel
    stage moves to the 96-channel stage, which therefore sees its input at half the usual scale. And activations are not
    clipped at 6.

    Args:
        model: A 20-class model, which is changed in place.
        state_dict: The paper's model of the same width, in the native layout.
        images: Images (N, 3, H, W) similar to the training images, normalized for these weights.
    """
    renamed = {"conv_dw": "conv_dw", "bn1": "bn2", "conv_pw": "conv_pwl", "bn2": "bn3"}
    state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        block, _, rest = name.partition("blocks.0.0.")
        if not block and rest:
            layer, _, key = rest.partition(".")
            name = f"blocks.0.0.{renamed[layer]}.{key}"
        if not name.startswith(CLASSIFIER_KEYS):
            state[name] = tensor
    own = model.state_dict()
    for name in ("conv_stem.bias", "conv_head.bias"):
        state[name] = torch.zeros_like(own[name])
    channels = own["blocks.0.0.conv_pw.weight"].shape[0]
    state["blocks.0.0.conv_pw.weight"] = torch.eye(channels).view(channels, channels, 1, 1)
    model.load_state_dict(state, strict=False)

    was_training = model.training
    model.eval()
    with torch.inference_mode():
        reached = model.bn1(model.conv_stem(images))
    model.train(was_training)
    mean = reached.mean(dim=(0, 2, 3))
    variance = reached.var(dim=(0, 2, 3), correction=0)
    norm: Any = model.blocks[0][0].bn1  # type: ignore[index]
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.bias.copy_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())


def freeze(model: MobileNetV2, train: str) -> list[nn.Module]:
    """Freezes the layers that are not trained.

    Args:
        model: The model. Its frozen parameters no longer require gradients.
        train: `all`, `head` (the classifier alone), or a bottleneck: it and everything after it are trained.

    Returns:
        The frozen modules. Their batch norms must stay in evaluation mode; see `set_training`.

    Raises:
        RecipeError: If the model has no such layer. The message suggests the closest name.
    """
    names = ["all", *features.bottleneck_names(model), "head"]
    if train not in names:
        raise RecipeError(
            unknown("value of train", train, names),
            expected=nearest(train, names, 3),
            found=repr(train),
            where="train",
            fix="Correct --train.",
        )
    if train == "all":
        return []
    return features.freeze_before(model, None if train == "head" else train)


def norms(model: MobileNetV2) -> list[nn.Module]:
    """The batch norms that the recipe's `keep_statistics` freezes.

    The batch norm of a 20-class model's classifier is not included, because it may be newly initialized.

    Args:
        model: The model.

    Returns:
        The batch norms, which must stay in evaluation mode; see `set_training`.
    """
    features = {name: module for name, module in model.named_modules() if not name.startswith("classifier")}
    return [module for module in features.values() if isinstance(module, nn.BatchNorm2d)]


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Sets a model to training mode, and its frozen modules to evaluation mode."""
    model.train()
    for module in frozen:
        module.eval()


class _ExceptInTraining(nn.Module):
    """An activation that is the identity in training mode."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else self.act(x)


def skip_last_activation_in_training(model: MobileNetV2) -> None:
    """Skips the activation after the classifier in training mode, if there is one.

    A ReLU has no gradient for a class whose logit is negative, so a model that ends in a ReLU trains slowly or not at
    all. In evaluation mode the activation is applied.

    Args:
        model: The model. Its state dict does not change.
    """
    if model.arch_config.classifier == "conv_bn_act":
        norm: Any = model.classifier_bn
        norm.act = _ExceptInTraining(norm.act).train(norm.training)
