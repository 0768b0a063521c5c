"""Divergences between distributions, each by the convex function that generates it."""

from lossmith.divergences.categorical import divergence
from lossmith.divergences.variational import tight_variational_bound, variational_bound

__all__ = ["divergence", "tight_variational_bound", "variational_bound"]
