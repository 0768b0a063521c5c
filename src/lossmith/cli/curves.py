"""An objective's loss and gradient against the margin, as numbers, as text for the terminal, and as a picture.

The margin is what one answer leads by: with two classes the logit of the right one less the other's, with a single logit that logit
when the answer is yes. An objective on sets is shown on a set whose elements all have the same margin.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lossmith.card import Card
from lossmith.cli.problems import Problem

REACH = 6.0
"""Margins are shown from -REACH to REACH."""

COUNTS = (100.0, 900.0)
"""Training rows of the right class and of the other, for objectives that need them: the right one is rare."""

SURE = 2.0
"""The margin of the teacher, where there is one."""

BLOCKS = " ▁▂▃▄▅▆▇█"
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Curve:
    """Loss and derivative at each margin, and what the margin is."""

    margins: list[float]
    losses: list[float]
    slopes: list[float]
    setting: str


def curve(card: Card, hyper: Mapping[str, Any], points: int = 61) -> Curve:
    """The loss of one answer, and its derivative, over the margins."""
    margin = torch.linspace(-REACH, REACH, points, dtype=torch.float64, requires_grad=True)
    keywords: dict[str, Any] = dict(hyper)
    setting = ""
    if "class_counts" in card.needs:
        keywords["class_counts"] = torch.tensor(COUNTS, dtype=torch.float64)
        setting = f"; the right class has {COUNTS[0]:g} training rows and the other {COUNTS[1]:g}"
    loss, what = _losses(card, margin, keywords)
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    return Curve(margin.detach().tolist(), loss.detach().tolist(), slope.tolist(), what + setting)


def _losses(card: Card, margin: torch.Tensor, keywords: dict[str, Any]) -> tuple[torch.Tensor, str]:
    n = len(margin)
    if card.surrogate:
        raise Problem(f"only the gradient of {card.name} means something, and it differs from call to call: there is nothing to plot")
    if card.form in ("log_prob", "log_probs", "logits"):
        logits, target = torch.stack([margin / 2, -margin / 2], 1), torch.zeros(n, dtype=torch.int64)
        what = "margin: the right class's logit less the other's, of two classes"
        return card.function(logits, target, reduction="none", **keywords), what
    if card.form == "binary":
        return card.function(
            margin, torch.ones(n, dtype=margin.dtype), reduction="none", **keywords
        ), "margin: the logit, when the answer is yes"
    if card.form == "multilabel":
        loss = card.function(margin[:, None], torch.ones(n, 1, dtype=margin.dtype), reduction="none", **keywords)
        return loss.reshape(n, -1).mean(1), "margin: the logit, when the answer is yes"
    if card.form == "teacher":
        half = torch.tensor([SURE / 2, -SURE / 2], dtype=torch.float64).expand(n, 2)
        loss = card.function(torch.stack([margin / 2, -margin / 2], 1), half, reduction="none", **keywords)
        return loss, f"margin: the first logit less the second, of two classes between which the teacher's margin is {SURE:g}"
    if card.form == "set":
        size = 64
        half = margin[:, None, None].expand(n, 1, size) / 2
        sign = torch.ones(size, dtype=margin.dtype)
        sign[size // 2 :] = -1
        target = (sign < 0).long().expand(n, size)
        loss = card.function(torch.cat([half * sign, -half * sign], 1), target, reduction="none", **keywords)
        return loss.reshape(n, -1).mean(1), f"margin: the same for all {size} elements of a set, half of them of each class"
    raise Problem(f"{card.name} keeps a state from batch to batch: its loss is no function of one margin, so there is nothing to plot")


def chart(values: Sequence[float], height: int = 6) -> list[str]:
    """Values as rows of block characters, the largest at the top, with the scale at the left; what is not finite is left blank.

    Values of both signs hang from no zero line: the bottom is the smallest value.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ["(nowhere finite)"]
    low, high = min(finite), max(finite)
    span = high - low or 1.0
    levels = [max(1, round((value - low) / span * height * 8)) if math.isfinite(value) else 0 for value in values]
    rows = []
    for row in reversed(range(height)):
        scale = high if row == height - 1 else low if row == 0 else None
        label = "" if scale is None else f"{scale:.3g}"
        rows.append(f"{label:>9} ┤" + "".join(BLOCKS[min(8, max(0, level - 8 * row))] for level in levels))
    return rows


def terminal(drawn: Curve, label: str) -> list[str]:
    """Both charts, one below the other, with the margins underneath."""
    width = len(drawn.margins)
    axis = " " * 10 + "└" + "─" * width
    ticks = " " * 11 + f"{-REACH:g}".ljust(width // 2 - 1) + " 0" + f"{REACH:g}".rjust(width - width // 2 - 1)
    return [
        f"loss of {label}",
        *chart(drawn.losses),
        axis,
        ticks,
        "",
        "its gradient with respect to the margin",
        *chart(drawn.slopes),
        axis,
        ticks,
        drawn.setting,
    ]


def picture(drawn: Curve, label: str, path: Path) -> None:
    """The same as a file; its suffix says which kind."""
    if path.suffix.lower() not in SUFFIXES:
        raise Problem(f"--plot writes {', '.join(SUFFIXES)}; got {path.name!r}")
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "lossmith", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(6, 5), layout="constrained")
        for axes, values, name, colour in ((above, drawn.losses, "loss", "#2456a6"), (below, drawn.slopes, "gradient", "#b3541e")):
            axes.plot(drawn.margins, values, color=colour, linewidth=2)
            axes.axvline(0, color="0.7", linewidth=1, zorder=0)
            axes.set_ylabel(name)
            axes.grid(alpha=0.25)
        above.set_title(label, loc="left")
        below.set_xlabel("\n".join(drawn.setting.split("; ")))
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        finally:
            pyplot.close(figure)
