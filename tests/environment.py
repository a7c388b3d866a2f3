"""The environment that tests run in: a Hub on loopback, empty caches, and none of the user's own settings.

Import this module before `huggingface_hub`, which reads its environment once, when it is imported. The Hub's address
is reserved here, and the session fixture `hub_server` in `tests/conftest.py` starts to serve it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.hub_server import HubServer

HUB = HubServer()
_home = tempfile.TemporaryDirectory(prefix="mnv2zoo-tests-", ignore_cleanup_errors=True)

for _name in [name for name in os.environ if name.startswith("MNV2ZOO_") or name in ("HF_TOKEN", "HF_HUB_OFFLINE")]:
    del os.environ[_name]
if os.environ.pop("TESTS_READ_ONLY_CACHE", ""):
    Path(_home.name, "hf").mkdir(mode=0o500)
os.environ |= {
    "HF_ENDPOINT": HUB.endpoint,
    "HF_HOME": f"{_home.name}/hf",
    "MNV2ZOO_HOME": f"{_home.name}/mnv2zoo",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
