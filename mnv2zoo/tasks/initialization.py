"""The network that a training starts from, and the part of it that is trained."""

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
from mnv2zoo.data.layout import composed
from mnv2zoo.data.pixels import PHOTO_CHANNELS
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.errors import RecipeError, UnknownModelError, nearest
from mnv2zoo.models import checkpoint, config_file, names
from mnv2zoo.models.mobilenetv2 import CLASSIFIER_KEYS, MobileNetV2
from mnv2zoo.models.names import Description
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.weights.schema import WeightsEntry


@dataclass(frozen=True)
class Start:
    """A network ready to be trained.

    Attributes:
        model: The network, with a head for the data.
        origin: Where its weights come from, in words.
        preprocessing: `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, as timm names them, for
            the training images.
        test_preprocessing: The same for all other images.
        fingerprint: A hash of the weights that it starts from, and of how they are used.
    """

    model: nn.Module
    origin: str
    preprocessing: dict[str, Any]
    test_preprocessing: dict[str, Any]
    fingerprint: str


def find(name: str, recipe: Recipe, rgb_only: bool = False) -> tuple[Description, Description | Path | None]:
    """Finds out what is trained and what it starts from, which takes no time, so that misspelt names are told of first.

    Args:
        name: A name of the zoo, or a folder or `hf-hub:` repository with `config.json`.
        recipe: Says where its weights come from, and whether there is a teacher.
        rgb_only: Refuse networks for other images than RGB.

    Returns:
        The network's description, and that of the weights it starts from, or their file, or None for random ones.

    Raises:
        UnknownModelError: If there is no network, or there are no weights, of that name.
        WeightsUnavailableError: If a `config.json` cannot be read.
        RecipeError: If the network's channels do not suit it, or a value of the recipe does not suit these.
    """
    target = names.describe(name)
    channels = in_chans(target, recipe)
    if rgb_only and channels != 3:
        raise RecipeError(
            "only networks for color images are fine-tuned for this task",
            expected="a network with 3 input channels",
            found=f"{channels} input channels in {name}",
            where="model",
            fix="Start from a network of the zoo, such as mnv2zoo_100.",
        )
    _check_channels(channels, recipe)
    if recipe.teacher is not None and (found := names.describe(recipe.teacher).in_chans) != channels:
        raise RecipeError(
            "the teacher takes images with other channels",
            expected=f"a teacher with {channels} input channels",
            found=f"{found} in {recipe.teacher}",
            where="teacher",
            fix="Choose another --teacher, or leave it out.",
        )
    return target, _source(recipe.init, target)


def in_chans(target: Description, recipe: Recipe) -> int:
    """The channels of the images that are trained on: the recipe's, or those of the network."""
    return recipe.in_chans or target.in_chans


