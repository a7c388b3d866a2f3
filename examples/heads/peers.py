"""Trains alternatives from the same ImageNet weights for the same time, and adds them to the results.

    python examples/heads/peers.py bccd --data ../shared/data/bccd --weights model.safetensors --minutes 60

`bccd`: torchvision's Faster R-CNN on `mobilenet_backbone("mobilenet_v2", fpn=True)`, with torchvision's reference
recipe (references/detection/train.py): SGD with flips, a learning rate of 0.02 for 16 images per step, divided by ten
after 16 and 22 of 26 parts of the training. Images are 480 pixels high, as for mnv2zoo.

`camvid`: segmentation_models_pytorch's FPN, as in its own example (examples/camvid_segmentation_multiclass.ipynb): Dice
loss, Adam with a cosine schedule from 0.0002 to 0.00001, crops of 320 pixels with flips, scales, shifts and noise,
drawn by torchvision instead of albumentations.

The weights of the last epoch are tested once. Images, boxes, masks and metrics are read and computed with mnv2zoo.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import segmentation_models_pytorch as smp
import torch
from evaluation import measure
from results import PATH, add, machine
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.transforms import v2

from mnv2zoo.convert import from_native
from mnv2zoo.data.datasets import Data, Photos
from mnv2zoo.data.layout import Layout
from mnv2zoo.data.masks import VOID
from mnv2zoo.tasks import Task, find_task
from mnv2zoo.tasks.tensors import to_device

BATCH = 8
MEAN = STD = (0.5, 0.5, 0.5)


class TorchvisionDetector:
    """torchvision's Faster R-CNN."""

    task, name = "detect", "torchvision Faster R-CNN"
    preprocessing: ClassVar[dict[str, Any]] = {
        "input_size": (3, 800, 480),
        "crop_mode": "border",
        "interpolation": "bilinear",
    }

    def __init__(self, weights: Path, classes: int) -> None:
        backbone: Any = mobilenet_backbone(backbone_name="mobilenet_v2", weights=None, fpn=True, trainable_layers=6)
        named = from_native(load_file(weights), "mnv2zoo_100", "torchvision")
        body = {key.removeprefix("features."): value for key, value in named.items() if key.startswith("features.")}
        backbone.body.load_state_dict(body, strict=False)
        self.network: Any = FasterRCNN(
            backbone,
            classes + 1,
            rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3),
            min_size=480,
            max_size=800,
            image_mean=MEAN,
            image_std=STD,
            box_score_thresh=0.01,
        )
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.02 * BATCH / 16, momentum=0.9, weight_decay=1e-4)

    @staticmethod
    def learning_rate(done: float) -> float:
        """The learning rate multiplier after a fraction of the training."""
        return 0.1 ** sum(done >= part / 26 for part in (16, 22)) * min(1.0, 0.001 + 50 * done)

    @staticmethod
    def augmented(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Flips an image and its boxes."""
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[1:])  # type: ignore[call-overload]
        turned, given = v2.RandomHorizontalFlip(0.5)(tv_tensors.Image(image), {**target, "boxes": boxes})
        return turned.as_subclass(Tensor), {**given, "boxes": given["boxes"].as_subclass(Tensor)}

    def loss(self, images: Any, targets: Any) -> Tensor:
        """The sum of the detector's losses."""
        return sum(self.network(images, targets).values())  # type: ignore[no-any-return]

    def outputs(self, images: Any) -> Any:
        """The boxes of each image."""
        return self.network(images)


class SmpSegmenter:
    """segmentation_models_pytorch's FPN."""

    task, name = "segment", "segmentation_models_pytorch FPN"
    preprocessing: ClassVar[dict[str, Any]] = {
        "input_size": (3, 360, 480),
        "mean": MEAN,
        "std": STD,
        "interpolation": "bilinear",
    }

    def __init__(self, weights: Path, classes: int) -> None:
        self.network: Any = smp.FPN("tu-mobilenetv2_100", encoder_weights=None, classes=classes)
        self.network.encoder.model.load_state_dict(load_file(weights), strict=False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-4)
        self.criterion = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=VOID)
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.5, 1.5), fill={tv_tensors.Mask: VOID, "others": 0}),
                v2.RandomCrop(320),
                v2.RandomApply([v2.GaussianNoise(sigma=0.1)], 0.2),
                v2.RandomPerspective(0.1, p=0.5, fill={tv_tensors.Mask: VOID, "others": 0}),
                v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2)], 0.9),
            ]
        )

    @staticmethod
    def learning_rate(done: float) -> float:
        """The learning rate multiplier after a fraction of the training."""
        return 0.05 + 0.95 * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def augmented(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Augments an image and its mask."""
        shown = tv_tensors.Image((image + 1) / 2)
        turned, given = self.transform(shown, tv_tensors.Mask(mask[None]))
        return turned.as_subclass(Tensor) * 2 - 1, given.as_subclass(Tensor)[0]

    def loss(self, images: Any, masks: Any) -> Tensor:
        """The Dice loss."""
        loss: Tensor = self.criterion(self.network(images), masks.long())
        return loss

    def outputs(self, images: Any) -> Any:
        """The logits. Images are padded, because the encoder needs sides that are multiples of 32."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % 32, 0, -height % 32))
        return self.network(padded)[..., :height, :width]


PEERS: dict[str, Any] = {"bccd": TorchvisionDetector, "camvid": SmpSegmenter}


class Augmented(Dataset[Any]):
    """Images and targets with random augmentation.

    Args:
        photos: The images, as for evaluation.
        augment: Augments an image and its target at random.
    """

    def __init__(self, photos: Photos, augment: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self.photos, self.augment = photos, augment

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Any:
        return self.augment(*self.photos[index][:2])


def main() -> None:
    """Trains and tests the model, and writes its row."""
    args = arguments()
    torch.manual_seed(args.seed)
    kind = PEERS[args.data_set]
    task = find_task(kind.task)
    data = task.find_data(args.data, Layout(skip_bad_images=True, ignore_index=11 if kind.task == "segment" else None))
    peer = kind(args.weights, len(data.class_names))
    peer.network.to(args.device)
    began, epochs = time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / 60 / args.minutes) < 1:
        for _ in epoch(peer, task, data, args, lambda: (time.perf_counter() - began) / 60 / args.minutes):
            pass
        epochs += 1
        print(f"epoch {epochs}, {100 * done:.0f} % of the time", flush=True)
    minutes = round((time.perf_counter() - began) / 60, 1)
    peer.network.eval()
    scores = measure(
        task,
        data,
        "test",
        kind.preprocessing,
        peer.outputs,
        batch=BATCH,
        workers=args.workers,
        device=args.device,
    )
    row = {
        "peer": kind.name,
        "seed": args.seed,
        "images": len(data.splits["train"]),
        "epoch": epochs,
        "minutes": minutes,
        "parameters": sum(parameter.numel() for parameter in peer.network.parameters()),
        "test": scores.to_json(),
        **machine(args.device),
    }
    add(args.results, f"{args.data_set}-peer-{args.seed}", row)


def epoch(peer: Any, task: Task, data: Data, args: argparse.Namespace, done: Callable[[], float]) -> Iterator[Tensor]:
    """Trains for an epoch, and yields the loss of each step."""
    photos = Photos(data.splits["train"], transforms=task.transforms(peer.preprocessing))
    loader = DataLoader(
        Augmented(photos, peer.augmented),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        collate_fn=task.collate,
    )
    base = [group.setdefault("base", group["lr"]) for group in peer.optimizer.param_groups]
    peer.network.train()
    for batch in loader:
        images, targets = to_device(batch, args.device)
        for group, lr in zip(peer.optimizer.param_groups, base, strict=True):
            group["lr"] = lr * peer.learning_rate(done())
        loss = peer.loss(images, targets)
        peer.optimizer.zero_grad()
        loss.backward()
        peer.optimizer.step()
        yield loss.detach()


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=sorted(PEERS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of mnv2zoo_100")
    parser.add_argument("--minutes", type=float, required=True, help="training time in minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=PATH, help="the file to add the row to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
