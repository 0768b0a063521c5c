"""What the page of several studies shows, section by section, as plain values for the template."""

from collections.abc import Sequence
from typing import Any, get_args

from lossmith.study import protocol
from lossmith.study.across import AcrossComparison, Population, what_is_claimed
from lossmith.study.grid import GridSummary
from lossmith.study.report import design, methods, numbers, plots, sections, words_across
from lossmith.study.report.command import command
from lossmith.study.report.rank_diagram import rank_diagram
from lossmith.study.statistics.paired import Comparison
from lossmith.study.summary import Summary

MARKS = {"better": "▲ ", "worse": "▼ "}
"""Beside the colour, for who does not see it."""

MOST_FINDINGS = 8
"""Findings told in sentences; what is not better or worse stands in the tables then."""


def grid(found: GridSummary) -> dict[str, Any]:
    """All that the template says of several studies."""
    first = found.first
    told = words_across.of_grid(found)
    decided = [one for one in told if one[1] in ("better", "worse", "failed")]
    return {
        "title": words_across.title(found),
        "headline": words_across.grid_headline(found),
        "claimed": _claimed(found),
        "findings": [
            {"verdict": verdict, "kind": sections.KINDS.get(verdict, "neutral"), "text": text}
            for _, verdict, text in (told if len(told) <= MOST_FINDINGS else decided)
        ],
        "warnings": found.notes,
        "several": len(found.tables) > 1,
        "populations": [_population(found, population) for population in _populations(found)],
        "each": _each(found),
        "ranks": [
            {"title": _setting(found, table.setting), "diagram": rank_diagram(ranking), "text": words_across.told_apart(ranking)}
            for table, ranking in found.rankings()
        ],
        "limits": words_across.limits(found),
        "protocol": _protocol(found),
        "command": command(first.spec, target=_target(found), test=first.test, claim=found.claim),
        "methods": methods.paragraph(found),
        "bibtex": methods.bibtex(found),
        "studies": [
            {**sections.study(one), "title": protocol.setting(one.spec, one.result.data["name"]), "short": _short(one)}
            for one in found.summaries
        ],
    }  # fmt: skip


def _populations(found: GridSummary) -> list[Population]:
    """The claims over data sets, the declared one first; none where there is one data set or one objective."""
    if len(found.data_sets) < 2 or len(found.objectives) < 2:
        return []
    return sorted(get_args(Population), key=lambda one: one != found.claim)


def _claimed(found: GridSummary) -> str:
    if found.claim == "each":
        return (
            "The claims are about each data set by itself, adjusted over all of them: about new rows like theirs and new initial weights."
        )
    return what_is_claimed(found.claim, found.data_sets)


def _population(found: GridSummary, population: Population) -> dict[str, Any]:
    compared = found.across(population)
    declared = found.claim == population
    return {
        "title": {"these": "On average over these data sets", "alike": "On data sets like these"}[population],
        "declared": declared,
        "note": words_across.what_over(found, population, declared=declared),
        "rows": [_row(found, one) for one in compared],
        "plots": _plots(found, compared) if population == "these" else [],
    }


def _row(found: GridSummary, one: AcrossComparison) -> dict[str, Any]:
    return {
        "label": one.objective,
        "setting": one.setting or "without noise",
        "value": one.mean_difference,
        "difference": numbers.difference(found.metric, one.mean_difference),
        "interval": numbers.interval(found.metric, one.low, one.high),
        "better_on": one.better_on,
        "worse_on": one.worse_on,
        "p_value": one.p_adjusted,
        "p": numbers.p_value(one.p_adjusted),
        "verdict": one.verdict,
        "kind": sections.KINDS.get(one.verdict, "neutral"),
    }


