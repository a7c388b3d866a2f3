"""Every error of the package: what was expected, what was found, where, and what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

# Terminal codes, with and without a text of their own; line ends; other control characters, and marks that change the
# direction of text.
_CODES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]?"
)
_BREAKS = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

# How many characters of each part a short message shows. A fix is ours and may hold a command, so it is not cut early.
_SHORT = {"problem": 200, "expected": 200, "found": 200, "where": 300, "fix": 400}


class ZooError(Exception):
    """Base of all errors that this package raises on its own account.

    Attributes:
        problem: What went wrong, in a few words.
        expected: What was expected, if that can be said.
        found: What was found instead.
        where: The file, address or argument concerned.
        fix: What to do next, as a sentence.

    Args:
        problem: As the attribute, and so are the others.
        expected: What was expected.
        found: What was found.
        where: Where.
        fix: What to do.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object = None,
        found: object = None,
        where: object = None,
        fix: str = "",
    ) -> None:
        self.problem, self.expected, self.found, self.where, self.fix = problem, expected, found, where, fix
        super().__init__(problem)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    @property
    def summary(self) -> str:
        """The error without its fix, on one line: for a table, a log or another error's `found`."""
        facts = "; ".join(f"{label}: {text}" for label, text in self._parts()[1:] if label != "fix")
        problem = one_line(self.problem)
        return f"{problem} ({facts})" if facts else problem

    def lines(self, short: bool = False) -> list[str]:
        """Lists the problem and, each on an indented line of its own, the facts that are known.

        Args:
            short: Whether to shorten long parts, with "…" for the omitted text.

        Returns:
            The lines.
        """
        (_, problem), *facts = (
            (label, shorten(text, _SHORT[label]) if short else text) for label, text in self._parts()
        )
        return [problem, *(f"  {label}: {text}" for label, text in facts)]

    def _parts(self) -> list[tuple[str, str]]:
        texts = [(label, one_line(getattr(self, label))) for label in ("expected", "found", "where", "fix")]
        return [("problem", one_line(self.problem)), *((label, text) for label, text in texts if text)]

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders (data loader workers, DDP), so they pickle with their fields.
        fields = {name: getattr(self, name) for name in ("problem", "expected", "found", "where", "fix")}
        return _rebuild, (type(self), fields)


def one_line(value: object) -> str:
    """Writes a value as one line of plain text, whatever is in it.

    Args:
        value: None gives an empty text, and an error of ours its summary.

    Returns:
        The text without terminal codes and control characters, with spaces for line ends.
    """
    text = value.summary if isinstance(value, ZooError) else "" if value is None else str(value)
    return _CONTROLS.sub("", _BREAKS.sub(" ", _CODES.sub("", text))).strip()


def shorten(text: str, length: int) -> str:
    """Cuts a text at a word's end, and marks the cut with "…".

    Args:
        text: One line.
        length: Characters to keep at most.

    Returns:
        The text, or its beginning and "…".
    """
    if len(text) <= length:
        return text
    kept = text[: length - 1]
    words = kept.rpartition(" ")[0]
    return (words if len(words) > length // 2 else kept).rstrip(" ,;:(") + "…"


def _rebuild(kind: type[ZooError], fields: dict[str, Any]) -> ZooError:
    return kind(**fields)


class UnknownModelError(ZooError, ValueError):
    """No architecture or weights of that name."""


class UnknownArgumentError(ZooError, TypeError):
    """A keyword argument that nothing takes."""


class ArgumentError(ZooError, ValueError):
    """An argument with a value that it cannot have."""


class ConversionError(ZooError, ValueError):
    """A state dict that does not fit the layout or the model it is said to belong to."""


class DeviceError(ZooError, ValueError):
    """A device that is not there or cannot be used."""


class TapError(ZooError, ValueError):
    """A level of a network that cannot be tapped."""


class DeployError(ZooError, RuntimeError):
    """A network that cannot be made faster as was asked, or would compute something else then."""


class MissingExtraError(ZooError, ImportError):
    """An optional dependency that is not installed."""


class IncompatibleVersionError(ZooError, ImportError):
    """A dependency without something that is used of it."""


class ImageReadError(ZooError, ValueError):
    """A file that cannot be read as an image."""


class OutputError(ZooError, RuntimeError):
    """A file of predictions that cannot be written, or gone on with."""


class DataError(ZooError, ValueError):
    """Images for training or evaluation that are not laid out, or not readable, as they must be."""


class RecipeError(ZooError, ValueError):
    """A value in a recipe that is of the wrong kind or out of bounds."""


class TaskError(ZooError, ValueError):
    """A task that cannot be found or created, or that does not support what was asked of it."""


class RunError(ZooError, RuntimeError):
    """A run folder that cannot be used, or cannot be written."""


class WorkerError(ZooError, RuntimeError):
    """Worker processes cannot start, because they would run the program's main script again."""


class WeightsError(ZooError, RuntimeError):
    """Base of the errors about weights."""


class IntegrityError(WeightsError):
    """Bytes that are not the ones recorded: wrong size or SHA-256, or no safetensors file at all."""


class UnpinnedWeightsError(WeightsError):
    """Weights without a recorded hash, where `MNV2ZOO_REQUIRE_PINNED` demands one."""


class WeightsUnavailableError(WeightsError):
    """Weights that could not be fetched."""


class WeightsIndexError(WeightsError):
    """An index of weights that cannot be read, breaks one of its rules, or is not signed as is demanded."""


def first_line(error: BaseException) -> str:
    """Shortens an error, for the `found` of an error that explains it.

    Args:
        error: The error.

    Returns:
        The first line of its message, or its class if it has none.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Writes the problem of an error about an unknown name, with a suggestion if a known name is close.

    Args:
        kind: What the name is of, such as `recipe field`.
        name: The unknown name.
        known: The known names.

    Returns:
        The problem, such as "unknown recipe field 'epochz'. Did you mean 'epochs'?"
    """
    close = difflib.get_close_matches(name, known, 1)
    return f"unknown {kind} {name!r}" + (f". Did you mean {close[0]!r}?" if close else "")


def nearest(name: str, known: Sequence[str], count: int) -> str:
    """Tells what somebody may have meant, for the `expected` of an error.

    Args:
        name: What was written.
        known: What there is.
        count: Names to tell, at most.

    Returns:
        The known names that are nearest to it; all, if none is near.
    """
    return " or ".join(difflib.get_close_matches(name, known, count) or known)
