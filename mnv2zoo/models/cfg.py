"""Builds timm's pretrained cfg: the location of the weights and their preprocessing, as a plain dict."""

from __future__ import annotations

from typing import Any

from mnv2zoo.architecture import Config
from mnv2zoo.data import preprocessing
from mnv2zoo.weights import store
from mnv2zoo.weights.schema import WeightsEntry


def pretrained_cfg(config: Config, entry: WeightsEntry | None = None) -> dict[str, Any]:
    """Describes weights as a timm pretrained cfg.

    Args:
        config: The architecture.
        entry: Its weights. Without weights, the cfg has ImageNet preprocessing at 224 pixels.

    Returns:
        The fields of timm's `PretrainedCfg`. `hf_hub_id` includes the pinned revision.
    """
    cfg: dict[str, Any] = {
        "architecture": config.name,
        "num_classes": config.num_classes,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "paper_ids": "arXiv:1801.04381",
        "license": "Apache-2.0",
    }
    if entry is None:
        return cfg
    _, height, width = entry.input_size
    cfg |= {key: getattr(entry, key) for key in ("tag", "num_classes", "license", "description", *preprocessing.FIELDS)}
    cfg |= {
        "pool_size": (-(-height // 32), -(-width // 32)),
        "label_names": entry.own_label_names,
        "origin_url": entry.origin,
    }
    if entry.bundled is not None:
        return cfg | {"file": str(store.bundled_path(entry))}
    hub_id = f"{entry.repo_id}@{entry.revision}" if entry.revision else entry.repo_id
    return cfg | {"hf_hub_id": hub_id, "hf_hub_filename": entry.filename}
