"""Keeping freed memory for the next step, which is what much of a training step on a CPU waits for."""

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
    """Makes the process keep memory that it frees, until the end of the `with` statement.

    By default glibc gives blocks as large as activations back to the system, and gets them anew, page by
    page, at the next step. Other C libraries are left as they are.
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
