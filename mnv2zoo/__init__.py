"""MobileNetV2 for timm: named configurations, weights verified by hash, every bottleneck within reach.

Importing the package registers the models with timm and does nothing else.
"""

import sys
from pathlib import Path

from mnv2zoo import architecture, environment, errors
from mnv2zoo.version import __version__ as __version__

__all__ = [
    "architecture",
    "convert",
    "deploy",
    "detection",
    "elsewhere",
    "environment",
    "errors",
    "evaluate",
    "features",
    "finetune",
    "info",
    "list_models",
    "model",
    "model_info",
    "network",
    "predict",
    "predictions",
    "preprocessing",
    "registry",
    "segmentation",
    "training",
    "transforms",
    "weights",
]


def _is_command_line() -> bool:
    # While `python -m mnv2zoo` looks for the module, argv[0] is "-m"; its name is the word behind.
    words = sys.orig_argv
    as_module = sys.argv[:1] == ["-m"] and "-m" in words and words[words.index("-m") + 1] == "mnv2zoo"
    return as_module or Path(sys.argv[0] if sys.argv else "").name in ("mnv2zoo", "mnv2zoo.exe")


# The command line answers --help before torch and timm are imported, which takes seconds; its commands
# import what they need.
if not _is_command_line():
    from mnv2zoo import (
        convert,
        deploy,
        detection,
        elsewhere,
        features,
        info,
        model,
        network,
        predictions,
        preprocessing,
        registry,
        segmentation,
        training,
        weights,
    )
    from mnv2zoo.info import list_models, model_info, transforms
    from mnv2zoo.predictions import predict
    from mnv2zoo.training import evaluate, finetune
