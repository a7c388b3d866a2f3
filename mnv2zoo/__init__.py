"""MobileNetV2 for timm: named configurations, weights verified by hash, every bottleneck within reach.

Importing the package registers the models with timm and does nothing else.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnv2zoo import architecture, environment, errors
from mnv2zoo.version import __version__ as __version__

__all__ = [
    "architecture",
    "convert",
    "deploy",
    "detection",
    "environment",
    "errors",
    "evaluate",
    "features",
    "finetune",
    "list_models",
    "model_info",
    "predict",
    "segmentation",
    "transforms",
    "weights",
]


def _is_command_line() -> bool:
    # The installed command says so itself. A program's name says nothing: a script may be called mnv2zoo too.
    if getattr(sys.modules.get("_mnv2zoo_entry"), "is_command_line", False):
        return True
    # While `python -m mnv2zoo` looks for the module, argv[0] is "-m", and the word after it in full is the name.
    words = sys.orig_argv
    return sys.argv[:1] == ["-m"] and "-m" in words and words[words.index("-m") + 1] == "mnv2zoo"


# The command line answers --help before torch and timm are imported, which takes seconds; its commands
# import what they need.
if not _is_command_line():
    import mnv2zoo.models.registry  # noqa: F401  # registers the models

if TYPE_CHECKING:
    from mnv2zoo import convert, deploy, detection, features, segmentation, weights
    from mnv2zoo.evaluation import evaluate
    from mnv2zoo.inference.predict import predict
    from mnv2zoo.models.zoo import list_models, model_info, transforms
    from mnv2zoo.training import finetune

# Every other public name is imported at its first use, so that importing the package takes little longer than timm.
_HOMES = {
    "evaluate": "mnv2zoo.evaluation",
    "finetune": "mnv2zoo.training",
    "list_models": "mnv2zoo.models.zoo",
    "model_info": "mnv2zoo.models.zoo",
    "predict": "mnv2zoo.inference.predict",
    "transforms": "mnv2zoo.models.zoo",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *architecture.CONFIGS, *(name for name in globals() if name.startswith("__"))})
