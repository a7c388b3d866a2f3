"""Exports a bundle that runs on its own: model, preprocessing, labels, a script and a card."""

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
from mnv2zoo.errors import DeployError, nearest
from mnv2zoo.model_dir import cards
from mnv2zoo.models import config_file
from mnv2zoo.system import posix
from mnv2zoo.system.files import vacant, whole_folder
from mnv2zoo.version import __version__

Format = Literal["onnx", "openvino", "torch-export", "executorch", "litert", "web"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Layout = Literal["nchw", "nhwc"]
_Measured = tuple[Iterable[loss.Part], str]  # images, and what they are
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
    *,
    precision: Precision = "fp32",
    calibration: Images | None = None,
    data: str | os.PathLike[str] | None = None,
    opset: int | None = None,
    layout: Layout = "nchw",
    runtime: str | os.PathLike[str] | None = None,
) -> Path:
    """Exports a bundle that needs neither this package nor timm.

    It holds the model, `preprocess.json`, `labels.txt`, `predict.py`, `manifest.json` and the card `README.md`. Before
    the folder appears, the script reads image files of many kinds, and what it computes is compared with the model's
    outputs: pixels and logits of a classifier, boxes of a detector, masks of a segmenter. The bundle of a run that
    gives several labels per image holds their thresholds in `thresholds.json`, which `predict.py` applies and you may
    edit.

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
            `web` is a page for any static host, without `predict.py`, which classifies photos in the browser.
            Detectors take `onnx` and `openvino`, and segmenters these and `torch-export`.
        name: The model's name on the card; its own by default.
        label_names: The classes, in order; those of a detector without the background. By default those of the
            name, and numbers for other detectors and segmenters.
        preprocessing: How a detector or segmenter sees images: `input_size` (3, H, W), `mean`, `std`, `interpolation`
            (`bilinear` by default) and `resize`: `squash` to resize the whole image to exactly that size, or `pad` to
            keep its aspect and pad it at the right or bottom. By default a detector's own, or that of the name; a
            segmenter that is not named needs it.
        license: The license of the weights, for the card; a classifier's own by default.
        precision: `fp32`; for `onnx`, `web`, `openvino` and `litert` also `fp16` or `int8`; for `openvino` also `bf16`.
            A detector has `fp32` alone.
        calibration: Images for `int8`, as for `optimize`: a folder, preprocessed images or batches of them.
        data: A folder of images to measure the precision's loss on, for the card and the manifest; with one subfolder
            per class for the loss in accuracy. By default the calibration images.
        opset: The opset of an `onnx` or `web` file, such as 17 for ONNX Runtime 1.14. The file gets the lowest IR
            version that has it. The exporter's own by default.
        layout: How the model takes images: `nchw`, or for `litert` also `nhwc`.
        runtime: For `web`, the unpacked npm package onnxruntime-web. By default npm's tarball is fetched, and checked
            against the SHA-512 that this package holds.

    Returns:
        The bundle.

    Raises:
        DeployError: If the model cannot be exported, the format does not have the precision, opset or layout, the
            folder is not empty or cannot be written, onnxruntime-web cannot be found or fetched or is another than the
            pinned one, or what the bundle computes differs from the model's outputs.
        DataError: If the label names do not fit the model or `labels.txt`, or a folder in `data` is no class of it.
        ImageReadError: If there are no images to calibrate or measure on, or one cannot be read.
        MissingExtraError: If a package that the format needs is not installed.
        UnknownModelError: If there is no model of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
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
            _write_manifest(facts, bundle)  # which the script reads
            script_module = _load(bundle, text)
            facts["comparison"], measured = _compare(held, bundle, script_module, precision, source, measured_on)
            facts["measured"] = measured.to_json() if measured else None
            _write_manifest(facts, bundle)
            said = measured.sentence(held.decides) if measured else None
            card = cards.bundle_card(facts, use=TARGETS[format].use, outputs=held.outputs, loss=said)
            (bundle / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise DeployError("cannot write the bundle", found=error.strerror or error, where=directory) from error
    return directory


def _check(directory: Path, format: str, variant: Variant, calibrated: bool) -> None:
    if format not in get_args(Format):
        raise DeployError("no such format", expected=nearest(str(format), get_args(Format), 3), found=repr(format))
    for what, value, known in (
        ("precision", variant.precision, get_args(Precision)),
        ("layout", variant.layout, get_args(Layout)),
    ):
        if value not in known:
            raise DeployError(
                f"no such {what}: {value!r}", expected=", ".join(known), found=repr(value), fix=f"Pass another {what}."
            )
    formats.check(format, variant)
    opsets.check(variant.opset)
    if (variant.precision == "int8") != calibrated:
        raise DeployError(
            "precision int8 and calibration images go together",
            found=f"precision {variant.precision} {'with' if calibrated else 'without'} calibration images",
            where="calibration",
            fix="Pass a folder of a few hundred typical images for int8, and for int8 alone.",
        )
    target = TARGETS[format]
    checks.require(target.packages(variant.precision), f"format {format}", target.extra)
    if not vacant(directory):
        raise DeployError("the bundle's folder must be new or empty", found="something else", where=directory)


def _check_contents(held: Contents, format: str, precision: str) -> None:
    for what, value, able in (("format", format, held.formats), ("precision", precision, held.precisions)):
        if value not in able:
            raise DeployError(
                f"a {held.architecture} cannot be exported {'as' if what == 'format' else 'in'} {value}",
                expected=", ".join(able),
                found=value,
                where=what,
                fix=f"Take {able[0]}.",
            )


def _page(held: Contents, format: str, runtime: str | os.PathLike[str] | None) -> dict[str, bytes]:
    """The runtime's files of a bundle for the browser; none for other formats."""
    if format == "web":
        web.check(held.preprocessing)
        return web.runtime(None if runtime is None else Path(runtime))
    if runtime is not None:
        raise DeployError(
            f"format {format} takes no runtime",
            expected="a runtime for web alone",
            found=runtime,
            where="runtime",
            fix="Leave the runtime out.",
        )
    return {}


def _images(
    held: Contents, calibration: Images | None, data: str | os.PathLike[str] | None
) -> tuple[Source, _Measured | None]:
    """The network with its calibration images, and the images that its loss is measured on."""
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
    """What the manifest says about the model's file."""
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


def _load(bundle: Path, text: str) -> Any:
    """The bundle's script as a module; Python writes no `__pycache__` beside it, as an import would."""
    file = bundle / NAME
    module = ModuleType("mnv2zoo_bundle")
    module.__file__ = str(file)
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def _compare(
    held: Contents, bundle: Path, script: Any, precision: str, source: Source, measured_on: _Measured | None
) -> tuple[str, Loss | None]:
    """Compares what the bundle's script computes from image files with the model's outputs, and says how it went."""
    with tempfile.TemporaryDirectory() as folder, posix.preserved_signal_stack():
        try:
            run = script.load(bundle)
        except Exception as error:  # runtimes raise nearly anything
            raise DeployError(
                "the installed runtime cannot load the bundle",
                found=f"{type(error).__name__}: {checks.first_line(error)}",
                fix="Take an older opset, or upgrade the runtime.",
            ) from error
        channels, *size = held.preprocessing["input_size"]
        files = generated_images.write(Path(folder), min(size), channels)
        calibrated = source.calibration.images if source.calibration else None
        comparison = held.compare(script, run, files, precision, calibrated)
        return comparison, loss.measure(held.deciding(), run, *measured_on) if measured_on else None
