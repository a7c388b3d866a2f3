"""The extra that training and evaluation require."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system.installation import install_command


@contextlib.contextmanager
def needs_train_extra() -> Iterator[None]:
    """Explains failed imports in the `with` block, which need the extra `train`.

    Raises:
        MissingExtraError: If an import fails.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            "training and evaluation require the extra `train`",
            expected="the packages of the extra `train`",
            found=f"no module {error.name}",
            fix=f"Run: {install_command('train')}",
        ) from error
