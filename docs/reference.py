"""The reference: one page for the package and one for each of its public modules, in `docs/api`, written before Sphinx reads them.

Rooms come into being with their first method; a page that had to be written by hand would be forgotten.
"""

import pkgutil
import re
from pathlib import Path
from typing import Any

import lossmith

PAGE = """# {title}

```{{eval-rst}}
.. automodule:: {name}
   :members:
```
"""
COMMAND = ("cli",)


def public_modules() -> list[str]:
    found = sorted(module.name for module in pkgutil.iter_modules(lossmith.__path__))
    return [name for name in found if not name.startswith("_") and name not in COMMAND]


def write_pages(folder: Path) -> None:
    """Write what changed, so that Sphinx need not read the rest again, and remove the pages of what no longer exists."""
    folder.mkdir(exist_ok=True)
    names = ["lossmith", *(f"lossmith.{module}" for module in public_modules())]
    pages = {f"{name}.md": PAGE.format(title=name, name=name) for name in names}
    pages["index.md"] = "# Reference\n\n```{toctree}\n" + "\n".join(names) + "\n```\n"
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def prepare(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings before napoleon reads them.

    The card at the end of an objective's docstring becomes a list, its formula mathematics. An attribute's docstring is kept from being
    read as "type: description" at its first colon, by an empty comment on top: ours are sentences.
    """
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]
    if "Card:" not in lines:
        return
    start = lines.index("Card:")
    facts = [re.fullmatch(r"\s+([\w ]+?): (.*)", line) for line in lines[start + 1 :]]
    lines[start:] = [".. rubric:: Card", ""]
    for fact in filter(None, facts):
        key, value = fact.groups()
        if key == "Formula":
            value = f":math:{value}"
        lines.append(f"* *{key}*: {value}")
    lines.append("")
