"""Failures of a training step that have a remedy: too little memory, no compiler, no deterministic algorithm."""

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
    """Says what to do about an error that PyTorch raised because of an option; None for any other error.

    Args:
        error: The error.
        recipe: The recipe.
        where: Where it happened, in words.

    Returns:
        The error to raise in its place.
    """
    found = first_line(error)
    if recipe.deterministic and "deterministic" in found:
        return RunError(
            "an operation of this training has no deterministic algorithm on the device",
            found=found,
            where=where,
            fix="Start a new run without --deterministic, or with --device cpu.",
        )
    if recipe.compile and is_of_compiler(error):
        return RunError(
            "torch.compile cannot compile the network",
            expected="a C++ compiler for the CPU, or Triton for a GPU",
            found=found,
            where=where,
            fix="Pass --no-compile; --resume continues a run that has a checkpoint.",
        )
    return None


def out_of_memory(
    error: BaseException, recipe: Recipe, processes: int, where: str, passes: Callable[[int], Any] | None = None
) -> RunError:
    """Names the batch that fits in memory.

    Args:
        error: The error. What its frames hold is let go.
        recipe: The recipe.
        processes: Processes that share a batch.
        where: Where it happened, in words.
        passes: Takes a step on so many images, and raises if they do not fit; None if a trial is not possible, as
            where other processes would wait for it.

    Returns:
        The error to raise.
    """
    found = first_line(error)
    each = recipe.batch_size // processes
    traceback.clear_frames(error.__traceback__)  # they hold the activations of the step
    count = each // 2
    while passes is not None and count >= 2 and not _fits(passes, count):
        count //= 2
    if count < 2:
        fix = "Choose a smaller --input-size or --model, or another --device."
        return RunError("out of memory even for two images", found=found, where=where, fix=fix)
    count -= count % 2 if recipe.mixes else 0
    batch, groups = count * processes, -(-each // count) * recipe.accumulate
    measured = "fit in memory" if passes is not None else "may fit in memory"
    return RunError(
        "out of memory",
        expected=f"--batch-size {batch}: {count} images {measured}",
        found=found,
        where=where,
        fix=f"Start a new run with --batch-size {batch} --accumulate {groups}, or continue this one with --resume on "
        "a --device with more memory.",
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
    """Gives memory back that nothing uses any more."""
    gc.collect()
    kind = pretrained.accelerator()
    empty = getattr(torch.get_device_module(kind), "empty_cache", None) if kind is not None else None
    if empty is not None:
        empty()
