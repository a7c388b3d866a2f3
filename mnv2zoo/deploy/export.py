"""Exports a bundle that runs on its own: model, preprocessing, labels, a script and a card."""

from __future__ import annotations

import ast
import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import nn

from mnv2zoo.deploy import checks, contents, generated_images
from mnv2zoo.deploy.contents import Contents
from mnv2zoo.deploy.formats import TARGETS
from mnv2zoo.errors import DeployError, nearest
from mnv2zoo.model_dir import cards
from mnv2zoo.models import config_file
from mnv2zoo.system import posix
from mnv2zoo.system.files import vacant, whole_folder

Format = Literal["onnx", "openvino", "torch-export", "executorch", "litert"]
SCRIPTS = Path(__file__).parent / "bundle"
NAME = "predict.py"  # what a bundle calls its script


def export(
    model: nn.Module | str,
    directory: str | Path,
    format: Format = "onnx",
    name: str | None = None,
    label_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> Path:
    """Exports a bundle that needs neither this package nor timm.

    It holds the model, `preprocess.json`, `labels.txt`, `predict.py` and the card `README.md`. Before the folder
    appears, the script reads image files of many kinds, and what it computes is compared with the model's outputs:
    pixels and logits of a classifier, boxes of a detector, masks of a segmenter. The bundle of a run that gives several
    labels per image holds their thresholds in `thresholds.json`, which `predict.py` applies and you may edit.

    A detector's graph holds its post-processing. It takes one normalized image (1, 3, H, W) as `images`, and its height
    and width without padding (2,) as `size` if `resize` is `pad`, and gives `boxes` (n, 4), `labels` (n,) and `scores`
    (n,) as the detector does. Faster R-CNN is exported with both stages.

    Args:
        model: A model in evaluation mode: a zoo classifier; torchvision's `SSD`, `RetinaNet` or `FasterRCNN`; or a
            segmenter, which maps normalized images (N, 3, H, W) to logits (N, K, H, W) or to a dict with these at
            `out`. Or a name: an architecture, `architecture.tag`, a run folder of any of these or an `hf-hub:` name.
        directory: The bundle: a new or empty folder.
        format: For batches of any size, `onnx` for ONNX Runtime, `openvino`, or `torch-export` for PyTorch (`.pt2`).
            For one image at a time, as on mobile devices, `executorch` (`.pte`, with XNNPACK) or `litert` (`.tflite`).
            Detectors take `onnx` and `openvino`, and segmenters these and `torch-export`.
        name: The model's name on the card; its own by default.
        label_names: The classes, in order; those of a detector without the background. By default those of the
            name, and numbers for other detectors and segmenters.
        preprocessing: How a detector or segmenter sees images: `input_size` (3, H, W), `mean`, `std`, `interpolation`
            (`bilinear` by default) and `resize`: `squash` to resize the whole image to exactly that size, or `pad` to
            keep its aspect and pad it at the right or bottom. By default a detector's own, or that of the name; a
            segmenter that is not named needs it.
        license: The license of the weights, for the card; a classifier's own by default.

    Returns:
        The bundle.

    Raises:
        DeployError: If the model cannot be exported, the folder is not empty or cannot be written, or what the bundle
            computes differs from the model's outputs.
        DataError: If the label names do not fit the model or `labels.txt`.
        MissingExtraError: If a package that the format needs is not installed.
        UnknownModelError: If there is no model of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
    """
    directory = Path(directory)
    _check(directory, format)
    held = contents.of(model, label_names, preprocessing)
    _check_contents(held, format)
    config_file.check_labels(held.label_names, name or held.name)
    target = TARGETS[format]
    try:
        with whole_folder(directory) as bundle:
            files = target.write(held.network(), torch.zeros(1, *held.preprocessing["input_size"]), bundle)
            (bundle / "preprocess.json").write_text(json.dumps(held.settings(), indent=2) + "\n", encoding="utf-8")
            (bundle / "labels.txt").write_bytes("".join(f"{label}\n" for label in held.label_names).encode())
            for file, text in held.files.items():
                (bundle / file).write_text(text, encoding="utf-8")
            (bundle / NAME).write_text(script(held.script), encoding="utf-8")
            card = cards.bundle_card(
                name or held.name,
                architecture=held.architecture,
                format=format,
                runtime=target.runtime,
                outputs=held.outputs,
                license=license or held.license,
                comparison=_compare(held, bundle),
                files={file: (bundle / file).read_bytes() for file in files},
            )
            (bundle / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise DeployError("cannot write the bundle", found=error.strerror or error, where=directory) from error
    return directory


def _check(directory: Path, format: str) -> None:
    if format not in get_args(Format):
        raise DeployError("no such format", expected=nearest(str(format), get_args(Format), 3), found=repr(format))
    checks.require(TARGETS[format].needs, f"format {format}", TARGETS[format].extra)
    if not vacant(directory):
        raise DeployError("the bundle's folder must be new or empty", found="something else", where=directory)


def _check_contents(held: Contents, format: str) -> None:
    if format not in held.formats:
        raise DeployError(
            f"a {held.architecture} cannot be exported as {format}",
            expected=", ".join(held.formats),
            found=format,
            where="format",
            fix=f"Take {held.formats[0]}.",
        )


def script(template: str = "classify.py") -> str:
    """The text of a bundle's `predict.py`.

    Args:
        template: The script of the task. Its imports from this package, one a line, are replaced by the text of the
            modules, so that a bundle reads and prepares images by the code of this package.
    """
    return "\n".join(map(_inlined, (SCRIPTS / template).read_text(encoding="utf-8").splitlines())) + "\n"


def _inlined(line: str) -> str:
    if not line.startswith("from mnv2zoo."):
        return line
    module = importlib.import_module(line.split()[1])
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    _, future, *_ = ast.parse(text).body  # its docstring and its `from __future__` stand first
    rest = [own for own in text.splitlines()[future.end_lineno :] if not own.startswith("from mnv2zoo.")]
    return f"# The text of {module.__name__}.\n" + "\n".join(rest).strip() + "\n"


def _load(bundle: Path) -> Any:
    """The bundle's script as a module; Python writes no `__pycache__` beside it, as an import would."""
    file = bundle / NAME
    module = ModuleType("mnv2zoo_bundle")
    module.__file__ = str(file)
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), module.__dict__)
    return module


def _compare(held: Contents, bundle: Path) -> str:
    """Compares what the bundle's script computes from image files with the model's outputs, and says how it went."""
    module = _load(bundle)
    with tempfile.TemporaryDirectory() as folder, posix.preserved_signal_stack():
        channels, *size = held.preprocessing["input_size"]
        files = generated_images.write(Path(folder), min(size), channels)
        return held.compare(module, module.load(bundle), files)
