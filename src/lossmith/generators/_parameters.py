"""The parameters of families: the check that they make of them, and how they are written within a name."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from lossmith._checks import describe
from lossmith.card import Range


def inside(function: str, argument: str, value: float, allowed: Range) -> float:
    """A plain number in the range, as a float; a ValueError or TypeError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {argument} must be a number in {allowed}; got {describe(value)}")
    if value not in allowed:
        raise ValueError(f"{function}: {argument} must be in {allowed}; got {value!r}")
    return float(value)


def written_out(name: str) -> tuple[str, dict[str, float]] | None:
    """A family's name and its parameters, read from a member's full name such as ``"skew_kl(skew=0.1)"``; None if that is none."""
    written = re.fullmatch(r"(\w+)\((.*)\)", name)
    if written is None:
        return None
    parts = [part.partition("=") for part in written[2].split(",") if part.strip()]
    try:
        return written[1], {key.strip(): float(value) for key, _, value in parts}
    except ValueError:
        raise ValueError(f"a member of a family is written {written[1]}(parameter=number); got {name!r}") from None


def asking(family: Callable[..., Any]) -> str:
    """A family's name with the parameters it asks for, ``skew_kl(skew=...)``."""
    return f"{family.__name__}({', '.join(f'{name}=...' for name in inspect.signature(family).parameters)})"
