"""The tutorial's 20-class network, written from its description: the reference that the zoo is compared with."""

from torch import Tensor, nn

# (in, hidden, out, stride, whether the input is added)
BOTTLENECKS = (
    (32, 32, 16, 1, False),
    (16, 96, 24, 2, False),
    (24, 144, 24, 1, True),
    (24, 144, 32, 2, False),
    (32, 192, 32, 1, True),
    (32, 192, 32, 1, True),
    (32, 192, 64, 1, False),
    (64, 384, 64, 1, True),
    (64, 384, 64, 1, True),
    (64, 384, 64, 1, True),
    (64, 384, 96, 2, False),
    (96, 576, 96, 1, True),
    (96, 576, 96, 1, True),
    (96, 576, 160, 2, False),
    (160, 960, 160, 1, True),
    (160, 960, 160, 1, True),
    (160, 960, 320, 1, False),
)


class BaseNet(nn.Module):
    """One bottleneck."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, add: bool) -> None:
        super().__init__()
        self.add = add
        self.baseNet = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.baseNet(x) if self.add else self.baseNet(x)


class TutorialNet(nn.Module):
    """The whole network: images (N, 3, H, W) to logits (N, classes, 1, 1).

    The tutorial's own has `width=1.0`; other widths scale every channel count but the head's, which
    only grows.
    """

    def __init__(self, num_classes: int = 20, width: float = 1.0) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            wanted = channels * width
            nearest = max(8, int(wanted / 8 + 0.5) * 8)
            return nearest if nearest >= 0.9 * wanted else nearest + 8

        head = max(1280, scaled(1280))
        self.features = nn.Sequential()
        self.features.add_module(
            "C1", nn.Sequential(nn.Conv2d(3, scaled(32), 3, 2, 1), nn.BatchNorm2d(scaled(32)), nn.ReLU())
        )
        for number, (inputs, hidden, outputs, stride, add) in enumerate(BOTTLENECKS, 1):
            expansion = hidden // inputs
            block = BaseNet(scaled(inputs), scaled(inputs) * expansion, scaled(outputs), stride, add)
            self.features.add_module(f"Bottleneck_{number}", block)
        self.features.add_module("C2", nn.Sequential(nn.Conv2d(scaled(320), head, 1), nn.BatchNorm2d(head), nn.ReLU()))
        self.features.add_module("GP", nn.AdaptiveAvgPool2d(1))
        self.features.add_module(
            "C3", nn.Sequential(nn.Conv2d(head, num_classes, 1), nn.BatchNorm2d(num_classes), nn.ReLU())
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)
