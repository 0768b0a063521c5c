"""What a study found in plain words: the sentences that a report begins with."""

import math

import numpy as np

from lossmith.study.protocol import EPOCHS, scope, setting
from lossmith.study.report.numbers import ends, number, p_equals, points, signed
from lossmith.study.statistics.power import count
from lossmith.study.summary import Line, Summary
from lossmith.study.training.metrics import METRICS

ORDER = ("better", "worse", "no difference shown", "hopeless", "tied", "failed", "not tested")
"""Verdicts as a summary lists them."""


def headline(summary: Summary) -> str:
    """The whole study in a sentence, after one that says so where a reference outside the comparison is ahead of every objective."""
    return f"{_outdone(summary)} {_compared(summary)}".lstrip()


def _outdone(summary: Summary) -> str:
    if not summary.standings or not summary.standings[0].ahead:
        return ""
    first, metric = summary.standings[0], summary.metric
    verb = "does better than" if first.surely else "is ahead of"
    known = math.isfinite(first.comparison.low)
    tail = ", which leaves no difference possible" if known and not first.surely else ""
    bounds = f"{ends(metric, first.comparison.low, first.comparison.high)}{tail}"
    return (
        f"{first.name[0].upper()}{first.name[1:]}, a reference outside the comparison, {verb} every objective here: "
        f"{number(metric, first.mean)} {metric.title} against {number(metric, first.best_mean)} for {first.best}, the best of them "
        f"(difference {signed(metric, first.comparison.mean_difference)}, {bounds})."
    )


def _compared(summary: Summary) -> str:
    where = f"On {setting(summary.spec, summary.result.data['name'])}, {EPOCHS[summary.spec.stop]}"
    compared = {line.objective: line.comparison.verdict for line in summary.lines() if line.comparison}
    verdicts = list(compared.values())
    if not verdicts:
        line = summary.lines()[0]
        reached = number(summary.metric, line.estimate.mean)
        return f"{where}, {line.objective} reaches {reached} {summary.metric.title}.{scope(summary.spec)}"
    of = len(verdicts) if len(verdicts) > 1 else next(iter(compared))
    said = []
    for verdict in ORDER:
        if n := verdicts.count(verdict):
            who = _count(n, of)
            told = {
                "no difference shown": f"for {who} no difference is shown",
                "hopeless": f"{who} {'was' if n == 1 else 'were'} ended early as hopeless",
                "tied": f"{who} {'is' if n == 1 else 'are'} tied on every {summary.spec.unit}",
                "failed": f"{who} could not be compared",
            }
            said.append(told.get(verdict, f"{who} {'is' if n == 1 else 'are'} {verdict}"))
    none = "" if "better" in verdicts or len(verdicts) == 1 else f" None of these is shown to beat {summary.baseline} here."
    return f"{where}, compared with {summary.baseline} in {summary.metric.title}: {', '.join(said)}.{none}{scope(summary.spec)}"


def findings(summary: Summary) -> list[tuple[str, str, str]]:
    """For each objective but the baseline, the winners first: its label, its verdict, and what was found, in a sentence or two."""
    other = {line.objective: line for line in summary.lines(stop=summary.other_stop)}
    found = [
        (line.objective, line.comparison.verdict, f"{_finding(summary, line)} {_elsewhere(summary, other[line.objective])}".rstrip())
        for line in summary.lines()
        if line.comparison is not None
    ]
    return sorted(found, key=lambda one: ORDER.index(one[1]))


def _finding(summary: Summary, line: Line) -> str:
    metric, found = summary.metric, line.comparison
    assert found is not None
    where, name, base = EPOCHS[summary.spec.stop], line.objective, summary.baseline
    if found.verdict == "tied":
        return f"{name} and {base} reach the same {metric.title} on every {summary.spec.unit} {where}{_beyond(summary, name)}."
    if found.verdict == "failed":
        return f"{name} could not be compared with {base}: {found.note}."
    bounds = ends(metric, found.low, found.high)
    evidence = f"({bounds}, adjusted p {p_equals(found.p_adjusted)})"
    size = points(metric, abs(found.mean_difference))
    if found.verdict == "hopeless":
        return (
            f"{name} was ended after {count(found.n, summary.spec.unit)}: the advantage over {base} that the study was to find is "
            f"excluded. The difference until then is {signed(metric, found.mean_difference)} ({bounds}, which holds whenever one stops)."
        )
    if found.verdict in ("better", "worse"):
        verb = "beats" if found.verdict == "better" else "loses to"
        said = f"{name} {verb} {base} {where} by {size} {evidence}."
    else:
        said = f"No difference between {name} and {base} is shown {where}: {signed(metric, found.mean_difference)} {evidence}."
        if found.low > 0 or found.high < 0:
            said += " The interval, taken alone, leaves out 0; counted among all the comparisons made, that is too little."
    return said + (f" Note: {found.note}." if found.note else "")


def _beyond(summary: Summary, label: str) -> str:
    """What the other metrics say of an objective that is tied with the baseline in the declared one: the same numbers need not be the same
    predictions."""
    ours, theirs = (
        np.array([[one.metrics[name] for name in METRICS] for one in summary.result.over(which)]) for which in (label, summary.baseline)
    )
    alike = np.isclose(ours, theirs[: len(ours)], rtol=1e-12, atol=0, equal_nan=True).all()
    return ", and the same in every other metric" if alike else "; in other metrics they differ"


def _elsewhere(summary: Summary, line: Line) -> str:
    """The same at the other stop, which was not declared and so gets no verdict."""
    metric, found, where = summary.metric, line.comparison, EPOCHS[summary.other_stop]
    assert found is not None
    if not math.isfinite(found.low):
        return ""
    if found.low == found.high == 0:
        return f"{where[0].upper()}{where[1:]} there is no difference on any {summary.spec.unit}."
    apart = f"{signed(metric, found.mean_difference)} ({ends(metric, found.low, found.high)}; not tested)"
    return f"{where[0].upper()}{where[1:]} the difference is {apart}."


def _count(n: int, of: int | str) -> str:
    """``2 of 4``, ``both``, ``all 4``; the only objective there is by its name."""
    if isinstance(of, str):
        return of
    if n < of:
        return f"{n} of {of}"
    return "both" if of == 2 else f"all {of}"


def seen(summary: Summary) -> str:
    """The smallest difference that would have been found, in the metric's unit, by the spread that was seen; empty where there is none."""
    spreads = sorted(
        line.comparison.standard_deviation
        for line in summary.lines()
        if line.comparison is not None and line.comparison.standard_deviation > 0
    )
    if summary.prospect is None or not spreads or not math.isfinite(summary.prospect.smallest_effect):
        return ""
    low, high = (points(summary.metric, summary.prospect.in_units(spread)) for spread in (spreads[0], spreads[-1]))
    between = low if low == high else f"{low} to {high}"
    deviations = f"{summary.prospect.smallest_effect:.1f} deviations"
    return f"By the spread seen here, {deviations} are {between}: smaller differences may well have been missed."


def chances(summary: Summary) -> list[tuple[str, tuple[str, str, str]]]:
    """For each objective the posterior probabilities, in percent, that it is worse, equivalent and better; none where no rope is set."""
    return [(label, (_chance(found.worse), _chance(found.equivalent), _chance(found.better))) for label, found in summary.chances().items()]


def _chance(probability: float) -> str:
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 else f"{100 * probability:.0f} %"
