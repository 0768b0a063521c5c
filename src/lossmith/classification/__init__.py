"""Objectives for choosing one of several classes, and for yes-or-no answers."""

from lossmith.classification.comp_sum import (
    classification_mae,
    comp_sum,
    generalized_cross_entropy,
    sum_exponential,
)
from lossmith.classification.cross_entropy import cross_entropy

__all__ = [
    "classification_mae",
    "comp_sum",
    "cross_entropy",
    "generalized_cross_entropy",
    "sum_exponential",
]