def _plots(found: GridSummary, compared: Sequence[AcrossComparison]) -> list[dict[str, Any]]:
    """For each setting the mean differences with their intervals, and the data sets as dots."""
    metric = found.metric
    ends = [0.0, *(end for one in compared for end in (*numbers.cut(metric, one.low, one.high), *one.differences.values()))]
    scale = plots.Scale.over(ends)
    axis = plots.dot_axis(scale, plots.tick_labels(scale, metric, signed=True))
    drawn = []
    for setting in dict.fromkeys(one.setting for one in compared):
        rows = []
        for one in (one for one in compared if one.setting == setting):
            kind = sections.KINDS.get(one.verdict, "neutral") if found.claim == "these" else "neutral"
            text = f"{one.objective}: {numbers.difference(metric, one.mean_difference)} {numbers.interval(metric, one.low, one.high)}"
            told = tuple(f"{name}: {numbers.difference(metric, value)}" for name, value in one.differences.items())
            shown = numbers.cut(metric, one.low, one.high)
            mark = plots.Mark(one.mean_difference, *shown, tuple(one.differences.values()), kind, text, told)
            rows.append(
                {
                    "label": one.objective,
                    "text": numbers.difference(metric, one.mean_difference),
                    "plot": plots.dot_row([mark], scale, zero=True),
                }
            )
        unit = "percentage points" if numbers.percent(metric) else metric.title
        note = f"Objective less {found.baseline}, in {unit}; small dots are data sets."
        drawn.append({"title": _setting(found, setting), "plot": {"rows": rows, "axis": axis}, "note": note})
    return drawn


def _setting(found: GridSummary, setting: str) -> str:
    """The heading of what belongs to one setting; none where there is only one."""
    return setting or ("without noise" if len(found.tables) > 1 else "")


def _each(found: GridSummary) -> dict[str, Any]:
    declared = found.claim == "each"
    by_place = {(id(summary), one.objective): one for summary, one in found.each}
    matrices = []
    for table, studies in found.settings:
        rows = [
            {"label": label, "cells": [_cell(found, by_place[id(one), label], declared) for one in studies]}
            for label in found.objectives[1:]
        ]
        matrices.append({"title": _setting(found, table.setting), "names": [one.result.data["name"] for one in studies], "rows": rows})
    return {"declared": declared, "note": words_across.what_each(found), "matrices": matrices if len(found.objectives) > 1 else []}


def _cell(found: GridSummary, one: Comparison, declared: bool) -> dict[str, Any]:
    return {
        "value": one.mean_difference,
        "text": numbers.difference(found.metric, one.mean_difference),
        "interval": numbers.interval(found.metric, one.low, one.high),
        "kind": sections.KINDS.get(one.verdict, "") if declared else "",
        "mark": MARKS.get(one.verdict, "") if declared else "",
        "p": f"p {numbers.p_value(one.p_adjusted)}" if declared else "",
    }


def _protocol(found: GridSummary) -> list[tuple[str, str]]:
    """What all studies have in common; what is each one's own stands with it."""
    own = ("data", "split", "label noise", "trials", "test")
    shared = [(name, value) for name, value in design.protocol(found.first) if name not in own]
    computed = sum(float(record.get("seconds") or 0) for one in found.summaries for record in one.result.trials.values())
    return [
        ("data", protocol.listing(found.data_sets)),
        ("settings", protocol.listing([table.setting or "as in the data" for table in found.tables])),
        ("trials", f"{found.trials} in {words_across.studies(found)}, {numbers.duration(computed)} of computing in all"),
        *shared,
    ]


def _short(summary: Summary) -> str:
    """The best objective of a study, in a few words."""
    sign = 1 if summary.metric.higher_is_better else -1
    lines = [line for line in summary.lines() if line.estimate.missing == 0]
    if not lines:
        return "every objective has a failed trial"
    best = max(lines, key=lambda line: sign * line.estimate.mean)
    return f"{best.objective} has the best mean {summary.metric.title}, {numbers.number(summary.metric, best.estimate.mean)}"


def _target(found: GridSummary) -> str | None:
    """The column that the tables among the data predict."""
    return next((one.spec.target for one in found.summaries if one.spec.target is not None), None)
