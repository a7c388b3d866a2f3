"""Hugging Face Accelerate, and which of its environment variables a training accepts.

Accelerate reads `ACCELERATE_*` variables wherever it likes, and some of them change what is computed although the
training loop takes no part in it. Each one is honored whole or refused by name.
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, DataLoaderConfiguration

from mnv2zoo.errors import RecipeError, RunError
from mnv2zoo.models.timm_compat import reset_accelerator
from mnv2zoo.tasks.recipe import Recipe

_OFF = ("", "0", "no", "false", "off", "none", "n", "f")
# Variables that turn on an engine or a feature that the training loop does not support.
_UNSUPPORTED = ("DYNAMO_BACKEND", "DOWNCAST_BF16", "GRADIENT_CLIPPING", "FP8_BACKEND")
_DEVICE = "ACCELERATE_USE_CPU"  # the one `ACCELERATE_USE_...` that only chooses the device


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
            fix = f"Pass --precision bf16, or unset {variable}."
            raise _refused(variable, value, f"the recipe's precision, {recipe.precision}", fix)
        if name in _UNSUPPORTED or (name.startswith("USE_") and variable != _DEVICE):
            raise _refused(variable, value, "an Accelerate feature that a training supports", f"Unset {variable}.")


def _refused(variable: str, value: str, expected: str, fix: str) -> RecipeError:
    return RecipeError(
        f"the environment variable {variable} asks for another training",
        expected=expected,
        found=repr(value),
        where=variable,
        fix=f"{fix} `accelerate launch` may set it from its configuration file.",
    )


def start(recipe: Recipe) -> Accelerator:
    """Finds the device and the other processes.

    Args:
        recipe: The recipe.

    Returns:
        Accelerate's front end.

    Raises:
        RecipeError: If the environment asks for another training, or the batch does not suit the processes.
        RunError: If Accelerate cannot start.
    """
    check_environment(recipe)
    reset_accelerator()  # an earlier run in this process may have had another precision
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # said aloud, else Accelerate knows no processes on CPUs
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False),
            step_scheduler_with_optimizer=False,
        )
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        raise RunError(
            "Accelerate cannot start on this machine",
            found=str(error).strip().splitlines()[0].rstrip("."),
            fix="Check the ACCELERATE_* environment variables and --precision.",
        ) from error
    processes = accelerator.num_processes
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
    return accelerator
