"""Features that are computed once train the same head."""

import json

import pytest
import torch

import mnv2zoo
from tests.photos import QUICK
from tests.training.runs import (
    MODEL,
    weights,
)


def test_head_only_sees_each_image_once(photos, tmp_path, monkeypatch):
    from mnv2zoo.data.datasets import Sample

    reads = []
    real = Sample.read
    monkeypatch.setattr(Sample, "read", lambda self: reads.append(self.name) or real(self))
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "train": "head", "epochs": 20})
    assert len(result.history) == 20
    train = json.loads((tmp_path / "run/split.json").read_text())["train"]
    assert sorted(name for name in reads if name in train) == sorted(train)


@pytest.mark.slow
def test_head_only_is_the_same_with_and_without_the_cache(photos, tmp_path):
    # With augmentation switched off, the cache must not change what is learnt.
    still = {
        "scale": 1.0,
        "hflip": 0.0,
        "color_jitter": 0.0,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "train": "head",
    }
    for name, cached in (("with", True), ("without", False)):
        mnv2zoo.finetune(photos, MODEL, tmp_path / name, **{**QUICK, **still, "cache_features": cached, "keep": "last"})
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert set(different) <= {"classifier.weight", "classifier.bias"}
    # Cutting out the whole of an image and cutting its middle round its sides differently.
    assert torch.nn.functional.cosine_similarity(one["classifier.weight"], other["classifier.weight"]).min() > 0.9
