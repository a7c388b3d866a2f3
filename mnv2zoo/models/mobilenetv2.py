"""The model: two kinds of bottleneck, and the MobileNetV2 built from them.

`MobileNetV2` builds any config of `architecture.py`. It implements timm's model interface
(https://huggingface.co/docs/timm/feature_extraction) and uses the parameter names of timm's MobileNetV2, so
checkpoints are interchangeable.
"""

import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame as TimmConv2dSame
from timm.layers import DropPath, create_classifier, create_conv2d, get_act_layer, get_norm_act_layer
from timm.models import FeatureInfo, checkpoint, checkpoint_seq
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnv2zoo import architecture
from mnv2zoo.architecture import Bottleneck, Classifier, Config
from mnv2zoo.models import arguments
from mnv2zoo.models.timm_compat import feature_take_indices

NORMED = "normed_classifier"  # the child that holds a classifier and its batch norm
CLASSIFIER_KEYS = ("classifier.", "classifier_bn.")

NormAct = Callable[..., nn.Module]
Conv = Callable[..., nn.Module]


class DepthwiseSeparable(nn.Module):
    """A bottleneck without expansion: 3x3 depthwise convolution, then 1x1 projection without activation.

    In the paper this is the first bottleneck, whose expansion factor is 1.

    Args:
        block: Its channels, stride and dilation.
        conv: Builds a convolution.
        norm_act: Builds a batch norm with its activation.
        drop_path: Probability of skipping the block during training, if it has a shortcut.
    """

    def __init__(self, block: Bottleneck, conv: Conv, norm_act: NormAct, drop_path: float) -> None:
        super().__init__()
        hidden, out = block.hidden, block.out_channels
        self.has_skip = block.shortcut
        self.conv_dw = conv(hidden, hidden, 3, stride=block.stride, dilation=block.dilation, groups=hidden)
        self.bn1 = norm_act(hidden)
        self.conv_pw = conv(hidden, out, 1)
        self.bn2 = norm_act(out, apply_act=False)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H/stride, W/stride)."""
        return self.reduce(self.expand(x), x)

    def expand(self, x: Tensor) -> Tensor:
        """Runs the first half, up to the input of the depthwise convolution: here the identity."""
        return x

    def reduce(self, wide: Tensor, shortcut: Tensor) -> Tensor:
        """Runs the second half, from the output of `expand` and the bottleneck's input."""
        x = self.bn1(self.conv_dw(wide))
        x = self.bn2(self.conv_pw(x))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class InvertedResidual(nn.Module):
    """A bottleneck: 1x1 expansion, 3x3 depthwise convolution, then 1x1 projection without activation.

    Paper, section 3.3 and Table 1: the shortcut connects the narrow ends. The projection is linear because a ReLU
    would lose information when there are few channels (section 3.2).

    Args:
        block: Its channels, stride and dilation.
        conv: Builds a convolution.
        norm_act: Builds a batch norm with its activation.
        drop_path: Probability of skipping the block during training, if it has a shortcut.
    """

    def __init__(self, block: Bottleneck, conv: Conv, norm_act: NormAct, drop_path: float) -> None:
        super().__init__()
        hidden, out = block.hidden, block.out_channels
        self.has_skip = block.shortcut
        self.conv_pw = conv(block.in_channels, hidden, 1)
        self.bn1 = norm_act(hidden)
        self.conv_dw = conv(hidden, hidden, 3, stride=block.stride, dilation=block.dilation, groups=hidden)
        self.bn2 = norm_act(hidden)
        self.conv_pwl = conv(hidden, out, 1)
        self.bn3 = norm_act(out, apply_act=False)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H/stride, W/stride)."""
        return self.reduce(self.expand(x), x)

    def expand(self, x: Tensor) -> Tensor:
        """Runs the first half, up to the input of the depthwise convolution: (N, hidden, H, W)."""
        return self.bn1(self.conv_pw(x))

    def reduce(self, wide: Tensor, shortcut: Tensor) -> Tensor:
        """Runs the second half, from the output of `expand` and the bottleneck's input."""
        x = self.bn2(self.conv_dw(wide))
        x = self.bn3(self.conv_pwl(x))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class _KeepsNames(nn.Module):
    """A module whose child `normed_classifier` does not appear in the names of parameters, buffers and modules.

    The classifier and its batch norm form one child, so that all children before it compute the pooled feature.
    In checkpoints their names remain `classifier` and `classifier_bn`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_report_outer_names)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yields all modules with their names, as `torch.nn.Module` does."""
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            yield _outer_name(name, prefix and f"{prefix}."), module

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Collects parameters and buffers by their names, as `torch.nn.Module` does."""
        state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        for names in (state, getattr(state, "_metadata", {})):
            for inner in [name for name in names if name.startswith(prefix + NORMED)]:
                names[_outer_name(inner, prefix)] = names.pop(inner)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if NORMED in self._modules:
            for name in [name for name in state_dict if name.startswith(CLASSIFIER_KEYS, len(prefix))]:
                state_dict[f"{prefix}{NORMED}.{name.removeprefix(prefix)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _outer_name(name: str, prefix: str) -> str:
    inner = f"{prefix}{NORMED}."
    return prefix + name.removeprefix(inner) if name.startswith(inner) else name


def _report_outer_names(module: nn.Module, incompatible: Any) -> None:
    for names in incompatible:
        names[:] = [name.replace(f"{NORMED}.", "") for name in names]


class MobileNetV2(_KeepsNames):
    """A MobileNetV2, as a classifier or, through timm, as a feature extractor.

    Args:
        config: The architecture.
        num_classes: Number of classes. None uses the config's. 0 removes the classifier and returns the pooled feature.
        in_chans: Channels of the input image.
        output_stride: 8, 16 or 32; see `architecture.bottlenecks`.
        pad_type: Padding of the convolutions: `"symmetric"`, or `"same"` as in TensorFlow, which weights trained
            there need. timm's `""` also means symmetric.
        act_layer: Activation instead of the config's: a name or class that timm accepts.
        norm_layer: Normalization instead of `nn.BatchNorm2d`: a name or class that timm accepts.
        bn_eps: Epsilon of the batch norms. Default: 1e-5.
        bn_momentum: Momentum of the batch norms. Default: 0.1.
        classifier: Classifier instead of the config's; see `architecture.Config`. `"conv"` drops the batch norm and
            ReLU after the 20-class model's classifier, which suits fine-tuning.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth. Grows linearly from 0 at the first bottleneck.
        global_pool: timm's pooling: `avg`, `max`, `avgmax` or `catavgmax`, each also with the prefix `fast`, or
            `""` for none.
        device: Device of the parameters.
        dtype: Data type of the parameters.
        init_weights: False leaves the parameters uninitialized, if you load a checkpoint next.

    Attributes:
        arch_config: The config, with the arguments above applied.
        output_stride: As above.
        num_features: Channels of the output of `forward_features`.
        head_hidden_size: Size of the classifier's input.
        feature_info: One dict per feature map (num_chs, reduction, module, stage), from fine to coarse.

    Raises:
        ArgumentError: If an argument has an invalid value; a ValueError. See `mnv2zoo.models.arguments`.
    """

    # TorchScript compiles only the branch that a constant selects, and no properties in this list.
    __constants__ = ("normed",)
    __jit_unused_properties__ = ("classifier", "classifier_bn")

    def __init__(
        self,
        config: Config,
        num_classes: int | None = None,
        in_chans: int = 3,
        output_stride: int = 32,
        pad_type: str = "symmetric",
        act_layer: Any = None,
        norm_layer: Any = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        classifier: Classifier | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        init_weights: bool = True,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in arguments.CHECKS}
        super().__init__()
        given = arguments.checked(given)
        if classifier is not None:
            config = replace(config, classifier=given["classifier"])
        self.arch_config = config
        self.num_classes = config.num_classes if num_classes is None else given["num_classes"]
        self.in_chans = given["in_chans"]
        self.drop_rate = given["drop_rate"]
        self.grad_checkpointing = False

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        padding = "same" if given["pad_type"] == "same" else ""  # timm's spelling of symmetric padding
        conv: Conv = partial(_conv, padding=padding, **factory)
        if not init_weights:
            conv = partial(_uninitialised, conv)
        bn: dict[str, Any] = {"eps": bn_eps, "momentum": bn_momentum}
        norm_layer = norm_layer or partial(nn.BatchNorm2d, **{k: v for k, v in bn.items() if v is not None})
        act_layer = get_act_layer(act_layer or config.activation)
        norm_act = partial(get_norm_act_layer(norm_layer, act_layer), inplace=True, **factory)
        self._norm_act = norm_act

        self.conv_stem = conv(self.in_chans, config.stem_channels, 3, stride=2, bias=config.conv_bias)
        self.bn1 = norm_act(config.stem_channels)

        self.output_stride = output_stride
        blocks = architecture.bottlenecks(config, output_stride)
        self.blocks = _stages(blocks, conv, norm_act, drop_path_rate)
        maps = architecture.features(config, output_stride)
        self.stage_ends = [m.stage for m in maps]
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": m.channels, "reduction": m.reduction, "module": f"blocks.{m.stage - 1}", "stage": m.stage}
            for m in maps
        ]

        self.num_features = config.head_channels
        self.conv_head = conv(blocks[-1].out_channels, self.num_features, 1, bias=config.conv_bias)
        self.bn2 = norm_act(self.num_features)
        with nullcontext() if init_weights else _SkipInit():
            self._make_classifier(given["global_pool"], factory)
        if init_weights and config.init == "tensorflow":
            self.apply(_init_as_tensorflow)

    def _make_classifier(self, global_pool: str, factory: dict[str, Any]) -> None:
        # For a convolutional classifier, a pooled map stays four-dimensional and is flattened afterwards.
        use_conv = self.arch_config.classifier != "linear"
        self.global_pool, classifier = create_classifier(
            self.num_features, self.num_classes, pool_type=global_pool, use_conv=use_conv, **factory
        )
        for name in ("classifier", NORMED):
            self._modules.pop(name, None)
        self.normed = self.arch_config.classifier_norm and self.num_classes > 0
        if self.normed:
            act = self.arch_config.classifier == "conv_bn_act"
            norm = self._norm_act(self.num_classes, apply_act=act, **factory)
            self.normed_classifier = nn.Sequential(OrderedDict(classifier=classifier, classifier_bn=norm))
        else:
            self.add_module("classifier", classifier)
        self.flatten_logits = use_conv and bool(global_pool)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    @property
    def classifier(self) -> Any:
        """The classifier, without the batch norm that may follow it."""
        return self.normed_classifier[0] if self.normed else super().__getattr__("classifier")

    @property
    def classifier_bn(self) -> Any:
        """The batch norm after the classifier. Only models that end in one have this attribute."""
        return self.normed_classifier[1]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("classifier", "classifier_bn") and self.normed:
            setattr(self.normed_classifier, name, value)
        else:
            super().__setattr__(name, value)

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initializes all parameters as the config specifies."""
        for module in self.modules():
            init_module(module, self.arch_config)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns that group parameters by depth, for layer-wise learning rates.

        Args:
            coarse: One group per stage instead of one per bottleneck.

        Returns:
            The argument for `timm.models.group_parameters`. Parameters that match no pattern, those of the classifier
            and its batch norm, form the last group.
        """
        return {
            "stem": r"^conv_stem|^bn1",
            "blocks": [
                (r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)", None),
                (r"^conv_head|^bn2", (99999,)),
            ],
        }

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Returns parameters without weight decay, besides the biases and norms that timm exempts itself: none."""
        return set()

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing on or off."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Returns the classifier. If it has a batch norm, both as one module."""
        return self.normed_classifier if self.normed else self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier and its batch norm, if it has one.

        Args:
            num_classes: Number of classes. 0 removes the classifier.
            global_pool: Pooling. None keeps the current one.

        Raises:
            ArgumentError: If an argument has an invalid value; a ValueError.
        """
        reference = self.conv_stem.weight
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        given = arguments.checked({"num_classes": num_classes, "global_pool": pool})
        self.num_classes = arguments.integer("num_classes", num_classes, 0)
        self._make_classifier(given["global_pool"], {"device": reference.device, "dtype": reference.dtype})
        for module in (self.global_pool, self.get_classifier()):
            module.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> Any:
        """Runs the model up to the head's features and collects intermediate maps.

        Args:
            x: Images (N, C, H, W).
            indices: Maps to return: an int for the last n, a list of indices (negative from the end), or None for all.
            norm: Ignored, because the maps are already normalized. Part of timm's interface.
            stop_early: Skip the layers after the last of these maps.
            output_fmt: `NCHW`, the only supported format.
            intermediates_only: Return only the maps.
            extra_blocks: Count all stages from the stem at 0, instead of the maps in `feature_info`.

        Returns:
            The final features and the list of maps, or the list only.

        Raises:
            ArgumentError: If an index is invalid; a ValueError.
        """
        assert output_fmt == "NCHW", "output_fmt must be NCHW"
        count = len(self.stage_ends)
        if extra_blocks:
            count = len(self.blocks) + 1
        if not torch.jit.is_scripting():  # TorchScript knows the argument's type
            indices = _checked_indices(count, indices, "indices")
        take, deepest = feature_take_indices(count, indices)
        if not extra_blocks:
            take = [self.stage_ends[i] for i in take]
            deepest = self.stage_ends[deepest]
        found: dict[int, Tensor] = {}
        x = self.bn1(self.conv_stem(x))
        if 0 in take:
            found[0] = x
        # TorchScript cannot slice a Sequential by a variable, nor choose in an expression.
        if torch.jit.is_scripting() or not stop_early:
            blocks = self.blocks
        else:
            blocks = self.blocks[:deepest]
        stage = 0
        for stage, block in enumerate(blocks, start=1):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(block, x)
            else:
                x = block(x)
            if stage in take:
                found[stage] = x
        intermediates = [found[index] for index in take]
        if intermediates_only:
            return intermediates
        if stage == self.stage_ends[-1]:
            x = self.bn2(self.conv_head(x))
        return x, intermediates

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
        extra_blocks: bool = False,
    ) -> list[int]:
        """Removes layers that the given maps do not need.

        Args:
            indices: As in `forward_intermediates`.
            prune_norm: Remove the head's convolution and norm even if all stages remain.
            prune_head: Remove the classifier.
            extra_blocks: As in `forward_intermediates`.

        Returns:
            The indices as non-negative numbers.
        """
        if extra_blocks:
            take, deepest = take_indices(len(self.blocks) + 1, indices)
        else:
            take, deepest = take_indices(len(self.stage_ends), indices)
            deepest = self.stage_ends[deepest]
        kept = [block.out_channels for block in architecture.bottlenecks(self.arch_config) if block.stage < deepest]
        # The head follows the last stage, so it is removed as soon as any stage is.
        ends_early = prune_norm or prune_head or deepest < len(self.blocks)
        self.blocks = self.blocks[:deepest]
        if ends_early:
            self.conv_head, self.bn2 = nn.Identity(), nn.Identity()
            self.num_features = kept[-1] if kept else self.arch_config.stem_channels
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to the head's features (N, num_features, H/32, W/32)."""
        x = self.bn1(self.conv_stem(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x, flatten=True)
        else:
            x = self.blocks(x)
        return self.bn2(self.conv_head(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps features to logits.

        Args:
            x: The output of `forward_features`.
            pre_logits: Return the pooled feature instead of logits.

        Returns:
            Logits (N, num_classes), or the pooled feature (N, head_hidden_size).
        """
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        if not pre_logits:
            if self.normed:
                x = self.normed_classifier(x)
            else:
                x = self.classifier(x)
        if self.flatten_logits:
            x = x.flatten(1)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _stages(blocks: Sequence[Bottleneck], conv: Conv, norm_act: NormAct, drop_path_rate: float) -> nn.Sequential:
    stages: list[list[nn.Module]] = [[] for _ in range(blocks[-1].stage + 1)]
    for block in blocks:
        kind = InvertedResidual if block.expand else DepthwiseSeparable
        drop_path = drop_path_rate * (block.number - 1) / len(blocks)
        stages[block.stage].append(kind(block, conv, norm_act, drop_path))
    return nn.Sequential(*(nn.Sequential(*stage) for stage in stages))


class Conv2dSame(TimmConv2dSame):
    """A strided convolution with TensorFlow's `same` padding that can be exported for any image size.

    The position of the first pixel depends on whether the size is even. timm computes the padding of both sides with
    `ceil` and `max`. With a symbolic size, that becomes a formula that grows with every layer. Here the padding of the
    two sides has a constant sum, and the convolution ignores a last row that it does not need.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, ceil(H/stride), ceil(W/stride))."""
        return F.conv2d(F.pad(x, self.sides(x)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def sides(self, x: Tensor) -> tuple[int, int, int, int]:
        """Returns the padding for a map (N, in, H, W) at its left, right, top and bottom."""
        down, across = self.stride
        high, wide = ((size - 1) * step for size, step in zip(self.kernel_size, self.dilation, strict=True))
        top = (high + 1 - down + -x.shape[2] % down) // 2
        left = (wide + 1 - across + -x.shape[3] % across) // 2
        return left, wide - left, top, high - top


def _conv(in_channels: int, out_channels: int, kernel_size: int, padding: str = "", **kwargs: Any) -> nn.Module:
    made: nn.Module = create_conv2d(in_channels, out_channels, kernel_size, padding=padding, **kwargs)
    if isinstance(made, TimmConv2dSame):
        made.__class__ = Conv2dSame  # same parameters, different `forward`
    return made


class MobileNetV2Features(nn.Module):
    """Returns a model's feature maps as a list: timm's `features_only=True`.

    Parameters keep their names in the full model. Layers after the deepest map are removed.

    Args:
        model: The model. Its modules are shared, not copied.
        out_indices: Indices into its `feature_info`, in output order, or an int for the last n.
        output_fmt: `NCHW`, the only supported format.

    Attributes:
        feature_info: timm's `FeatureInfo` for the returned maps.

    Raises:
        ArgumentError: If an index is invalid; a ValueError.
    """

    def __init__(
        self, model: MobileNetV2, out_indices: int | Sequence[int] | None = None, output_fmt: str = "NCHW"
    ) -> None:
        super().__init__()
        assert output_fmt == "NCHW", "output_fmt must be NCHW"
        take, deepest = take_indices(len(model.stage_ends), out_indices, "out_indices")
        self.feature_info = FeatureInfo(model.feature_info, tuple(take))
        self.grad_checkpointing = model.grad_checkpointing
        self.take = [model.stage_ends[i] for i in take]
        self.conv_stem, self.bn1 = model.conv_stem, model.bn1
        self.blocks = model.blocks[: model.stage_ends[deepest]]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing on or off."""
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps images (N, C, H, W) to feature maps, in the order of `out_indices`."""
        x = self.bn1(self.conv_stem(x))
        found: dict[int, Tensor] = {}
        for stage, block in enumerate(self.blocks, start=1):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
            if stage in self.take:
                found[stage] = x
        return [found[stage] for stage in self.take]


def take_indices(count: int, indices: Any, where: str = "indices") -> tuple[list[int], int]:
    """Resolves feature map indices as timm does, but rejects indices that do not exist.

    Args:
        count: Number of available maps.
        indices: An int for the last n, a sequence of indices (negative from the end), or None for all.
        where: Name of the argument, for the error.

    Returns:
        The indices from 0, in the given order, and the largest one.

    Raises:
        ArgumentError: If an index does not exist; a ValueError.
    """
    return feature_take_indices(count, _checked_indices(count, indices, where))


def _checked_indices(count: int, indices: Any, where: str) -> int | list[int] | None:
    if indices is None:
        return None
    if isinstance(indices, Iterable) and not isinstance(indices, str):
        wanted = [operator.index(i) if _is_index(i) and -count <= i < count else None for i in indices]
        if wanted and None not in wanted:
            return wanted  # type: ignore[return-value]
    elif _is_index(indices) and 1 <= indices <= count:
        return operator.index(indices)
    raise arguments.refused(
        where, indices, f"numbers from {-count} to {count - 1}, or how many of the last 1 to {count}"
    )


def _is_index(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def init_module(module: nn.Module, config: Config) -> None:
    """Initializes one module's own parameters and buffers.

    Args:
        module: A module of the model. Modules without parameters of their own are unchanged.
        config: The architecture, which specifies the initialization.
    """
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    if config.init == "tensorflow":
        _init_as_tensorflow(module)


class _SkipInit(TorchFunctionMode):
    """Disables `torch.nn.init` in this thread, within a `with` statement."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _uninitialised(make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    # Most of the time for building a model goes into drawing random numbers. Enter the mode for one layer at a time,
    # because it slows down everything else that runs in it.
    with _SkipInit():
        return make(*args, **kwargs)


def _init_as_tensorflow(module: nn.Module) -> None:
    # https://github.com/tensorflow/tpu/blob/master/models/official/mnasnet/mnasnet_model.py as timm applies it:
    # convolutions normal with variance 2 / fan-out, classifier uniform within 1 / sqrt(classes), biases zero.
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = 1.0 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
