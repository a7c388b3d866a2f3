"""MobileNetV2 as it is built in repositories that cannot be installed, written from their sources' structure.

`../shared/data/layouts` has outputs of the originals of two of them; `test_layouts.py` compares with those too.
"""

from collections import OrderedDict

from torch import Tensor, nn

STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def divisible(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv_bn(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after), *[nn.ReLU6(inplace=True)] * act]


class Block(nn.Module):
    """A bottleneck whose `conv` is flat, as in d-li14 and tonylins, or of modules with a `conv` and a `bn` each."""

    def __init__(self, before: int, after: int, stride: int, t: int, named: bool) -> None:
        super().__init__()
        hidden = before * t
        steps = [conv_bn(before, hidden, 1)] * (t > 1)
        steps += [conv_bn(hidden, hidden, 3, stride, hidden), conv_bn(hidden, after, 1, act=False)]
        parts = [name_parts(step) for step in steps] if named else [layer for step in steps for layer in step]
        self.conv = nn.Sequential(*parts)
        self.shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def name_parts(layers: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(zip(("conv", "bn", "activate"), layers, strict=False)))


def stages(width: float, named: bool) -> list[list[Block]]:
    before, rows = divisible(32 * width), []
    for t, c, n, s in STAGES:
        after, row = divisible(c * width), []
        for index in range(n):
            row.append(Block(before, after, s if index == 0 else 1, t, named))
            before = after
        rows.append(row)
    return rows


class Flat(nn.Module):
    """d-li14's network, whose head is `conv`, or tonylins', whose head is the last of `features`."""

    def __init__(self, classes: int, width: float, head_in_features: bool) -> None:
        super().__init__()
        blocks = [block for row in stages(width, named=False) for block in row]
        head = nn.Sequential(*conv_bn(divisible(320 * width), divisible(1280 * max(1.0, width)), 1))
        self.features = nn.Sequential(nn.Sequential(*conv_bn(3, divisible(32 * width), 3, 2)), *blocks)
        if head_in_features:
            self.features.append(head)
        self.conv = nn.Identity() if head_in_features else head
        self.classifier = nn.Linear(divisible(1280 * max(1.0, width)), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


class OpenMMLab(nn.Module):
    """mmpretrain's classifier: a backbone of `layer1` to `layer7`, and a head."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        last = divisible(1280 * max(1.0, width))
        parts = {"conv1": name_parts(conv_bn(3, divisible(32 * width), 3, 2))}
        parts |= {f"layer{number}": nn.Sequential(*row) for number, row in enumerate(stages(width, named=True), 1)}
        parts["conv2"] = name_parts(conv_bn(divisible(320 * width), last, 1))
        self.backbone = nn.Sequential(OrderedDict(parts))
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(last, classes)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).mean((2, 3)))
