"""Divergences between distributions, each by the convex function that generates it."""

from lossmith.divergences.categorical import divergence
from lossmith.divergences.certainty import from_certainty

__all__ = ["divergence", "from_certainty"]
