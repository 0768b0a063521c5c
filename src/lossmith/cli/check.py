"""``lossmith check``: the examination that the library's own objectives pass, for any objective."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Parameter
from rich.text import Text

from lossmith._checks import nearest
from lossmith.card import Claims, Growth, UnknownObjective, get
from lossmith.cli.output import console, print_json
from lossmith.cli.problems import FAILED, USAGE, Problem, message

CLAIMED = tuple(field.name for field in fields(Claims) if field.name not in ("growth", "bounds"))
"""What `--claims` may name: the yes-or-no claims."""


def check(
    objective: str,
    /,
    *,
    form: str | None = None,
    claims: str | None = None,
    only: str | None = None,
    seeds: int = 1,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Examine an objective.

    Args:
        objective: name or alias, or module:function (dots for packages); modules are looked for in this folder too.
        form: of a function without a card: logits (rows of class logits), binary, multilabel, set or teacher; guessed when left out.
        claims: of a function without a card, separated by commas: convex,proper,no-symmetric,growth=linear.
        only: names of the checks to run, separated by commas; all but the slow ones when left out.
        seeds: how many seeds to search with; more search further.
        as_json: print JSON.
    """
    if seeds < 1:
        raise Problem(f"--seeds must be at least 1; got {seeds}", USAGE)
    from lossmith import conformance  # half a second, and only this command needs it

    subject, carded = _subject(objective)
    if carded and (form is not None or claims is not None):
        raise Problem(f"{objective} has a card, which says its form and claims: leave --form and --claims out", USAGE)
    chosen = [name.strip() for name in only.split(",")] if only is not None else None
    try:
        report = conformance.check(
            subject, form=form, claims=_claims(claims) if claims is not None else None, seeds=range(seeds), only=chosen
        )
    except TypeError as error:  # it takes the shapes of no form: its line is written to be read alone
        raise Problem(" ".join(str(error).split())) from error
    if as_json:
        print_json(report.to_dict())
    else:
        console().print(Text(report.text().rstrip("\n")), soft_wrap=True)
    return FAILED if report.failed else 0


def _subject(text: str) -> tuple[Any, bool]:
    """What is to be examined, and whether it has a card."""
    if ":" not in text:
        if text.endswith(".py") or Path(text).is_file():
            raise Problem(f"objective must be a name or module:function; for a file write {Path(text).stem}:FUNCTION in its folder", USAGE)
        try:
            return get(text).name, True
        except UnknownObjective as error:
            raise Problem(f"{error} (a function of your own is written module:function)") from error
    function = load(text)
    known = getattr(function, "__name__", "")
    try:
        card = get(known)
    except KeyError:
        return function, False
    return function, card.function is function


def load(text: str) -> Any:
    """The object that ``module:function`` names, looked for among the installed modules and in the current folder."""
    import importlib
    import os
    import sys

    module_name, _, attribute = text.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise Problem(f"objective must be a name or module:function, such as my_loss:my_loss; got {text!r}", USAGE)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise Problem(f"there is no module {error.name!r} here or among the installed ones") from error
        raise Problem(f"importing {module_name} failed: {message(error)}") from error
    except Exception as error:  # a user's module may raise anything
        raise Problem(f"importing {module_name} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not hasattr(module, attribute):
        raise Problem(f"{module_name} has no {attribute!r}{nearest(attribute, vars(module))}")
    return getattr(module, attribute)


def _claims(text: str) -> Claims:
    """``convex,no-proper,growth=linear`` as claims."""
    found: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.replace("-", "_").partition("=")
        if name == "growth":
            if value not in get_args(Growth):
                raise Problem(f"--claims: growth is one of {', '.join(get_args(Growth))}; got {value!r}", USAGE)
            found["growth"] = value
            continue
        claimed = name.removeprefix("no_")
        if claimed not in CLAIMED or value:
            raise Problem(f"--claims are {', '.join(CLAIMED)}, growth=...; got {part!r}{nearest(claimed, CLAIMED)}", USAGE)
        found[claimed] = claimed == name
    return Claims(**found)
