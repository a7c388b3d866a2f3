"""The same bad Hub, asked from this process, as in a frozen program or with a client factory of the program's own."""

from __future__ import annotations

from typing import Any

from attacks import bad_hub, bounds
from attacks.tally import Tally


def run(tally: Tally, **options: Any) -> None:
    with bounds.client("here"):
        bad_hub.run(tally, **options)
