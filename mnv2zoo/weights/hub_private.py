"""What the Hub's client keeps private and is used: the factory of its HTTP clients, which it lets programs only set.

Without these names, as in a release that renames them, a program's own factory is not noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import huggingface_hub

Factory = Callable[[], Any]
FACTORY, DEFAULT, CLIENT = "_GLOBAL_CLIENT_FACTORY", "default_client_factory", "_GLOBAL_CLIENT"


def _module() -> Any:
    return sys.modules[huggingface_hub.get_session.__module__]


def has_own_factory() -> bool:
    """Whether the program has set a client factory, for proxies or certificates of its own."""
    factory = getattr(_module(), FACTORY, None)
    return getattr(factory, "watched", factory) is not getattr(_module(), DEFAULT, None)


def watch_clients(watch: Callable[[Any], Any]) -> None:
    """Lets a function see every client that the Hub's client uses from now on, the present one included.

    The factory is not set by `set_client_factory`, which would close the client that other threads may be using.

    Args:
        watch: Changes a client, and returns it. It may see one more than once.
    """
    module = _module()
    factory = getattr(module, FACTORY, None)
    if factory is not None and not hasattr(factory, "watched"):

        def watched() -> Any:
            return watch(factory())

        watched.watched = factory  # type: ignore[attr-defined]
        setattr(module, FACTORY, watched)
    watch(huggingface_hub.get_session())
