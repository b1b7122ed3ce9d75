"""A page as a browser's parser sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Element:
    """An element with its attributes, its parts in order, and where it stands."""

    tag: str
    attributes: dict[str, str]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text below, spaces and line breaks as one space."""
        return " ".join(" ".join(p if isinstance(p, str) else p.text for p in self.parts).split())

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements below with a tag and attributes; a class matches one of several."""
        found = []
        for part in self.parts:
            if isinstance(part, Element):
                if part.tag == tag and all(
                    value in part.attributes.get(k, "").split() for k, value in attributes.items()
                ):
                    found.append(part)
                found += part.all(tag, **attributes)
        return found

    def everything(self) -> list[Element]:
        """All elements below."""
        below = [part for part in self.parts if isinstance(part, Element)]
        return below + [element for part in below for element in part.everything()]


class Parser(HTMLParser):
    """Builds elements; an end that does not fit its start is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].parts.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].parts.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        closed = self._open.pop()
        assert closed.tag == tag, f"</{tag}> closes <{closed.tag}>"

    def handle_data(self, data: str) -> None:
        self._open[-1].parts.append(data)


def parse(path: Path) -> Element:
    """The page of a file."""
    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    return parser.root


def rows(page: Element, label: str) -> dict[str, list[str]]:
    """Cells of the table with a label, by the name of their row."""
    [table] = [table for table in page.all("table") if table.attributes["aria-label"].startswith(label)]
    [body] = table.all("tbody")
    return {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in body.all("tr")}


def headings(page: Element) -> list[str]:
    """Titles of sections and figures."""
    return [heading.text for tag in ("h1", "h2", "h3", "h4") for heading in page.all(tag)]
