"""Every call that only some operating systems or Python programs have, each with what is done without it.

It uses the standard library alone and imports nothing of the package. Each function looks for its call when it
is called, so that a test can take the call away.
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

PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(\.exe)?")  # how an interpreter's file is called


def open_regular(path: Path) -> FileIO:
    """Opens a regular file for unbuffered reading, and never waits for another process to write.

    Opening a FIFO would wait for a writer forever. POSIX can open it without waiting. Windows cannot, so the
    kind of file is checked before it is opened.

    Args:
        path: The file.

    Returns:
        The open file, which may still be something other than a regular file: check with `os.fstat`.

    Raises:
        OSError: If it cannot be opened.
    """
    no_wait = getattr(os, "O_NONBLOCK", 0)
    if not no_wait and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"not a regular file: {stat.filemode(path.stat().st_mode)}")
    return FileIO(path, opener=lambda name, flags: os.open(name, flags | no_wait))


def others_may_write(status: os.stat_result) -> bool:
    """Whether users other than this one and root may write a file, where permission bits tell.

    Args:
        status: What `os.stat` says of the file.

    Returns:
        Whether its owner is another user, or its mode lets others write; False on Windows, whose permission
        bits say nothing about other users.
    """
    if not hasattr(os, "geteuid"):
        return False
    return status.st_uid not in (os.geteuid(), 0) or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def forbid_others(file: int) -> None:
    """Lets only the owner of an open file read and write it; does nothing where files have no such mode.

    Args:
        file: Its descriptor.
    """
    if hasattr(os, "fchmod"):
        os.fchmod(file, 0o600)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_way() -> None:
    """Lets other processes go first, where a process can say so."""
    if hasattr(os, "nice"):
        os.nice(19)


def limit_resources(file_bytes: int, memory_bytes: int) -> bool:
    """Bounds what this process may write to one file and how much memory it may take.

    Args:
        file_bytes: The largest file.
        memory_bytes: The most memory.

    Returns:
        Whether both are bounded; False without the module `resource`, as on Windows, or where the system refuses.
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
    """Calls a function in the main thread when some time has passed, and interrupts what that waits for.

    Args:
        seconds: The time.
        ring: The function, which may raise.

    Returns:
        A function that calls the alarm off; None if nothing can be interrupted here, as on Windows.
    """
    if sys.platform == "win32":
        return None
    if not hasattr(signal, "setitimer") or not hasattr(signal, "SIGALRM"):
        return None
    signal.signal(signal.SIGALRM, lambda number, frame: ring())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return functools.partial(signal.setitimer, signal.ITIMER_REAL, 0)


class _SignalStack(ctypes.Structure):
    """`stack_t` as Linux has it; other systems order its fields differently."""

    _fields_ = (("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_SS_DISABLE = 2


@contextlib.contextmanager
def preserved_signal_stack() -> Iterator[None]:
    """Gives this thread its alternate signal stack back after code that may set another.

    OpenVINO's CPU plugin sets one when it is loaded, and frees it with the plugin. It restores the stack before it
    only if its own is still in place, so with several plugins alive a thread can end up with freed memory. The next
    signal whose handler uses the alternate stack, as Python's do, then kills the process.

    Does nothing outside Linux, where OpenVINO leaves the stack alone.
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
        # The kernel refuses a stack that is too small for registers that have been enabled since (AMX).
        if call(ctypes.byref(before), None):
            call(ctypes.byref(_SignalStack(None, _SS_DISABLE, 0)), None)


def interpreter() -> str | None:
    """The program that starts another process of this Python.

    Returns:
        Its path; None in a frozen program, which would start itself once more, and in a program that
        embeds Python, whose path is that of the program.
    """
    program = sys.executable
    frozen = getattr(sys, "frozen", False) or "__compiled__" in globals()  # PyInstaller and its like; Nuitka
    if frozen or not program or not PYTHON.fullmatch(Path(program).name.lower()):
        return None
    return program


def cpu_info(field: str) -> str:
    """Reads what Linux reports about the first core.

    Args:
        field: A field of `/proc/cpuinfo`, such as `model name`.

    Returns:
        Its value; empty if there is no such field, and on other systems.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == field), "")
