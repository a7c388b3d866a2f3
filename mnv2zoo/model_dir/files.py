"""The files of a folder with a network, as timm and the command line read them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from mnv2zoo.data import preprocessing
from mnv2zoo.models.config_file import check_labels
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.timm_compat import save_config_for_hf


def files(model: MobileNetV2, data_config: Mapping[str, Any], label_names: Sequence[str] = ()) -> dict[str, bytes]:
    """Makes the files of a folder that `describe` and timm's `local-dir:` read.

    Args:
        model: A network as timm builds it.
        data_config: Its preprocessing as timm names it: `input_size`, `mean`, `std` and so on.
        label_names: Names of its classes in class order, if they are known.

    Returns:
        The content of `model.safetensors`, `config.json` and, with names, `labels.txt`, by these names.

    Raises:
        DataError: If the name of a class has a line end in it.
    """
    check_labels(label_names)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # What the weights' origin says of its licence, labels and tag is not said of these.
    cfg: dict[str, Any] = dict.fromkeys(("tag", "license", "origin_url", "description"), "")
    cfg |= {"num_classes": model.num_classes, "label_names": list(label_names) or None, "label_descriptions": None}
    data_config = dict(data_config)
    for key in {"mean", "std"} & data_config.keys():
        data_config[key] = preprocessing.per_channel(data_config[key], model.in_chans)
    for key in {"input_size", "test_input_size"} & data_config.keys():
        data_config[key] = (model.in_chans, *data_config[key][1:])
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        save_config_for_hf(model, str(config), model_config={"pretrained_cfg": cfg}, data_config=data_config)
        made = {
            "model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
            "config.json": config.read_bytes(),
        }
    if label_names:
        made["labels.txt"] = "".join(f"{name}\n" for name in label_names).encode()
    return made
