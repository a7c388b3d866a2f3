"""The extra that training and evaluation need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system.installation import install_command


@contextlib.contextmanager
def needs_train_extra() -> Iterator[None]:
    """Names the extra `train` where an import within the block fails.

    Raises:
        MissingExtraError: If it does.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            "training and evaluation need further packages",
            found=f"no {error.name}",
            fix=f"Run: {install_command('train')}",
        ) from error
