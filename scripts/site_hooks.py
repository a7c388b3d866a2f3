"""Adds to mkdocs.yml the addresses of the repository, the version, and pages with files from the root.

The addresses point to the repository whose workflow builds the site, as in the package's metadata, or to a clone's
origin on GitHub. Without either, the site has no links to the repository.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r"^<!-- include: (?P<file>\S+) -->$", re.M)
# Targets of links that are files in the repository.
LINK = re.compile(r"\]\((?!https?://|mailto:|#)(?P<file>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
PAGES = {
    "README.md": "index.md",
    "README.zh.md": "zh/index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "citation.md",
    "LICENSE": "license.md",
}
BOOSTED = "Guides"  # pages of this part of the navigation come first in search results


def on_config(config: Any) -> Any:
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "mnv2zoo/version.py").read_text(encoding="utf-8"))
    assert version, "mnv2zoo/version.py holds no version"
    config.copyright = f"mnv2zoo {version[1]}"
    if address := repository():
        config.repo_url, config.repo_name = address, "GitHub"
        config.edit_uri = "edit/main/docs/"
        owner, name = address.removeprefix("https://github.com/").split("/")
        config.site_url = os.environ.get("SITE_URL", f"https://{owner.lower()}.github.io/{name}/")
    return config


def repository() -> str | None:
    """The repository's address on GitHub."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    command = ["git", "config", "--get", "remote.origin.url"]
    try:
        origin = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        return None
    found = re.fullmatch(r"(?:https://github\.com/|git@github\.com:)([\w.-]+/[\w.-]+?)(?:\.git)?/?", origin)
    return f"https://github.com/{found[1]}" if found else None


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    for section in nav.items:
        if section.title == BOOSTED:
            for page in section.children:
                page.file.boosted = True
    return nav


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if getattr(page.file, "boosted", False):
        page.meta.setdefault("search", {"boost": 2})

    def include(found: re.Match[str]) -> str:
        if config.repo_url:
            page.edit_url = f"{config.repo_url}/edit/main/{found['file']}"
        text = (ROOT / found["file"]).read_text(encoding="utf-8")
        return LINK.sub(lambda link: f"]({target(link['file'], link['anchor'] or '', config.repo_url)})", text)

    return INCLUDE.sub(include, markdown)


def target(file: str, anchor: str, repo_url: str | None) -> str:
    """Where a link of a file in the root leads from a page of the site."""
    if file in PAGES:
        return PAGES[file] + anchor
    if file.startswith("docs/"):
        return file.removeprefix("docs/") + anchor
    return f"{repo_url}/blob/main/{file}{anchor}" if repo_url else "index.md"