def _check_channels(channels: int, recipe: Recipe) -> None:
    """Refuses what timm's augmentation does with RGB images alone, and colors of another number of channels."""
    transforms.check_channels(channels, "in_chans")
    for name in ("mean", "std"):
        value = getattr(recipe, name)
        if value is not None and len(value) not in (1, channels):
            raise RecipeError(
                f"{name} has another number of values than the images have channels",
                expected="1 number" if channels == 1 else f"{channels} numbers, or one for all",
                found=f"{len(value)}",
                where=name,
                fix=f"Give one per channel, as a list in --recipe FILE or in Python, or leave out --{name}.",
            )
    only_photos = {"auto_augment": recipe.auto_augment is not None and channels not in PHOTO_CHANNELS}
    only_rgb = {"augment_on": recipe.augment_on == "device" and channels != 3}
    for name, wrong in {**only_photos, **only_rgb}.items():
        if wrong:
            raise RecipeError(
                f"{name} does not work on images with {channels} channels",
                expected="the default",
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
    """Builds the network that a training starts from.

    The classifier of the weights is kept if its classes are those of the data, as in a run folder of the same data. It
    is initialized at random otherwise.

    Args:
        target: The network, as `find` gives it.
        source: The weights, as `find` gives them.
        recipe: The recipe.
        class_names: The classes of the data; none where outputs are not classes.
        samples: Training images, to measure activations on where `c20_from_paper` needs them.
        num_outputs: The number of outputs; by default one per class.

    Returns:
        The network, in training mode.

    Raises:
        UnknownModelError: If there are no weights of the network.
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If they do not fit the network.
        RecipeError: If a value of the recipe does not suit the network.
        DataError: If the name of a class has a line end in it.
    """
    config_file.check_labels(class_names, "data")
    if recipe.auto_augment is not None and (arrays := [s.name for s in samples if s.name.lower().endswith(ARRAY)]):
        raise RecipeError(
            "auto_augment does not work on arrays",
            expected="photos",
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
        # PyTorch's own initialization: that of the configuration is the wider the fewer classes there are, which
        # remains in whatever few photos do not teach.
        model.reset_classifier(num_outputs)
    return Start(model, origin, preprocessing, test_preprocessing, mark)


def build_arguments(
    target: Description, source: Description | Path | None, recipe: Recipe, num_outputs: int
) -> dict[str, Any]:
    """The arguments that a network is built with.

    Args:
        target: The network, as `find` gives it.
        source: The weights, as `find` gives them.
        recipe: The recipe.
        num_outputs: The number of outputs; 0 for a network without a classifier.

    Returns:
        The arguments by name.
    """
    # What belongs to an entry's weights does not belong to its architecture.
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
    """Refuses progressive sizes that do not grow.

    Args:
        recipe: The recipe.
        side: The shorter side of the images at the end of training, in pixels.

    Raises:
        RecipeError: If training begins with images of that side or a larger one.
    """
    if recipe.start_input_size is not None and recipe.start_input_size >= side:
        raise RecipeError(
            "images cannot grow to less than they began with",
            expected=f"less than the {side} pixels at which training ends",
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
    """Builds a network with the weights that a training starts from.

    Args:
        target: The network, as `find` gives it.
        source: The weights, as `find` gives them.
        arguments: What to build it with.
        samples: Training images, as for `build`.
        preprocessing: Their preprocessing, as timm names it.

    Returns:
        The network, the tensors that it starts from, and where these come from, in words.

    Raises:
        WeightsError: If weights cannot be found, fetched or verified.
        ConversionError: If they do not fit the network.
        RecipeError: If they are another architecture's.
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
        "weights of another architecture",
        expected=f"weights of {target.config.name}, or the paper's of the same width for a 20-class network",
        found=source.config.name,
        where="init",
        fix="Choose other weights with --init, or another --model.",
    )


def _fits_classes(described: Description, class_names: Sequence[str], num_outputs: int) -> bool:
    """Whether weights have a classifier for these classes or, where there are none, for as many unnamed outputs."""
    names = class_names or [str(number) for number in range(num_outputs)]
    return [*map(composed, described.label_names)] == list(names)


def fingerprint(tensors: Mapping[str, Tensor], *facts: Any) -> str:
    """A hash by which a resumed run knows the weights that it began with.

    Args:
        tensors: The weights.
        *facts: What else belongs to them, as JSON has it.

    Returns:
        SHA-256, in hexadecimal.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(init: str, target: Description) -> Description | Path | None:
    """What a recipe's `init` means: weights of a description, a file, or None for random ones."""
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
            "no such weights to start from",
            expected="pretrained, random, a name of the zoo, a run folder or a checkpoint file",
            found=repr(init),
            fix="List the zoo with `mnv2zoo list`.",
        ) from error


def _resolved(source: Description) -> Any:
    from timm.models import resolve_pretrained_cfg

    return resolve_pretrained_cfg(source.config.name, source.cfg, None)


# The recipe's names of timm's `crop_mode`.
CROP_MODES = {"crop": "center", "squash": "squash", "letterbox": "border"}


def preprocessing_of(
    target: Description, source: Description | Path | None, recipe: Recipe, test: bool
) -> dict[str, Any]:
    """The preprocessing of a training's images.

    Args:
        target: The network, as `find` gives it.
        source: The weights, as `find` gives them.
        recipe: The recipe.
        test: For all images but those of training.

    Returns:
        `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, as timm names them.
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
    """Puts the weights of the paper's network into a 20-class network of the same width.

    Layers that both have are copied. The expansion that only the 20-class network has in its first
    bottleneck becomes the identity: a unit matrix, behind which the batch norm's running mean and variance
    are those of the activations that reach it, measured on images, and its shift and scale undo them. In
    training mode, where a batch's own statistics take their place, it is still the identity as far as
    the batch is like the images. The ReLU behind it changes nothing, since what reaches it passed a ReLU.
    Biases, which the paper's network has none of, become zero; the classifier stays as it is.

    Two differences remain, so that this is a start to train from and no conversion: the stride of the
    64-channel stage moves to the 96-channel stage, which therefore sees its input at half the usual
    scale, and the activations are not cut off at 6.

    Args:
        model: A 20-class network; it is changed in place.
        state_dict: The paper's network of the same width, in the native layout.
        images: Images (N, 3, H, W) like those to train on, normalised as these weights want it.
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
    """Freezes what comes before the part that is trained.

    Args:
        model: The network; its frozen parameters no longer require gradients.
        train: `all`, `head` (the classifier alone), or the bottleneck from which on it is trained.

    Returns:
        The frozen modules. Their batch norms must stay in evaluation mode, see `set_training`.

    Raises:
        RecipeError: If there is no such part; the message names the nearest.
    """
    names = ["all", *features.bottleneck_names(model), "head"]
    if train not in names:
        raise RecipeError(
            "no such part to train",
            expected=nearest(train, names, 3),
            found=repr(train),
            where="train",
            fix="Correct --train.",
        )
    if train == "all":
        return []
    return features.freeze_before(model, None if train == "head" else train)


def norms(model: MobileNetV2) -> list[nn.Module]:
    """The batch norms whose statistics the recipe's `keep_statistics` keeps.

    That of a 20-class network's classifier is not among them: like the classifier it may be new.

    Args:
        model: The network.

    Returns:
        The batch norms, which must stay in evaluation mode, see `set_training`.
    """
    features = {name: module for name, module in model.named_modules() if not name.startswith("classifier")}
    return [module for module in features.values() if isinstance(module, nn.BatchNorm2d)]


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Puts a network into training mode, except for its frozen modules, whose statistics stay."""
    model.train()
    for module in frozen:
        module.eval()


class _ExceptInTraining(nn.Module):
    """An activation that is skipped in training mode."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else self.act(x)


def skip_last_activation_in_training(model: MobileNetV2) -> None:
    """Takes the training loss from before the activation behind the classifier, where there is one.

    A ReLU has no gradient for a class whose score is below zero, so that a network that ends in one learns
    slowly or not at all. For evaluation it stays where it is.

    Args:
        model: The network; its state dict stays the same.
    """
    if model.arch_config.classifier == "conv_bn_act":
        norm: Any = model.classifier_bn
        norm.act = _ExceptInTraining(norm.act).train(norm.training)
