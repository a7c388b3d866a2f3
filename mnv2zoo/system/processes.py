"""Worker processes: how they start, and how they end with their parent process.

Python starts processes with `fork`, `forkserver` or `spawn`. Only `fork` copies the running program. The others
start a new interpreter, which imports the program's main script again.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from mnv2zoo.errors import WorkerError

_GUARD = 'Move the work of the script under `if __name__ == "__main__":`, or train with workers=0.'


def start_method(may_fork: bool) -> str:
    """Chooses how worker processes start.

    On Linux, workers fork if that is safe, because they then start at once and import nothing. A process that uses a
    GPU must not fork, so its workers fork from a server process that has never used one. macOS and Windows spawn.
    If the program has called `multiprocessing.set_start_method` with a method other than Python's default, that method
    is used.

    Args:
        may_fork: Whether this process may fork.

    Returns:
        `fork`, `forkserver` or `spawn`.
    """
    chosen = _chosen()
    if chosen is not None and (may_fork or chosen != "fork"):
        return chosen
    if sys.platform != "linux":
        return "spawn"
    return "fork" if may_fork else "forkserver"


def preload(modules: Sequence[str]) -> None:
    """Makes the `forkserver` process import modules once, so that its workers need not.

    Does nothing if the program chose that method itself, because it may preload modules of its own.

    Args:
        modules: Their names.
    """
    if _chosen() != "forkserver":
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def _chosen() -> str | None:
    """Returns the start method that the program chose, if it is not Python's default.

    Creating a lock or a queue fixes the default method, so the default says nothing about the choice of the program.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    return None if method == multiprocessing.get_all_start_methods()[0] else method


def check_start(method: str) -> None:
    """Checks that new worker processes can import the main script without running its work again.

    Args:
        method: The start method.

    Raises:
        WorkerError: If the script has no `__main__` guard, or cannot be imported.
    """
    script = None if method == "fork" else _imported_script()
    if script is None:
        return
    try:
        source = script.read_bytes()
    except OSError as error:
        raise WorkerError(
            f"worker processes that start with {method!r} cannot import the program",
            expected="a script in a file",
            found=script.name,
            fix="Save the program to a file, or train with workers=0.",
        ) from error
    if not _is_guarded(source):
        raise _unguarded(f"worker processes start with {method!r}, and each would run the script again", script)


def check_is_no_worker() -> None:
    """Checks that this process is not a worker that is importing the main script, which would do its work again.

    Raises:
        WorkerError: If it is such a worker.
    """
    # The standard library checks the same flag before a process starts another.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        script = getattr(sys.modules.get("__mp_main__"), "__file__", None) or sys.argv[0]
        raise _unguarded("a worker process ran the script again", script)


def end_with_parent() -> None:
    """Ends this worker process as soon as its parent process is gone, even if that was killed.

    A thread waits for that. PyTorch's workers only compare their parent's process ID, which with `forkserver` is
    that of the server.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="mnv2zoo-parent", daemon=True).start()


def _unguarded(problem: str, script: object) -> WorkerError:
    return WorkerError(
        problem,
        expected='a script whose work is under `if __name__ == "__main__":`',
        found="work outside that guard",
        where=script,
        fix=_GUARD,
    )


def _imported_script() -> Path | None:
    """Returns the file that a new interpreter imports as main module, by the rules of `multiprocessing.spawn`."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", "")
    file = getattr(main, "__file__", None)
    if not file or name.split(".")[-1] == "__main__" or Path(file).stem == "ipython":
        return None
    return None if getattr(sys, "frozen", False) else Path(file)


def _is_guarded(source: bytes) -> bool:
    """Checks whether a script compares `__name__`, or asks for its parent process."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return True  # not Python source, so it cannot be checked
    names = {
        getattr(part, "id", getattr(part, "attr", ""))
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.If)
        for part in ast.walk(node if isinstance(node, ast.Compare) else node.test)
    }
    return not names.isdisjoint({"__name__", "parent_process", "current_process"})
