"""Finds tasks by name."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from mnv2zoo.errors import TaskError, nearest
from mnv2zoo.tasks.base import BUILT_IN, DEFAULT, Task


def find_task(task: str | Task | type[Task] | None = None, recorded: str | None = None, where: object = None) -> Task:
    """Finds a task.

    A name that you pass may refer to code, which is imported. Code that a run folder names is never imported, because
    the folder may come from someone else.

    Args:
        task: The name of a built-in task, `module:Class`, a subclass of `Task` or an instance of one; None for the
            recorded task.
        recorded: The name that a run recorded, if there is a run; None for classification.
        where: The run, for the error.

    Returns:
        The task.

    Raises:
        TaskError: If the task is unknown, or the run's task is not built in and `task` is None.

    Examples:
        >>> from mnv2zoo.tasks import find_task
        >>> find_task("classify").name
        'classify'
    """
    if task is None and recorded is not None and recorded not in BUILT_IN:
        raise TaskError(
            f"the run was trained for the task {recorded}, which is not built in",
            expected="the task, passed by you",
            found=recorded,
            where=where,
            fix=f'If you trust that code, pass --task {recorded}, or task="{recorded}" in Python.',
        )
    if task is None:
        task = recorded or DEFAULT
    found = _import(task) if isinstance(task, str) else task
    if isinstance(found, Task):
        return found
    name = task if isinstance(task, str) else getattr(task, "__qualname__", repr(task))
    if not (inspect.isclass(found) and issubclass(found, Task)):
        raise TaskError(
            f"{name} is not a task",
            expected="a subclass of mnv2zoo.tasks.Task",
            found=f"a {type(found).__name__}" if not inspect.isclass(found) else f"the class {found.__qualname__}",
            where="task",
            fix="Derive the class from mnv2zoo.tasks.Task.",
        )
    try:
        return found()
    except TypeError as error:  # abstract methods, or arguments without defaults
        raise TaskError(
            f"cannot create the task {name}",
            expected="a class that is complete and takes no arguments",
            found=str(error).rstrip("."),
            where="task",
            fix="Define the methods that are missing, or pass an instance as task=... in Python.",
        ) from error


def place_task(place: str | Path) -> str:
    """Names the task that data is for, where that is clear.

    Args:
        place: The data, as for `finetune`.

    Returns:
        `multilabel` where a CSV file lists images with their labels, and `classify` otherwise.

    Raises:
        DataError: If a CSV file cannot be read.
    """
    from mnv2zoo.data import multilabel  # with Pillow, which `--help` does without

    return "multilabel" if multilabel.has_labels(place) else DEFAULT


def _import(name: str) -> object:
    module, colon, attribute = BUILT_IN.get(name, name).partition(":")
    if not (module and colon and attribute):
        raise TaskError(
            f"there is no task {name!r}",
            expected=f"{nearest(name, tuple(BUILT_IN), 2)}, or module:Class",
            found=repr(name),
            where="task",
            fix="Correct --task.",
        )
    try:
        found: object = importlib.import_module(module)
    except Exception as error:  # of any kind: the module is the user's code
        lost = error.name if isinstance(error, ModuleNotFoundError) else None
        lost = lost if lost and f"{module}.".startswith(f"{lost}.") else None
        raise TaskError(
            f"the module {lost!r} cannot be found" if lost else f"the module {module!r} cannot be imported",
            expected="a module that Python can import",
            found=repr(name) if lost else f"{type(error).__name__}: {error}".rstrip("."),
            where="task",
            fix="Run the command in the module's folder, or add that folder to PYTHONPATH."
            if lost
            else "Fix the error in the module.",
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise TaskError(
                f"the module {module!r} has no {attribute!r}",
                expected=nearest(attribute, _tasks_in(module), 3) or "a subclass of mnv2zoo.tasks.Task in it",
                found=repr(name),
                where="task",
                fix="Correct --task.",
            )
        found = getattr(found, part)
    return found


def _tasks_in(module: str) -> tuple[str, ...]:
    members = vars(importlib.import_module(module))
    return tuple(
        name
        for name, value in members.items()
        if inspect.isclass(value) and issubclass(value, Task) and value is not Task
    )


def same(one: str, other: str) -> bool:
    """Whether two names refer to the same task, whose module may have moved."""
    return one == other or (":" in one and one.rpartition(":")[2] == other.rpartition(":")[2])
