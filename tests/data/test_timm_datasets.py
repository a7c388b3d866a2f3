"""Datasets that timm knows are found by their names."""

import numpy as np

from mnv2zoo.data.datasets import find


def test_a_dataset_of_timm_is_found_by_its_name(tmp_path, monkeypatch):
    import pickle

    # The files of CIFAR-10 as its authors pack them, with few images; torchvision checks their names alone.
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    labels = [0, 1, 2, 0, 1, 2, 3]
    rows = np.random.default_rng(0).integers(0, 255, (7, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *args: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = find("torch/cifar10", root=tmp_path)
    assert data.class_names[3] == "class 3"
    assert list(data.splits) == ["train", "test"]  # one split must not be there under two names
    assert [s.target for s in data.splits["test"]] == labels
    assert np.array_equal(np.asarray(data.splits["test"][2].read()), rows[2].reshape(3, 32, 32).transpose(1, 2, 0))
