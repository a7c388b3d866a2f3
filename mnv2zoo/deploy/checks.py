"""What engines and exports ask of a network and of this machine, and how near to the original is near enough."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mnv2zoo.errors import DeployError, MissingExtraError


def missing(packages: Iterable[str]) -> list[str]:
    """The packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def require(packages: Iterable[str], what: str) -> None:
    """Refuses to go on without packages.

    Raises:
        MissingExtraError: If one is not installed; `what` says what needs it.
    """
    if absent := missing(packages):
        raise MissingExtraError(f"{what} needs {', '.join(absent)}", fix='Run: pip install "mnv2zoo[deploy]"')


def require_evaluation_mode(model: nn.Module) -> None:
    """Refuses a network in training mode.

    Raises:
        DeployError: If any part of it is.
    """
    if any(module.training for module in model.modules()):
        raise DeployError("the model is in training mode", fix="Call model.eval() first.")


def distances(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """How far outputs are from the original's.

    Args:
        found: Outputs.
        wanted: The original's, in the same order.

    Returns:
        The largest distance of an output, as a part of the original's norm, and the largest difference of a
        number; NaN, which no bound admits, where there are any.
    """
    pairs = list(zip(found, wanted, strict=True))
    parts = [((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)).item() for ours, theirs in pairs]
    differences = [(ours - theirs).abs().max().item() for ours, theirs in pairs]
    # Unlike Python's, PyTorch's maximum of numbers with a NaN among them is NaN.
    return torch.tensor(parts).max().item(), torch.tensor(differences).max().item()
