"""Hugging Face Accelerate, and which of its environment variables a training accepts.

Accelerate reads `ACCELERATE_*` variables wherever it likes, and some of them change what is computed although the
training loop takes no part in it. Each one is honored whole or refused by name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator, DataLoaderConfiguration

from mnv2zoo.errors import DeviceError, RecipeError, RunError, first_line
from mnv2zoo.models import pretrained
from mnv2zoo.models.timm_compat import reset_accelerator
from mnv2zoo.tasks.recipe import Recipe

_OFF = ("", "0", "no", "false", "off", "none", "n", "f")
# Variables that turn on an engine or a feature that the training loop does not support.
_UNSUPPORTED = ("DYNAMO_BACKEND", "DOWNCAST_BF16", "GRADIENT_CLIPPING", "FP8_BACKEND")
_USE_CPU = "ACCELERATE_USE_CPU"  # the one `ACCELERATE_USE_...` that only chooses the device
_DEVICE = "ACCELERATE_TORCH_DEVICE"
# Launchers set one of these: torchrun and `accelerate launch`, and those of MPI.
_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_environment(recipe: Recipe) -> None:
    """Refuses variables of Accelerate that ask for another training than the recipe does.

    `accelerate launch` sets several of them to "off" values, or to those of its own configuration file.

    Args:
        recipe: The recipe.

    Raises:
        RecipeError: If there is one; the message names it.
    """
    for variable, value in sorted(os.environ.items()):
        name, off = variable.removeprefix("ACCELERATE_"), value.strip().lower() in _OFF
        if name == variable or off:
            continue
        if name == "GRADIENT_ACCUMULATION_STEPS" and value.strip() != "1":
            fix = f"Unset {variable}, and set the images per step with --batch-size."
            raise _refused(variable, value, "1: a training does not accumulate gradients", fix)
        if name == "MIXED_PRECISION" and value.strip().lower() != recipe.precision:
            fix = f"Pass --precision {value.strip().lower()}, or unset {variable}."
            raise _refused(variable, value, f"the recipe's precision, {recipe.precision}", fix)
        if name in _UNSUPPORTED or (name.startswith("USE_") and variable != _USE_CPU):
            raise _refused(variable, value, "an Accelerate feature that a training supports", f"Unset {variable}.")


def _refused(variable: str, value: str, expected: str, fix: str) -> RecipeError:
    return RecipeError(
        f"the environment variable {variable} asks for another training",
        expected=expected,
        found=repr(value),
        where=variable,
        fix=f"{fix} `accelerate launch` may set it from its configuration file.",
    )


def start(recipe: Recipe, device: str | None = None) -> Accelerator:
    """Finds the device and the other processes.

    Args:
        recipe: The recipe.
        device: The device, such as `cuda:1`. Several processes take one each, so they are given its kind alone. By
            default the one that Accelerate's variables name, or the accelerator if there is one, or the CPU.

    Returns:
        Accelerate's front end.

    Raises:
        RecipeError: If the environment asks for another training, or the batch does not suit the processes, or the
            precision does not suit the device.
        DeviceError: If the device cannot be used, or not by several processes.
        RunError: If Accelerate cannot start.
    """
    check_environment(recipe)
    several = any(os.environ.get(name, "1") != "1" for name in _PROCESSES)
    named = device is not None or not (several or os.environ.get(_USE_CPU) or os.environ.get(_DEVICE))
    chosen = pretrained.find_device(device) if named else None
    if several and chosen is not None and chosen.index is not None:
        raise _not_for_several(chosen.type, device)
    reset_accelerator()  # an earlier run in this process may have had another precision or device
    on_cpu = chosen.type == "cpu" if chosen is not None else pretrained.accelerator() is None
    try:
        with _variable(_DEVICE, None if chosen is None or several else str(chosen)):
            accelerator = Accelerator(
                cpu=on_cpu,  # said aloud, else Accelerate knows no processes on CPUs
                mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
                dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False),
                step_scheduler_with_optimizer=False,
            )
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        raise RunError(
            "Accelerate cannot start on this machine",
            found=first_line(error).rstrip("."),
            fix="Check the ACCELERATE_* environment variables, --device and --precision.",
        ) from error
    if chosen is not None and accelerator.device.type != chosen.type:
        raise _not_for_several(accelerator.device.type, device)
    _check_precision(recipe, accelerator.device)
    _check_batch(recipe, accelerator.num_processes)
    accelerator.dataloader_config.non_blocking = pins(accelerator.device)
    return accelerator


def pins(device: torch.device) -> bool:
    """Whether batches reach a device faster from pinned memory, which PyTorch does not have for every device."""
    if device.type in ("cpu", "mps"):  # for MPS, PyTorch's loader warns that it pins nothing
        return False
    try:
        return torch.empty(1).pin_memory().is_pinned()
    except (RuntimeError, NotImplementedError):
        return False


@contextlib.contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Makes a device the one that its kind means by default, such as `cuda`, until the end of the `with` statement."""
    choose = getattr(torch.get_device_module(device), "device", None) if device.index is not None else None
    with contextlib.nullcontext() if choose is None else choose(device):
        yield


@contextlib.contextmanager
def algorithms(recipe: Recipe, sizes_differ: bool) -> Iterator[None]:
    """Chooses the algorithms of GPUs until the end of the `with` statement.

    Deterministic ones are asked for as https://pytorch.org/docs/stable/notes/randomness.html says. Otherwise cuDNN
    measures which are the fastest for each shape of a batch, as in timm's `train.py`.

    Args:
        recipe: The recipe.
        sizes_differ: Whether batches differ in shape, so that measuring would not end.
    """
    was = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with _variable("CUBLAS_WORKSPACE_CONFIG", ":4096:8" if recipe.deterministic else None):
        torch.use_deterministic_algorithms(recipe.deterministic or was[0])
        torch.backends.cudnn.benchmark = not (recipe.deterministic or was[0] or sizes_differ)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was[0])
            torch.backends.cudnn.benchmark = was[1]


@contextlib.contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """Sets an environment variable until the end of the `with` statement; None leaves it as it is."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _not_for_several(kind: str, device: str | None) -> DeviceError:
    return DeviceError(
        "several processes cannot train on that device",
        expected=f"{kind}, of which each process takes one",
        found=device,
        where="device",
        fix=f"Pass --device {kind}, or leave it out.",
    )


def _check_precision(recipe: Recipe, device: torch.device) -> None:
    if recipe.precision == "fp16" and device.type == "cpu":
        raise RecipeError(
            "fp16 is for GPUs",
            expected="fp32 or bf16 on a CPU",
            found="fp16",
            where="precision",
            fix="Pass --precision bf16, or a --device.",
        )


def _check_batch(recipe: Recipe, processes: int) -> None:
    """Refuses a batch that the processes cannot share."""
    each, rest = divmod(recipe.batch_size, processes)
    if rest or each < 2:
        raise RecipeError(
            "the batch does not divide among the processes",
            expected=f"a multiple of the {processes} processes, with two images or more for each",
            found=recipe.batch_size,
            where="batch_size",
            fix="Choose another --batch-size.",
        )
    if recipe.mixes and each % 2:
        raise RecipeError(
            "mixup and cutmix pair the images that each process gets",
            expected=f"an even number for each of the {processes} processes",
            found=f"{each} each, of a batch of {recipe.batch_size}",
            where="batch_size",
            fix=f"Choose a --batch-size that {2 * processes} divides.",
        )
