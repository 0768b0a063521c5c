"""The check that families make of their parameters."""

from lossmith._checks import describe
from lossmith.card import Range


def inside(function: str, argument: str, value: float, allowed: Range) -> float:
    """A plain number in the range, as a float; a ValueError or TypeError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {argument} must be a number in {allowed}; got {describe(value)}")
    if value not in allowed:
        raise ValueError(f"{function}: {argument} must be in {allowed}; got {value!r}")
    return float(value)
