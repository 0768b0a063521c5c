"""The critical-difference diagram (Demšar 2006): objectives on an axis of mean ranks, joined where they are not told apart.

With Nemenyi's test a bar joins all objectives within the critical difference. With tests of pairs a group need not be a stretch of the
axis: one in between may well be told apart from one of the others. So every bar carries a dot for each objective that belongs to it, and
what has no dot on a bar is not part of its group.
"""

import math

from markupsafe import Markup, escape

from lossmith.study.statistics.ranks import Ranking

AXIS, FIRST_ROW, ROW, BAR = 44, 24, 20, 11
"""Heights in the drawing's units: of the axis, from the bars to the first label, between labels, and between bars."""
LENGTH, LETTER, MARGIN = 260, 6.6, 32
"""The length of the axis, about the width of a letter, and what lies between axis and labels."""


def rank_diagram(ranking: Ranking) -> Markup:
    """The diagram as SVG, in the classes of the report's style sheet: best on the left, labels at both sides."""
    labels = list(ranking.mean_ranks)
    half = math.ceil(len(labels) / 2)
    bars_end = AXIS + BAR * (len(ranking.groups) + 1)
    height = bars_end + FIRST_ROW + ROW * (half - 1) + 12
    parts = [_axis(ranking)]
    if ranking.critical_difference is not None:
        parts.append(_ruler(ranking, ranking.critical_difference))
    for place, label in enumerate(labels):
        left = place < half
        row = place if left else len(labels) - 1 - place
        parts.append(_objective(ranking, label, bars_end + FIRST_ROW + ROW * row, left))
    for place, group in enumerate(ranking.groups):
        y = AXIS + BAR * (place + 1)
        xs = [_x(ranking, ranking.mean_ranks[label]) for label in group]
        parts.append(f'<line class="interval neutral" x1="{min(xs) - 3:.1f}" x2="{max(xs) + 3:.1f}" y1="{y}" y2="{y}"/>')
        parts += [f'<circle class="mean neutral" cx="{x:.1f}" cy="{y}" r="3.5"/>' for x in xs]
    title, width = escape(_title(ranking)), LENGTH + 2 * _left(ranking)
    return Markup(f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg>')


def _left(ranking: Ranking) -> int:
    """Where the axis begins, so that the longest label has room beside it; at the right there is as much."""
    return MARGIN + round(LETTER * max(20, *map(len, ranking.mean_ranks)))


def _x(ranking: Ranking, mean_rank: float) -> float:
    """Where a mean rank lies: 1 at the left end of the axis, the number of objectives at the right."""
    return _left(ranking) + LENGTH * (mean_rank - 1) / (len(ranking.mean_ranks) - 1)


def _axis(ranking: Ranking) -> str:
    k = len(ranking.mean_ranks)
    ticks = [
        f'<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="{AXIS - 5}" y2="{AXIS}"/><text x="{x:.1f}" y="{AXIS - 9}">{tick}</text>'
        for tick, x in ((tick, _x(ranking, tick)) for tick in range(1, k + 1, math.ceil(k / 12)))
    ]
    return f'<line class="zero" x1="{_x(ranking, 1):.1f}" x2="{_x(ranking, k):.1f}" y1="{AXIS}" y2="{AXIS}"/>{"".join(ticks)}'


def _ruler(ranking: Ranking, critical_difference: float) -> str:
    """The critical difference to scale, above the axis; no longer than the axis, since no ranks lie further apart."""
    left, right, end = (_x(ranking, rank) for rank in (1, len(ranking.mean_ranks), 1 + critical_difference))
    more = "" if end <= right else " (longer than the axis)"
    return (
        f'<line class="interval base" x1="{left:.1f}" x2="{min(end, right):.1f}" y1="12" y2="12"/>'
        f'<text class="left" x="{left - 8:.1f}" y="16">critical difference {critical_difference:.2f}{more}</text>'
    )


def _objective(ranking: Ranking, label: str, y: float, left: bool) -> str:
    """The label at its side, and a line from it up to the axis."""
    x, outer = _x(ranking, ranking.mean_ranks[label]), _x(ranking, 1 if left else len(ranking.mean_ranks))
    edge, text, anchor = (outer - 20, outer - 26, "end") if left else (outer + 20, outer + 26, "start")
    return (
        f'<polyline class="zero" style="fill:none" points="{edge:.1f},{y} {x:.1f},{y} {x:.1f},{AXIS}"/>'
        f'<text style="text-anchor:{anchor}" x="{text:.1f}" y="{y + 4}">{escape(label)}</text>'
    )


def _title(ranking: Ranking) -> str:
    """The diagram in words, for who does not see it."""
    ranks = ", ".join(f"{label} {mean:.2f}" for label, mean in ranking.mean_ranks.items())
    groups = "; ".join(" and ".join(group) for group in ranking.groups) or "none: all pairs are"
    return f"Mean ranks over {ranking.data_sets} data sets, 1 is best: {ranks}. Not told apart: {groups}."
