"""Exports a bundle that classifies photos on its own: model, preprocessing, labels, a script and a card."""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import nn

from mnv2zoo.data import decode, pixels, transforms
from mnv2zoo.deploy import checks, engines, generated_images
from mnv2zoo.deploy.fold import fold
from mnv2zoo.errors import DeployError, nearest
from mnv2zoo.model_dir import cards
from mnv2zoo.models import config_file, names, pretrained
from mnv2zoo.models.names import Description
from mnv2zoo.system import posix
from mnv2zoo.system.files import vacant, whole_folder
from mnv2zoo.version import __version__

Format = Literal["onnx", "openvino", "torch-export", "executorch", "litert"]
SCRIPT = Path(__file__).parent / "bundle/predict.py"


@dataclass(frozen=True)
class Target:
    """A bundle's format.

    Attributes:
        write: Writes the model into the bundle, from the folded model and an example (1, C, H, W), and returns the
            names of its files.
        needs: The packages that it needs, by their import names.
        extra: The project's extra that installs them.
        runtime: The packages that `predict.py` needs besides numpy and pillow, as pip knows them.
    """

    write: Callable[[nn.Module, torch.Tensor, Path], list[str]]
    needs: tuple[str, ...]
    extra: str
    runtime: str


TOLERANCE = 1e-3  # of the outputs' norm
PIXEL_TOLERANCE = 1e-5  # of a normalized value


