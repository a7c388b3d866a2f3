"""The networks of the other libraries, with random weights and random batch norm statistics."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import mnv2zoo  # noqa: F401  registers the 20-class networks
from mnv2zoo import architecture
from mnv2zoo.convert import LAYOUTS
from tests.convert.other_networks import Flat, OpenMMLab
from tests.reference_c20 import TutorialNet

PAPER = ["mnv2zoo_035", "mnv2zoo_050", "mnv2zoo_075", "mnv2zoo_100", "mnv2zoo_140"]
DEEPER = ["mnv2zoo_110d", "mnv2zoo_120d"]
C20 = ["mnv2zoo_050_c20", "mnv2zoo_100_c20", "mnv2zoo_140_c20"]

# Keras, which needs a process of its own, has its tests in test_keras_files.py.
SUPPORTED = {
    **{"timm": PAPER + DEEPER, "torchvision": PAPER + DEEPER, "transformers": PAPER, "seed": C20},
    **{"d-li14": PAPER, "tonylins": ["mnv2zoo_100"], "openmmlab": PAPER},
}
CASES = [pytest.param(layout, name, id=f"{layout}-{name}") for layout, names in SUPPORTED.items() for name in names]


def ours(name: str, layout: str = "timm", **kwargs) -> nn.Module:
    """A network in the native layout: timm's own where timm has it, and padded as the layout's are."""
    if name in C20:
        return randomized(timm.create_model(name, **kwargs), seed=1)
    pad_type = LAYOUTS[layout].pad_type
    return randomized(timm.create_model(name.replace("mnv2zoo", "mobilenetv2"), pad_type=pad_type, **kwargs), seed=1)


def theirs(layout: str, name: str, num_classes: int | None = None, **kwargs) -> nn.Module:
    """The same network in another library."""
    config = architecture.get(name)
    classes = num_classes or config.num_classes
    if layout == "timm":
        net = timm.create_model(name.replace("mnv2zoo", "mobilenetv2"), num_classes=classes)
    elif layout == "torchvision" and config.fix_stem_head:
        stages = [[s.t, architecture.round_channels(s.c * config.width), s.n, s.s] for s in config.stages]
        net = torchvision.models.mobilenet_v2(inverted_residual_setting=stages, num_classes=classes)
    elif layout == "torchvision":
        net = torchvision.models.mobilenet_v2(width_mult=config.width, num_classes=classes)
    elif layout == "transformers":
        transformers = pytest.importorskip("transformers")
        settings = transformers.MobileNetV2Config(depth_multiplier=config.width, num_labels=classes, **kwargs)
        net = transformers.MobileNetV2ForImageClassification(settings)
    elif layout == "openmmlab":
        net = OpenMMLab(classes, config.width)
    elif layout in ("d-li14", "tonylins"):
        net = Flat(classes, config.width, head_in_features=layout == "tonylins")
    else:
        net = TutorialNet(classes, config.width)
    return randomized(net, seed=2)


def randomized(net: nn.Module, seed: int) -> nn.Module:
    """Gives every tensor values that a mistake would show in.

    Variances nearer to zero would make the network chaotic: the last bit of one layer grows past any tolerance.
    """
    random = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.data = torch.empty(weight.shape).normal_(std=weight[0].numel() ** -0.5, generator=random)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            weight, bias, mean, variance = torch.rand(4, layer.num_features, generator=random)
            layer.weight.data, layer.bias.data = weight + 0.5, bias - 0.5
            layer.running_mean, layer.running_var = mean - 0.5, variance + 0.1
            layer.num_batches_tracked += 7
        elif getattr(layer, "bias", None) is not None:
            layer.bias.data = torch.rand(layer.bias.shape, generator=random) - 0.5
    return net.double().eval()


@torch.no_grad()
def logits(net: nn.Module, size: tuple[int, int] = (64, 49)) -> Tensor:
    """A network's answer to two fixed images, in double precision so that any difference counts."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = net(images)
    return getattr(result, "logits", result).flatten(1)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.1, "a network whose answer is all but constant proves nothing"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
