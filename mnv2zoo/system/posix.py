"""All calls that only some operating systems or Python programs support, each with a fallback.

This module uses only the standard library and imports nothing from the package. Each function looks up its call when it
runs, so tests can remove the call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(\.exe)?")  # file names of Python interpreters


def open_regular(path: Path) -> FileIO:
    """Opens a regular file for unbuffered reading without ever waiting for a writer.

    Opening a FIFO normally waits forever for a writer. POSIX can open it without waiting. Windows cannot, so there the
    type of the file is checked first.

    Args:
        path: The file.

    Returns:
        The open file, which may still not be a regular file. Check it with `os.fstat`.

    Raises:
        OSError: If the file cannot be opened.
    """
    no_wait = getattr(os, "O_NONBLOCK", 0)
    if not no_wait and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"not a regular file: {stat.filemode(path.stat().st_mode)}")
    return FileIO(path, opener=lambda name, flags: os.open(name, flags | no_wait))


def others_may_write(status: os.stat_result) -> bool:
    """Checks whether users other than this one and root may write to a file.

    Args:
        status: The result of `os.stat` for the file.

    Returns:
        True if its owner is another user or its mode lets others write. Always False on Windows, whose permission
        bits do not describe other users.
    """
    if not hasattr(os, "geteuid"):
        return False
    return status.st_uid not in (os.geteuid(), 0) or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def forbid_others(file: int) -> None:
    """Restricts an open file to its owner. Does nothing on file systems without permission bits.

    Args:
        file: Its descriptor.
    """
    if hasattr(os, "fchmod"):
        os.fchmod(file, 0o600)


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_way() -> None:
    """Lowers the priority of this process, if the system supports that."""
    if hasattr(os, "nice"):
        os.nice(19)


def limit_resources(file_bytes: int, memory_bytes: int) -> bool:
    """Limits the size of files that this process writes, and its memory.

    Args:
        file_bytes: Maximum file size.
        memory_bytes: Maximum memory.

    Returns:
        True if both limits are set. False without the module `resource`, as on Windows, or if the system refuses.
    """
    if sys.platform == "win32":
        return False
    try:
        import resource

        for limit, most in ((resource.RLIMIT_FSIZE, file_bytes), (resource.RLIMIT_DATA, memory_bytes)):
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    except (ImportError, OSError, ValueError):
        return False
    return True


def alarm(seconds: float, ring: Callable[[], None]) -> Callable[[], object] | None:
    """Calls a function in the main thread after a delay, interrupting blocking calls.

    Args:
        seconds: The delay.
        ring: The function, which may raise.

    Returns:
        A function that cancels the alarm, or None if the system cannot interrupt, as on Windows.
    """
    if sys.platform == "win32":
        return None
    if not hasattr(signal, "setitimer") or not hasattr(signal, "SIGALRM"):
        return None
    signal.signal(signal.SIGALRM, lambda number, frame: ring())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return functools.partial(signal.setitimer, signal.ITIMER_REAL, 0)


class _SignalStack(ctypes.Structure):
    """`stack_t` as on Linux. Other systems order its fields differently."""

    _fields_ = (("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_SS_DISABLE = 2


@contextlib.contextmanager
def preserved_signal_stack() -> Iterator[None]:
    """Restores this thread's alternate signal stack after code that may replace it.

    OpenVINO's CPU plugin sets an alternate stack when it is loaded, and frees it with the plugin. It restores the
    previous stack only if its own is still in place, so with several plugins alive a thread can end up with freed
    memory. The next signal whose handler uses the alternate stack, as Python's do, then kills the process.

    Does nothing outside Linux, where OpenVINO does not replace the stack.
    """
    call = getattr(ctypes.CDLL(None), "sigaltstack", None) if sys.platform == "linux" else None
    if call is None:
        yield
        return
    before = _SignalStack()
    call(None, ctypes.byref(before))
    try:
        yield
    finally:
        # The kernel rejects a stack that is too small for registers that have been enabled since (AMX).
        if call(ctypes.byref(before), None):
            call(ctypes.byref(_SignalStack(None, _SS_DISABLE, 0)), None)


def interpreter() -> str | None:
    """Returns the executable that can start another process of this Python.

    Returns:
        Its path. None in a frozen program, which would start itself again, and in a program that embeds Python,
        where `sys.executable` is that program.
    """
    program = sys.executable
    frozen = getattr(sys, "frozen", False) or "__compiled__" in globals()  # PyInstaller and similar; Nuitka
    if frozen or not program or not PYTHON.fullmatch(Path(program).name.lower()):
        return None
    return program


def cpu_info(field: str) -> str:
    """Reads what Linux reports about the first core.

    Args:
        field: A field of `/proc/cpuinfo`, such as `model name`.

    Returns:
        Its value. Empty if the field is missing, and on other systems.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == field), "")
