"""Every error of the package: what was expected, what was found, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any


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
        facts = [
            f"{label} {value}"
            for label, value in (("expected", self.expected), ("found", self.found), ("in", self.where))
            if value is not None
        ]
        message = self.problem + (": " + ", ".join(facts) if facts else "")
        return f"{message}. {self.fix}" if self.fix else message

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders (data loader workers, DDP), so they pickle with their fields.
        fields = {name: getattr(self, name) for name in ("problem", "expected", "found", "where", "fix")}
        return _rebuild, (type(self), fields)


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


class RunError(ZooError, RuntimeError):
    """A run folder that cannot be used, or cannot be written."""


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
