"""What the page of one study shows, section by section, as plain values for the template."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from lossmith.study import protocol
from lossmith.study.data.splits import MAX_CATEGORIES
from lossmith.study.grid import without_grid
from lossmith.study.report import beside, design, methods, numbers, plots, suspected, winner, words
from lossmith.study.report.command import command
from lossmith.study.report.suspected import Suspects
from lossmith.study.standing import Standing
from lossmith.study.statistics.paired import Comparison
from lossmith.study.summary import Line, Summary
from lossmith.study.training.metrics import METRICS

KINDS = {"better": "good", "worse": "bad", "failed": "bad"}
"""Verdict -> the class that colours it; every other verdict is neutral."""


def study(summary: Summary, suspects: Suspects | None = None) -> dict[str, Any]:
    """All that the template says of a study, with the labels that look wrong where they were looked for."""
    data = summary.result.data
    spec, metric = summary.spec, summary.metric
    stops = (spec.stop, summary.other_stop)
    declared = {line.objective: line for line in summary.lines()}
    other = {line.objective: line for line in summary.lines(stop=summary.other_stop)}
    return {
        "title": protocol.setting(spec, data["name"]),
        "headline": words.headline(summary),
        "findings": [
            {"label": label, "verdict": verdict, "kind": KINDS.get(verdict, "neutral"), "text": text}
            for label, verdict, text in words.findings(summary)
        ],
        "warnings": summary.notes,
        "prospect": None if summary.prospect is None else f"{summary.prospect.sentence} {words.seen(summary)}".rstrip(),
        "chances": _chances(summary),
        "rope": None if summary.rope is None else f"{100 * summary.rope:g}",
        "rule": spec.selection_rule,
        "metric": metric,
        "unit": "%" if numbers.percent(metric) else "",
        "points": "percentage points" if numbers.percent(metric) else metric.title,
        "epochs": {"declared": protocol.EPOCHS[spec.stop], "other": protocol.EPOCHS[summary.other_stop]},
        "values": _values_plot(summary, declared, other),
        "differences": _differences_plot(summary, declared, other),
        "main": [_main_row(summary, declared[label], other[label]) for label in summary.result.objectives],
        "references": [_reference(summary, one) for one in summary.standings],
        "curves": _curves(summary),
        "diagrams": _diagrams(summary),
        "tables": [
            {"stop": stop, "when": protocol.EPOCHS[stop], "declared": stop == spec.stop, "rows": _table(summary, stop)} for stop in stops
        ],
        "metrics": list(METRICS.values()),
        "units": f"{spec.unit}s",
        "clean_validation": spec.clean_validation,
        "tuning": [{"stop": stop, "when": protocol.EPOCHS[stop], "rows": _tuning(summary, stop)} for stop in stops],
        "rates": [f"{rate:g}" for rate in spec.learning_rates or ()],
        "beside": beside.section(summary),
        "suspects": None if suspects is None else suspected.section(suspects),
        "protocol": design.protocol(summary),
        "command": command(without_grid(summary), test=summary.test, noise_report=suspects is not None),
        "limits": design.limits(summary),
        "data": data,
        "classes": _classes(data),
        "max_categories": MAX_CATEGORIES,
        "table": bool(spec.target),
        "baseline": summary.baseline,
        "methods": methods.paragraph(summary),
        "bibtex": methods.bibtex(summary),
        "fingerprint": fingerprint(summary),
        "winner": {"label": winner.winner(summary), "file": winner.FILE, "script": winner.script(summary)},
    }


def fingerprint(summary: Summary) -> str:
    """SHA-256 of every number that the trials gave: equal where two runs of a study found the same."""
    outcomes = [
        (one.objective, one.seed, one.fold, one.stop, sorted(one.configuration.values().items()), one.epoch, sorted(one.metrics.items()))
        for one in summary.result.outcomes
    ]
    return hashlib.sha256(json.dumps(outcomes).encode()).hexdigest()


def _differences(line: Line, baseline: Line) -> tuple[float, ...]:
    """The paired differences, split by split; an objective that was ended early has the first ones only."""
    return tuple(ours - theirs for ours, theirs in zip(line.estimate.values, baseline.estimate.values, strict=False))


def _kind(found: Comparison | None) -> str:
    return "base" if found is None else KINDS.get(found.verdict, "neutral")


def _chances(summary: Summary) -> list[tuple[str, list[tuple[str, float]]]]:
    """By objective, how likely it is worse, equivalent and better: as text and as a number."""
    numbers = summary.chances()
    return [
        (label, list(zip(texts, (numbers[label].worse, numbers[label].equivalent, numbers[label].better), strict=True)))
        for label, texts in words.chances(summary)
    ]


def _when(summary: Summary) -> tuple[str, str]:
    """The two stops, the declared one first."""
    return protocol.EPOCHS[summary.spec.stop], protocol.EPOCHS[summary.other_stop]


def _told(summary: Summary, values: Sequence[float], say: Callable[[float], str]) -> tuple[str, ...]:
    """What the dots of the splits stand for; of an objective that was ended early, the first ones."""
    places = islice(summary.spec.draws.values(), len(values))
    folds = (f"seed {seed}" if fold is None else f"seed {seed}, fold {fold + 1}" for seed, fold in places)
    return tuple(f"{place}: {say(value)}" for place, value in zip(folds, values, strict=True))


def _values_plot(summary: Summary, declared: dict[str, Line], other: dict[str, Line]) -> dict[str, Any]:
    metric = summary.metric
    both = [*declared.values(), *other.values()]
    ends = [end for line in both for end in (line.estimate.low, line.estimate.high, *line.estimate.values)]
    scale = plots.Scale.over(ends, within=(0.0, 1.0) if numbers.percent(metric) else (0.0, float("inf")))
    rows = []
    for label, line in declared.items():
        marks = [
            plots.Mark(
                one.estimate.mean, one.estimate.low, one.estimate.high, one.estimate.values, _kind(line.comparison),
                f"{label} {when}: {numbers.number(metric, one.estimate.mean)} "
                f"{numbers.mean_interval(metric, one.estimate.low, one.estimate.high)}",
                _told(summary, one.estimate.values, partial(numbers.number, metric)),
            )
            for one, when in zip((line, other[label]), _when(summary), strict=True)
        ]  # fmt: skip
        rows.append({"label": label, "text": numbers.number(metric, line.estimate.mean), "plot": plots.dot_row(marks, scale)})
    return {"rows": rows, "axis": plots.dot_axis(scale, plots.tick_labels(scale, metric))}


def _differences_plot(summary: Summary, declared: dict[str, Line], other: dict[str, Line]) -> dict[str, Any]:
    metric, base = summary.metric, summary.baseline
    plotted: list[tuple[str, list[tuple[Comparison, tuple[float, ...]]]]] = []
    for label, line in declared.items():
        both = ((line, declared[base]), (other[label], other[base]))
        found = [(ours.comparison, _differences(ours, theirs)) for ours, theirs in both if ours.comparison is not None]
        if found:
            plotted.append((label, found))
    ends = [0.0, *(end for _, found in plotted for one, seeds in found for end in (*numbers.cut(metric, one.low, one.high), *seeds))]
    scale = plots.Scale.over(ends)
    rows = []
    for label, found in plotted:
        kind = _kind(found[0][0])
        marks = [
            plots.Mark(
                one.mean_difference, *numbers.cut(metric, one.low, one.high), seeds, kind,
                f"{label} {when}: {numbers.difference(metric, one.mean_difference)} {numbers.interval(metric, one.low, one.high)}",
                _told(summary, seeds, partial(numbers.difference, metric)),
            )
            for (one, seeds), when in zip(found, _when(summary), strict=True)
        ]  # fmt: skip
        text = numbers.difference(metric, found[0][0].mean_difference)
        rows.append({"label": label, "text": text, "plot": plots.dot_row(marks, scale, zero=True)})
    return {"rows": rows, "axis": plots.dot_axis(scale, plots.tick_labels(scale, metric, signed=True))}


def _main_row(summary: Summary, line: Line, other: Line) -> dict[str, Any]:
    metric, found = summary.metric, line.comparison
    row = {
        "label": line.objective,
        "value": line.estimate.mean,
        "other_value": other.estimate.mean,
        "difference_value": None if found is None else found.mean_difference,
        "p_value": None if found is None else found.p_adjusted,
        "mean": numbers.number(metric, line.estimate.mean),
        "interval": numbers.mean_interval(metric, line.estimate.low, line.estimate.high),
        "missing": line.estimate.missing,
        "kind": _kind(found),
        "other_mean": numbers.number(metric, other.estimate.mean),
        "other_interval": numbers.mean_interval(metric, other.estimate.low, other.estimate.high),
        "verdict": "baseline",
        "difference": "",
        "difference_interval": "",
        "p": "",
    }
    if found is not None:
        row |= {
            "verdict": found.verdict,
            "difference": numbers.difference(metric, found.mean_difference),
            "difference_interval": numbers.interval(metric, found.low, found.high),
            "p": numbers.p_value(found.p_adjusted),
        }
    return row


def _reference(summary: Summary, standing: Standing) -> dict[str, Any]:
    metric, found = summary.metric, standing.comparison
    return {
        "name": standing.name,
        "value": standing.mean,
        "difference_value": found.mean_difference,
        "mean": numbers.number(metric, standing.mean),
        "difference": numbers.difference(metric, found.mean_difference),
        "interval": numbers.interval(metric, found.low, found.high),
        "best": standing.best,
    }


def _curves(summary: Summary) -> list[dict[str, Any]]:
    result, metric = summary.result, summary.metric
    every = {label: result.curves(label) for label in result.objectives}
    scale = plots.curve_scale(every.values(), metric)
    found = []
    for label, curves in every.items():
        best = [outcome.epoch for outcome in result.over(label, "best")]
        baseline = None if label == summary.baseline else every[summary.baseline]
        found.append({"label": label, "plot": plots.learning_curves(label, curves, baseline, best, metric, scale)})
    return found


def _diagrams(summary: Summary) -> list[dict[str, Any]]:
    ece = {line.objective: line.estimate for line in summary.lines("ece")}
    return [
        {
            "label": label,
            "plot": plots.reliability(label, summary.result.reliability(label)),
            "ece": numbers.number(METRICS["ece"], ece[label].mean),
            "how": "after temperature scaling on validation" if ece[label].scaled else "raw probabilities",
        }
        for label in summary.result.objectives
    ]


def _table(summary: Summary, stop: str) -> list[dict[str, Any]]:
    """All metrics of every objective at one stop."""
    by_metric = {name: {line.objective: line for line in summary.lines(name, stop)} for name in METRICS}
    rows = []
    for label in summary.result.objectives:
        cells = []
        for name, metric in METRICS.items():
            line = by_metric[name][label]
            found = line.comparison
            cells.append(
                {
                    "value": line.estimate.mean,
                    "mean": numbers.number(metric, line.estimate.mean),
                    "interval": numbers.mean_interval(metric, line.estimate.low, line.estimate.high),
                    "difference": "" if found is None else numbers.difference(metric, found.mean_difference),
                    "difference_interval": "" if found is None else numbers.interval(metric, found.low, found.high),
                    "scaled": line.estimate.scaled,
                    "declared": (name, stop) == (summary.spec.metric, summary.spec.stop),
                }
            )
        rows.append({"label": label, "cells": cells})
    return rows


def _tuning(summary: Summary, stop: str) -> list[dict[str, Any]]:
    rows = []
    for label in summary.result.objectives:
        outcomes = summary.result.over(label, stop)
        chosen = sorted(outcome.epoch for outcome in outcomes)
        counts = summary.rates(label, stop)
        edge = summary.at_edge(label, stop)
        rows.append(
            {
                "label": label,
                "counts": list(counts.values()),
                "chosen": "" if counts else design.chosen(summary, label, stop),
                "median_epoch": chosen[len(chosen) // 2],
                "epochs": f"{chosen[0]} to {chosen[-1]}" if chosen[0] != chosen[-1] else str(chosen[0]),
                "edge": f"{edge} of {len(outcomes)} {summary.spec.unit}s at the edge" if edge else "",
                "warn": 2 * edge > len(outcomes),
            }
        )
    return rows


def _classes(data: Any, most: int = 30) -> dict[str, Any]:
    """The class sizes as bars, the first of many."""
    pairs = list(zip(data["classes"], data["class_counts"], strict=True))
    largest = max(count for _, count in pairs)
    rows = [{"name": name, "count": count, "share": f"{100 * count / largest:.1f}"} for name, count in pairs[:most]]
    return {"rows": rows, "more": max(0, len(pairs) - most)}
