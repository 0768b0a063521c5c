"""What a hyper-parameter may be: a number in an interval, one of some words, or an object that can be given by name."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lossmith._checks import nearest


@dataclass(frozen=True)
class Range:
    """The numbers a hyper-parameter may take: an interval, closed unless said otherwise (infinite ends are open).

    `whole` numbers only are no continuous quantity, and a `plain` number chooses a function before anything is computed with it: such
    hyper-parameters are never tensors.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    plain: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low or math.isinf(self.low) else value >= self.low
        below = value < self.high if self.open_high or math.isinf(self.high) else value <= self.high
        return above and below and (not self.whole or value == int(value))

    def __str__(self) -> str:
        left = "(" if self.open_low or math.isinf(self.low) else "["
        right = ")" if self.open_high or math.isinf(self.high) else "]"
        return f"{'the whole numbers of ' if self.whole else ''}{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Choice:
    """The words (or switches) a structural hyper-parameter may take."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def __str__(self) -> str:
        return " | ".join(map(repr, self.options))


@dataclass(frozen=True)
class Between:
    """Where in its range a hyper-parameter is searched, when the card knows better than its range and default say.

    Both ends lie in the range and the default between them. On a `log` scale it is the logarithm that is spread evenly, of the distance
    to the finite end of the range where only one is finite.
    """

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Named:
    """Objects that may be given by their name: convex functions, of which anybody can make more.

    Attributes:
        where: what an error calls them: where they are listed, and what else is taken.
        kind: what an object given as it is must be.
        find: the object of a name; a KeyError, TypeError or ValueError where there is none.
        known: every name there is, to offer the nearest.
        examples: names to test with.
    """

    where: str
    kind: type
    find: Callable[[str], Any]
    known: Callable[[], Iterable[str]]
    examples: tuple[str, ...]

    def __call__(self, value: Any) -> Any:
        """The object itself."""
        return self.find(value) if isinstance(value, str) else value

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str):
            return isinstance(value, self.kind)
        try:
            self.find(value)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def nearest(self, name: object) -> str:
        """The hint an error ends with: the name that may have been meant, with the parameters it asks for."""
        known = list(self.known())
        unfinished = [full for full in known if full.startswith(f"{name}(")]
        return f"; did you mean {unfinished[0]!r}?" if unfinished else nearest(str(name), known)

    def __str__(self) -> str:
        return self.where


Allowed = Range | Choice | Named
