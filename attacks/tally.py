"""What came of the tries of an attack."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mnv2zoo.errors import WeightsError

T = TypeVar("T")


class Hang(BaseException):
    """A try that took longer than it may; no `except Exception` swallows it."""


@dataclass
class Tally:
    """Counts of one attack.

    Attributes:
        survived: Tries after which all was as it should be in spite of the attack.
        refused: Tries that ended in an error of the right class, in time.
        losses: What happened where a promise was broken, in words.
        skipped: What could not be tried here, and why.
        bounds: What came of each bound of a download, by its name and the place where the download ran.
    """

    survived: int = 0
    refused: int = 0
    losses: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    bounds: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def tries(self) -> int:
        return self.survived + self.refused + len(self.losses)

    def check(self, what: str, holds: bool) -> None:
        """Counts a statement that must hold."""
        if holds:
            self.survived += 1
        else:
            self.losses.append(what)

    def attempt(
        self,
        what: str,
        action: Callable[[], T],
        sound: Callable[[T], bool] | None = None,
        errors: tuple[type[Exception], ...] = (WeightsError,),
        seconds: float = 60,
    ) -> None:
        """Tries something, which must end in time.

        Args:
            what: What is tried, for the list of losses.
            action: Tries it.
            sound: Whether its result is right; None where it must not succeed.
            errors: What it may raise; nothing where it must succeed.
            seconds: How long it may take.
        """
        start = time.monotonic()
        previous = signal.signal(signal.SIGALRM, _hang)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            result: Any = action()
        except errors:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.refused += 1
        except Hang:
            self.losses.append(f"{what}: no end after {time.monotonic() - start:.0f} s")
        except Exception as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.losses.append(f"{what}: {type(error).__name__}: {error}"[:300])
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if sound is None:
                self.losses.append(f"{what}: was taken")
            else:
                self.check(f"{what}: the result is wrong", sound(result))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def _hang(*signal_and_frame: object) -> None:
    raise Hang
