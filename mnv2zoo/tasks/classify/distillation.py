"""Knowledge distillation from a teacher model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.task import DistillationTeacher
from torch import Tensor, nn

from mnv2zoo.data.labels import composed
from mnv2zoo.deploy.fold import fold
from mnv2zoo.errors import RecipeError
from mnv2zoo.models import pretrained
from mnv2zoo.tasks.initialization import fingerprint
from mnv2zoo.tasks.recipe import Recipe


class Teacher(nn.Module):
    """A teacher model, and the distillation loss of a student's outputs.

    The teacher sees the same crops and mixes of images as the student (Beyer et al. 2021,
    https://arxiv.org/abs/2106.05237, section 3). They are resized to the teacher's input size and normalized for its
    weights.

    Args:
        name: A model name from the zoo, or a run folder.
        class_names: The classes of the student, in class order. The teacher must have the same ones, in any order.
        recipe: The recipe, with the temperature.
        preprocessing: The preprocessing of the student's images.

    Attributes:
        fingerprint: A hash of its weights and classes.

    Raises:
        RecipeError: If its classes differ from the student's.
        UnknownModelError: If the model is unknown.
        WeightsError: If its weights cannot be found, downloaded or verified.
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
                "the classes of the teacher differ from those of the data",
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
        """Computes the distillation loss.

        It is the KL divergence of the softmax outputs at the temperature, times the square of the temperature, so that
        its gradients have the same scale as those of the labels (Hinton et al. 2015, https://arxiv.org/abs/1503.02531,
        section 2).

        Args:
            images: The student's input images (N, 3, H, W).
            outputs: The student's logits (N, classes).

        Returns:
            The mean loss over the images.
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
