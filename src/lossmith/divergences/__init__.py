"""Divergences between distributions, each by the convex function that generates it."""

from lossmith.divergences.f_divergence import divergence

__all__ = ["divergence"]
