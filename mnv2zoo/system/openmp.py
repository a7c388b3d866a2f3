"""PyTorch's OpenMP threads."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

SOFT = 1  # omp_pause_soft in omp.h


def release_threads() -> None:
    """Ends the calling thread's team of OpenMP threads, which the next parallel operation starts again.

    After an operation, these threads wait in a busy loop for the next one, for about 10 ms with GNU's OpenMP. They take
    cores from the threads of another runtime that is called then. Ending and starting a thread takes about 0.1 ms.

    Does nothing without GNU's OpenMP. Must not be called from the main thread of a forked process: its team is a copy
    without threads, which would be waited for forever.

    Source:
        https://gcc.gnu.org/onlinedocs/libgomp/omp_005fpause_005fresource_005fall.html
    """
    pause = _pause()
    if pause is not None:
        pause(SOFT)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """GNU's `omp_pause_resource_all` in the library that PyTorch has loaded; None if there is none."""
    import torch

    loaded_only = getattr(os, "RTLD_NOLOAD", None)
    if loaded_only is None:
        return None
    for file in Path(torch.__file__).parent.glob("lib/libgomp*.so*"):
        try:
            function = ctypes.CDLL(str(file), mode=loaded_only).omp_pause_resource_all
        except (OSError, AttributeError):  # not loaded, or older than GCC 9
            continue
        function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
        found: Callable[[int], int] = function
        return found
    return None
