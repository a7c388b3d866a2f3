"""All errors of the package. Each says what was expected, what was found, where, and how to fix it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

# Terminal codes (with and without a payload), line breaks, other control characters, and marks that change the text
# direction.
_CODES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]?"
)
_BREAKS = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

# Maximum length of each part of a short message. We write the fix ourselves and it may hold a command: cut it last.
_SHORT = {"problem": 200, "expected": 200, "found": 200, "where": 300, "fix": 400}


class ZooError(Exception):
    """Base class of all errors that this package raises.

    Attributes:
        problem: What went wrong, with the offending value.
        expected: What was expected, as a noun phrase; None if unknown.
        found: What was found instead, as a noun phrase; None if unknown.
        where: The file, URL or argument concerned.
        fix: What to do next, as a sentence.

    Args:
        problem: See the attribute.
        expected: See the attribute.
        found: See the attribute.
        where: See the attribute.
        fix: See the attribute.
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
        """The error on one line, without its fix. Use it in a table, a log or another error's `found`."""
        facts = "; ".join(f"{label}: {text}" for label, text in self._parts()[1:] if label != "fix")
        problem = one_line(self.problem)
        return f"{problem} ({facts})" if facts else problem

    def lines(self, short: bool = False) -> list[str]:
        """Formats the error as lines: the problem first, then one indented line per known fact.

        Args:
            short: Shorten long parts. "…" marks the cut.

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
        # Errors cross process boundaries (data loader workers, DDP), so they pickle with their fields.
        fields = {name: getattr(self, name) for name in ("problem", "expected", "found", "where", "fix")}
        return _rebuild, (type(self), fields)


def one_line(value: object) -> str:
    """Formats any value as one line of plain text.

    Args:
        value: The value. None gives an empty string, and a `ZooError` gives its summary.

    Returns:
        The text without terminal codes and control characters. Line breaks become spaces.
    """
    text = value.summary if isinstance(value, ZooError) else "" if value is None else str(value)
    return _CONTROLS.sub("", _BREAKS.sub(" ", _CODES.sub("", text))).strip()


def shorten(text: str, length: int) -> str:
    """Shortens a text at a word boundary and marks the cut with "…".

    Args:
        text: One line.
        length: Maximum number of characters.

    Returns:
        The text, or its beginning followed by "…".
    """
    if len(text) <= length:
        return text
    kept = text[: length - 1]
    words = kept.rpartition(" ")[0]
    return (words if len(words) > length // 2 else kept).rstrip(" ,;:(") + "…"


def _rebuild(kind: type[ZooError], fields: dict[str, Any]) -> ZooError:
    return kind(**fields)


class UnknownModelError(ZooError, ValueError):
    """Raised when no architecture or set of weights has the given name."""


class UnknownArgumentError(ZooError, TypeError):
    """Raised when a keyword argument is unknown."""


class ArgumentError(ZooError, ValueError):
    """Raised when an argument has an invalid value."""


class ConversionError(ZooError, ValueError):
    """Raised when a state dict does not match its layout or model."""


class DeviceError(ZooError, ValueError):
    """Raised when a device does not exist or cannot be used."""


class TapError(ZooError, ValueError):
    """Raised when a layer that you ask for cannot be tapped for its feature map."""


class DeployError(ZooError, RuntimeError):
    """Raised when a model cannot be optimized or exported as requested, or when its outputs would change."""


class MissingExtraError(ZooError, ImportError):
    """Raised when an optional dependency is not installed."""


class IncompatibleVersionError(ZooError, ImportError):
    """Raised when an installed dependency lacks a function that this package needs."""


class ImageReadError(ZooError, ValueError):
    """Raised when a file cannot be read as an image."""


class OutputError(ZooError, RuntimeError):
    """Raised when a predictions file cannot be written or resumed."""


class DataError(ZooError, ValueError):
    """Raised when training or evaluation images are unreadable or not in a supported layout."""


class RecipeError(ZooError, ValueError):
    """Raised when a recipe value has the wrong type or is out of range."""


class TaskError(ZooError, ValueError):
    """Raised when a task cannot be found or created, or does not support the request."""


class RunError(ZooError, RuntimeError):
    """Raised when a run folder cannot be used or written."""


class WorkerError(ZooError, RuntimeError):
    """Raised when worker processes cannot start because they would run the program's main script again."""


class WeightsError(ZooError, RuntimeError):
    """Base class of all errors about weights."""


class IntegrityError(WeightsError):
    """Raised when a file's size or SHA-256 does not match its record, or the file is not a valid safetensors file."""


class UnpinnedWeightsError(WeightsError):
    """Raised when `MNV2ZOO_REQUIRE_PINNED` is set and the weights have no recorded hash."""


class WeightsUnavailableError(WeightsError):
    """Raised when weights cannot be found, downloaded or used."""


class WeightsIndexError(WeightsError):
    """Raised when a weights index cannot be read, breaks a rule, or lacks a required valid signature."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, for the `found` of another error.

    Args:
        error: The error.

    Returns:
        The first line of the message, or the class name if the message is empty.
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
    """Suggests the known names that are closest to a misspelled one, for the `expected` of an error.

    Args:
        name: The name that was given.
        known: All valid names.
        count: Maximum number of suggestions.

    Returns:
        The closest names, joined by "or". If none is close, all valid names.
    """
    return " or ".join(difflib.get_close_matches(name, known, count) or known)
