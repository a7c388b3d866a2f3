"""Puts the signature of the index into the wheel, beside the index, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SignatureHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        signature = Path(self.root, "weights_index.json.sig")
        if signature.is_file():
            build_data["force_include"][str(signature)] = f"mnv2zoo/{signature.name}"
