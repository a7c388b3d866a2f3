"""The contents of a bundle for each task, and the comparison with the model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mnv2zoo import detection, segmentation
from mnv2zoo.data import decode, pixels, transforms
from mnv2zoo.data.preprocessing import MAX_CHANNELS
from mnv2zoo.data.thresholds import DEFAULT_THRESHOLD
from mnv2zoo.deploy import agreement, checks
from mnv2zoo.deploy.detectors import Core, PostProcessing, WithPostProcessing, is_detector
from mnv2zoo.deploy.fold import fold
from mnv2zoo.deploy.preprocessing import of_detector, whole_image
from mnv2zoo.errors import DataError, DeployError
from mnv2zoo.models import names, pretrained
from mnv2zoo.models.names import Description
from mnv2zoo.runtimes import runners

TOLERANCE = 1e-3  # relative to the norm of the outputs
PIXEL_TOLERANCE = 1e-5  # absolute, for normalized values
# The percentage of boxes and pixels that must be the same. The rest allows for rounding, which decides between boxes
# with nearly equal scores and classes with nearly equal logits.
SAME_BOXES, SAME_PIXELS = 98.0, 99.9
MOST_CLASSES = 256  # that fit in a mask with 8 bits per pixel


@dataclass(frozen=True)
class Contents(ABC):
    """The contents of a bundle.

    Attributes:
        model: The model.
        name: Its name.
        architecture: Its architecture.
        preprocessing: Its preprocessing.
        label_names: The class names, as in `labels.txt`.
        license: The license of the weights, if known.
        temperature: The softmax temperature of a classifier; None for no temperature.
        script: The file of the task's script.
        formats: The supported formats.
        precisions: The supported precisions.
        decides: What the model classifies: `images` or `pixels`.
    """

    model: nn.Module
    name: str
    architecture: str
    preprocessing: dict[str, Any]
    label_names: list[str]
    license: str | None = None
    temperature: float | None = None
    script: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16", "int8")
    decides: ClassVar[str] = "pixels"

    @property
    @abstractmethod
    def outputs(self) -> str:
        """A description of the outputs for the card."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The model to export, with folded batch norms."""

    def deciding(self) -> nn.Module:
        """The model with its logits as the only output."""
        return self.model

    def transform(self, image: Any) -> Tensor:
        """Preprocesses an image from `decode.read` to (C, H, W). By default, the whole image is resized."""
        return torch.from_numpy(pixels.normalized_whole(image, self.preprocessing))

    @abstractmethod
    def compare(
        self,
        script: Any,
        run: Callable[..., Any],
        files: Sequence[Path],
        precision: str = "fp32",
        calibrated: Tensor | None = None,
    ) -> str:
        """Compares a bundle with the model on image files.

        Args:
            script: The bundle's script.
            run: Its model.
            files: The image files.
            precision: The precision of the bundle's model.
            calibrated: The calibration images of int8, which are compared instead of the files.

        Returns:
            The outcome, as a sentence for the card.

        Raises:
            DeployError: If the results differ.
        """

    def settings(self) -> dict[str, Any]:
        """The content of `preprocess.json`: the preprocessing, and the temperature if there is one."""
        return self.preprocessing | ({} if self.temperature is None else {"temperature": self.temperature})

    @property
    def files(self) -> dict[str, str]:
        """The text of additional files for the script, by name."""
        return {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input images."""
        _, height, width = self.preprocessing["input_size"]
        return height, width


def of(model: nn.Module | str, label_names: Sequence[str] | None, preprocessing: Mapping[str, Any] | None) -> Contents:
    """Determines the contents of a bundle for a model. See `export` for the arguments and errors."""
    description = names.describe(model) if isinstance(model, str) else None
    if description and description.head:
        return _trained(description, label_names, preprocessing)
    network: nn.Module = description.build().eval() if description else cast(nn.Module, model)
    checks.require_network(network)
    if is_detector(network):
        return _detector(network, label_names, preprocessing)
    if preprocessing is not None:
        return _segmenter(network, label_names, preprocessing)
    held = _classifier(network, description or _description(network), label_names)
    if description and description.task == "multilabel":
        limits = tuple(description.thresholds) or (DEFAULT_THRESHOLD,) * len(held.label_names)
        return Multilabel(**vars(held), thresholds=limits)
    return held


class Classifier(Contents):
    """A classifier of the zoo."""

    script = "classify.py"
    formats: ClassVar[tuple[str, ...]] = ("onnx", "openvino", "torch-export", "executorch", "litert", "web")
    decides = "images"

    @property
    def outputs(self) -> str:
        """A description of the outputs for the card."""
        return "a logit for each line of `labels.txt`"

    def network(self) -> nn.Module:
        """The model to export, with folded batch norms."""
        return fold(self.model)

    def transform(self, image: Any) -> Tensor:
        """Preprocesses an image as timm does."""
        return transforms.image_transform(self.preprocessing)(image)

    def compare(
        self,
        script: Any,
        run: Callable[..., Any],
        files: Sequence[Path],
        precision: str = "fp32",
        calibrated: Tensor | None = None,
    ) -> str:
        """Compares pixels and logits."""
        channels = self.preprocessing["input_size"][0]
        read = [script.read(file, channels) for file in files]
        prepared = [torch.from_numpy(script.preprocess(image, self.preprocessing)) for image in read]
        wanted_pixels = [self.transform(decode.read(file, channels=channels)) for file in files]
        for file, ours, theirs in zip(files, prepared, wanted_pixels, strict=True):
            _, difference = checks.distances([ours], [theirs])
            if not difference <= PIXEL_TOLERANCE:
                raise DeployError(
                    f"the bundle preprocesses {file.name} differently from the model",
                    expected=f"pixels within {PIXEL_TOLERANCE}",
                    found=f"a difference of {difference:.2g}",
                    fix="Please report this as a bug, and include the model's pretrained_cfg.",
                )
        if precision != "fp32":
            images, kinds = _lowered(torch.stack(wanted_pixels), files, calibrated)
            difference = _require_near(run, self.model, images, precision)
            return f"Largest difference of a logit from PyTorch's, on {kinds}: {difference:.1e}"
        found = torch.from_numpy(run(torch.stack(prepared).numpy()))
        with torch.inference_mode():
            wanted = self.model(torch.stack(wanted_pixels))
        rows = [checks.distances([ours], [theirs]) for ours, theirs in zip(found, wanted, strict=True)]
        if not all(error <= TOLERANCE for error, _ in rows):  # a comparison with NaN is false
            raise _other(f"logits within {TOLERANCE:.1%} of their norm", f"{max(error for error, _ in rows):.2%}")
        difference = max(difference for _, difference in rows)
        return f"Largest difference of a logit from PyTorch's, on {_kinds(files)}: {difference:.1e}"


@dataclass(frozen=True)
class Multilabel(Classifier):
    """A multi-label classifier of the zoo.

    Attributes:
        thresholds: The minimum score of each label.
    """

    thresholds: tuple[float, ...] = ()
    script = "multilabel.py"
    formats = tuple(name for name in Classifier.formats if name != "web")  # the page shows a single class

    @property
    def outputs(self) -> str:
        """A description of the outputs for the card."""
        return (
            "a logit for each line of `labels.txt`; an image has the labels whose sigmoid is at least the threshold in "
            "`thresholds.json`"
        )

    @property
    def files(self) -> dict[str, str]:
        """The thresholds by label."""
        limits = dict(zip(self.label_names, self.thresholds, strict=True))
        return {"thresholds.json": json.dumps(limits, indent=2, ensure_ascii=False) + "\n"}


class Detector(Contents):
    """A detector, with its post-processing in the graph."""

    script = "detect.py"
    formats = ("onnx", "openvino")
    precisions = ("fp32",)

    @property
    def outputs(self) -> str:
        """A description of the outputs for the card."""
        size = "; the input `size` is the height and width of the image without padding" if self._padded else ""
        return f"`boxes`, `scores`, and `labels`, which are line numbers in `labels.txt` from 1{size}"

    def network(self) -> nn.Module:
        """The network that is exported, folded."""
        core = Core(self.model)
        return WithPostProcessing(fold(core), self._post_processing(core), self.size, self._padded)

    def compare(
        self,
        script: Any,
        run: Callable[..., Any],
        files: Sequence[Path],
        precision: str = "fp32",
        calibrated: Tensor | None = None,
    ) -> str:
        """Compares boxes."""
        core = Core(self.model)
        post_processing = self._post_processing(core)
        found, wanted = [], []
        for file in files:
            boxes, labels, scores = script.detect(run, script.read(file), self.preprocessing)
            found.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)})
            found[-1]["scores"] = torch.from_numpy(scores)
            wanted.append(self._boxes(core, post_processing, decode.read(file)))
        share = agreement.matched(found, wanted)
        if share < SAME_BOXES:  # NaN, where there are no boxes, is not less
            same = f"an IoU of {agreement.IOU} and a score within {agreement.SCORE}"
            raise _other(f"{SAME_BOXES} % of the boxes with {same}", f"{share:.1f} %")
        count = sum(len(one["boxes"]) for one in wanted)
        return f"Boxes that match PyTorch's, on {_kinds(files)}: " + (
            f"{share:.1f} % of {count}" if count else "no boxes found"
        )

    @property
    def _padded(self) -> bool:
        return self.preprocessing["resize"] == "pad"

    def _post_processing(self, core: Core) -> PostProcessing:
        with torch.inference_mode(False), torch.no_grad():
            return PostProcessing(self.model, core, torch.zeros(1, 3, *self.size))

    def _boxes(self, core: Core, post_processing: PostProcessing, photo: Image.Image) -> dict[str, Tensor]:
        """The model's own boxes in a photo, in pixels of the photo."""
        width, height = pixels.whole_size(photo.size, self.preprocessing)
        image = self.transform(photo)[None]
        with torch.inference_mode():
            (boxes,) = post_processing(core(image), [(height, width)])
        return {**boxes, "boxes": boxes["boxes"] * torch.tensor([photo.width / width, photo.height / height] * 2)}


class Segmenter(Contents):
    """A segmenter."""

    script = "segment.py"
    formats = ("onnx", "openvino", "torch-export")

    @property
    def outputs(self) -> str:
        """A description of the outputs for the card."""
        return "a map of logits for each line of `labels.txt`"

    def network(self) -> nn.Module:
        """The network that is exported, folded."""
        return fold(Logits(self.model))

    def deciding(self) -> nn.Module:
        """The model with its logits as the only output."""
        return Logits(self.model)

    def compare(
        self,
        script: Any,
        run: Callable[..., Any],
        files: Sequence[Path],
        precision: str = "fp32",
        calibrated: Tensor | None = None,
    ) -> str:
        """Compares masks in fp32, and logits in other precisions."""
        logits = self.deciding()
        if precision != "fp32":
            photos = torch.stack([self.transform(decode.read(file)) for file in files])
            images, kinds = _lowered(photos, files, calibrated)
            difference = _require_near(run, logits, images, precision)
            return f"Largest difference of a logit from PyTorch's, on {kinds}: {difference:.1e}"
        equal = []
        for file in files:
            found, photo = script.segment(run, script.read(file), self.preprocessing), decode.read(file)
            with torch.inference_mode():
                wanted = pixels.class_mask(
                    logits(self.transform(photo)[None])[0].numpy(), photo.size, self.preprocessing
                )
            equal.append(found == wanted)
        share = 100 * float(np.concatenate([one.ravel() for one in equal]).mean())
        if share < SAME_PIXELS:
            raise _other(f"masks with {SAME_PIXELS} % equal pixels", f"{share:.2f} %")
        return f"Pixels with the same class as in PyTorch, on {_kinds(files)}: {share:.2f} %"


class Logits(nn.Module):
    """A segmenter that returns only its logits, as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to logits (N, K, H, W)."""
        outputs = self.model(x)
        return outputs["out"] if isinstance(outputs, Mapping) else outputs


def _lowered(images: Tensor, files: Sequence[Path], calibrated: Tensor | None) -> tuple[Tensor, str]:
    """The images for comparing a model in a lower precision, and their description."""
    if calibrated is None:
        return images, _kinds(files)
    few = calibrated[: agreement.AT_ONCE]
    return few, f"{len(few)} calibration images"


def _require_near(run: Callable[..., Any], model: nn.Module, images: Tensor, precision: str) -> float:
    """Checks that logits are as near to the model's as the precision allows, and returns the largest difference."""
    with torch.inference_mode():
        wanted = model(images)
    error, difference = checks.distances([torch.from_numpy(run(images.numpy()))], [wanted])
    runners.require_near("the bundle", precision, error)
    return difference


def _kinds(files: Sequence[Path]) -> str:
    return f"{len(files)} image files of many kinds"


def _other(expected: str, found: str) -> DeployError:
    return DeployError(
        "the results of the bundle differ from the model's",
        expected=expected,
        found=found,
        fix="Try another format, and please report this as a bug.",
    )


def _trained(
    description: Description, label_names: Sequence[str] | None, preprocessing: Mapping[str, Any] | None
) -> Contents:
    """A detector or segmenter from a run folder, a package or a repository on the Hub."""
    load = {"detect": detection.load, "segment": segmentation.load}.get(description.task or "")
    if load is None:
        raise DeployError(
            f"a model for the task {description.task!r} cannot be exported",
            expected="a classifier, a detector or a segmenter",
            found=description.task,
            where=description.name,
            fix="Export the model with PyTorch, for example with torch.onnx.export.",
        )
    network: Any = load(description.name, "cpu")
    labels = label_names or list(network.label_names)
    if description.task == "detect":
        held = _detector(network, labels, preprocessing)
    else:
        cfg = network.pretrained_cfg
        own = {key: cfg[key] for key in ("input_size", "interpolation", "mean", "std")}
        own["input_size"] = cfg.get("test_input_size") or own["input_size"]
        held = _segmenter(network, labels, {**own, **(preprocessing or {})})
    return replace(held, name=description.name, architecture=description.config.name)


def _classifier(model: nn.Module, description: Description, label_names: Sequence[str] | None) -> Contents:
    count: Any = model.num_classes
    # If the model was built with another number of classes, the label names of the weights do not apply.
    own = description.label_names if len(description.label_names) == count else pretrained.label_names(model)
    return Classifier(
        model,
        description.name,
        description.config.name,
        _fitting(model),
        _labels(label_names or own, count),
        description.cfg.get("license"),
        description.temperature,
    )


def _detector(model: nn.Module, label_names: Sequence[str] | None, preprocessing: Mapping[str, Any] | None) -> Contents:
    found, own = whole_image(model, preprocessing), of_detector(model)
    transform = cast(Any, model).transform
    _, height, width = found["input_size"]
    step = transform.size_divisible
    if found["resize"] != own["resize"] or (found["resize"] == "squash" and found["input_size"] != own["input_size"]):
        raise DeployError(
            "the preprocessing differs from that of the detector",
            expected={key: own[key] for key in ("resize", "input_size")},
            found={key: found[key] for key in ("resize", "input_size")},
            where="preprocessing",
            fix="Leave out resize and input_size, or build the detector for that size.",
        )
    if height % step or width % step:
        raise DeployError(
            f"the input size {height} x {width} does not suit the detector",
            expected=f"a height and width that are multiples of {step}",
            found=f"{height} x {width}",
            where="preprocessing",
            fix=f"Round both up to a multiple of {step}.",
        )
    with torch.inference_mode():
        count = _class_count(model, torch.zeros(1, 3, height, width))
    kind = type(model).__name__
    return Detector(model, kind, kind, found, _labels(label_names, count))


def _class_count(detector: nn.Module, image: Tensor) -> int:
    """The number of classes of a detector, without the background."""
    source = cast(Any, detector)
    if hasattr(source, "roi_heads"):
        return source.roi_heads.box_predictor.cls_score.out_features - 1
    return Core(detector)(image)["cls_logits"].shape[-1] - 1


def _segmenter(model: nn.Module, label_names: Sequence[str] | None, preprocessing: Mapping[str, Any]) -> Contents:
    found = whole_image(model, preprocessing)
    example = torch.zeros(1, *found["input_size"])
    try:
        with torch.inference_mode():
            logits = agreement.decided_by(model(example), example)
    except Exception as error:  # of any class: assertions, indices, attributes
        raise _no_segmenter(model, f"{type(error).__name__}: {checks.first_line(error)}") from error
    if logits is None or logits.ndim != 4:
        raise _no_segmenter(model, "other outputs")
    count = max(2, logits.shape[1])  # a single map distinguishes two classes
    if count > MOST_CLASSES:
        raise DeployError(
            f"{count} classes are too many for an 8-bit mask",
            expected=f"at most {MOST_CLASSES} classes",
            found=count,
            fix="Export the model with PyTorch, for example with torch.onnx.export.",
        )
    kind = type(model).__name__
    return Segmenter(model, kind, kind, found, _labels(label_names, count))


def _no_segmenter(model: nn.Module, found: str) -> DeployError:
    return DeployError(
        f"the outputs of this {type(model).__name__} model are not those of a segmenter",
        expected="logits (N, K, H, W) for images (N, 3, H, W), or a dict with logits at out",
        found=found,
        where="model",
        fix="Pass a segmenter, with its input_size in preprocessing=.",
    )


def _labels(given: Sequence[str] | None, count: int) -> list[str]:
    found = list(given or map(str, range(count)))
    if len(found) != count:
        raise DataError(
            "the number of label names does not match the model",
            expected=f"{count} names, without a detector's background",
            found=f"{len(found)} names",
            where="label_names",
            fix="Pass one name per class, in order.",
        )
    return found


def _description(model: nn.Module) -> Description:
    """Describes an existing classifier."""
    config, cfg = getattr(model, "arch_config", None), getattr(model, "pretrained_cfg", None)
    if config is None or cfg is None or not getattr(model, "num_classes", 0):
        raise DeployError(
            f"this {type(model).__name__} model cannot be exported",
            expected="a zoo classifier or its name, a detector, or a segmenter with preprocessing",
            found=type(model).__name__,
            where="model",
            fix="Pass a zoo model from timm.create_model, or preprocessing= for a segmenter.",
        )
    name = f"{config.name}.{cfg['tag']}" if cfg.get("tag") else config.name
    return Description(name, config, dict(cfg))


def _fitting(model: nn.Module) -> dict[str, Any]:
    """The preprocessing of a classifier, with timm's names."""
    cfg: Any = model.pretrained_cfg
    in_chans: Any = model.in_chans  # the cfg describes the weights, which may have another number of channels
    data = transforms.image_config(cfg, in_chans)
    known = str(data["interpolation"]).upper() in Image.Resampling.__members__
    if not 1 <= in_chans <= MAX_CHANNELS or not known:
        raise DeployError(
            "predict.py does not support the preprocessing of this model",
            expected=f"images with 1 to {MAX_CHANNELS} channels, and an interpolation that Pillow supports",
            found={"in_chans": in_chans, "interpolation": data["interpolation"]},
            fix="Use deploy.optimize in Python, or export the model alone with torch.onnx.export.",
        )
    return {key: data[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")}
