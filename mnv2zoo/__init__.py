"""MobileNetV2 for timm: pretrained weights verified by SHA-256, and feature maps from any layer, by name.

Importing the package only registers the models with timm.
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
    # The installed command sets this flag. The program's name proves nothing: a script may be called mnv2zoo too.
    if getattr(sys.modules.get("_mnv2zoo_entry"), "is_command_line", False):
        return True
    # While `python -m mnv2zoo` locates the module, argv[0] is "-m" and the next word of orig_argv is the module name.
    words = sys.orig_argv
    return sys.argv[:1] == ["-m"] and "-m" in words and words[words.index("-m") + 1] == "mnv2zoo"


# Importing torch and timm takes seconds. The command line prints --help without them, and its commands import
# what they need.
if not _is_command_line():
    import mnv2zoo.models.registry  # noqa: F401  # registers the models

if TYPE_CHECKING:
    from mnv2zoo import convert, deploy, detection, features, segmentation, weights
    from mnv2zoo.evaluation import evaluate
    from mnv2zoo.inference.predict import predict
    from mnv2zoo.models.zoo import list_models, model_info, transforms
    from mnv2zoo.training import finetune

# All other public names are imported on first use, so importing the package takes little longer than importing timm.
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
