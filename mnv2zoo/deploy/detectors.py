"""Splits torchvision's detectors into a core, which any engine can run, and torchvision's post-processing.

| detector | core | post-processing |
| --- | --- | --- |
| SSD, RetinaNet | backbone and heads | box decoding, thresholds and non-maximum suppression |
| Faster R-CNN | backbone, feature pyramid and the proposal head | proposals, RoI align, box head and suppression |

`deploy.optimize` runs the post-processing in PyTorch. `deploy.export` writes both parts into one graph.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import boxes as box_ops

from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes.runners import INPUT

Detections = list[dict[str, Tensor]]
Size = tuple[int, int]  # height and width

OUTPUTS = ("boxes", "labels", "scores")  # of an exported detector, in this order
SIZE_INPUT = "size"
_swapping = threading.Lock()


def is_detector(model: object) -> TypeGuard[nn.Module]:
    """Whether a model is one of torchvision's box detectors that can be split."""
    return isinstance(model, SSD | RetinaNet | FasterRCNN) and not isinstance(model, MaskRCNN | KeypointRCNN)


class Core(nn.Module):
    """The part of a detector that engines run, from normalized images (N, 3, H, W) to the heads' raw outputs.

    For SSD and RetinaNet the outputs are `cls_logits` (N, A, K) and `bbox_regression` (N, A, 4), for A anchors and K
    classes. For Faster R-CNN they are `features`, `objectness` and `deltas`, with one map per pyramid level.

    Args:
        detector: The detector, whose modules it shares.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        source = cast(Any, detector)
        self.backbone = source.backbone
        self.two_stages = isinstance(detector, FasterRCNN)
        self.head = source.rpn.head if self.two_stages else source.head
        self.train(detector.training)

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Computes the heads' outputs."""
        features = self.backbone(images)
        if isinstance(features, Tensor):  # torchvision also supports backbones with a single map
            features = {"0": features}
        outputs = self.head(list(features.values()))
        if not self.two_stages:
            return dict(outputs)
        return {"features": dict(features), "objectness": list(outputs[0]), "deltas": list(outputs[1])}


class PostProcessing:
    """torchvision's post-processing of a detector for a fixed image size, so that anchors are computed only once.

    Args:
        detector: The detector in evaluation mode.
        core: Its core.
        image: An input image (1, C, H, W) of the core.
    """

    def __init__(self, detector: nn.Module, core: Core, image: Tensor) -> None:
        self.detector = cast(Any, detector)
        generator = self.detector.rpn.anchor_generator if core.two_stages else self.detector.anchor_generator
        size = (image.shape[-2], image.shape[-1])
        features = core.backbone(image)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        self.anchors: Tensor = generator(ImageList(image, [size]), maps)[0]
        per_place = generator.num_anchors_per_location()
        self.counts = [a * m.shape[-2] * m.shape[-1] for a, m in zip(per_place, maps, strict=True)]
        self(core(image), [size])  # Faster R-CNN determines its scales on the first images

    def __call__(self, outputs: Mapping[str, Any], sizes: Sequence[Size]) -> Detections:
        """Computes the boxes.

        Args:
            outputs: The core's outputs for N images.
            sizes: Height and width of each image without padding, to which boxes are clipped.

        Returns:
            `boxes` (n, 4) in pixels of the core's image, `labels` (n,) and `scores` (n,) for each image.
        """
        detector, anchors = self.detector, [self.anchors] * len(sizes)
        if isinstance(detector, FasterRCNN):
            return self._from_proposals(outputs, list(sizes))
        if isinstance(detector, SSD):
            return detector.postprocess_detections(dict(outputs), anchors, list(sizes))
        levels = {name: list(tensor.split(self.counts, 1)) for name, tensor in outputs.items()}
        return detector.postprocess_detections(levels, [list(one.split(self.counts)) for one in anchors], list(sizes))

    def to(self, detector: nn.Module, device: torch.device) -> PostProcessing:
        """The same for a copy of the detector on a device."""
        moved = copy.copy(self)
        moved.detector, moved.anchors = cast(Any, detector), self.anchors.to(device)
        return moved

    def _from_proposals(self, outputs: Mapping[str, Any], sizes: list[Size]) -> Detections:
        """The steps of torchvision's `RegionProposalNetwork.forward` and `GeneralizedRCNN.forward` after the head."""
        rpn: Any = self.detector.rpn
        objectness, deltas = concat_box_prediction_layers(outputs["objectness"], outputs["deltas"])
        decoded = rpn.box_coder.decode(deltas, [self.anchors] * len(sizes)).view(len(sizes), -1, 4)
        proposals, _ = rpn.filter_proposals(decoded, objectness, sizes, self.counts)
        detections, _ = self.detector.roi_heads(outputs["features"], proposals, sizes)
        return detections


