"""Private names of the Hub client: the factory of its HTTP clients, which its public API can only set.

If a release renames them, a program's own factory is not detected.
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
    """Checks whether the program has set its own client factory, for example for proxies or certificates."""
    factory = getattr(_module(), FACTORY, None)
    return getattr(factory, "watched", factory) is not getattr(_module(), DEFAULT, None)


def watch_clients(watch: Callable[[Any], Any]) -> None:
    """Passes every client that the Hub client uses from now on to a function, including the current one.

    `set_client_factory` is not used, because it would close a client that other threads may be using.

    Args:
        watch: Modifies a client and returns it. It may be called more than once with the same client.
    """
    module = _module()
    factory = getattr(module, FACTORY, None)
    if factory is not None and not hasattr(factory, "watched"):

        def watched() -> Any:
            return watch(factory())

        watched.watched = factory  # type: ignore[attr-defined]
        setattr(module, FACTORY, watched)
    watch(huggingface_hub.get_session())
