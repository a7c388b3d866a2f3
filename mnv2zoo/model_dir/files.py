"""Writes the files of a model folder, which timm, transformers and the command line can read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from mnv2zoo.data import preprocessing
from mnv2zoo.models.config_file import check_labels, portable
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.timm_compat import save_config_for_hf


def model_files(
    model: MobileNetV2,
    data_config: Mapping[str, Any],
    label_names: Sequence[str] = (),
    whole: nn.Module | None = None,
    **recorded: Any,
) -> dict[str, bytes]:
    """Builds the files of a model folder, which timm reads with `local-dir:`.

    Args:
        model: A model as timm builds it.
        data_config: Its preprocessing in timm's terms: `input_size`, `mean`, `std` and so on.
        label_names: Class names in class order, if known.
        whole: The detector or segmenter that contains the model. Its tensors are written instead of the model's.
        **recorded: Further entries of `config.json`: `task` and `head`.

    Returns:
        The content of `model.safetensors`, `config.json` and, with class names, `labels.txt`, by file name.

    Raises:
        DataError: If a class name contains a line break.
    """
    check_labels(label_names)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (whole or model).state_dict().items()}
    # The license, labels and tag of the initial weights do not apply to the fine-tuned ones.
    cfg: dict[str, Any] = dict.fromkeys(("tag", "license", "origin_url", "description"), "")
    cfg |= {
        "num_classes": model.num_classes,
        "label_names": list(label_names) or None,
        "label_descriptions": None,
    }
    data_config = dict(data_config)
    for key in {"mean", "std"} & data_config.keys():
        data_config[key] = preprocessing.per_channel(data_config[key], model.in_chans)
    for key in {"input_size", "test_input_size"} & data_config.keys():
        data_config[key] = (model.in_chans, *data_config[key][1:])
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        save_config_for_hf(model, str(config), model_config={"pretrained_cfg": cfg}, data_config=data_config)
        document = json.loads(config.read_bytes())
    if whole:  # timm only supports the classes of classifiers
        document |= {"num_classes": len(label_names), "label_names": list(label_names)}
        document["pretrained_cfg"]["num_classes"] = len(label_names)
        document.get("model_args", {}).pop("num_classes", None)
    contents = {
        "model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
        "config.json": json.dumps(portable({**document, **recorded}), indent=2).encode(),
    }
    if label_names:
        contents["labels.txt"] = "".join(f"{name}\n" for name in label_names).encode()
    return contents
