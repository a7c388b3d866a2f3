"""Sets up Hugging Face Accelerate, and checks its environment variables.

Accelerate reads `ACCELERATE_*` variables in many places, and some of them change the computation without the training
loop's knowledge. Each variable is either fully supported or rejected by name.
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
_USE_CPU = "ACCELERATE_USE_CPU"  # the only `ACCELERATE_USE_...` that just chooses the device
_DEVICE = "ACCELERATE_TORCH_DEVICE"
# Launchers set one of these: torchrun and `accelerate launch`, and those of MPI.
_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_environment(recipe: Recipe) -> None:
    """Rejects Accelerate variables that contradict the recipe.

    `accelerate launch` sets several of them to "off" values, or to values from its own configuration file.

    Args:
        recipe: The recipe.

    Raises:
        RecipeError: If a variable contradicts the recipe. The message names it.
    """
    for variable, value in sorted(os.environ.items()):
        name, off = variable.removeprefix("ACCELERATE_"), value.strip().lower() in _OFF
        if name == variable or off:
            continue
        if name == "GRADIENT_ACCUMULATION_STEPS" and value.strip() != "1":
            fix = f"Unset {variable}, and pass --accumulate instead."
            raise _refused(variable, value, "1, because the recipe's accumulate sets gradient accumulation", fix)
        if name == "MIXED_PRECISION" and value.strip().lower() != recipe.precision:
            fix = f"Pass --precision {value.strip().lower()}, or unset {variable}."
            raise _refused(variable, value, f"the recipe's precision, {recipe.precision}", fix)
        if name in _UNSUPPORTED or (name.startswith("USE_") and variable != _USE_CPU):
            raise _refused(variable, value, "no value, because training does not support it", f"Unset {variable}.")


def _refused(variable: str, value: str, expected: str, fix: str) -> RecipeError:
    return RecipeError(
        f"the environment variable {variable} conflicts with the recipe",
        expected=expected,
        found=repr(value),
        where=variable,
        fix=f"{fix} `accelerate launch` may set it from its configuration file.",
    )


def start(recipe: Recipe, device: str | None = None) -> Accelerator:
    """Creates the `Accelerator` for the device and processes.

    Args:
        recipe: The recipe.
        device: The device, such as `cuda:1`. With several processes, its type alone, because each process takes one
            device. By default the device in Accelerate's variables, else the accelerator if there is one, else the CPU.

    Returns:
        The accelerator.

    Raises:
        RecipeError: If an environment variable contradicts the recipe, the batch size cannot be divided among the
            processes, or the device does not support the precision.
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
                cpu=on_cpu,  # explicit, because Accelerate otherwise ignores processes on CPUs
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
    """Whether to use pinned memory for transfers to a device. PyTorch does not support it for all devices."""
    if device.type in ("cpu", "mps"):  # for MPS, PyTorch's loader would warn that it does not pin
        return False
    try:
        return torch.empty(1).pin_memory().is_pinned()
    except (RuntimeError, NotImplementedError):
        return False


@contextlib.contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Makes a device the default of its type, such as `cuda`, within the `with` statement."""
    choose = getattr(torch.get_device_module(device), "device", None) if device.index is not None else None
    with contextlib.nullcontext() if choose is None else choose(device):
        yield


@contextlib.contextmanager
def algorithms(recipe: Recipe, sizes_differ: bool) -> Iterator[None]:
    """Chooses deterministic or the fastest GPU algorithms within the `with` statement.

    Deterministic algorithms are enabled as https://pytorch.org/docs/stable/notes/randomness.html describes. Otherwise
    cuDNN benchmarks algorithms for each batch shape, as in timm's `train.py`.

    Args:
        recipe: The recipe.
        sizes_differ: Whether batches differ in shape, in which case cuDNN would benchmark again and again.
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
    """Sets an environment variable within the `with` statement; None leaves it unchanged."""
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
        f"several processes cannot train on the device {device}",
        expected=f"{kind}, from which each process takes one device",
        found=device,
        where="device",
        fix=f"Pass --device {kind}, or leave it out.",
    )


def _check_precision(recipe: Recipe, device: torch.device) -> None:
    if recipe.precision == "fp16" and device.type == "cpu":
        raise RecipeError(
            "the precision fp16 needs a GPU",
            expected="fp32 or bf16 on a CPU",
            found="fp16",
            where="precision",
            fix="Pass --precision bf16, or choose a GPU with --device.",
        )


def _check_batch(recipe: Recipe, processes: int) -> None:
    """Rejects a batch size that the processes cannot share."""
    each, rest = divmod(recipe.batch_size, processes)
    if rest or each < 2:
        raise RecipeError(
            f"a batch of {recipe.batch_size} images cannot be divided among {processes} processes",
            expected=f"a multiple of {processes}, with at least two images per process",
            found=recipe.batch_size,
            where="batch_size",
            fix="Choose another --batch-size.",
        )
    if recipe.mixes and each % 2:
        raise RecipeError(
            "mixup and cutmix need an even number of images per process, because they pair images",
            expected=f"an even number of images for each of the {processes} processes",
            found=f"{each} images per process, from a batch of {recipe.batch_size}",
            where="batch_size",
            fix=f"Choose a --batch-size that is a multiple of {2 * processes}.",
        )
