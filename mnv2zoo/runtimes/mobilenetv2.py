"""Writes MobileNetV2 as ONNX from its config and tensors, without PyTorch, and runs it in NumPy as a reference.

An export from PyTorch takes seconds, because PyTorch, timm and the exporter are imported and the model is traced.
MobileNetV2 is a chain of convolutions, so its graph can be written directly from the config table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mnv2zoo.architecture import Config, bottlenecks, layers
from mnv2zoo.runtimes.runners import INPUT, Array

OPSET = 17  # supported by ONNX Runtime 1.18 and OpenVINO 2024.4; Clip takes its bounds as inputs
STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Conv:
    """A convolution with its batch norm, activation and shortcut.

    Attributes:
        name: Prefix of the names of its tensors.
        norm: Prefix of the names of its batch norm's tensors; empty for no batch norm.
        kernel: Kernel size.
        stride: Stride.
        dilation: Dilation.
        depthwise: Whether the convolution is depthwise.
        activation: `relu6` or `relu`; empty for no activation.
        begins: Whether a shortcut starts at its input.
        ends: Whether the shortcut is added to its output.
    """

    name: str
    norm: str
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    activation: str = ""
    begins: bool = False
    ends: bool = False


@dataclass(frozen=True)
class Classifier:
    """A MobileNetV2 classifier with its tensors.

    Attributes:
        config: The architecture, including the form of the classifier.
        tensors: The tensors in timm's layout, as float32.
        input_size: Channels, height and width of the images.
        same_padding: Whether convolutions are padded as in TensorFlow.
        output_stride: 8, 16 or 32; see `architecture.bottlenecks`.
        eps: Epsilon of the batch norms.
    """

    config: Config
    tensors: Mapping[str, Array]
    input_size: tuple[int, int, int]
    same_padding: bool = False
    output_stride: int = 32
    eps: float = 1e-5

    def convolutions(self) -> Iterator[Conv]:
        """Yields the convolutions in the order in which they run. The last one is the classifier, after pooling."""
        act = self.config.activation
        yield Conv("conv_stem", "bn1", 3, 2, activation=act)
        for b in bottlenecks(self.config, self.output_stride):
            at = f"blocks.{b.stage}.{b.index}"
            depthwise = partial(Conv, kernel=3, stride=b.stride, dilation=b.dilation, depthwise=True, activation=act)
            if b.expand:
                yield Conv(f"{at}.conv_pw", f"{at}.bn1", activation=act, begins=b.shortcut)
                yield depthwise(f"{at}.conv_dw", f"{at}.bn2")
                yield Conv(f"{at}.conv_pwl", f"{at}.bn3", ends=b.shortcut)
            else:
                yield depthwise(f"{at}.conv_dw", f"{at}.bn1", begins=b.shortcut)
                yield Conv(f"{at}.conv_pw", f"{at}.bn2", ends=b.shortcut)
        yield Conv("conv_head", "bn2", activation=act)
        last = act if self.config.classifier == "conv_bn_act" else ""
        yield Conv("classifier", "classifier_bn" if self.config.classifier_norm else "", activation=last)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of all tensors except batch norm counters, in the order of PyTorch's state dict."""
        classes = len(self.tensors["classifier.bias"]) if "classifier.bias" in self.tensors else 0
        shapes: dict[str, tuple[int, ...]] = {}
        laid = layers(self.config, classes, self.input_size[0])
        for conv, layer in zip(self.convolutions(), laid, strict=bool(classes)):
            linear = conv.name == "classifier" and self.config.classifier == "linear"
            sides = () if linear else (layer.kernel, layer.kernel)
            shapes[f"{conv.name}.weight"] = (layer.out_channels, layer.in_channels, *sides)
            if layer.bias:
                shapes[f"{conv.name}.bias"] = (layer.out_channels,)
            if conv.norm:
                shapes |= {f"{conv.norm}.{statistic}": (layer.out_channels,) for statistic in STATISTICS}
        return shapes

    def is_complete(self) -> bool:
        """Whether the tensors match the model: all of them, no others, and in single precision."""
        if "classifier.bias" not in self.tensors:
            return False
        wanted = self.shapes()
        given = {name: tensor for name, tensor in self.tensors.items() if not name.endswith("num_batches_tracked")}
        return given.keys() == wanted.keys() and all(
            tensor.dtype == np.float32 and tensor.shape == wanted[name] for name, tensor in given.items()
        )

    def folded(self, conv: Conv) -> tuple[Array, Array]:
        """Folds the batch norm into a convolution. Returns its weight (out, in, kernel, kernel) and bias (out,)."""
        weight = self._weight(conv).astype(np.float64)
        bias = self.tensors.get(f"{conv.name}.bias", np.zeros(len(weight), np.float32)).astype(np.float64)
        if conv.norm:
            gamma, beta, mean, variance = (
                self.tensors[f"{conv.norm}.{name}"].astype(np.float64) for name in STATISTICS
            )
            scale = gamma / np.sqrt(variance + self.eps)
            weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + beta
        return weight.astype(np.float32), bias.astype(np.float32)

    def padding(self, conv: Conv, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the padding before and after a feature map of the given height and width, per dimension."""
        wide = (conv.kernel - 1) * conv.dilation
        if not self.same_padding:
            each = (conv.stride - 1 + wide) // 2
            return (each, each), (each, each)
        first = [(wide + 1 - conv.stride + -side % conv.stride) // 2 for side in size]
        return (first[0], wide - first[0]), (first[1], wide - first[1])

    def _weight(self, conv: Conv) -> Array:
        weight = self.tensors[f"{conv.name}.weight"]
        return weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight

    def onnx(self) -> bytes:
        """Writes the model as ONNX, for batches of any size and with folded batch norms.

        Returns:
            The bytes of the file. Its input is `images` and its output is `output_0`.
        """
        from onnx import TensorProto, checker, helper, numpy_helper

        nodes: list[Any] = []
        bounds = {"zero": np.float32(0), "six": np.float32(6)}
        constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in bounds.items()]

        def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, inputs, [output], **attributes))
            return output

        x, kept, size = INPUT, "", self.input_size[1:]
        for conv in self.convolutions():
            if conv.name == "classifier":
                x, size = add("GlobalAveragePool", [x], "pooled"), (1, 1)
            kept = x if conv.begins else kept
            weight, bias = self.folded(conv)
            names = [f"{conv.name}.weight", f"{conv.name}.bias"]
            constants += [numpy_helper.from_array(*one) for one in zip((weight, bias), names, strict=True)]
            (top, bottom), (left, right) = self.padding(conv, size)
            x = add(
                "Conv",
                [x, *names],
                conv.name,
                kernel_shape=[conv.kernel] * 2,
                strides=[conv.stride] * 2,
                dilations=[conv.dilation] * 2,
                pads=[top, left, bottom, right],
                group=len(weight) if conv.depthwise else 1,
            )
            size = _after(conv, size, ((top, bottom), (left, right)))
            if conv.activation == "relu6":
                x = add("Clip", [x, "zero", "six"], f"{conv.name}.act")
            elif conv.activation:
                x = add("Relu", [x], f"{conv.name}.act")
            if conv.ends:
                x = add("Add", [x, kept], f"{conv.name}.sum")
        add("Flatten", [x], "output_0")
        images = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *self.input_size])
        logits = helper.make_tensor_value_info("output_0", TensorProto.FLOAT, ["batch", len(bias)])
        graph = helper.make_graph(nodes, self.config.name, [images], [logits], constants)
        document = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        checker.check_model(document)
        return document.SerializeToString()

    def __call__(self, images: Array) -> Array:
        """Computes the logits (N, classes) of images (N, C, H, W), without folding batch norms.

        It is slow. It shares neither the folded tensors nor a runtime with `onnx`, so it is a reference for both.
        """
        x, kept = images, images
        for conv in self.convolutions():
            if conv.name == "classifier":
                x = x.mean((2, 3), keepdims=True)
            kept = x if conv.begins else kept
            x = _convolved(conv, x, self._weight(conv), self.padding(conv, x.shape[2:]))
            if f"{conv.name}.bias" in self.tensors:
                x += self.tensors[f"{conv.name}.bias"][:, None, None]
            if conv.norm:
                gamma, beta, mean, variance = (
                    self.tensors[f"{conv.norm}.{name}"][:, None, None] for name in STATISTICS
                )
                x = (x - mean) / np.sqrt(variance + np.float32(self.eps)) * gamma + beta
            if conv.activation:
                x = np.clip(x, 0, 6 if conv.activation == "relu6" else None)
            if conv.ends:
                x = x + kept
        return x.reshape(len(x), -1)


Padding = tuple[tuple[int, int], tuple[int, int]]


def _after(conv: Conv, size: tuple[int, int], padding: Padding) -> tuple[int, int]:
    """Returns the height and width of a convolution's output."""
    reach = (conv.kernel - 1) * conv.dilation + 1
    high, wide = ((side + sum(added) - reach) // conv.stride + 1 for side, added in zip(size, padding, strict=True))
    return high, wide


def _convolved(conv: Conv, x: Array, weight: Array, padding: Padding) -> Array:
    """Computes a convolution as a sum over the positions of its kernel."""
    height, width = _after(conv, x.shape[2:], padding)
    padded = np.pad(x, ((0, 0), (0, 0), *padding))
    total = np.zeros((len(x), len(weight), height, width), np.float32)
    for i in range(conv.kernel):
        for j in range(conv.kernel):
            top, left = i * conv.dilation, j * conv.dilation
            part = padded[
                :,
                :,
                top : top + (height - 1) * conv.stride + 1 : conv.stride,
                left : left + (width - 1) * conv.stride + 1 : conv.stride,
            ]
            if conv.depthwise:
                total += part * weight[:, 0, i, j, None, None]
            else:
                flat = np.ascontiguousarray(part).reshape(len(x), part.shape[1], -1)
                total += (weight[:, :, i, j] @ flat).reshape(total.shape)
    return total
