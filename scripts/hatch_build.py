"""Adds what only a build knows: the signature of the index, and the URLs of the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class SignatureHook(BuildHookInterface):
    """Adds the signature of the index to the wheel, next to the index, if there is one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        signature = Path(self.root, "weights_index.json.sig")
        if signature.is_file():
            build_data["force_include"][str(signature)] = f"mnv2zoo/{signature.name}"


class AddressHook(MetadataHookInterface):
    """Sets the URLs of the repository whose workflow builds the release, from GitHub's environment variables."""

    def update(self, metadata: dict[str, Any]) -> None:
        server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
        metadata["urls"] = addresses(f"{server}/{repository}") if server and repository else {}


def addresses(repository: str) -> dict[str, str]:
    """Returns the project's URLs, with labels that PyPI knows."""
    return {
        "Repository": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Documentation": f"{repository}/tree/main/docs",
        "Security": f"{repository}/security/policy",
    }