class Split:
    """A detector in its parts, for images that the detector's transform resizes to a fixed size.

    Args:
        detector: The detector in evaluation mode on the CPU.
        example: Images (N, 3, H, W) from 0 to 1.

    Raises:
        DeployError: If the detector raises an error for the example.
    """

    def __init__(self, detector: nn.Module, example: Tensor) -> None:
        self.detector = cast(Any, detector)
        self.core = Core(detector)
        try:
            with torch.inference_mode(False), torch.no_grad():
                prepared, _ = self.detector.transform(list(example))
                self.size: Size = (prepared.tensors.shape[-2], prepared.tensors.shape[-1])
                # Whether the transform only normalizes images of the example's size.
                self.resizes = {tuple(example.shape[-2:]), *map(tuple, prepared.image_sizes)} != {self.size}
                self.post_processing = PostProcessing(detector, self.core, prepared.tensors[:1])
        except Exception as error:  # of any class: assertions, indices, attributes
            raise DeployError(
                "the detector raised an error for the example",
                expected="an example that the detector accepts",
                found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                where="example",
                fix="Pass images (N, 3, H, W) from 0 to 1.",
            ) from error

    def to(self, device: torch.device) -> Split:
        """A copy of the parts on a device."""
        moved = copy.copy(self)
        moved.detector = copy.deepcopy(self.detector).to(device)
        moved.core = Core(moved.detector)
        moved.post_processing = self.post_processing.to(moved.detector, device)
        return moved

    def prepare(self, images: Tensor | Sequence[Tensor]) -> tuple[Tensor, list[Size]]:
        """Resizes and normalizes images as the detector does, and pads them to the size of the core.

        Args:
            images: Images (3, h, w) from 0 to 1, as a tensor or a list.

        Returns:
            The core's inputs (N, 3, H, W), and the height and width of each image without padding.

        Raises:
            DeployError: If an image is larger than the core's input after the detector has resized it.
        """
        transform = self.detector.transform
        if not self.resizes and isinstance(images, Tensor) and tuple(images.shape[-2:]) == self.size:
            return transform.normalize(images), [self.size] * len(images)
        prepared, _ = transform(list(images))
        (height, width), (have_height, have_width) = self.size, prepared.tensors.shape[-2:]
        if have_height > height or have_width > width:
            raise DeployError(
                "the images are larger than the example after the detector has resized them",
                expected=f"at most {height} x {width} pixels (height x width)",
                found=f"{have_height} x {have_width}",
                fix="Resize the images, or call optimize again with an example of their shape.",
            )
        padding = (0, width - have_width, 0, height - have_height)
        return functional.pad(prepared.tensors, padding), [(int(h), int(w)) for h, w in prepared.image_sizes]

    def detections(self, outputs: Mapping[str, Any], sizes: Sequence[Size], originals: Sequence[Size]) -> Detections:
        """Computes the boxes in pixels of the original images.

        Args:
            outputs: The core's outputs.
            sizes: Height and width of each image in the core, from `prepare`.
            originals: Height and width of each image before `prepare`.

        Returns:
            `boxes`, `labels` and `scores` for each image, like the detector's outputs.
        """
        found = self.post_processing(outputs, sizes)
        return self.detector.transform.postprocess(found, list(sizes), list(originals))


class WithPostProcessing(nn.Module):
    """A detector as one module, from a normalized image (1, 3, H, W) to `boxes`, `labels` and `scores`.

    Args:
        core: The core, which may have folded batch norms.
        post_processing: The post-processing.
        size: Height and width of its images.
        padded: Whether the height and width of the image without padding (2,) are a second input.
    """

    def __init__(self, core: nn.Module, post_processing: PostProcessing, size: Size, padded: bool) -> None:
        super().__init__()
        self.core, self.post_processing, self.size, self.padded = core, post_processing, size, padded

    def forward(self, images: Tensor, size: Tensor | None = None) -> tuple[Tensor, ...]:
        """Computes the boxes in pixels of the input image."""
        inside: Any = self.size if size is None else (size[0].item(), size[1].item())
        (found,) = self.post_processing(self.core(images), [inside])
        return tuple(found[name] for name in OUTPUTS)

    def to_onnx(self) -> bytes:
        """Exports the module as ONNX for one image at a time, because the exporter cannot loop over images.

        Returns:
            The bytes of the file. Its inputs are `images` and, if it is `padded`, `size`. Its outputs are `boxes`
            (n, 4), `labels` (n,) and `scores` (n,).
        """
        example = [torch.zeros(1, 3, *self.size), *([torch.tensor(self.size)] if self.padded else [])]
        two_stages = isinstance(self.post_processing.detector, FasterRCNN)
        with exportable_suppression(self.size), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)  # torchvision's
            # RoI align makes a tensor of a length that only bytecode analysis can leave open.
            exported = torch.export.export(self.eval(), tuple(example), strict=two_stages)
            names = [INPUT, SIZE_INPUT][: len(example)]
            program = torch.onnx.export(
                exported, input_names=names, output_names=list(OUTPUTS), dynamo=True, verbose=False
            )
        assert program is not None  # only None when writing to a file
        return program.model_proto.SerializeToString()


@contextlib.contextmanager
def exportable_suppression(size: Size) -> Iterator[None]:
    """Replaces torchvision's `batched_nms` during an export, because it branches on the number of boxes.

    During the export, boxes of different classes are moved apart and suppressed together, as torchvision does for few
    boxes. Other code that runs at the same time still gets torchvision's function.

    Args:
        size: Height and width of the images, which bound the boxes.
    """
    original: Callable[..., Tensor] = box_ops.batched_nms
    apart = float(math.ceil(max(size)) + 1)

    def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
        if not torch.compiler.is_compiling():
            return original(boxes, scores, idxs, iou_threshold)
        return box_ops.nms(boxes + (idxs.to(boxes) * apart)[:, None], scores, iou_threshold)

    with _swapping:
        box_ops.batched_nms = batched_nms
        try:
            yield
        finally:
            box_ops.batched_nms = original
