"""The site of the documentation: every page is in its navigation, every link leads on, and no other host is asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import feddtl
from docs_site import api
from docs_site.links import ROOT, has_page, uri, with_site_links
from docs_site.pages import INDEX, linked_from_docs, navigation, page_text

DOCS = ROOT / "docs"


def test_every_page_is_in_the_navigation() -> None:
    sections = navigation((ROOT / INDEX).read_text(encoding="utf-8"))
    listed = [page for section in sections for pages in section.values() for page in pages]
    assert len(listed) == len(set(listed))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"}
    assert written - set(listed) == set(), f"add these pages to {INDEX}, which is the navigation of the site"
    outside = {uri(path) for path in linked_from_docs()}
    assert set(listed) - written <= outside


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/tutorial.md", "how-to/cache.md#limits", "how-to/cache.md#limits"),
        ("docs/how-to/cache.md", "../tutorial.md", "../tutorial.md"),
        ("docs/tutorial.md", "../experiments/quickstart.toml", "repository/experiments/quickstart.toml.md"),
        ("docs/how-to/compare.md", "../../experiments/", "../repository/experiments/index.md"),
        ("docs/results.md", "../results", "repository/results/index.md"),
        ("docs/results.md", "../results/quickstart.json", "repository/results/quickstart.json"),
        ("docs/index.md", "../benchmarks", "repository/benchmarks/README.md"),
        ("benchmarks/README.md", "../docs/results.md#cifar-10", "../../results.md#cifar-10"),
        ("benchmarks/README.md", "ours.py", "ours.py.md"),
        ("README.md", "docs/images/quickstart.svg", "../images/quickstart.svg"),
        ("docs/results.md", "https://arxiv.org/abs/2605.27900", "https://arxiv.org/abs/2605.27900"),
        ("docs/results.md", "#pacs", "#pacs"),
        ("docs/results.md", "../missing.md", "../missing.md"),
        ("docs/results.md", "../../elsewhere.md", "../../elsewhere.md"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(source: str, link: str, there: str) -> None:
    assert with_site_links(f"See [it]({link}), twice: [`it`]({link}).", source) == (
        f"See [it]({there}), twice: [`it`]({there})."
    )


def test_code_has_no_links() -> None:
    text = "`[a](../results)`\n\n```sh\n[a](../results)\n```\n"
    assert with_site_links(text, "docs/results.md") == text


def test_every_linked_file_has_a_page_or_a_copy() -> None:
    reached = linked_from_docs()
    assert {"experiments", "experiments/quickstart.toml", "CHANGELOG.md", "results/quickstart.json"} <= reached
    for path in reached:
        if (ROOT / path).is_dir():
            assert "](" in page_text(path)
        elif has_page(path) and path.endswith(".toml"):
            assert (ROOT / path).read_text(encoding="utf-8") in page_text(path)


def test_the_api_has_every_public_name_once() -> None:
    entries = re.findall(r"^::: (\S+)$", "\n".join(api.pages().values()), re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert {f"feddtl.{name}" for name in feddtl.__all__ if name != "__version__"} <= set(entries)
    assert {"feddtl.errors.ConfigError", "feddtl.methods.base.Method", "feddtl.messages.Update"} <= set(entries)


def test_a_public_name_without_a_description_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "public_names", lambda: ["Experiment", "forgotten"])
    with pytest.raises(ValueError, match=r"python-api\.md describes every public name of feddtl, but not forgotten"):
        api.pages()


class Document(HTMLParser):
    """What a page loads, where it links to, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        elif "src" in values or "srcset" in values:
            self.loaded += [values[name] for name in ("src", "srcset") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    beside = ROOT / ".venv-docs" / "bin" / "mkdocs"
    mkdocs = str(beside) if beside.is_file() else shutil.which("mkdocs")
    if mkdocs is None:
        pytest.skip("MkDocs is not installed: `make docs` installs it into .venv-docs")
    folder = tmp_path_factory.mktemp("site")
    command = [mkdocs, "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # no notice of the theme among MkDocs' warnings
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host_and_every_link_leads_on(site: Path) -> None:
    documents = {path: Document(path) for path in site.rglob("*.html")}
    assert {site / "index.html", site / "api" / "use-a-run.html"} <= documents.keys()
    wrong = []
    for path, document in documents.items():
        here = path.relative_to(site).as_posix()
        for target in document.loaded + document.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in document.loaded and not target.startswith("data:"):
                    wrong.append(f"{here} loads {target}")
                continue
            base = site if parts.path.startswith("/") else path.parent
            found = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            found = found / "index.html" if found.is_dir() else found
            if not found.is_file():
                wrong.append(f"{here} leads to {target}")
            elif parts.fragment and found in documents and unquote(parts.fragment) not in documents[found].anchors:
                wrong.append(f"{here} leads to {target}, which has no such anchor")
    assert wrong == []


@pytest.mark.slow
def test_no_style_sheet_loads_anything_from_another_host(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        loaded = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", sheet.read_text(encoding="utf-8"))
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], sheet.name
