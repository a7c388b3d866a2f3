"""What only a GPU can show: that training, evaluation, prediction and the engines compute there what a CPU computes."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo import deploy, detection, segmentation
from mnv2zoo.models import pretrained
from mnv2zoo.training import loaders
from tests.tasks.detect.scenes import QUICK as DETECT
from tests.tasks.detect.scenes import fill_voc
from tests.tasks.segment.scenes import QUICK as SEGMENT
from tests.tasks.segment.scenes import fill

DEVICE = pretrained.accelerator()
MODEL = "mnv2zoo_035"
CLASSIFY = {"init": "random", "input_size": 64, "epochs": 2, "batch_size": 8, "workers": 0, "ema_decay": 0.9}
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE is None, reason="there is no GPU")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for number in range(count):
            place = folder / split / ("dark", "bright")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 90, (80, 96, 3)) + 150 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    return folder


WAYS = {
    "all": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "cached head": {"train": "head"},
    "channels last": {"channels_last": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_classifier_is_trained_and_evaluated(photos, tmp_path, way):
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", device=str(DEVICE), **CLASSIFY, **WAYS[way])
    assert {parameter.device.type for parameter in result.model.parameters()} == {DEVICE.type}
    on_gpu, on_cpu = (mnv2zoo.evaluate(photos, str(tmp_path / "run"), device=name) for name in (str(DEVICE), "cpu"))
    assert on_gpu.to_json()["images"] == 8
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=0.02)


def test_workers_read_the_same_images_without_forking_this_process(photos, tmp_path):
    assert loaders.start_method(DEVICE) == "forkserver"
    own = {**CLASSIFY, "deterministic": True}
    none, two = (
        mnv2zoo.finetune(photos, MODEL, tmp_path / str(workers), device=str(DEVICE), **{**own, "workers": workers})
        for workers in (0, 2)
    )
    assert none.history[0]["train_loss"] == pytest.approx(two.history[0]["train_loss"], rel=0.01)
    assert none.scores["val"].loss == pytest.approx(two.scores["val"].loss, rel=0.05)


def test_a_run_goes_on_on_the_cpu(photos, tmp_path):
    whole = mnv2zoo.finetune(photos, MODEL, tmp_path / "whole", device="cpu", **CLASSIFY)
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", device=str(DEVICE), **CLASSIFY)
    history = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert history[0]["train_loss"] == pytest.approx(whole.history[0]["train_loss"], rel=0.02)
    again = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", device="cpu", resume=True, **CLASSIFY)
    assert again.epoch == 2


@pytest.mark.parametrize("head", ["ssdlite", "retinanet", "fasterrcnn"])
def test_a_detector_is_trained_and_finds_the_same_boxes_on_both(tmp_path, head):
    data = fill_voc(tmp_path / "data", train=12)
    values = {**DETECT, "ema_decay": 0.9, "epochs": 4}
    mnv2zoo.finetune(data, MODEL, tmp_path / "run", device=str(DEVICE), head=head, **values)
    scores = [mnv2zoo.evaluate(data, str(tmp_path / "run"), device=name) for name in (str(DEVICE), "cpu")]
    assert scores[0].objects == scores[1].objects > 0
    assert scores[0].map50 == pytest.approx(scores[1].map50, abs=2)


@pytest.mark.parametrize("head", ["lraspp", "deeplabv3"])
def test_a_segmenter_is_trained_and_finds_the_same_classes_on_both(tmp_path, head):
    data = fill(tmp_path / "data")
    values = {**SEGMENT, "ema_decay": 0.9, "task": "segment", "head": head, "class_weights": "balanced"}
    mnv2zoo.finetune(data, MODEL, tmp_path / "run", device=str(DEVICE), **values)
    scores = [mnv2zoo.evaluate(data, str(tmp_path / "run"), device=name) for name in (str(DEVICE), "cpu")]
    assert scores[0].pixel_accuracy == pytest.approx(scores[1].pixel_accuracy, abs=0.5)


def test_predictions_are_those_of_the_cpu(photos):
    files = sorted((photos / "val/dark").iterdir())
    pairs = zip(*(mnv2zoo.predict(files, "mnv2zoo_100_c20", device=name) for name in (str(DEVICE), "cpu")), strict=True)
    for on_gpu, on_cpu in pairs:
        assert on_gpu["predictions"][0]["label"] == on_cpu["predictions"][0]["label"]
        assert on_gpu["predictions"][0]["score"] == pytest.approx(on_cpu["predictions"][0]["score"], abs=0.01)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("mnv2zoo_100").eval()


TOLERANCE = {"fp32": 0.002, "fp16": 0.02, "bf16": 0.1}


@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_engine_torch_gives_what_the_network_gives_at_any_batch_size(network, precision):
    images = torch.randn(8, 3, 224, 224)
    fast = deploy.optimize(network, images, "torch", precision, device=str(DEVICE))
    with torch.inference_mode():
        expected = network(images)
    for number in (8, 1, 5, 8, 3):
        given = images[:number].to(DEVICE)
        found = fast(given)
        assert found.device.type == DEVICE.type
        error = (found.cpu() - expected[:number]).norm() / expected[:number].norm()
        assert error < TOLERANCE[precision]
    assert torch.equal(fast(images[:2]), fast(images[:2].to(DEVICE)))  # images on the CPU are moved


def test_threads_may_call_an_engine_at_once(network):
    batches = [torch.randn(4, 3, 224, 224, device=DEVICE) for _ in range(8)]
    fast = deploy.optimize(network, batches[0], "torch", "fp16", device=str(DEVICE))
    expected = [fast(batch).clone() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fast, batches * 10))
    for place, own in enumerate(found):
        torch.testing.assert_close(own, expected[place % 8], rtol=0, atol=0)


def _first_logit(fast, images, answers):
    answers.put(fast(images)[0, 0].item())


def test_an_engine_can_be_passed_to_another_process(network):
    images = torch.randn(2, 3, 224, 224)
    fast = deploy.optimize(network, images, "torch", "fp32", device=str(DEVICE))
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_first_logit, args=(fast, images, answers))
    process.start()
    assert answers.get(timeout=120) == pytest.approx(fast(images)[0, 0].item(), abs=1e-3)
    process.join()


def test_a_detector_and_a_segmenter_run_on_an_engine():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 320, 320)
    detector = detection.ssdlite("mnv2zoo_100", 4, size=(320, 320), score_thresh=0.3).eval()
    fast = deploy.optimize(detector, images, "torch", "fp32", device=str(DEVICE))
    with torch.inference_mode():
        expected = detector(list(images))
    for found, own in zip(fast(images.to(DEVICE)), expected, strict=True):
        assert found["boxes"].device.type == DEVICE.type
        assert abs(len(found["boxes"]) - len(own["boxes"])) <= 0.05 * len(own["boxes"])
    segmenter = segmentation.lraspp("mnv2zoo_100", 4).eval()
    fast_segmenter = deploy.optimize(segmenter, images, "torch", "fp16", device=str(DEVICE))
    with torch.inference_mode():
        logits = segmenter(images)
    same = (fast_segmenter(images.to(DEVICE))["out"].argmax(1).cpu() == logits["out"].argmax(1)).float().mean()
    assert same > 0.95  # random weights give classes whose logits are nearly equal