def export(model: nn.Module | str, directory: str | Path, format: Format = "onnx", name: str | None = None) -> Path:
    """Exports a bundle that needs neither this package nor timm.

    It holds the model, `preprocess.json`, `labels.txt`, `predict.py` and the card `README.md`. Before the folder
    appears, the script reads image files of many kinds, and its pixels and outputs are compared with the model's.

    Args:
        model: A zoo classifier in evaluation mode; or its name: an architecture, `architecture.tag`, a run folder or an
            `hf-hub:` name.
        directory: The bundle: a new or empty folder.
        format: For batches of any size, `onnx` for ONNX Runtime, `openvino`, or `torch-export` for PyTorch (`.pt2`).
            For one image at a time, as on mobile devices, `executorch` (`.pte`, with XNNPACK) or `litert` (`.tflite`).
        name: The model's name on the card; its own by default.

    Returns:
        The bundle.

    Raises:
        DeployError: If the model cannot be exported, the folder is not empty or cannot be written, or the bundle's
            pixels or outputs differ from the model's.
        MissingExtraError: If a package that the format needs is not installed.
        UnknownModelError: If there is no model of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
    """
    directory = Path(directory)
    _check(directory, format)
    description = names.describe(model) if isinstance(model, str) else _description(model)
    classifier: nn.Module = description.build().eval() if isinstance(model, str) else model
    checks.require_network(classifier)
    preprocessing = _preprocessing(classifier)
    labels = _labels(classifier, description)
    config_file.check_labels(labels, name or description.name)

    try:
        with whole_folder(directory) as bundle:
            files = TARGETS[format].write(fold(classifier), torch.zeros(1, *preprocessing["input_size"]), bundle)
            (bundle / "preprocess.json").write_text(json.dumps(preprocessing, indent=2) + "\n", encoding="utf-8")
            (bundle / "labels.txt").write_bytes("".join(f"{label}\n" for label in labels).encode())
            (bundle / SCRIPT.name).write_text(script(), encoding="utf-8")
            difference = _compare(classifier, bundle, preprocessing)
            card = cards.bundle_card(
                name or description.name,
                architecture=description.config.name,
                format=format,
                runtime=TARGETS[format].runtime,
                side=preprocessing["input_size"][1],
                license=description.cfg.get("license"),
                difference=difference,
                compared=generated_images.COUNT,
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


def _description(model: nn.Module) -> Description:
    """Describes a model that was built already."""
    config, cfg = getattr(model, "arch_config", None), getattr(model, "pretrained_cfg", None)
    if config is None or cfg is None or not getattr(model, "num_classes", 0):
        raise DeployError(
            "no classifier of the zoo",
            expected="a network as timm.create_model makes it, or its name",
            found=type(model).__name__,
        )
    name = f"{config.name}.{cfg['tag']}" if cfg.get("tag") else config.name
    return Description(name, config, dict(cfg))


def _preprocessing(model: nn.Module) -> dict[str, Any]:
    cfg: Any = model.pretrained_cfg
    data = transforms.image_config(cfg)
    _, height, width = data["input_size"]
    in_chans: Any = model.in_chans  # the cfg has that of the weights
    known = str(data["interpolation"]).upper() in Image.Resampling.__members__
    if data["crop_mode"] != "center" or height != width or in_chans != 3 or not known:
        raise DeployError(
            "predict.py cannot prepare images as this model wants them",
            expected="a square cut from the middle of an RGB image",
            found={"in_chans": in_chans, **{key: data[key] for key in ("input_size", "crop_mode", "interpolation")}},
            fix="Call deploy.optimize in Python for this model, or export the network alone with torch.onnx.export.",
        )
    return {key: data[key] for key in ("input_size", "crop_pct", "interpolation", "mean", "std")}


def _labels(model: nn.Module, description: Description) -> list[str]:
    count: Any = model.num_classes
    # Of a network that was given another number of classes, the weights' names are not its own.
    own = description.label_names if len(description.label_names) == count else pretrained.label_names(model)
    return list(own) or [str(number) for number in range(count)]


def _to_onnx(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    import onnx

    document = onnx.load_from_string(engines.to_onnx(model, example))
    opset = next(entry.version for entry in document.opset_import if not entry.domain)
    onnx.helper.set_model_props(document, {"opset": str(opset), "producer": f"mnv2zoo {__version__}"})
    onnx.save(document, bundle / "model.onnx")
    return ["model.onnx"]


def _to_openvino(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    import openvino

    document = openvino.Core().read_model(engines.to_onnx(model, example))
    openvino.save_model(document, bundle / "model.xml", compress_to_fp16=False)
    return ["model.xml", "model.bin"]


def _to_torch(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    program = torch.export.export(engines.Flat(model).eval(), **engines.any_batch(example))
    program.example_inputs = None  # they would be stored with it
    torch.export.save(program, bundle / "model.pt2")
    return ["model.pt2"]


def _to_executorch(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(engines.Flat(model).eval(), (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (bundle / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return ["model.pte"]


def _to_litert(model: nn.Module, example: torch.Tensor, bundle: Path) -> list[str]:
    import litert_torch

    with contextlib.redirect_stdout(sys.stderr):  # its progress goes to stdout
        litert_torch.convert(engines.Flat(model).eval(), (example,)).export(str(bundle / "model.tflite"))
    return ["model.tflite"]


TARGETS: Mapping[str, Target] = {
    "onnx": Target(_to_onnx, ("onnx", "onnxscript", "onnxruntime"), "deploy", "onnxruntime"),
    "openvino": Target(_to_openvino, ("onnx", "onnxscript", "openvino"), "deploy", "openvino"),
    "torch-export": Target(_to_torch, (), "", "torch"),
    "executorch": Target(_to_executorch, ("executorch",), "executorch", "executorch torch"),
    "litert": Target(_to_litert, ("litert_torch", "ai_edge_litert"), "litert", "ai-edge-litert"),
}


def script() -> str:
    """The text of a bundle's `predict.py`, which reads and prepares images by the code of this package."""
    text, shared = SCRIPT.read_text(encoding="utf-8"), Path(pixels.__file__).read_text(encoding="utf-8")
    _, future, *_ = ast.parse(shared).body  # its docstring and its `from __future__` stand first
    (line,) = (line for line in text.splitlines() if line.startswith(f"from {pixels.__name__} import"))
    body = "\n".join(shared.splitlines()[future.end_lineno :]).strip()
    return text.replace(line, f"# How images are read and prepared: the text of {pixels.__name__}.\n{body}\n")


def _load(bundle: Path) -> Any:
    """The bundle's script as a module; Python writes no `__pycache__` beside it, as an import would."""
    file = bundle / SCRIPT.name
    module = ModuleType("mnv2zoo_bundle")
    module.__file__ = str(file)
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), module.__dict__)
    return module


def _compare(model: nn.Module, bundle: Path, preprocessing: Mapping[str, Any]) -> float:
    """Compares the bundle's script with the model on image files, and returns the largest difference of a logit."""
    module = _load(bundle)
    config = json.loads((bundle / "preprocess.json").read_text(encoding="utf-8"))
    transform = transforms.image_transform({**preprocessing, "input_size": tuple(preprocessing["input_size"])})
    with tempfile.TemporaryDirectory() as folder:
        files = generated_images.write(Path(folder), config["input_size"][1])
        prepared = [torch.from_numpy(module.preprocess(module.read(file), config)) for file in files]
        wanted_pixels = [transform(decode.read(file)) for file in files]
    for file, ours, theirs in zip(files, prepared, wanted_pixels, strict=True):
        _, difference = checks.distances([ours], [theirs])
        if not difference <= PIXEL_TOLERANCE:
            raise DeployError(
                f"the bundle prepares {file.name} in another way than the model's preprocessing",
                expected=f"pixels within {PIXEL_TOLERANCE}",
                found=f"{difference:.2g}",
                fix="Report this, with the model's pretrained_cfg.",
            )
    images = torch.stack(prepared)
    with posix.preserved_signal_stack():
        found = torch.from_numpy(module.load(bundle)(images.numpy()))
    with torch.inference_mode():
        wanted = model(torch.stack(wanted_pixels))
    rows = [checks.distances([ours], [theirs]) for ours, theirs in zip(found, wanted, strict=True)]
    error = max(error for error, _ in rows)
    if not all(error <= TOLERANCE for error, _ in rows):  # a comparison with NaN is false
        raise DeployError(
            "the bundle does not compute what the model computes",
            expected=f"logits within {TOLERANCE:.1%} of their norm",
            found=f"{error:.2%}",
            fix="Try another format, and report this one.",
        )
    return max(difference for _, difference in rows)
