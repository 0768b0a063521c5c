"""``lossmith show NAME --derived``: everything that follows from one convex function, in the terminal and as one picture."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from torch import Tensor

from lossmith.cli import curves
from lossmith.cli.output import console, fields, heading
from lossmith.cli.problems import Problem

POINTS = 121
WIDTH = 40
"""Block characters of a line in the terminal."""

STROKES = (("#2456a6", "-"), ("#b3541e", "--"), ("#2f7d4f", ":"))


@dataclass(frozen=True)
class Derived:
    """One derived object: its name, its formula, the call that gives it, and curves that show its shape."""

    title: str
    formula: str
    call: str
    axis: str
    xs: list[float]
    curves: dict[str, list[float]]


@dataclass(frozen=True)
class Sheet:
    """A convex function and all that is derived from it."""

    name: str
    formula: str
    facts: dict[str, str]
    derived: list[Derived]

    def as_dict(self) -> dict[str, Any]:
        """For another program."""
        return {"name": self.name, "formula": self.formula, "facts": self.facts, "derived": [vars(one) for one in self.derived]}


def grid(low: float, high: float) -> Tensor:
    """Where the curves are drawn."""
    return torch.linspace(low, high, POINTS, dtype=torch.float64)


def derived(title: str, formula: str, call: str, axis: str, xs: Tensor, curves: dict[str, Tensor]) -> Derived:
    """The same from tensors."""
    return Derived(title, formula, call, axis, xs.tolist(), {label: values.tolist() for label, values in curves.items()})


def report(sheet: Sheet) -> None:
    """Print the function and every derived object, each with its call and lines that show its shape."""
    out = console()
    out.print(heading(sheet.name), Text(sheet.formula))
    out.print(fields(sheet.facts.items()))
    for one in sheet.derived:
        out.print()
        out.print(heading(one.title), Text(one.formula))
        width = max(map(len, one.curves))
        for label, values in one.curves.items():
            finite = [value for value in values if math.isfinite(value)]
            span = f"{min(finite):.3g} to {max(finite):.3g}" if finite else "nowhere finite"
            out.print(Text(f"  {label:<{width}} ▕{line(values)}▏ {span}"), no_wrap=True, crop=False)
        out.print(Text(f"  {one.axis}, from {one.xs[0]:.3g} to {one.xs[-1]:.3g}", style="dim"))
        out.print(Text(f"  {one.call}", style="dim"))


def picture(sheet: Sheet, path: Path) -> None:
    """All derived objects on one page; the path's suffix says which kind of file."""
    if path.suffix.lower() not in curves.SUFFIXES:
        raise Problem(f"--plot writes {', '.join(curves.SUFFIXES)}; got {path.name!r}")
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "lossmith", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        columns = math.ceil(len(sheet.derived) / 2)
        figure, places = pyplot.subplots(2, columns, figsize=(3.3 * columns, 6), layout="constrained")
        for axes, one in zip(places.flat, sheet.derived, strict=False):
            for (label, values), (colour, stroke) in zip(one.curves.items(), STROKES, strict=False):
                axes.plot(one.xs, visible(values), color=colour, linestyle=stroke, linewidth=2, label=label)
            axes.set_title(one.title, loc="left")
            axes.set_xlabel(one.axis)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, loc="best")
        for axes in places.flat[len(sheet.derived) :]:
            axes.set_visible(False)
        figure.suptitle(f"{sheet.name}:  ${mathtext(sheet.formula)}$", x=0.01, ha="left")
        try:
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        finally:
            pyplot.close(figure)


def mathtext(tex: str) -> str:
    r"""A formula for matplotlib, whose ``\frac`` wants braces, and which has one size of fraction and one upright font."""
    tex = tex.replace(r"\tfrac", r"\frac").replace(r"\text", r"\mathrm").replace(r"\left\|", r"\|").replace(r"\right\|", r"\|")
    tex = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", tex)
    return re.sub(r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}", tex)


def visible(values: Sequence[float]) -> list[float]:
    """Values as they are drawn: what towers over the rest, or is infinite, is left out, so that the rest keeps its shape."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return [math.nan] * len(values)
    low, high = finite[len(finite) // 20], finite[-1 - len(finite) // 20]
    reach = 2 * (high - low)
    return [value if low - reach <= value <= high + reach else math.nan for value in values]


def line(values: Sequence[float]) -> str:
    """`WIDTH` block characters as high as the values there; what is not drawn is left blank."""
    seen = visible(values)
    seen = [seen[round(i * (len(seen) - 1) / (WIDTH - 1))] for i in range(WIDTH)]
    finite = [value for value in seen if math.isfinite(value)]
    if not finite:
        return " " * WIDTH
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(curves.BLOCKS[1 + round((value - low) / span * 7)] if math.isfinite(value) else " " for value in seen)
