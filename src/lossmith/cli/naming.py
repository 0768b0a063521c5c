"""Reading an objective as it is written on the command line, without anything but the library itself."""

import inspect
from typing import Any

from lossmith._checks import nearest
from lossmith.card import Card, get
from lossmith.cli.problems import USAGE, Problem


def read(text: str) -> tuple[Card, dict[str, Any]]:
    """``gce`` or ``gce:q=0.3`` as a card and the hyper-parameters given, checked by name and range."""
    name, _, rest = text.strip().partition(":")
    card = get(name)
    given: dict[str, Any] = {}
    for part in filter(None, map(str.strip, rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise Problem(f"hyper-parameters are written {card.name}:name=value; got {part!r}", USAGE)
        if key not in card.ranges:
            takes = f"it takes {', '.join(card.ranges)}" if card.ranges else "it takes none"
            raise Problem(f"{card.name} has no hyper-parameter {key!r}{nearest(key, card.ranges) or '; ' + takes}", USAGE)
        given[key] = _value(value)
    card.check(given)
    return card, given


def settings(card: Card, given: dict[str, Any]) -> str:
    """The objective with every hyper-parameter that a plot or a check uses, as it is written on the command line."""
    defaults = {name: value for name, value in card.hyper.items() if name in card.ranges and value is not inspect.Parameter.empty}
    pairs = {**defaults, **given}
    return f"{card.name}:{','.join(f'{name}={value}' for name, value in pairs.items())}" if pairs else card.name


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return number
