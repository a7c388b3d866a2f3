"""A teacher, whose answers a network learns beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.task import DistillationTeacher
from torch import Tensor, nn

from mnv2zoo.data.layout import composed
from mnv2zoo.deploy.fold import fold
from mnv2zoo.errors import RecipeError
from mnv2zoo.models import pretrained
from mnv2zoo.tasks.initialization import fingerprint
from mnv2zoo.tasks.recipe import Recipe


class Teacher(nn.Module):
    """A trained network, and how far the answers of another are from its own.

    It sees the very images that are trained on, as they were cut out and mixed (Beyer et al. 2021,
    https://arxiv.org/abs/2106.05237, section 3), resized so that the shorter side is that of its own input, and
    normalised as its weights want it.

    Args:
        name: A name of the zoo, or a run folder.
        class_names: The classes that are trained, in class order. The teacher's must be the same, in any order.
        recipe: Tells the temperature.
        preprocessing: That of the images that are trained on.

    Attributes:
        fingerprint: A hash of its weights and classes.

    Raises:
        RecipeError: If its classes are others.
        UnknownModelError: If there is none of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
    """

    order: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, class_names: Sequence[str], recipe: Recipe, preprocessing: dict[str, Any]) -> None:
        super().__init__()
        loaded = pretrained.load(name, "cpu")
        labels = [composed(label) for label in loaded.label_names]
        others = sorted(set(labels) ^ set(class_names))
        if others:
            raise RecipeError(
                "a teacher of other classes",
                expected=f"the {len(class_names)} classes of the data",
                found=f"{len(labels)} classes; {others[0]!r} is in only one of the two",
                where=name,
                fix="Fine-tune the teacher on the same data.",
            )
        self.fingerprint = fingerprint(loaded.model.state_dict(), labels)
        cfg: Any = loaded.model.pretrained_cfg
        self.side = min(resolve_data_config(pretrained_cfg=cfg, use_test_size=True)["input_size"][1:])
        self.teacher = DistillationTeacher(fold(loaded.model).to(memory_format=torch.channels_last))
        self.temperature = recipe.temperature
        self.register_buffer("order", torch.tensor([labels.index(label) for label in class_names]))
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(preprocessing[key]).view(1, -1, 1, 1))

    def forward(self, images: Tensor, outputs: Tensor) -> Tensor:
        """The loss of a network's answers against the teacher's.

        Hinton et al. 2015 (https://arxiv.org/abs/1503.02531, section 2), up to a constant: the divergence of the
        two at a temperature, times its square, so that gradients are as large as those of the labels.

        Args:
            images: Images (N, 3, H, W) as the network got them.
            outputs: Its logits (N, classes).

        Returns:
            The loss, the mean over the images.
        """
        with torch.no_grad():
            images = self.teacher.normalize_input(images, self.mean, self.std)
            if (short := min(images.shape[-2:])) != self.side:
                size = [round(side * self.side / short) for side in images.shape[-2:]]
                images = F.interpolate(images, size, mode="bilinear", antialias=True)
            wanted = self.teacher(images)[:, self.order]
        return self.temperature**2 * F.kl_div(
            F.log_softmax(outputs / self.temperature, dim=1),
            F.log_softmax(wanted / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
