"""Pages of the site that are not in docs/: files that pages link to, folders, notebooks; and the navigation."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any

from docs_site.links import DOCS, LANGUAGES, ROOT, has_page, targets, uri, with_site_links

INDEX = "docs/index.md"
"""The list of all pages; the navigation of the site is the same list."""
# Code is found through the page that explains it, not through the search of the site.
_NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n"
_SKIPPED = re.compile(r"(^|/)(\.|__pycache__)")


def linked_from_docs() -> set[str]:
    """Files and folders outside of docs/ that a reader of docs/ can reach, by their paths in the repository."""
    waiting = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    reached: set[str] = set()
    while waiting:
        source = waiting.pop()
        for path in _next(source):
            if path not in reached and not path.startswith(DOCS):
                reached.add(path)
                waiting.append(path)
    return reached


def page_text(path: str) -> str:
    """The page of a file or folder outside of docs/, in Markdown.

    Args:
        path: Its path in the repository. A file has a page if `links.has_page` says so.
    """
    if (ROOT / path).is_dir():
        return _NOT_SEARCHED + with_site_links(_listing(path), f"{path}/index.md")
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return with_site_links(text, path)
    if path.endswith(".ipynb"):
        return with_site_links(notebook_text(text), path).replace("\n", f"\n\n{_as_notebook(path)}\n", 1)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{_NOT_SEARCHED}# {path}\n\n{fence}{LANGUAGES[(ROOT / path).suffix]}\n{text}{fence}\n"


def notebook_text(notebook: str) -> str:
    """Text and code of a notebook, given as JSON, in Markdown."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(parts) + "\n"


def navigation(index: str) -> list[dict[str, list[Any]]]:
    """Sections of the navigation, with the pages of each, as MkDocs reads them.

    Args:
        index: The text of `INDEX`: a heading begins a section, and each item of its list links to a page.
    """
    sections: list[dict[str, list[Any]]] = []
    for section, link in re.findall(r"^## (.+)$|^- \[[^\]]+\]\(([^)\s]+)\)", index, re.MULTILINE):
        if section:
            sections.append({section: []})
        else:
            pages = next(iter(sections[-1].values()))
            pages.append(uri(posixpath.normpath(posixpath.join(posixpath.dirname(INDEX), link))))
    return sections


def _next(source: str) -> list[str]:
    """What a file or folder leads to."""
    if (ROOT / source).is_dir():
        return _files(source)
    if source.endswith(".md"):
        return list(targets((ROOT / source).read_text(encoding="utf-8"), source))
    if source.endswith(".ipynb"):
        return list(targets(notebook_text((ROOT / source).read_text(encoding="utf-8")), source))
    return []


def _files(folder: str) -> list[str]:
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file())
    return [path for path in found if not _SKIPPED.search(path)]


def _listing(folder: str) -> str:
    names = [path.removeprefix(f"{folder}/") for path in _files(folder)]
    return "\n".join([f"# {folder}/", "", *(f"- [{name}]({name})" for name in names), ""])


def _as_notebook(path: str) -> str:
    name = posixpath.basename(path)
    return f"To run these cells, open the notebook [{path}]({name}) in Jupyter."


def copied(paths: set[str]) -> set[str]:
    """Those files that the site has as they are: data, images, and notebooks beside their pages."""
    return {path for path in paths if (ROOT / path).is_file() and (not has_page(path) or path.endswith(".ipynb"))}
