"""Checks of models, inputs and installed packages, and the comparison of outputs."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from mnv2zoo.errors import DeployError, MissingExtraError
from mnv2zoo.system.installation import install_command

CPU = torch.device("cpu")


def missing(packages: Iterable[str]) -> list[str]:
    """The packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def require(packages: Iterable[str], what: str, extra: str = "deploy") -> None:
    """Requires packages to be installed.

    Args:
        packages: Their import names.
        what: The feature that needs them.
        extra: The project's extra that installs them.

    Raises:
        MissingExtraError: If one is not installed.
    """
    packages = list(packages)
    if absent := missing(packages):
        raise MissingExtraError(
            f"the {what} requires {', '.join(absent)}",
            expected=", ".join(packages),
            found=f"no module {', '.join(absent)}",
            fix=f"Run: {install_command(extra)}",
        )


def require_network(model: object, on_cpu: bool = True) -> None:
    """Requires a model in evaluation mode.

    Args:
        model: The model.
        on_cpu: Whether it has to be on the CPU.

    Raises:
        DeployError: If it is not a module, or any part of it is in training mode or on an unsupported device.
    """
    if not isinstance(model, nn.Module):
        raise DeployError(
            "the model is not a PyTorch module",
            expected="a torch.nn.Module",
            found=describe(model),
            where="model",
            fix="Pass a model, such as one from timm.create_model.",
        )
    if any(module.training for module in model.modules()):
        raise DeployError(
            "the model is in training mode",
            expected="a model in evaluation mode",
            found="training mode",
            where="model",
            fix="Call model.eval() first.",
        )
    devices = {str(tensor.device) for tensor in itertools.chain(model.parameters(), model.buffers())} - {"cpu"}
    if devices and on_cpu:
        raise DeployError(
            "the model is not on the CPU",
            expected="all parameters and buffers on the CPU",
            found=", ".join(sorted(devices)),
            fix="Call model.cpu() first, or pass device= to optimize for another device.",
        )


def are_images(value: object, device: torch.device = CPU) -> TypeGuard[Tensor]:
    """Whether a value is a batch of preprocessed images (N, C, H, W) on the CPU or the given device."""
    return isinstance(value, Tensor) and value.ndim == 4 and _fits(value, device)


def is_image(value: object, device: torch.device = CPU) -> TypeGuard[Tensor]:
    """Whether a value is a floating-point image (C, H, W) on the CPU or the given device."""
    return isinstance(value, Tensor) and value.ndim == 3 and _fits(value, device)


def _fits(value: Tensor, device: torch.device) -> bool:
    return value.is_floating_point() and (value.device.type == "cpu" or value.device == device)


def places(device: torch.device) -> str:
    """The supported locations of images for an engine on a device, for the `expected` of an error."""
    return "on the CPU" if device.type == "cpu" else f"on {device} or the CPU"


def describe(value: object) -> str:
    """Describes a value, for the `found` of an error."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    place = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}{place}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may be empty."""
    return str(error).partition("\n")[0]


def distances(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """The distances of outputs from the original's.

    Args:
        found: The outputs.
        wanted: The original's outputs, in the same order.

    Returns:
        The largest distance of an output relative to the norm of the original's, and the largest absolute difference of
        a number. NaN, which fails every bound, if any output contains NaN.
    """
    pairs = list(zip(found, wanted, strict=True))
    parts = [((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)).item() for ours, theirs in pairs]
    differences = [(ours - theirs).abs().max().item() for ours, theirs in pairs]
    # Unlike Python's max, PyTorch's propagates NaN.
    return torch.tensor(parts).max().item(), torch.tensor(differences).max().item()
