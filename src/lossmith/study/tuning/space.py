"""Where an objective is searched: learning rate, weight decay, and those of its declared hyper-parameters that the user did not fix.

A card declares what a hyper-parameter may be, which is mostly an unbounded range. Where to look within it is settled here, for all
objectives alike, unless the card says itself (its `search`):

* between two finite ends: everywhere, evenly; an end that is excluded is kept away from by a twentieth;
* from the only finite end on: about the default, on a logarithmic scale of the distance to that end, from a quarter to four times the
  default's, and as far as the settings that the card finds worth trying;
* with a default at an end of its range, where the hyper-parameter does nothing: from there evenly to twice the furthest setting;
* among words, switches and named functions: those listed.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lossmith import card as cards
from lossmith._ranges import Choice, Named, Range
from lossmith.study.training.objectives import Hyper, ObjectiveSpec, facts
from lossmith.study.tuning.configuration import LEARNING_RATE, WEIGHT_DECAY, Configuration

LEARNING_RATES = (3e-5, 3e-2)
"""Where the learning rate of AdamW is searched, on a logarithmic scale, unless said otherwise."""

WEIGHT_DECAYS = (1e-4, 1.0)
"""Where its weight decay is, likewise."""

FACTOR = 4.0
MARGIN = 1 / 20
DIGITS = 4
"""Of every value tried: enough to differ, few enough to be read."""

EDGE = 1 / 12
"""The part of an interval that counts as its edge: with twelve configurations, where the outermost one is expected."""


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, evenly spread or, where `origin` is given, by the logarithm of their distance to it.

    Attributes:
        more_below, more_above: whether the hyper-parameter's range goes on beyond that end.
        usual: the value that is taken without any tuning.
    """

    name: str
    low: float
    high: float
    origin: float | None = None
    whole: bool = False
    more_below: bool = True
    more_above: bool = True
    usual: float | None = None

    @property
    def distances(self) -> tuple[float, float]:
        """Of the two ends to the origin, the smaller first."""
        ends = sorted((abs(self.low - (self.origin or 0.0)), abs(self.high - (self.origin or 0.0))))
        return ends[0], ends[1]

    def at_distance(self, distance: float) -> float:
        """The value so far from the origin, on the interval's side of it."""
        origin = self.origin or 0.0
        return self.rounded(origin - distance if self.high <= origin else origin + distance)

    def at(self, share: float) -> float:
        """The value at a share of the way from the low end (from the end near the origin) to the other."""
        if self.origin is not None:
            near, far = self.distances
            return self.at_distance(near * (far / near) ** share)
        if self.whole:
            return min(int(self.high), int(self.low) + int(share * (self.high - self.low + 1)))
        return self.rounded(self.low + share * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """A value within the interval, of few digits."""
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def at_edge(self, value: float) -> bool:
        """Whether the value lies in the outermost part of the interval, at an end beyond which there is more."""
        if self.origin is None:
            from_low, from_high = value - self.low, self.high - value
            width = self.high - self.low
        else:
            near, far = self.distances
            width, gone = math.log(far / near), math.log(max(abs(value - self.origin), near) / near)
            from_low, from_high = (width - gone, gone) if self.high <= self.origin else (gone, width - gone)
        return (self.more_below and from_low <= EDGE * width) or (self.more_above and from_high <= EDGE * width)

    def __str__(self) -> str:
        return f"{self.name} {self.low:g} to {self.high:g}" + (" (logarithmic)" if self.origin is not None else "")


@dataclass(frozen=True)
class Options:
    """One of several values."""

    name: str
    options: tuple[Hyper, ...]
    usual: Hyper | None = None

    def at(self, share: float) -> Hyper:
        return self.options[min(len(self.options) - 1, int(share * len(self.options)))]

    def at_edge(self, value: Hyper) -> bool:
        return False

    def __str__(self) -> str:
        return f"{self.name} {' | '.join(map(str, self.options))}"


Dimension = Interval | Options


@dataclass(frozen=True)
class Space:
    """Everything that is searched for one objective: learning rate and weight decay first, then its own."""

    dimensions: tuple[Dimension, ...]

    @property
    def usual(self) -> Configuration:
        """What is tried first: the usual learning rate, or the middle of a range without it, and everything else as it comes."""
        rate = next(one.usual for one in self.dimensions if one.name == "learning_rate")
        assert isinstance(rate, float)
        return Configuration(rate)

    def configuration(self, values: Mapping[str, Hyper]) -> Configuration:
        """The configuration with these values."""
        own = {name: value for name, value in values.items() if name not in ("learning_rate", "weight_decay")}
        return Configuration(float(values["learning_rate"]), float(values["weight_decay"]), tuple(sorted(own.items())))

    def at(self, point: Sequence[float]) -> Configuration:
        """The configuration at a point of the unit cube."""
        return self.configuration({one.name: one.at(share) for one, share in zip(self.dimensions, point, strict=True)})

    def edges(self, configuration: Configuration) -> tuple[str, ...]:
        """What of a configuration lies at the edge of where it was searched."""
        values: dict[str, Any] = dict(configuration.values())  # each of the kind of its own dimension
        return tuple(one.name for one in self.dimensions if one.name in values and one.at_edge(values[one.name]))

    def as_list(self) -> list[dict[str, Any]]:
        """A JSON-able form."""
        return [asdict(one) for one in self.dimensions]

    @classmethod
    def from_list(cls, plain: Sequence[Mapping[str, Any]]) -> "Space":
        """The space that `as_list` wrote down."""
        return cls(
            tuple(Options(one["name"], tuple(one["options"]), one["usual"]) if "options" in one else Interval(**one) for one in plain)
        )

    def __str__(self) -> str:
        return "; ".join(map(str, self.dimensions))


def space_of(objective: ObjectiveSpec, learning_rates: tuple[float, float] = LEARNING_RATES) -> Space:
    """Where an objective is searched; what the user fixed is not.

    Example:
        >>> from lossmith.study import ObjectiveSpec
        >>> from lossmith.study.tuning.space import space_of
        >>> for dimension in space_of(ObjectiveSpec.parse("symmetric_cross_entropy:log_zero=-4")).dimensions:
        ...     print(dimension)
        learning_rate 3e-05 to 0.03 (logarithmic)
        weight_decay 0.0001 to 1 (logarithmic)
        alpha 0.025 to 1 (logarithmic)
        beta 0.25 to 4 (logarithmic)
    """
    low, high = learning_rates
    rate = LEARNING_RATE if low <= LEARNING_RATE <= high else math.sqrt(low * high)  # of a range elsewhere, its middle
    usual: list[Dimension] = [
        Interval("learning_rate", low, high, origin=0.0, usual=rate),
        Interval("weight_decay", *WEIGHT_DECAYS, origin=0.0, more_below=False, usual=WEIGHT_DECAY),  # smaller ones are none
    ]
    card = facts(objective.name).card
    fixed = {name for name, _ in objective.hyper}
    searched = [] if card is None else [_dimension(card, name) for name in card.ranges if name not in fixed]
    return Space((*usual, *(one for one in searched if one is not None)))


def _dimension(card: cards.Card, name: str) -> Dimension | None:
    """Where a hyper-parameter is searched; None where there is no default to start from."""
    allowed, default = card.ranges[name], card.hyper[name]
    if default is None or default is inspect.Parameter.empty or name in card.needs:
        return None
    if isinstance(allowed, Choice):
        return Options(name, tuple(allowed.options), default)
    if isinstance(allowed, Named):
        return Options(name, tuple(dict.fromkeys((default, *allowed.examples))), default) if isinstance(default, str) else None
    tried = [float(setting[name]) for setting in card.settings if isinstance(setting.get(name), int | float)]
    declared = card.search.get(name)
    low, high, log = (declared.low, declared.high, declared.log) if declared else _about(allowed, float(default), tried)
    if allowed.whole:  # too few numbers for a scale to matter
        low, high, log = low // 1, -(-high // 1), False
    origin = None if not log else allowed.low if math.isfinite(allowed.low) else allowed.high if math.isfinite(allowed.high) else 0.0
    beyond = {"more_below": low > allowed.low + _margin(allowed), "more_above": high < allowed.high - _margin(allowed)}
    return Interval(name, low, high, origin, whole=allowed.whole, usual=default, **beyond)


def _about(allowed: Range, default: float, tried: Sequence[float]) -> tuple[float, float, bool]:
    """Low end, high end and whether the scale is logarithmic, of where to search within a range."""
    ends = [end for end in (allowed.low, allowed.high) if math.isfinite(end)]
    if default in ends:
        other = allowed.high if default == allowed.low else allowed.low
        reach = max((2 * abs(value - default) for value in tried), default=1.0) or 1.0
        edge = default + reach if other > default else default - reach
        edge = min(edge, other) if other > default else max(edge, other)
        return min(default, edge), max(default, edge), False
    if len(ends) == 2:
        margin = _margin(allowed)
        return allowed.low + margin * allowed.open_low, allowed.high - margin * allowed.open_high, False
    if not ends:
        reach = max(1.0, abs(default))
        return min([default - reach, *tried]), max([default + reach, *tried]), False
    end, side = ends[0], 1.0 if math.isfinite(allowed.low) else -1.0
    distance = abs(default - end)
    distances = [distance / FACTOR, distance * FACTOR, *(abs(value - end) for value in tried if value != end)]
    near, far = end + side * min(distances), end + side * max(distances)
    return min(near, far), max(near, far), True


def _margin(allowed: Range) -> float:
    return MARGIN * (allowed.high - allowed.low) if math.isfinite(allowed.low) and math.isfinite(allowed.high) else 0.0
