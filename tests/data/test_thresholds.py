"""Labels over their thresholds, without PyTorch."""

import numpy as np
import torch

from mnv2zoo.data.thresholds import over_thresholds, sigmoid


def test_the_sigmoid_is_pytorchs_and_does_not_overflow():
    logits = np.array([-1000.0, -3.0, 0.0, 0.5, 30.0, 1000.0], np.float32)
    assert np.allclose(sigmoid(logits), torch.from_numpy(logits).double().sigmoid(), rtol=1e-12, atol=0)
    assert sigmoid(logits)[[0, -1]].tolist() == [0.0, 1.0]


def test_each_label_has_its_own_threshold_and_the_highest_score_comes_first():
    logits = np.log(np.array([0.25, 1.0, 4.0, 1.0]))  # scores 0.2, 0.5, 0.8, 0.5
    found = over_thresholds(logits, "abcd", [0.1, 0.6, 0.9, 0.5])
    assert found == [{"class": 3, "label": "d", "score": 0.5}, {"class": 0, "label": "a", "score": 0.2}]
