"""``lossmith show``: what an objective says of itself, and how far each of its claims is known to hold."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from lossmith.card import Card, Claims, Proved, all_cards
from lossmith.cli import curves, naming, of_entropy, of_generator
from lossmith.cli import derived as derived_sheet
from lossmith.cli.output import console, fields, heading, print_json
from lossmith.cli.problems import Problem, need
from lossmith.generators import Entropy, FGenerator
from lossmith.generators.entropy_registry import ANY_ENTROPY
from lossmith.generators.registry import ANY

MEANINGS = {
    "convex": "convex in the logits",
    "proper": "minimised by the true class probabilities",
    "calibrated": "minimising it predicts the likeliest class",
    "symmetric": "the loss summed over all labels is constant",
    "shift_invariant": "a constant added to all logits changes nothing",
    "class_symmetric": "renaming the classes changes nothing",
    "growth": "how the loss grows with the scale of the logits",
    "bounds": "smallest and largest loss of a row",
}
TESTED = "tested: the suite searches for a counterexample and finds none"
REFUTED = "tested: the suite finds a counterexample"
UNKNOWN = "not claimed: a debt"


def show(
    objective: str,
    /,
    *,
    plot: str | None = None,
    derived: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Show the card of an objective, or what is derived from a convex function.

    Args:
        objective: name or alias, with hyper-parameters if you like: gce:q=0.3; or a generator or an entropy: kl, "tsallis(alpha=1.5)".
        plot: also draw loss and gradient against the margin (with --derived: everything), in the terminal or into a PNG, SVG or PDF file.
        derived: everything that follows from one convex function: its divergence, conjugate, losses, links and weights.
        as_json: print JSON; with --plot the curve too.
    """
    if derived or _convex(objective):
        return _show_derived(objective, plot, as_json)
    card, given = naming.read(objective)
    drawn = curves.curve(card, given) if plot is not None else None
    if drawn is not None and plot != "terminal":
        need("plot", "lossmith show --plot PATH")
        curves.picture(drawn, naming.settings(card, given), Path(str(plot)))
    if as_json:
        print_json(facts(card, given) | ({"curve": vars(drawn)} if drawn is not None else {}))
        return 0
    _print(card, given)
    if drawn is not None and plot == "terminal":
        out = console()
        out.print()
        out.print(Text("\n".join(curves.terminal(drawn, naming.settings(card, given)))), no_wrap=True, crop=False)
    elif plot is not None:
        console().print(Text(f"\nplot written to {plot}"))
    return 0


def _convex(name: str) -> bool:
    """Whether a name is that of a generator or an entropy, or is written as one of a family is, and is that of no objective."""
    return name not in all_cards() and (name in ANY or name in ANY_ENTROPY or re.match(r"\w+\(", name) is not None)


def _show_derived(name: str, plot: str | None, as_json: bool) -> int:
    """Everything derived from a convex function."""
    convex = _convex_function(name)
    drawn = of_generator.sheet(convex) if isinstance(convex, FGenerator) else of_entropy.sheet(convex)
    if plot not in (None, "terminal"):
        need("plot", "lossmith show --derived --plot PATH")
        derived_sheet.picture(drawn, Path(str(plot)))
    if as_json:
        print_json(drawn.as_dict())
        return 0
    derived_sheet.report(drawn)
    if plot not in (None, "terminal"):
        console().print(Text(f"\nplot written to {plot}"))
    return 0


def _convex_function(name: str) -> FGenerator | Entropy:
    """The generator or entropy of a name, or what is wrong with it."""
    kinds = (ANY, ANY_ENTROPY)
    family = name.partition("(")[0]
    for kind in kinds:
        if name in kind or (family != name and any(known.startswith(f"{family}(") for known in kind.known())):
            return kind(name)
    card = next((card for card in all_cards().values() if name.partition(":")[0] in (card.name, *card.aliases)), None)
    if card is not None:
        card, given = naming.read(name)
        said = "; ".join(instances(card, given))
        raise Problem(f"{card.name} is an objective, and no convex function" + (f"; it is {said}" if said else ""))
    either = dataclasses.replace(ANY, known=lambda: [known for kind in kinds for known in kind.known()])
    raise Problem(f"no generator or entropy is called {name!r}{either.nearest(name)}")


def facts(card: Card, given: Mapping[str, Any]) -> dict[str, Any]:
    """A card as JSON-able facts; `given` hyper-parameters tell which convex functions it is an instance of."""
    return {
        "name": card.name,
        "aliases": list(card.aliases),
        "import": f"{card.function.__module__}.{card.name}",
        "room": card.room,
        "form": card.form,
        "summary": card.summary,
        "use_when": card.use_when,
        "formula": card.formula,
        "source": card.source,
        "provenance": card.provenance,
        "since": card.since,
        "predicts": card.predicts,
        "surrogate": card.surrogate,
        "needs": list(card.needs),
        "hyper_parameters": {name: {"default": _default(card, name), "range": str(allowed)} for name, allowed in card.ranges.items()},
        "options": [name for name in card.options if name not in card.hyper],
        "limits": [str(limit) for limit in card.limits],
        "instances": instances(card, given),
        "claims": {name: {"value": value, "evidence": evidence} for name, value, evidence in claims(card)},
        "debts": card.claims.debts(),
        "tags": list(card.tags),
    }


