"""Links of the pages: on GitHub they lead to any file of the repository, on the site to its page or its copy."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"
OUTSIDE = "repository"
"""The folder of the site for files outside of docs/."""
LANGUAGES = {
    "": "text",
    ".cff": "yaml",
    ".conf": "nginx",
    ".ipynb": "",
    ".md": "",
    ".py": "python",
    ".sh": "sh",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
"""Files that get a page, and the language of their code; any other file is copied."""
# Code comes first, so that nothing in it is taken for a link.
_LINK = re.compile(r"^```.*?^```$|`[^`\n]+`|\]\(([^)\s]+)\)", re.MULTILINE | re.DOTALL)
_ANOTHER_HOST = re.compile(r"[a-z]+:", re.IGNORECASE)


def targets(text: str, source: str) -> Iterator[str]:
    """Files and folders of the repository that a page links to.

    Args:
        text: The page, in Markdown.
        source: Its path in the repository.

    Yields:
        Paths in the repository that exist.
    """
    for found in _LINK.finditer(text):
        if found[1] and (path := _in_repository(found[1], source)):
            yield path


def with_site_links(text: str, source: str) -> str:
    """The page with every link into the repository leading to its place on the site."""
    place = posixpath.dirname(uri(source)) or "."

    def moved(found: re.Match[str]) -> str:
        path = _in_repository(found[1], source) if found[1] else ""
        if not path:
            return found[0]
        _, hash_sign, anchor = found[1].partition("#")
        return f"]({posixpath.relpath(uri(path), place)}{hash_sign}{anchor})"

    return _LINK.sub(moved, text)


def uri(path: str) -> str:
    """Where a file or folder of the repository is on the site: its source, as MkDocs counts."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if (ROOT / path).is_dir():
        return f"{OUTSIDE}/{path}/index.md"
    return f"{OUTSIDE}/{path}.md" if has_page(path) and not path.endswith(".md") else f"{OUTSIDE}/{path}"


def has_page(path: str) -> bool:
    """Whether the file is shown as a page of the site."""
    return Path(path).suffix in LANGUAGES


def _in_repository(link: str, source: str) -> str:
    """The path that a link leads to; empty for another host, a place on the same page, and what does not exist."""
    target = link.partition("#")[0]
    if not target or _ANOTHER_HOST.match(target):
        return ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path.startswith("..") or not (ROOT / path).exists():
        return ""
    readme = f"{path}/README.md"  # what GitHub shows for a folder
    return readme if (ROOT / readme).is_file() else path
