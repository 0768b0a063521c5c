"""Divergences between distributions, each by the convex function that generates it."""

from lossmith.divergences.categorical import divergence

__all__ = ["divergence"]
