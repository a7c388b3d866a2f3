"""Features that are computed once train the same head."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

import mnv2zoo
from mnv2zoo.training.cached_features import Features
from tests.photos import QUICK
from tests.training.runs import (
    MODEL,
    weights,
)


def test_head_only_sees_each_image_once(photos, tmp_path, monkeypatch):
    from mnv2zoo.data.datasets import Sample

    reads = []
    real = Sample.source
    monkeypatch.setattr(Sample, "source", lambda self: reads.append(self.name) or real(self))
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "train": "head", "epochs": 20})
    assert len(result.history) == 20
    train = json.loads((tmp_path / "run/split.json").read_text())["train"]
    assert sorted(name for name in reads if name in train) == sorted(train)


@pytest.mark.slow
def test_head_only_is_the_same_with_and_without_the_cache(photos, tmp_path):
    # With augmentation switched off, the cache must not change the trained head.
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


def test_cached_features_give_each_image_its_own_targets():
    batches = [
        (torch.arange(4.0).reshape(2, 2), {"label": torch.tensor([5, 6]), "box": torch.tensor([[1], [2]])}),
        (torch.full((1, 2), 9.0), {"label": torch.tensor([7]), "box": torch.tensor([[3]])}),
    ]
    features = Features(batches)
    assert len(features) == 3
    for key in (1, (1, 12345)):  # a key of `Batches` has a seed
        values, targets = features[key]
        assert values.tolist() == [2.0, 3.0]
        assert (targets["label"].item(), targets["box"].tolist()) == (6, [2])
    assert features[2][1]["label"] == 7
    loader = DataLoader(features, batch_sampler=[[(2, 0), (0, 0)], [1]], collate_fn=Features.collate)
    (values, targets), last = loader
    assert values.tolist() == [[9.0, 9.0], [0.0, 1.0]]
    assert (targets["label"].tolist(), targets["box"].tolist()) == ([7, 5], [[3], [1]])
    assert last[1]["label"].tolist() == [6]
