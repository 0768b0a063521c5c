"""``lossmith new``: an objective of the user's own, as two files that pass as they stand."""

import keyword
from datetime import date
from importlib import resources
from pathlib import Path
from string import Template

from lossmith.card import all_cards
from lossmith.cli.output import console
from lossmith.cli.problems import USAGE, Problem, message

FILES = {"objective.py.txt": "{name}.py", "test_objective.py.txt": "test_{name}.py"}
"""Template -> the file it becomes."""


def new(name: str, /, *, out: Path = Path(".")) -> int:
    """Write an objective to start from.

    Args:
        name: of the objective, a Python name such as my_loss; its module is called the same.
        out: the folder to write to, made when absent.
    """
    _check_name(name)
    paths = {template: out / file.format(name=name) for template, file in FILES.items()}
    for path in paths.values():
        if path.exists():
            raise Problem(f"{path} is there already; nothing was written")
    templates = resources.files("lossmith.cli") / "templates"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for template, path in paths.items():
            text = Template((templates / template).read_text(encoding="utf-8")).substitute(name=name, year=date.today().year)
            with path.open("x", encoding="utf-8") as file:  # "x": a file that appeared meanwhile is not overwritten either
                file.write(text)
    except OSError as error:
        raise Problem(f"cannot write to {out}: {message(error)}") from error
    printer = console()
    code, test = paths.values()
    printer.print(f"wrote {code} and {test}")
    printer.print(f"next: cd {out} && pytest {test.name}; lossmith check {name}:{name}; change it, and see that it still passes")
    return 0


def _check_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise Problem(f"NAME must be a Python name that does not begin with an underscore, such as my_loss; got {name!r}", USAGE)
    taken = {known for card in all_cards().values() for known in (card.name, *card.aliases)}
    if name in taken or name in ("lossmith", "torch"):
        raise Problem(f"{name!r} is taken; choose another name", USAGE)
