"""Folds batch norms into the convolutions before them."""

from __future__ import annotations

import copy
import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(model: nn.Module) -> nn.Module:
    """Copies a model with its batch norms folded into its convolutions.

    Args:
        model: A model in evaluation mode whose modules define each batch norm directly after its convolution, as zoo
            models do. Activations inside the batch norms are preserved.

    Returns:
        The copy. Its outputs are the same up to rounding.

    Examples:
        >>> import timm, torch, mnv2zoo
        >>> model = timm.create_model("mnv2zoo_035").eval()
        >>> folded = mnv2zoo.deploy.fold(model)
        >>> images = torch.rand(1, 3, 64, 64)
        >>> bool(torch.allclose(folded(images), model(images), atol=1e-4))
        True
    """
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, _fused(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
    return model


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    fused: nn.Conv2d = fuse_conv_bn_eval(conv, norm)
    return fused.requires_grad_(False)