def claims(card: Card) -> list[tuple[str, Any, str]]:
    """Every claim as its name, its value (True, False, None or words) and the kind of evidence behind it."""
    found: list[tuple[str, Any, str]] = []
    for place in dataclasses.fields(Claims):
        claim = getattr(card.claims, place.name)
        if isinstance(claim, Proved):
            found.append((place.name, claim.value, f"proved: {claim.source}; and tested"))
        elif claim is None:
            found.append((place.name, None, UNKNOWN))
        elif place.name == "bounds":
            found.append((place.name, _bounds(card, claim), "tested: no loss outside, the lower one approached"))
        elif place.name == "growth":
            found.append((place.name, claim, "tested along rays of growing logits"))
        else:
            found.append((place.name, claim, TESTED if claim else REFUTED))
    return found


def instances(card: Card, given: Mapping[str, Any]) -> list[str]:
    """The convex functions whose derived loss it is at these hyper-parameters, the others being at their defaults."""
    return [said for instance in card.instances if (said := instance.says({**card.hyper, **given}))]


def _default(card: Card, name: str) -> Any:
    value = card.hyper[name]
    return None if value is inspect.Parameter.empty else value


def _bounds(card: Card, bounds: Callable[..., tuple[float, float]]) -> str:
    """The bounds at the default hyper-parameters, with ten classes where their number matters."""
    takes = inspect.signature(bounds).parameters
    at = {name: 10 if name == "classes" else _default(card, name) for name in takes}
    if any(value is None for value in at.values()):
        return f"depends on {', '.join(takes)}"
    low, high = bounds(**at)
    where = ", ".join(f"{name} = {value:g}" if isinstance(value, int | float) else f"{name} = {value}" for name, value in at.items())
    return f"{low:g} to {high:g}" + (f" at {where}" if where else "")


def _print(card: Card, given: Mapping[str, Any]) -> None:
    out = console()
    out.print(Text.assemble((card.name, "bold cyan"), f"  {card.summary}"))
    out.print()
    lines = [
        ("use when", card.use_when),
        ("formula", card.formula),
        ("source", card.source),
        ("written", card.provenance),
        ("aliases", ", ".join(card.aliases)),
        ("import", f"from {card.function.__module__.rpartition('.')[0]} import {card.name}"),
        ("input", _input(card)),
        ("predicts", _predicts(card)),
        ("value", "means nothing: only its gradient does" if card.surrogate else ""),
        ("needs", ", ".join(card.needs)),
        ("limits", "\n".join(map(str, card.limits))),
        ("instance of", "\n".join(instances(card, given))),
        ("options", ", ".join(name for name in card.options if name not in card.hyper)),
        ("since", card.since),
    ]
    out.print(fields((name, value) for name, value in lines if value))
    if card.ranges:
        out.print()
        out.print(heading("hyper-parameters"))
        table = Table.grid(padding=(0, 3))
        for name, allowed in card.ranges.items():
            default = _default(card, name)
            table.add_row(
                Text(f"  {name}"), Text(str(allowed)), Text("must be given" if default is None else f"default {default}", style="dim")
            )
        out.print(table)
    out.print()
    out.print(heading("claims"))
    out.print(_claims_table(card))
    if card.claims.debts():
        out.print(fields([("  debts", f"nothing is claimed about {', '.join(card.claims.debts())}")]))


def _claims_table(card: Card) -> Table:
    table = Table.grid(padding=(0, 2))
    styles = {True: ("yes", "green"), False: ("no", "yellow"), None: ("?", "magenta")}
    for name, value, evidence in claims(card):
        shown, style = styles[value] if value in (True, False, None) else (str(value), "")
        table.add_row(Text(f"  {name}"), Text(shown, style=style), Text.assemble(MEANINGS[name], (f"\n{evidence}", "dim")))
    return table


def _input(card: Card) -> str:
    shapes = {
        "binary": "one logit a question, target 0 to 1, any shape",
        "multilabel": "logits (n, labels), targets 0 to 1 of the same shape",
        "teacher": "the student's class logits (c,), (n, c) or (n, c, *d); target the teacher's, in the same shape",
        "set": "class logits (n, c, *d); the loss is of whole sets",
        "stateful": "class logits (n, c); a module with a state or parameters of its own",
    }
    return shapes.get(card.form, "class logits (c,), (n, c) or (n, c, *d); target class indices or class probabilities") + f" [{card.form}]"


def _predicts(card: Card) -> str:
    if card.predicts == "probabilities":
        return "probabilities: the softmax or sigmoid of the logits is meant as such"
    return "scores: which answer leads; scale temperatures before reading probabilities"
