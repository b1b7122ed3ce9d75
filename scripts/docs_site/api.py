"""Pages of the API: every public name with its docstring, in the groups of the page on the Python interface."""

from __future__ import annotations

import ast
import re

from docs_site.links import ROOT

PAGE = "docs/reference/python-api.md"
FOLDER = "api"
"""The folder of the site that has the pages."""


def pages() -> dict[str, str]:
    """The pages in Markdown for mkdocstrings, by their place on the site.

    Raises:
        ValueError: A public name of feddtl is in no table of `PAGE`.
    """
    found: dict[str, str] = {}
    missing = set(public_names())
    for title, names in groups((ROOT / PAGE).read_text(encoding="utf-8")).items():
        missing -= {name.removeprefix("feddtl.") for name in names}
        entries = "".join(f"::: {name}\n\n" for name in names)
        anchor = title.lower().replace(" ", "-")
        examples = f"The [Python interface](../reference/python-api.md#{anchor}) shows how to use these names.\n\n"
        found[f"{FOLDER}/{anchor}.md"] = f"# {title}\n\n{examples}{entries}"
    if missing:
        raise ValueError(f"{PAGE} describes every public name of feddtl, but not {', '.join(sorted(missing))}")
    return found


def groups(text: str) -> dict[str, list[str]]:
    """Full names by section: those in the first column of each table, or those in its second column, of a module."""
    public = public_names()
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        names: dict[str, None] = {}  # each name once, in order
        for first, second in re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE):
            modules = re.findall(r"`(feddtl(?:\.\w+)+)`", first)
            for name in re.findall(r"`(\w+)", second if modules else first):
                if modules or name in public:
                    names[_full_name(name, modules)] = None
        if names:
            found[section.partition("\n")[0]] = list(names)
    return found


def public_names() -> list[str]:
    """What `import feddtl` offers, read without importing it."""
    tree = ast.parse((ROOT / "src/feddtl/__init__.py").read_text(encoding="utf-8"))
    [names] = [
        ast.literal_eval(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
    ]
    return [name for name in names if not name.startswith("_")]


def _full_name(name: str, modules: list[str]) -> str:
    """The name in its module; among several modules, in the one that defines it."""
    for module in modules:
        path = ROOT / "src" / module.replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if re.search(rf"^(class|def) {name}\b", source.read_text(encoding="utf-8"), re.MULTILINE):
            return f"{module}.{name}"
    return f"{modules[0] if modules else 'feddtl'}.{name}"
