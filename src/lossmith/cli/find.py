"""``lossmith find``: which objectives there are, and which fit a situation told in words."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from cyclopts import Parameter
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lossmith._checks import nearest
from lossmith.card import Card, all_cards, group, groups
from lossmith.cli.evidence import Measured, all_studies, measured, reorder, unspoken
from lossmith.cli.matching import Match, rank, words
from lossmith.cli.output import console, heading, print_json
from lossmith.cli.problems import USAGE, Problem, listed

START = "cross_entropy"
"""Where everybody should begin, whatever the situation."""

SHOWN = 8
"""How many objectives a ranking shows in full."""

STYLES = {"better": "green", "worse": "red", "failed": "magenta"}
"""Colours of what was measured; every other verdict is neutral."""

PROPERTIES = ("convex", "proper", "calibrated", "symmetric", "shift_invariant", "class_symmetric", "bounded", "probabilities")
"""What `--property` may ask for: the yes-or-no claims, and two facts that read like one."""


def find(
    situation: str = "",
    /,
    *,
    task: tuple[str, ...] = (),
    property: tuple[str, ...] = (),
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """List the objectives, or rank them for a situation.

    Args:
        situation: in your own words, quoted; without it everything is listed; a group such as @robust lists its objectives.
        task: only objectives of this room (classification, segmentation, ...); repeat for more rooms.
        property: only objectives that are convex, proper, calibrated, symmetric, bounded ...; repeat to ask for several at once.
        as_json: print JSON.
    """
    cards = all_cards()
    if situation.strip().startswith("@"):
        cards = {card.name: card for card in group(situation.strip())}
        situation = ""
    chosen = [card for card in cards.values() if _in_rooms(card, task, cards.values()) and all(_has(card, name) for name in property)]
    if not situation.strip():
        print_json([_facts(card) for card in chosen]) if as_json else _print_rooms(chosen)
        return 0
    if not words(situation):
        raise Problem(f"no telling word in {situation!r}; try 'noisy labels', 'rare classes', 'calibrated probabilities'", USAGE)
    found = measured(situation, all_studies())
    spoken = rank(situation, chosen)
    matches = reorder([*spoken, *unspoken(spoken, chosen, found)], found)
    if as_json:
        print_json({"situation": situation, "start_here": START, "ranked": [_ranked(match, found) for match in matches]})
    else:
        _print_ranked(situation, matches, cards[START], found)
    return 0


def _in_rooms(card: Card, rooms: tuple[str, ...], cards: Iterable[Card]) -> bool:
    known = sorted({other.room for other in cards})
    for room in rooms:
        if room not in known:
            raise Problem(f"--task must be one of {listed(known)}; got {room!r}{nearest(room, known)}", USAGE)
    return not rooms or card.room in rooms


def _has(card: Card, name: str) -> bool:
    wanted = name.replace("-", "_")
    if wanted not in PROPERTIES:
        raise Problem(f"--property must be one of {', '.join(PROPERTIES)}; got {name!r}{nearest(wanted, PROPERTIES)}", USAGE)
    if wanted == "bounded":
        return card.claims.growth == "bounded"
    if wanted == "probabilities":
        return card.predicts == "probabilities"
    return card.claims.value(wanted) is True


def _facts(card: Card) -> dict[str, Any]:
    return {
        "name": card.name,
        "aliases": list(card.aliases),
        "room": card.room,
        "form": card.form,
        "summary": card.summary,
        "use_when": card.use_when,
        "tags": list(card.tags),
    }


def _ranked(match: Match, found: Mapping[str, list[Measured]]) -> dict[str, Any]:
    """A card with why it is here: what it declares (evidence) and what our studies found (measured)."""
    return _facts(match.card) | {
        "score": round(match.score, 3),
        "evidence": [{"asked": asked, "met": met, "in": where} for asked, met, where in match.evidence],
        "measured": [entry.as_dict() for entry in found.get(match.card.name, ())],
    }


def _print_rooms(cards: list[Card]) -> None:
    out = console()
    if not cards:
        out.print("no objective has all of these properties")
        return
    for room in sorted({card.room for card in cards}):
        mine = [card for card in cards if card.room == room]
        out.print(heading(f"{room} ({len(mine)})"))
        for card in mine:
            out.print(Padding(_entry(card), (0, 0, 0, 2)))
        out.print()
    named = "  ".join(f"{name} ({len(members)})" for name, members in groups().items() if len(members) > 1)
    out.print(Text.assemble(("groups  ", "bold"), named))
    out.print(Text("a group stands for its objectives: lossmith find @robust; lossmith compare --objectives @robust", style="dim"))
    out.print(Text('lossmith show NAME for a card; lossmith find "noisy labels, rare classes" for what fits', style="dim"))


def _entry(card: Card, number: int | None = None) -> Table:
    """A card in two columns: its name, and three lines about it."""
    entry = Table.grid(padding=(0, 2))
    entry.add_column(width=31, no_wrap=False)
    entry.add_column(ratio=1)
    name = Text.assemble((f"{number:>2}  " if number is not None else "", "dim"), (card.name, "bold cyan"))
    about = Text.assemble(card.summary, ("\nuse when  ", "dim"), card.use_when)
    if card.aliases:
        about.append_text(Text.assemble(("\nalso      ", "dim"), ", ".join(card.aliases)))
    entry.add_row(name, about)
    return entry


def _print_ranked(situation: str, matches: list[Match], start: Card, found: Mapping[str, list[Measured]]) -> None:
    out = console()
    out.print(Text.assemble(("start here: ", "bold"), (start.name, "bold cyan"), f"  {start.summary}"))
    out.print(Text("Change the objective only for a reason you can measure: lossmith compare.", style="dim"))
    out.print()
    others = [match for match in matches if match.card.name != start.name]
    if not others:
        out.print(f"no other card speaks of {situation!r}; lossmith find lists them all")
        return
    out.print(heading(f"then, by what the cards say of {situation!r}, and where that is close, by what was measured:"))
    for number, match in enumerate(others[:SHOWN], 1):
        entry = _entry(match.card, number)
        if match.evidence:
            entry.add_row("", Text.assemble(("matched   ", "dim"), (match.why, "green")))
        for one in found.get(match.card.name, ()):
            entry.add_row("", Text.assemble(("measured  ", "dim"), (one.sentence, STYLES.get(one.finding.verdict, ""))))
        out.print(Padding(entry, (0, 0, 0, 1)))
    if len(others) > SHOWN:
        out.print(Text(f"and further: {', '.join(match.card.name for match in others[SHOWN:])}", style="dim"))
    _print_limits([match.card.name for match in others], found)
    names = ",".join(dict.fromkeys([start.name, *(match.card.name for match in others[:2] if match.card.room == start.room)]))
    out.print()
    out.print(Text(f"to see what helps on your data: lossmith compare --data YOUR.csv --target COLUMN --objectives {names}", style="dim"))


def _print_limits(names: list[str], found: Mapping[str, list[Measured]]) -> None:
    """What was not measured, and what the measurements do not say."""
    out = console()
    missing = [name for name in names if name not in found]
    if len(missing) < len(names):
        out.print(Text("“no difference shown” is not “equal”: the interval says which differences remain possible", style="dim"))
    if missing:
        told = f"not measured yet in such a situation: {', '.join(missing)}"
        out.print(Text("none of these is measured yet in such a situation" if len(missing) == len(names) else told, style="dim"))
