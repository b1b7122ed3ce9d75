"""What MkDocs calls while it builds the site; mkdocs.yml names this file."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site import api
from docs_site.links import DOCS, OUTSIDE, ROOT, has_page, uri, with_site_links
from docs_site.pages import INDEX, copied, linked_from_docs, navigation, page_text


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and take the navigation from the list of pages."""
    reached = linked_from_docs()
    for path in sorted(reached):
        if (ROOT / path).is_dir() or has_page(path):
            files.append(File.generated(config, uri(path), content=page_text(path)))
    for path in sorted(copied(reached)):
        files.append(File.generated(config, f"{OUTSIDE}/{path}", abs_src_path=str(ROOT / path)))
    interface = api.pages()
    for place, text in interface.items():
        files.append(File.generated(config, place, content=text))
    config.nav = _with_home_and_api(navigation((ROOT / INDEX).read_text(encoding="utf-8")), list(interface))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Pages in docs/ link to files; the others were written for the site."""
    return markdown if page.file.generated_by else with_site_links(markdown, DOCS + page.file.src_uri)


def _with_home_and_api(sections: list[dict[str, list[Any]]], interface: list[str]) -> list[dict[str, list[Any]]]:
    next(iter(sections[0].values())).insert(0, {"Overview": "index.md"})
    for section in sections:
        for pages in section.values():
            if "reference/python-api.md" in pages:
                pages.insert(pages.index("reference/python-api.md") + 1, {"API": interface})
    return sections
