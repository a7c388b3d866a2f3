"""Exports standalone bundles: model, preprocessing, labels, a script and a card."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import nn

from mnv2zoo.deploy import checks, contents, formats, generated_images, loss, opsets, web
from mnv2zoo.deploy.calibration import Images, prepare
from mnv2zoo.deploy.contents import Contents
from mnv2zoo.deploy.engines import Source
from mnv2zoo.deploy.formats import TARGETS, Variant
from mnv2zoo.deploy.loss import Loss
from mnv2zoo.errors import DeployError, nearest, unknown
from mnv2zoo.model_dir import cards
from mnv2zoo.models import config_file
from mnv2zoo.system import posix
from mnv2zoo.system.files import vacant, whole_folder
from mnv2zoo.version import __version__

Format = Literal["onnx", "openvino", "torch-export", "executorch", "litert", "web"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Layout = Literal["nchw", "nhwc"]
_Measured = tuple[Iterable[loss.Part], str]  # images, and their description
SCRIPTS = Path(__file__).parent / "bundle"
NAME = "predict.py"  # file name of the script in a bundle


def export(
    model: nn.Module | str,
    directory: str | Path,
    format: Format = "onnx",
    name: str | None = None,
    label_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    license: str | None = None,
    *,
    precision: Precision = "fp32",
    calibration: Images | None = None,
    data: str | os.PathLike[str] | None = None,
    opset: int | None = None,
    layout: Layout = "nchw",
    runtime: str | os.PathLike[str] | None = None,
) -> Path:
    """Exports a standalone bundle, which needs neither this package nor timm.

    The bundle contains the model, `preprocess.json`, `labels.txt`, `predict.py`, `manifest.json` and a model card,
    `README.md`. Before the folder is created, the script runs on image files of many kinds, and its results are
    compared with the model's: pixels and logits of a classifier, boxes of a detector, masks of a segmenter. The bundle
    of a multi-label model also contains `thresholds.json`. `predict.py` applies these thresholds, and you can
    edit them.

    The graph of a detector includes its post-processing. Its input `images` is one normalized image (1, 3, H, W). If
    `resize` is `pad`, there is a second input `size` (2,): the height and width of the image without padding. Its
    outputs are the detector's `boxes` (n, 4), `labels` (n,) and `scores` (n,). Faster R-CNN is exported with both
    stages.

    Args:
        model: A model in evaluation mode: a zoo classifier; torchvision's `SSD`, `RetinaNet` or `FasterRCNN`; or a
            segmenter, which maps normalized images (N, 3, H, W) to logits (N, K, H, W) or to a dict with logits at
            `out`. Or a name: an architecture, `architecture.tag`, a run folder or an `hf-hub:` name.
        directory: The bundle: a new or empty folder.
        format: The runtime of the bundle:

            - `onnx` for ONNX Runtime, `openvino`, or `torch-export` for PyTorch (`.pt2`): batches of any size
            - `executorch` (`.pte`, with XNNPACK) or `litert` (`.tflite`): one image at a time, for mobile devices
            - `web`: a page for any static host that classifies images in the browser, without `predict.py`

            Detectors support `onnx` and `openvino`. Segmenters also support `torch-export`.
        name: The model's name on the card. By default, its own name.
        label_names: The class names in order, without a detector's background. By default, those of the named model, or
            numbers for other detectors and segmenters.
        preprocessing: The preprocessing of a detector or segmenter: `input_size` (3, H, W), `mean`, `std`,
            `interpolation` (default `bilinear`) and `resize`: `squash` resizes the whole image to exactly that size,
            `pad` preserves the aspect ratio and pads at the right or bottom. By default, that of the detector or of the
            named model. Required for a segmenter without a name.
        license: The license of the weights, for the card. By default, the classifier's own.
        precision: `fp32`; `fp16` or `int8` for `onnx`, `web`, `openvino` and `litert`; `bf16` for `openvino`. Detectors
            only support `fp32`.
        calibration: Images for `int8`, as for `optimize`: a folder, preprocessed images or batches of them.
        data: A folder of images to measure the accuracy cost of the precision on, for the card and the manifest. With
            one subfolder per class, the accuracy is measured too. By default, the calibration images.
        opset: The opset of an `onnx` or `web` file, such as 17 for ONNX Runtime 1.14. The file gets the lowest IR
            version that supports it. By default, the exporter's own opset.
        layout: The memory layout of the input: `nchw`, or for `litert` also `nhwc`.
        runtime: For `web`, the folder of the unpacked npm package onnxruntime-web. By default, the tarball is
            downloaded from npm and checked against a SHA-512 hash in this package.

    Returns:
        The bundle.

    Raises:
        DeployError: If the model cannot be exported, the format does not support the precision, opset or layout, the
            folder is not empty or cannot be written, onnxruntime-web cannot be found or downloaded, or does not match
            its hash; or the bundle's results differ from the model's.
        DataError: If the label names do not match the model or `labels.txt`, or a subfolder of `data` is not a class
            of the model.
        ImageReadError: If there are no images to calibrate with or to measure on, or an image cannot be read.
        MissingExtraError: If a package that the format needs is not installed.
        UnknownModelError: If the model is unknown.
        WeightsError: If the model's weights cannot be found, downloaded or verified.
    """
    directory, variant = Path(directory), Variant(precision, opset, layout)
    _check(directory, format, variant, calibration is not None)
    held = contents.of(model, label_names, preprocessing)
    _check_contents(held, format, precision)
    config_file.check_labels(held.label_names, name or held.name)
    page = _page(held, format, runtime)
    source, measured_on = _images(held, calibration, data)
    text = script(held.script)
    try:
        with whole_folder(directory) as bundle:
            files = TARGETS[format].write(source, variant, bundle)
            (bundle / "preprocess.json").write_text(json.dumps(held.settings(), indent=2) + "\n", encoding="utf-8")
            (bundle / "labels.txt").write_bytes("".join(f"{label}\n" for label in held.label_names).encode())
            for file, content in held.files.items():
                (bundle / file).write_text(content, encoding="utf-8")
            if page:
                files += web.write(page, bundle)
            else:
                (bundle / NAME).write_text(text, encoding="utf-8")
            facts = {
                "name": name or held.name,
                "architecture": held.architecture,
                "license": license or held.license,
                "format": format,
                **_facts(variant, bundle),
                "files": {file: hashlib.sha256((bundle / file).read_bytes()).hexdigest() for file in files},
            }
            _write_manifest(facts, bundle)  # the script reads it
            script_module = _load(bundle, text)
            facts["comparison"], measured = _compare(held, bundle, script_module, precision, source, measured_on)
            facts["measured"] = measured.to_json() if measured else None
            _write_manifest(facts, bundle)
            said = measured.sentence(held.decides) if measured else None
            card = cards.bundle_card(facts, use=TARGETS[format].use, outputs=held.outputs, loss=said)
            (bundle / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise DeployError(
            "the bundle cannot be written",
            found=error.strerror or error,
            where=directory,
            fix="Check the permissions and the free disk space, or choose another folder.",
        ) from error
    return directory


def _check(directory: Path, format: str, variant: Variant, calibrated: bool) -> None:
    if format not in get_args(Format):
        raise DeployError(
            unknown("format", str(format), get_args(Format)),
            expected=nearest(str(format), get_args(Format), 3),
            found=repr(format),
            fix=f"Choose one of {', '.join(get_args(Format))}.",
        )
    for what, value, known in (
        ("precision", variant.precision, get_args(Precision)),
        ("layout", variant.layout, get_args(Layout)),
    ):
        if value not in known:
            raise DeployError(
                unknown(what, str(value), known),
                expected=", ".join(known),
                found=repr(value),
                fix=f"Choose another {what}.",
            )
    formats.check(format, variant)
    opsets.check(variant.opset)
    if (variant.precision == "int8") != calibrated:
        raise DeployError(
            f"the precision {variant.precision} does not use calibration images"
            if calibrated
            else "the precision int8 requires calibration images",
            expected="calibration images if and only if the precision is int8",
            found=f"precision {variant.precision} {'with' if calibrated else 'without'} calibration images",
            where="calibration",
            fix="Leave out the calibration images, or choose int8."
            if calibrated
            else "Pass a folder of a few hundred representative images.",
        )
    target = TARGETS[format]
    checks.require(target.packages(variant.precision), f"format {format}", target.extra)
    if not vacant(directory):
        raise DeployError(
            "the folder of the bundle is not empty",
            expected="a new or empty folder",
            found="a file or other files in the folder",
            where=directory,
            fix="Choose another folder.",
        )


def _check_contents(held: Contents, format: str, precision: str) -> None:
    for what, value, able in (("format", format, held.formats), ("precision", precision, held.precisions)):
        if value not in able:
            raise DeployError(
                f"this {held.architecture} model cannot be exported {'as' if what == 'format' else 'in'} {value}",
                expected=", ".join(able),
                found=value,
                where=what,
                fix=f"Choose {able[0]}.",
            )


def _page(held: Contents, format: str, runtime: str | os.PathLike[str] | None) -> dict[str, bytes]:
    """The runtime files of a bundle for the browser; empty for other formats."""
    if format == "web":
        web.check(held.preprocessing)
        return web.runtime(None if runtime is None else Path(runtime))
    if runtime is not None:
        raise DeployError(
            f"the format {format} does not use the option runtime",
            expected="runtime only with the format web",
            found=runtime,
            where="runtime",
            fix="Leave out runtime.",
        )
    return {}


def _images(
    held: Contents, calibration: Images | None, data: str | os.PathLike[str] | None
) -> tuple[Source, _Measured | None]:
    """The model with its calibration images, and the images to measure its accuracy cost on."""
    example = torch.zeros(1, *held.preprocessing["input_size"])
    own = held.preprocessing if held.decides == "pixels" else None
    found = None if calibration is None else prepare(calibration, held.model, example, own)
    source = Source(held.network(), example, found)
    if data is not None:
        folder = loss.Folder(
            Path(data), held.label_names if held.decides == "images" else (), held.transform, len(example[0])
        )
        return source, (folder, f"`{folder.name}`")
    if found is None:
        return source, None
    images, classes, at_once = found.images, found.classes, loss.AT_ONCE
    parts = [(images[n : n + at_once], classes[n : n + at_once]) for n in range(0, len(images), at_once)]
    named = f" in `{Path(calibration).resolve().name}`" if isinstance(calibration, str | os.PathLike) else ""
    return source, (parts, f"the calibration set{named}")


def _facts(variant: Variant, bundle: Path) -> dict[str, Any]:
    """The manifest's facts about the model file."""
    facts: dict[str, Any] = {"producer": f"mnv2zoo {__version__}", "precision": variant.precision}
    facts["layout"] = variant.layout
    if (bundle / "model.onnx").exists():
        import onnx

        document = onnx.load(bundle / "model.onnx")
        facts |= {"opset": opsets.version(document), "ir_version": document.ir_version}
    return facts


