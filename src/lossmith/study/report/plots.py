"""The report's pictures, as SVG written by hand: no font, no file of their own, and the same bytes for the same numbers.

What a mark stands for is its ``<title>``, which a browser shows on hover; the page's script makes it a label that the keyboard reaches.

Colours are classes of the page's style sheet, so that they follow light and dark. Dot plots place their marks in percent of the page's
width, hence stay readable on a phone; curves and diagrams are small multiples of a fixed size that flow into as many columns as fit.
Whatever comes from data passes through `escape`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from lossmith.study.report.numbers import number, percent
from lossmith.study.results import Curves
from lossmith.study.training.metrics import Metric

MARGIN = 2.5
"""Percent of a dot plot's width that is left free at each side, so that a mark at the end is whole."""


@dataclass(frozen=True)
class Scale:
    """An axis from low to high, with ticks at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float], *, most: int = 6, within: tuple[float, float] = (-math.inf, math.inf)) -> "Scale":
        """The scale that covers the finite ones of these values, with a little room, inside `within`."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        room = 0.06 * (high - low) or 0.02 * abs(high) or 0.01
        low, high = max(within[0], low - room), min(within[1], high + room)
        if not high > low:
            low, high = low - room, high + room
        step = _step((high - low) / most)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return cls(low, high, tuple(step * k for k in range(first, last + 1)))

    def at(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _step(rough: float) -> float:
    """The round step (1, 2, 2.5 or 5 times a power of ten) that is not below a rough one."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def tick_labels(scale: Scale, metric: Metric, *, signed: bool = False) -> list[str]:
    """The ticks in the metric's unit, with as many digits as tell them apart."""
    factor = 100.0 if percent(metric) else 1.0
    step = factor * (scale.ticks[1] - scale.ticks[0]) if len(scale.ticks) > 1 else 1.0
    digits = next((d for d in range(12) if math.isclose(round(step, d), step, rel_tol=1e-6)), 12)
    texts = [f"{factor * tick:{'+' if signed else ''}.{digits}f}" for tick in scale.ticks]
    return [f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−") for text in texts]


@dataclass(frozen=True)
class Mark:
    """A mean with its interval and the seeds behind it; `kind` is the class that colours it, `text` and `told` say what is what."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    kind: str
    text: str = ""
    told: tuple[str, ...] = ()


def _title(text: str) -> str:
    """What a mark stands for, as its child."""
    return f"<title>{escape(text)}</title>" if text else ""


def dot_row(marks: Sequence[Mark], scale: Scale, *, zero: bool = False) -> Markup:
    """One line of a dot plot: each mark's interval, mean and seeds, the first mark on top and bold."""
    height = 12 + 22 * len(marks)
    parts = [_percent_line(scale, tick, height, "grid") for tick in scale.ticks]
    if zero and scale.low <= 0 <= scale.high:
        parts.append(_percent_line(scale, 0.0, height, "zero"))
    for place, mark in enumerate(marks):
        y = 15 + 22 * place
        kind = f"{mark.kind}{' second' if place else ''}"
        for value, said in zip(mark.seeds, mark.told or ("",) * len(mark.seeds), strict=True):
            if math.isfinite(value):
                parts.append(f'<circle class="seed {kind}" cx="{_x(scale, value)}" cy="{y + 9}" r="2.2">{_title(said)}</circle>')
        if math.isfinite(mark.low) and math.isfinite(mark.high):
            low, high = _x(scale, max(mark.low, scale.low)), _x(scale, min(mark.high, scale.high))
            parts.append(f'<line class="interval {kind}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        if math.isfinite(mark.mean):
            parts.append(
                f'<circle class="mean {kind}" cx="{_x(scale, mark.mean)}" cy="{y}" r="{4 if place else 5.5}">{_title(mark.text)}</circle>'
            )
    whole = escape("; ".join(mark.text for mark in marks if mark.text))
    return Markup(f'<svg class="dots tips" width="100%" height="{height}" role="img" aria-label="{whole}">{"".join(parts)}</svg>')


def dot_axis(scale: Scale, labels: Sequence[str]) -> Markup:
    """The axis below the lines of a dot plot."""
    texts = [f'<text x="{_x(scale, tick)}" y="14">{escape(label)}</text>' for tick, label in zip(scale.ticks, labels, strict=True)]
    return Markup(f'<svg class="dots axis" width="100%" height="20" aria-hidden="true">{"".join(texts)}</svg>')


def _x(scale: Scale, value: float) -> str:
    return f"{MARGIN + (100 - 2 * MARGIN) * scale.at(value):.2f}%"


def _percent_line(scale: Scale, value: float, height: int, kind: str) -> str:
    x = _x(scale, value)
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{height}"/>'


WIDTH, HEIGHT = 340, 214
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34
STRIPS = 40
"""Epochs of a learning curve that say their values, at most."""


@dataclass(frozen=True)
class _Frame:
    """The plotting area of a small multiple."""

    x: Scale
    y: Scale
    width: int = WIDTH
    height: int = HEIGHT

    def px(self, value: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * self.x.at(value)

    def py(self, value: float) -> float:
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * min(1.0, max(0.0, self.y.at(value)))

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> str:
        """A line through the finite points, broken where one is missing."""
        path, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(y):
                path.append(f"{pen}{self.px(x):.1f} {self.py(y):.1f}")
                pen = "L"
            else:
                pen = "M"
        return f'<path class="{kind}" d="{"".join(path)}"/>' if path else ""

    def axes(self, x_labels: Sequence[str], y_labels: Sequence[str], x_title: str, y_title: str = "") -> str:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        parts = []
        for tick, label in zip(self.y.ticks, y_labels, strict=True):
            y = self.py(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="left" x="{LEFT - 6}" y="{y + 3.5:.1f}">{escape(label)}</text>')
        for tick, label in zip(self.x.ticks, x_labels, strict=True):
            parts.append(f'<text x="{self.px(tick):.1f}" y="{bottom + 14}">{escape(label)}</text>')
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(f'<text class="title" x="{(LEFT + right) / 2:.1f}" y="{bottom + 29}">{escape(x_title)}</text>')
        if y_title:
            middle = (TOP + bottom) / 2
            parts.append(f'<text class="title" transform="translate(11 {middle:.1f}) rotate(-90)">{escape(y_title)}</text>')
        return "".join(parts)

    def svg(self, body: str, title: str) -> Markup:
        return Markup(
            f'<svg class="chart tips" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(title)}">{body}</svg>'
        )


def mean_over_seeds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each column over the rows that have a number there; NaN where none has."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(values.shape[1], np.nan), where=known.any(axis=0))


def shown_from(curves: Curves) -> int:
    """The first epoch shown: the untrained model only in short studies, since it stretches the axis."""
    return 1 if len(curves.epochs) > 5 else 0


def curve_scale(every: Iterable[Curves], metric: Metric) -> Scale:
    """One vertical scale for all learning curves, over the means of test and validation."""
    values = [
        value
        for curves in every
        for part in (curves.test, curves.validation)
        for value in mean_over_seeds(part)[shown_from(curves) :].tolist()
    ]
    return Scale.over(values, most=5, within=(0.0, 1.0) if percent(metric) else (0.0, math.inf))


def learning_curves(label: str, curves: Curves, baseline: Curves | None, best: Sequence[int], metric: Metric, y: Scale) -> Markup:
    """Test and validation over the epochs, means over seeds; test from lowest to highest seed as a band; the baseline's test for reference.

    Args:
        label: of the objective.
        curves: its own.
        baseline: the baseline's; None for the baseline itself.
        best: the epoch that validation chose, for each seed; ticks at the bottom.
        metric: the primary metric.
        y: the scale that all objectives share.
    """
    start = shown_from(curves)
    epochs = curves.epochs[start:].tolist()
    step = max(1.0, _step(max(1, epochs[-1] - epochs[0]) / 6))
    ticks = tuple(tick for tick in np.arange(0, epochs[-1] + 1, step).tolist() if tick >= epochs[0])
    frame = _Frame(Scale(epochs[0], max(epochs[-1], epochs[0] + 1), ticks), y)
    body = frame.axes([f"{tick:g}" for tick in ticks], tick_labels(y, metric), "epoch", metric.title + (" (%)" if percent(metric) else ""))
    test = curves.test[:, start:]
    whole = [x for x, column in enumerate(test.T) if np.isfinite(column).all()]
    if whole:
        lows = [(epochs[x], float(test[:, x].min())) for x in whole]
        highs = [(epochs[x], float(test[:, x].max())) for x in whole]
        corners = " ".join(f"{frame.px(x):.1f},{frame.py(value):.1f}" for x, value in [*highs, *reversed(lows)])
        body += f'<polygon class="band" points="{corners}"/>'
    if baseline is not None:
        body += frame.line(epochs, mean_over_seeds(baseline.test)[start:].tolist(), "reference")
    body += frame.line(epochs, mean_over_seeds(curves.validation)[start:].tolist(), "validation")
    body += frame.line(epochs, mean_over_seeds(test).tolist(), "test")
    for epoch in best:
        x = frame.px(max(epoch, epochs[0]))
        body += f'<line class="rug" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.height - BOTTOM - 7}" y2="{frame.height - BOTTOM}"/>'
    body += _epochs(frame, curves, start, metric)
    return frame.svg(body, f"learning curves of {label}")


def _epochs(frame: _Frame, curves: Curves, start: int, metric: Metric) -> str:
    """Strips over the curves, one an epoch (of many, evenly spaced ones), that say the means there."""
    epochs, test, validation = curves.epochs[start:], mean_over_seeds(curves.test)[start:], mean_over_seeds(curves.validation)[start:]
    shown = [place for place in range(0, len(epochs), max(1, math.ceil(len(epochs) / STRIPS))) if np.isfinite(test[place])]
    width = (frame.width - LEFT - RIGHT) / max(1, len(shown))
    strips = []
    for place in shown:
        said = f"epoch {epochs[place]}: test {number(metric, test[place])}, validation {number(metric, validation[place])}"
        x, y = frame.px(float(epochs[place])), frame.py(float(test[place]))
        strips.append(
            f'<g class="strip"><rect x="{x - width / 2:.1f}" y="{TOP}" width="{width:.1f}" height="{frame.height - TOP - BOTTOM}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>{_title(said)}</g>'
        )
    return "".join(strips)


def reliability(label: str, bins: Sequence[dict[str, float]]) -> Markup:
    """Accuracy against confidence in bins, the area of a point being the share of rows; on the diagonal confidence is right."""
    tenths = (0.0, 0.25, 0.5, 0.75, 1.0)
    unit = Scale(0.0, 1.0, tenths)
    frame = _Frame(unit, unit, width=260, height=240)
    names = ["0", "25", "50", "75", "100"]
    body = frame.axes(names, names, "confidence (%)", "accuracy (%)") + frame.line([0, 1], [0, 1], "diagonal")
    body += frame.line([entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins], "test")
    rows = sum(entry["count"] for entry in bins) or 1.0
    for entry in bins:
        radius = 2.0 + 9.0 * math.sqrt(entry["count"] / rows)
        body += f'<circle class="bin" cx="{frame.px(entry["confidence"]):.1f}" cy="{frame.py(entry["accuracy"]):.1f}" r="{radius:.1f}">'
        body += (
            _title(f"{entry['count']:g} rows: confidence {100 * entry['confidence']:.1f} %, right in {100 * entry['accuracy']:.1f} %")
            + "</circle>"
        )
    return frame.svg(body, f"reliability diagram of {label}")
