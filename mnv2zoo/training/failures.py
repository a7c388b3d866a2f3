"""Training failures that the user can fix: out of memory, no compiler, no deterministic algorithm."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import Any

import torch

from mnv2zoo.errors import RunError, first_line
from mnv2zoo.models import pretrained
from mnv2zoo.models.timm_compat import is_of_compiler
from mnv2zoo.tasks.recipe import Recipe


def explained(error: Exception, recipe: Recipe, where: str) -> RunError | None:
    """Explains an error that PyTorch raised because of a recipe option.

    Args:
        error: The error.
        recipe: The recipe.
        where: Where it happened, as text.

    Returns:
        The error to raise instead; None for errors with other causes.
    """
    found = first_line(error)
    if recipe.deterministic and "deterministic" in found:
        return RunError(
            "an operation of this model has no deterministic algorithm on this device",
            found=found,
            where=where,
            fix="Start a new run without --deterministic, or with --device cpu.",
        )
    if recipe.compile and is_of_compiler(error):
        return RunError(
            "torch.compile failed to compile the model",
            expected="a C++ compiler for the CPU, or Triton for a GPU",
            found=found,
            where=where,
            fix="Pass --no-compile. Add --resume if the run already has a checkpoint.",
        )
    return None


def out_of_memory(
    error: BaseException, recipe: Recipe, processes: int, where: str, passes: Callable[[int], Any] | None = None
) -> RunError:
    """Finds a batch size that fits in memory, and suggests it.

    Args:
        error: The error. Its frames are cleared, to release their memory.
        recipe: The recipe.
        processes: Number of processes that share a batch.
        where: Where it happened, as text.
        passes: Runs a training step on a number of images, and raises an error if they do not fit. None if this cannot
            be tried, for example because other processes would wait.

    Returns:
        The error to raise.
    """
    found = first_line(error)
    each = recipe.batch_size // processes
    traceback.clear_frames(error.__traceback__)  # they reference the activations of the step
    count = each // 2
    while passes is not None and count >= 2 and not _fits(passes, count):
        count //= 2
    if count < 2:
        fix = "Choose a smaller --input-size, a smaller --model or another --device."
        return RunError("the device is out of memory, even for two images", found=found, where=where, fix=fix)
    count -= count % 2 if recipe.mixes else 0
    batch, groups = count * processes, -(-each // count) * recipe.accumulate
    measured = "fit in memory" if passes is not None else "may fit in memory"
    return RunError(
        "the device is out of memory",
        expected=f"--batch-size {batch}: {count} images {measured}",
        found=found,
        where=where,
        fix=f"Start a new run with --batch-size {batch} --accumulate {groups}, or resume this run with --resume on a "
        "--device with more memory.",
    )


def _fits(passes: Callable[[int], Any], count: int) -> bool:
    release()
    try:
        passes(count)
    except Exception as error:
        if not pretrained.is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def release() -> None:
    """Releases unused device memory."""
    gc.collect()
    kind = pretrained.accelerator()
    empty = getattr(torch.get_device_module(kind), "empty_cache", None) if kind is not None else None
    if empty is not None:
        empty()
