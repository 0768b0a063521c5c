"""Numbers as a reader meets them: with their unit, a fixed number of digits, and no interval wider than is possible.

The intervals of few seeds may reach beyond any difference that there can be, such as 100 points of accuracy. What is there cannot be true,
so to leave it out costs no coverage: shown intervals are cut, and say so; the tables for other programs keep them as they were computed.
"""

import math

from lossmith.study import bounds
from lossmith.study.training.metrics import Metric

MINUS = "−"

CUT = "cut at what is possible"


def number(metric: Metric, value: float) -> str:
    """A value with its unit: a share of rows or a chance in percent, everything else as it is."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if percent(metric) else f"{value:.3f}"


def difference(metric: Metric, value: float) -> str:
    """A signed difference, in points of a hundredth for what is in percent; without a sign where there is none at all."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "–"
    scaled, digits = (100 * value, 1) if percent(metric) else (value, 3)
    text = f"{abs(scaled):.{digits}f}"
    sign = "±" if float(text) == 0 else "+" if scaled > 0 else MINUS
    return sign + text


def cut(metric: Metric, low: float, high: float) -> bounds.Ends:
    """The ends of an interval of differences, no farther out than differences can be; infinite where nothing is known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return low, high
    return bounds.within(bounds.of_differences(metric), low, high)


def is_cut(metric: Metric, low: float, high: float) -> bool:
    """Whether an interval of differences is shown shorter than it was computed."""
    return cut(metric, low, high) != (low, high)


def interval(metric: Metric, low: float, high: float) -> str:
    """``[low, high]`` of differences, cut at what is possible; what cannot be said is said so, and so is that there is never any."""
    if low == high == 0:
        return "every time"
    low, high = cut(metric, low, high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"[{difference(metric, low)}, {difference(metric, high)}]"


def ends(metric: Metric, low: float, high: float) -> str:
    """``95 % interval low to high`` of differences, for a sentence."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    shown = " to ".join(difference(metric, end) for end in cut(metric, low, high))
    return f"95 % interval {shown}{f', {CUT}' if is_cut(metric, low, high) else ''}"


def mean_interval(metric: Metric, low: float, high: float) -> str:
    """``[low, high]`` of values."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    scale, digits = (100, 1) if percent(metric) else (1, 3)
    return f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def signed(metric: Metric, value: float) -> str:
    """``+1.2 points``."""
    return difference(metric, value) + (" points" if percent(metric) else "")


def points(metric: Metric, value: float) -> str:
    """``1.2 points of accuracy``."""
    return f"{100 * value:.1f} points of {metric.title}" if percent(metric) else f"{value:.3f} in {metric.title}"


def signed_points(metric: Metric, value: float) -> str:
    """``+1.2 points of accuracy``."""
    return difference(metric, value) + (f" points of {metric.title}" if percent(metric) else f" in {metric.title}")


def p_value(p: float | None) -> str:
    if p is None:
        return "not tested"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_equals(p: float | None) -> str:
    """``= 0.012``, ``< 0.001``."""
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def percent(metric: Metric) -> bool:
    """Whether the metric reads best in percent."""
    return metric.needs in ("labels", "scores")


def duration(seconds: float) -> str:
    """``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
