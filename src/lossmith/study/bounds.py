"""Where the values of a metric lie, and so their differences: no interval needs to reach beyond."""

import math

from lossmith.study.training.metrics import Metric

Ends = tuple[float, float]

LARGEST = {"brier": 2.0, "log_loss": math.inf}
"""What a metric is at most, where it is not 1. None is below 0."""


def of_values(metric: Metric) -> Ends:
    """The least and the largest value."""
    return 0.0, LARGEST.get(metric.name, 1.0)


def of_differences(metric: Metric) -> Ends:
    """The least and the largest difference of two values."""
    low, high = of_values(metric)
    return low - high, high - low


def within(allowed: Ends, low: float, high: float) -> Ends:
    """An interval, cut at what is possible."""
    return min(max(allowed[0], low), allowed[1]), max(min(allowed[1], high), allowed[0])
