"""Other libraries explain, quantize and build on the networks."""

import anomalib.models.components
import anomalib.models.image.patchcore.torch_model as patchcore
import cv2
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import mnv2zoo
from mnv2zoo.features import BottleneckTaps
from mnv2zoo.models import pretrained
from tests.conftest import ROOT
from tests.ecosystem.conftest import IMAGES, NAME

TAPS = {"blocks.1.1": "Bottleneck_3", "blocks.3.3": "Bottleneck_10"}


@pytest.mark.ecosystem("anomalib", "`TimmFeatureExtractor` gives the maps of any bottleneck; equal to `BottleneckTaps`")
def test_anomalib_extracts_bottlenecks(network_035):
    extractor = anomalib.models.components.TimmFeatureExtractor(network_035, list(TAPS))
    maps = extractor(IMAGES)
    taps = BottleneckTaps(network_035, list(TAPS.values()))
    expected = taps(IMAGES)
    assert extractor.out_dims == list(taps.channels.values())
    for module, level in TAPS.items():
        torch.testing.assert_close(maps[module], expected[level])


@pytest.mark.ecosystem("anomalib", "PatchCore scores an odd image highest, on features of the 20-class weights")
def test_patchcore_scores_an_odd_image_highest():
    model = patchcore.PatchcoreModel(["blocks.1", "blocks.3"], "mnv2zoo_100_c20", pre_trained=True, num_neighbors=1)
    grid = torch.linspace(-1, 1, 64)
    normal = torch.stack([torch.outer(grid, grid).mul(scale).expand(3, 64, 64) for scale in (0.8, 0.9, 1.0, 1.1)])
    odd = normal[:1].clone()
    odd[..., 24:40, 24:40] = -2.0
    model.train()
    model(normal)
    model.subsample_embedding(1.0)
    model.eval()
    scores = [model(images).pred_score.item() for images in (normal[:1], normal[1:2] + 0.01, odd)]
    assert scores[2] > 2 * max(scores[:2])


@pytest.mark.ecosystem("segmentation-models-pytorch", "`Unet` trains with models as encoders, `tu-mnv2zoo_...`")
@pytest.mark.parametrize("name", [NAME, "mnv2zoo_050_c20"])
def test_unet_encodes_with_our_feature_maps(name):
    torch.manual_seed(0)
    unet = smp.Unet(f"tu-{name}", encoder_weights=None, classes=2)
    network = timm.create_model(name, features_only=True)
    network.load_state_dict(unet.encoder.model.state_dict())
    for ours, theirs in zip(network.eval()(IMAGES), unet.encoder.eval()(IMAGES)[1:], strict=True):
        torch.testing.assert_close(theirs, ours)
    optimizer, target = torch.optim.AdamW(unet.parameters(), lr=1e-3), (IMAGES[:, 0] > 0).long()
    losses = []
    unet.train()
    for _ in range(6):
        loss = nn.functional.cross_entropy(unet(IMAGES), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.ecosystem("captum", "`IntegratedGradients` add up to the difference of the logits (completeness)")
def test_attributions_add_up():
    found = pretrained.load("mnv2zoo_100_c20", "cpu")
    network = found.model.double()
    image = found.transform(Image.open(ROOT / "examples/coffee.jpg").convert("RGB"))[None].double()
    baseline = torch.zeros_like(image)
    with torch.inference_mode():
        logits, before = network(image)[0], network(baseline)[0]
    target = int(logits.argmax())
    attributions = IntegratedGradients(network).attribute(
        image, baseline, target=target, n_steps=200, internal_batch_size=50
    )
    assert attributions.shape == image.shape
    # Sums of 200 gradients, along a path with many kinks of ReLU.
    assert attributions.sum().item() == pytest.approx((logits - before)[target].item(), rel=0.02)


@pytest.mark.ecosystem("grad-cam", "`GradCAM` of the last bottleneck; equal to the paper's equation by hand")
def test_grad_cam_is_the_papers(network_035):
    level = network_035.blocks[-1]
    with GradCAM(network_035, [level]) as cam:
        found = cam(IMAGES[:1], [ClassifierOutputTarget(1)])
    maps = network_035.blocks(network_035.bn1(network_035.conv_stem(IMAGES[:1]))).detach().requires_grad_()
    network_035.forward_head(network_035.bn2(network_035.conv_head(maps)))[0, 1].backward()
    heat = (maps.grad.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).relu()[0].detach().numpy()
    heat = (heat - heat.min()) / (1e-7 + heat.max() - heat.min())
    np.testing.assert_allclose(found[0], np.clip(cv2.resize(heat, (64, 64)), 0, 1), atol=1e-4)


@pytest.mark.ecosystem("torchao", "`Int8WeightOnlyConfig` quantizes the classifier; logits within 1 %")
def test_int8_weights_agree():
    model = timm.create_model("mnv2zoo_050_c20", classifier="linear", num_classes=100).eval()
    torch.manual_seed(0)
    nn.init.normal_(model.classifier.weight, std=0.1)
    with torch.inference_mode():
        before = model(IMAGES)
        quantize_(model, Int8WeightOnlyConfig())
        after = model(IMAGES)
    assert "Int8" in type(model.classifier.weight).__name__ + repr(model.classifier.weight)
    assert type(model.conv_head.weight) is nn.Parameter
    assert torch.equal(after.argmax(dim=1), before.argmax(dim=1))
    assert (after - before).abs().max() < 0.01 * before.abs().max()
    assert not torch.equal(after, before)
    assert mnv2zoo.features.bottleneck_names(model)[-1] == "C2"
