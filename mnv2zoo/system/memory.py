"""Keeps freed memory for the next training step. Getting it from the system takes much of a step's time on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

# Parameters of glibc's mallopt, and their defaults: https://man7.org/linux/man-pages/man3/mallopt.3.html
M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 128 * 1024
M_MMAP_MAX, MMAP_MAX = -4, 65_536


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Makes the process keep the memory that it frees, within a `with` statement.

    By default, glibc returns blocks as large as activations to the system and gets them back page by page in the next
    step. Other C libraries are unaffected.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