def _write_manifest(facts: Mapping[str, Any], bundle: Path) -> None:
    (bundle / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def script(template: str = "classify.py") -> str:
    """The text of a bundle's `predict.py`.

    Args:
        template: The script of the task. Its imports from this package, one per line, are replaced by the text of the
            modules, so that a bundle reads and preprocesses images with the same code as this package.
    """
    return "\n".join(map(_inlined, (SCRIPTS / template).read_text(encoding="utf-8").splitlines())) + "\n"


def _inlined(line: str) -> str:
    if not line.startswith("from mnv2zoo."):
        return line
    module = importlib.import_module(line.split()[1])
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    _, future, *_ = ast.parse(text).body  # the docstring and `from __future__` come first
    rest = [own for own in text.splitlines()[future.end_lineno :] if not own.startswith("from mnv2zoo.")]
    return f"# The text of {module.__name__}.\n" + "\n".join(rest).strip() + "\n"


def _load(bundle: Path, text: str) -> Any:
    """Loads the bundle's script as a module, without an import, which would write a `__pycache__` to the bundle."""
    file = bundle / NAME
    module = ModuleType("mnv2zoo_bundle")
    module.__file__ = str(file)
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def _compare(
    held: Contents, bundle: Path, script: Any, precision: str, source: Source, measured_on: _Measured | None
) -> tuple[str, Loss | None]:
    """Compares the results of the bundle's script on image files with the model's, and describes the outcome."""
    with tempfile.TemporaryDirectory() as folder, posix.preserved_signal_stack():
        try:
            run = script.load(bundle)
        except Exception as error:  # runtimes raise many kinds of errors
            raise DeployError(
                "the installed runtime cannot load the bundle",
                found=f"{type(error).__name__}: {checks.first_line(error)}",
                fix="Choose an older opset, or upgrade the runtime.",
            ) from error
        channels, *size = held.preprocessing["input_size"]
        files = generated_images.write(Path(folder), min(size), channels)
        calibrated = source.calibration.images if source.calibration else None
        comparison = held.compare(script, run, files, precision, calibrated)
        return comparison, loss.measure(held.deciding(), run, *measured_on) if measured_on else None
