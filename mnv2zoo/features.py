"""Feature maps from any layer, by name.

timm's `features_only=True` gives the last map at each stride. `BottleneckTaps` gives the map of any layer, before or
after a bottleneck's depthwise convolution, and stops computing after the deepest layer you ask for.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from timm.models import FeatureInfo, checkpoint
from torch import Tensor, nn

from mnv2zoo import architecture
from mnv2zoo.architecture import Bottleneck
from mnv2zoo.errors import TapError, nearest, unknown
from mnv2zoo.models.mobilenetv2 import DepthwiseSeparable, MobileNetV2

Location = Literal["output", "expansion"]
STEM, HEAD = "C1", "C2"


def bottleneck_names(model: MobileNetV2) -> list[str]:
    """Lists the names of a model's layers that can be tapped, from stem to head.

    Args:
        model: A zoo model.

    Returns:
        `C1` (stem convolution, batch norm and activation), `Bottleneck_1` and so on, and `C2` (head convolution,
        batch norm and activation). Layers that were removed from the model are left out.

    Raises:
        TypeError: If the model is not from this package.

    Examples:
        >>> import timm, mnv2zoo
        >>> mnv2zoo.features.bottleneck_names(timm.create_model("mnv2zoo_100"))[:3]
        ['C1', 'Bottleneck_1', 'Bottleneck_2']
    """
    return list(levels(model))


def levels(model: MobileNetV2) -> dict[str, list[nn.Module]]:
    """Returns the modules of each layer that can be tapped.

    Args:
        model: A zoo model.

    Returns:
        For each name in `bottleneck_names`, the modules that compute its map from the previous one.
    """
    _check_model(model)
    modules: dict[str, list[nn.Module]] = {STEM: [model.conv_stem, model.bn1]}
    modules |= {b.name: [model.blocks[b.stage][b.index]] for b in bottlenecks(model)}  # type: ignore[index]
    if not isinstance(model.conv_head, nn.Identity):
        modules[HEAD] = [model.conv_head, model.bn2]
    return modules


def freeze_before(model: MobileNetV2, level: str | None) -> list[nn.Module]:
    """Freezes all layers before the given one, so that their parameters no longer require gradients.

    Args:
        model: A zoo model.
        level: A name from `bottleneck_names`, or None for all layers.

    Returns:
        The frozen modules. Their batch norms still follow `train()` and `eval()`.
    """
    parts = levels(model)
    names = list(parts)
    frozen = [module for name in names[: None if level is None else names.index(level)] for module in parts[name]]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


class BottleneckTaps(nn.Module):
    """Runs a model up to the deepest of the named layers and returns their feature maps.

    The taps share the model's modules and parameter names. Training either one updates both, and a state dict of the
    model loads into the taps with `strict=False`.

    Args:
        model: A zoo model, such as `timm.create_model("mnv2zoo_100", pretrained=True)`.
        names: Names from `bottleneck_names`. The maps come in this order.
        location: `output` for the output of each layer. `expansion` for the wide map after a bottleneck's 1x1
            expansion, before its depthwise convolution and stride, as SSDLite uses it (paper, section 6.2:
            "the expansion layer of block 14"). Without an expansion, this is the bottleneck's input. For `C1` and
            `C2` it is the output.

    Attributes:
        names: Names of the tapped layers.
        location: `output` or `expansion`.
        channels: Number of channels of each map, by name.
        reductions: Stride of each map, by name.
        feature_info: timm's `FeatureInfo` for the maps, in the order of the names.

    Raises:
        TapError: If the list is empty, a name is unknown (the message suggests the closest) or repeated, or the
            location is invalid.
        TypeError: If the model is not from this package.

    Examples:
        >>> import timm, torch, mnv2zoo
        >>> model = timm.create_model("mnv2zoo_100")
        >>> taps = mnv2zoo.features.BottleneckTaps(model, ["Bottleneck_7", "Bottleneck_14"])
        >>> {name: tuple(x.shape) for name, x in taps(torch.rand(1, 3, 224, 224)).items()}
        {'Bottleneck_7': (1, 64, 14, 14), 'Bottleneck_14': (1, 160, 7, 7)}
    """

    # TorchScript cannot infer the element type of an empty list.
    levels: list[str]
    names: list[str]

    def __init__(self, model: MobileNetV2, names: Sequence[str], location: Location = "output") -> None:
        super().__init__()
        known = bottleneck_names(model)
        names = names if isinstance(names, str) else list(names)
        _check_names(names, known, location)
        self.location = location
        self.names = list(names)
        self.wide = location == "expansion"

        deepest = max(map(known.index, names))
        blocks = [block for block in bottlenecks(model) if block.number <= deepest]
        info = self._info(model, blocks)
        place = {level["level"]: number for number, level in enumerate(info)}
        self.feature_info = FeatureInfo(info, tuple(place[name] for name in names))
        self.channels = OrderedDict(zip(names, self.feature_info.channels(), strict=True))
        self.reductions = OrderedDict(zip(names, self.feature_info.reduction(), strict=True))
        self.grad_checkpointing = False

        self.conv_stem, self.bn1 = model.conv_stem, model.bn1
        self.blocks = self._stages(model, blocks, deepest)
        self.has_stem = STEM in names
        self.has_head = HEAD in names
        self.conv_head = model.conv_head if self.has_head else nn.Identity()
        self.bn2 = model.bn2 if self.has_head else nn.Identity()
        # For each bottleneck, its name if it is tapped.
        self.levels = [block.name if block.name in names else "" for block in blocks]
        shared = set(model.modules())  # keep their own training mode
        for module in set(self.modules()) - shared:
            module.training = model.training

    def _info(self, model: MobileNetV2, blocks: list[Bottleneck]) -> list[dict[str, Any]]:
        """Builds the entries of timm's `FeatureInfo`, one per layer, from fine to coarse."""
        info = [_fact(STEM, model.arch_config.stem_channels, 2, "bn1")]
        before = "bn1"
        for block in blocks:
            module = f"blocks.{block.stage}.{block.index}"
            if not self.wide:
                info.append(_fact(block.name, block.out_channels, block.reduction, module))
            elif block.expand:
                info.append(_fact(block.name, block.hidden, block.reduction // block.stride, f"{module}.bn1"))
            else:  # the map is the bottleneck's input
                info.append(_fact(block.name, block.in_channels, block.reduction // block.stride, before))
            before = module
        return [*info, _fact(HEAD, model.num_features, bottlenecks(model)[-1].reduction, "bn2")]

    def _stages(self, model: MobileNetV2, blocks: list[Bottleneck], deepest: int) -> nn.Sequential:
        """Collects the bottlenecks up to the deepest layer. Only the first half of that one may be needed."""
        stages: list[list[nn.Module]] = [[] for _ in range(blocks[-1].stage + 1)] if blocks else []
        for block in blocks:
            module: nn.Module = model.blocks[block.stage][block.index]  # type: ignore[index]
            if self.wide and block.number == deepest:
                module = _Expansion(module)
            stages[block.stage].append(module)
        return nn.Sequential(*(nn.Sequential(*stage) for stage in stages))

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing on or off for each bottleneck.

        Args:
            enable: Recompute activations in the backward pass, which saves memory and takes more time.
        """
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, C, H, W) to an ordered dict of feature maps (N, channels, H/stride, W/stride)."""
        found: dict[str, Tensor] = {}
        x = self.bn1(self.conv_stem(x))
        # Drop maps that nobody asked for: holding them would raise peak memory.
        if self.has_stem:
            found["C1"] = x
        number = 0
        for stage in self.blocks:
            for block in stage:  # type: ignore[attr-defined]
                name = self.levels[number]
                number += 1
                if name and self.wide:
                    if self.grad_checkpointing and not torch.jit.is_scripting():
                        found[name] = checkpoint(block.expand, x)
                        x = checkpoint(block.reduce, found[name], x)
                    else:
                        found[name] = block.expand(x)
                        x = block.reduce(found[name], x)
                else:
                    if self.grad_checkpointing and not torch.jit.is_scripting():
                        x = checkpoint(block, x)
                    else:
                        x = block(x)
                    if name:
                        found[name] = x
        if self.has_head:
            found["C2"] = self.bn2(self.conv_head(x))
        maps = OrderedDict()
        for name in self.names:
            maps[name] = found[name]
        return maps


def _fact(level: str, channels: int, reduction: int, module: str) -> dict[str, Any]:
    return {"num_chs": channels, "reduction": reduction, "module": module, "level": level}


class _Expansion(nn.Module):
    """The first half of the deepest bottleneck, up to its expansion."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.has_expansion = not isinstance(block, DepthwiseSeparable)
        self.conv_pw = block.conv_pw if self.has_expansion else nn.Identity()
        self.bn1 = block.bn1 if self.has_expansion else nn.Identity()

    def expand(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv_pw(x))

    def reduce(self, wide: Tensor, shortcut: Tensor) -> Tensor:
        return wide

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(x)


def bottlenecks(model: MobileNetV2) -> list[Bottleneck]:
    """Lists a model's bottlenecks, without those that were removed.

    Args:
        model: A zoo model.

    Returns:
        A description of each, from fine to coarse.
    """
    blocks = architecture.bottlenecks(model.arch_config, model.output_stride)
    return [block for block in blocks if block.stage < len(model.blocks)]


def _check_model(model: object) -> None:
    if not isinstance(model, MobileNetV2):
        raise TypeError(
            f"expected a zoo model, found {type(model).__name__}. Pass the result of timm.create_model(...), "
            "created without features_only"
        )


def _check_names(names: Sequence[str], known: list[str], location: str) -> None:
    if location not in ("output", "expansion"):
        raise TapError(
            f"unknown location {location!r}",
            expected="output or expansion",
            found=repr(location),
            where="location",
            fix='Pass "output" or "expansion".',
        )
    if isinstance(names, str) or not names:
        raise TapError(
            "no layers to tap",
            expected="a list of layer names",
            found=repr(names),
            where="names",
            fix="Choose from `mnv2zoo.features.bottleneck_names(model)`.",
        )
    for name in names:
        if name not in known:
            near = nearest(str(name), known, 3)
            raise TapError(
                unknown("layer", str(name), known)[:200],
                expected=near,
                found=repr(name),
                where="names",
                fix=f"The model's layers are {known[0]} to {known[-1]}.",
            )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise TapError(
            f"repeated layer {twice[0]!r}",
            expected="each name once",
            found=", ".join(twice),
            where="names",
            fix="Name each layer once.",
        )
