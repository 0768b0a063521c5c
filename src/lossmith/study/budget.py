"""A time budget: nothing is started that would probably not end in time."""

import re
import time
from collections.abc import Callable, Hashable

from lossmith.study.errors import StudyError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_time(text: str) -> float:
    """Seconds of ``90m``, ``1.5h``, ``1h30m``, ``45s`` or ``2d``."""
    pieces = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.strip().lower())
    if not pieces or "".join(number + unit for number, unit in pieces) != text.strip().lower():
        raise StudyError(f"--time must be a length of time such as 90m, 1.5h or 1h30m; got {text!r}")
    seconds = sum(float(number) * UNITS[unit] for number, unit in pieces)
    if seconds <= 0:
        raise StudyError(f"--time must be more than nothing; got {text!r}")
    return seconds


def time_text(seconds: float) -> str:
    """A length of time as `parse_time` reads it: ``1h30m``."""
    said, left = "", seconds
    for unit, size in reversed(UNITS.items()):
        count = int(left // size) if unit != "s" else round(left, 3)
        if count:
            said += f"{count:g}{unit}"
        left -= count * size
    return said


class Budget:
    """Time that runs from its making.

    Args:
        seconds: how much there is; None for no end.
        clock: counts seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds
        self._longest: dict[Hashable, float] = {}

    @property
    def limited(self) -> bool:
        return self._end is not None

    def took(self, seconds: float, kind: Hashable = None) -> None:
        """Learn how long one of a kind was: the next may be as long as the longest."""
        self._longest[kind] = max(self._longest.get(kind, 0.0), seconds)

    def allows(self, kind: Hashable = None, number: int = 1) -> bool:
        """Whether so many of a kind, started now one after the other, should end in time; the first are started whatever their length."""
        return self._end is None or self._clock() + number * self._longest.get(kind, 0.0) <= self._end
