"""Optimizes networks for the fake device, and compares them with the CPU: `python -m tests.fake_engines RUN PHOTOS`.

It ends with an error at the first difference, and prints the name of each part that agrees.
"""

import sys

import pytest
import torch

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.deploy import agreement
from mnv2zoo.errors import DeployError
from tests import fake_device
from tests.deploy.conftest import DETECTORS, detector, detector_images, expected, network, segmenter

fake_device.install()
FAKE = torch.device(fake_device.NAME, 0)
BOUNDS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1}


def require_near(found, wanted, precision):
    assert (found.device, found.dtype) == (FAKE, torch.float32)
    error = ((found.cpu() - wanted).norm() / wanted.norm()).item()
    assert error < BOUNDS[precision], error


def classifier(images):
    """Every precision, from images on either device, for a model on either device."""
    model = network("mnv2zoo_050_c20")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for precision in BOUNDS:
        fast = deploy.optimize(model, images[:2], "torch", precision, device="fake")
        assert (fast.precision, fast.device, "fake:0" in repr(fast)) == (precision, FAKE, True)
        for given in (images, images.to(FAKE), images[:1].half(), images[:1].double()):
            require_near(fast(given), expected(model, given.cpu().float()), precision)
        assert (fast(images[:0]).shape, fast(images[:0]).device) == ((0, 20), FAKE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def model_on_the_device(images):
    """A model and an example that are on the device already stay as they are."""
    model = network()
    wanted = expected(model, images)
    model.to(FAKE)
    fast = deploy.optimize(model, images.to(FAKE), "torch", device=FAKE)
    assert {value.device for value in model.state_dict().values()} == {FAKE}
    require_near(fast(images), wanted, "fp32")
    for one, given in ((model, images), (network(), images.to(FAKE))):  # without `device`, all is on the CPU
        with pytest.raises(DeployError) as error:
            deploy.optimize(one, given, "torch")
        assert "fake:0" in error.value.found


def engines(images):
    """`auto` names the engines that do not have the device, and picks one that does."""
    fast = deploy.optimize(network(), images, device="fake")
    verdicts = {attempt.engine: attempt.verdict for attempt in fast.tried}
    assert fast.engine == "torch"
    assert verdicts["torch"] == "chosen"
    assert verdicts["openvino"] == verdicts["onnxruntime"] == "does not support the device fake:0"


def maps(images):
    """Taps and segmenters keep the form of their outputs."""
    taps = mnv2zoo.features.BottleneckTaps(network(), ["C2", "Bottleneck_3"])
    for model in (taps, segmenter("lraspp"), segmenter("deeplabv3")):
        found, wanted = deploy.optimize(model, images, "torch", device="fake")(images), expected(model, images)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            require_near(found[name], value, "fp32")


def detectors(images):
    """Detectors find the same boxes, which are on the device."""
    for kind in DETECTORS:
        whole, given = detector(kind), detector_images(kind)
        fast = deploy.optimize(whole, given, "torch", device="fake")
        wanted = expected(whole, list(given))
        for one in (given, list(given.to(FAKE))):
            found = fast(one)
            assert {value.device for boxes in found for value in boxes.values()} == {FAKE}
            on_cpu = [{name: value.cpu() for name, value in boxes.items()} for boxes in found]
            assert agreement.matched(on_cpu, wanted) >= 98, kind
        assert fast(given[:0]) == []


def prediction(run, photos):
    """`predict` gives the rows of the CPU, in each precision."""
    wanted = list(mnv2zoo.predict(photos, run, device="cpu"))
    for arguments in ({"engine": "torch"}, {"precision": "fp16"}, {"engine": "auto", "precision": "bf16"}):
        found = list(mnv2zoo.predict(photos, run, device="fake", batch_size=2, **arguments))
        for row, other in zip(found, wanted, strict=True):
            scores = [{one["class"]: one["score"] for one in each["predictions"]} for each in (row, other)]
            assert row["image"] == other["image"]
            assert max(abs(scores[0][name] - scores[1][name]) for name in scores[1]) < 0.05


def main():
    """Runs the parts."""
    run, photos = sys.argv[1:]
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for part in (classifier, model_on_the_device, engines, maps, detectors):
        part(images)
        print(part.__name__, flush=True)
    prediction(run, photos)
    print("prediction", flush=True)


if __name__ == "__main__":
    main()
