"""The report: one HTML file that opens offline, on a phone too, with the plain-words summary first.

Everything that comes from data or from the command line (class names, columns, file names, labels) is escaped by the template engine.
"""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import lossmith
from lossmith.study.budget import time_text
from lossmith.study.data.splits import MAX_CATEGORIES
from lossmith.study.errors import StudyError
from lossmith.study.report import plots, words
from lossmith.study.spec import CONFIGURATIONS, LEARNING_RATES, StudySpec
from lossmith.study.standing import Standing
from lossmith.study.statistics.paired import Comparison
from lossmith.study.summary import Line, Summary
from lossmith.study.training.metrics import METRICS

FILE = "report.html"

KINDS = {"better": "good", "worse": "bad", "failed": "bad"}
"""Verdict -> the class that colours it; every other verdict is neutral."""


def write_report(summary: Summary, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a folder, made when absent, and return its path.

    The file is written beside its place and then moved there, so that a full disk or an interruption leaves the old report whole.
    """
    path = Path(folder) / FILE
    text = render(summary)
    partial = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise StudyError(f"the report cannot be written to {path.parent}: {error.strerror or error}") from error
    return path


def render(summary: Summary) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossmith.study.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = _label
    text = environment.get_template("report.html.j2").render(_context(summary))
    return text.replace(" %", "\u00a0%")


def _label(text: str) -> Markup:
    """A label that may be broken after an underscore or a punctuation mark, where a narrow column needs it."""
    return Markup(re.sub(r"([_:,]|\.(?=\D))", r"\1<wbr>", str(escape(text))))


def command(spec: StudySpec) -> str | None:
    """The command line that runs this study; None when the data was an object of somebody's program."""
    if not isinstance(spec.data, str):
        return None
    parts = ["lossmith", "compare", "--data", spec.data, "--objectives", ",".join(objective.label for objective in spec.objectives)]
    given: list[tuple[str, Any, Any]] = [
        ("--target", spec.target, None),
        ("--model", spec.model, "mlp"),
        ("--noise", None if spec.noise is None else f"{spec.noise.kind}:{spec.noise.rate:g}", None),
        ("--imbalance", None if spec.imbalance is None else f"{spec.imbalance:g}", None),
        ("--metric", spec.metric, "accuracy"),
        ("--stop", spec.stop, "last"),
        ("--epochs", spec.epochs, StudySpec.epochs),
        ("--batch-size", spec.batch_size, StudySpec.batch_size),
        ("--tuner", spec.tuner, "grid" if spec.learning_rates not in (None, LEARNING_RATES) else "quasi_random"),
        ("--configurations", spec.configurations, CONFIGURATIONS),
        ("--learning-rates", _listed(spec.learning_rates), _listed(LEARNING_RATES)),
        ("--learning-rate-range", _listed(spec.learning_rate_range), _listed(StudySpec.learning_rate_range)),
        ("--validation-fraction", spec.validation, StudySpec.validation),
        ("--test-fraction", spec.test, StudySpec.test),
        ("--folds", spec.folds, None),
        ("--group", spec.group, None),
        ("--split-column", spec.split_column, None),
        ("--clean-target", spec.clean_target, None),
        ("--time", None if spec.time is None else time_text(spec.time), None),
        ("--holdout", spec.holdout, StudySpec.holdout),
        ("--duplicates", spec.duplicates, StudySpec.duplicates),
    ]
    for name, value, default in given:
        if value is not None and value != default:
            parts += [name, str(value)]
    parts += [] if spec.references else ["--no-references"]
    parts += ["--clean-validation"] if spec.clean_validation else []
    parts += ["--tune-once"] if spec.tune_once else []
    parts += ["--stop-hopeless"] if spec.stop_hopeless else []
    seeds = spec.planned_seeds or spec.seeds
    counted = seeds == tuple(range(len(seeds)))
    parts += ["--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    return shlex.join(parts)


def _listed(numbers: Sequence[float] | None) -> str | None:
    return None if numbers is None else ",".join(f"{number:g}" for number in numbers)


def _context(summary: Summary) -> dict[str, Any]:
    data = summary.result.data
    spec, metric = summary.spec, summary.metric
    stops = (spec.stop, summary.other_stop)
    declared = {line.objective: line for line in summary.lines()}
    other = {line.objective: line for line in summary.lines(stop=summary.other_stop)}
    return {
        "version": lossmith.__version__,
        "title": words.setting(spec, data["name"]),
        "headline": words.headline(summary),
        "findings": [
            {"label": label, "verdict": verdict, "kind": KINDS.get(verdict, "neutral"), "text": text}
            for label, verdict, text in words.findings(summary)
        ],
        "warnings": summary.notes,
        "prospect": None if summary.prospect is None else f"{summary.prospect.sentence} {words.seen(summary)}".rstrip(),
        "chances": words.chances(summary),
        "rope": None if summary.rope is None else f"{100 * summary.rope:g}",
        "rule": spec.selection_rule,
        "metric": metric,
        "unit": "%" if words.percent(metric) else "",
        "points": "percentage points" if words.percent(metric) else metric.title,
        "epochs": {"declared": words.EPOCHS[spec.stop], "other": words.EPOCHS[summary.other_stop]},
        "values": _values_plot(summary, declared, other),
        "differences": _differences_plot(summary, declared, other),
        "main": [_main_row(summary, declared[label], other[label]) for label in summary.result.objectives],
        "references": [_reference(summary, one) for one in summary.standings],
        "curves": _curves(summary),
        "diagrams": _diagrams(summary),
        "tables": [
            {"stop": stop, "when": words.EPOCHS[stop], "declared": stop == spec.stop, "rows": _table(summary, stop)} for stop in stops
        ],
        "metrics": list(METRICS.values()),
        "units": f"{spec.unit}s",
        "clean_validation": spec.clean_validation,
        "tuning": [{"stop": stop, "when": words.EPOCHS[stop], "rows": _tuning(summary, stop)} for stop in stops],
        "rates": [f"{rate:g}" for rate in spec.learning_rates or ()],
        "protocol": words.protocol(summary),
        "command": command(spec),
        "limits": words.limits(summary),
        "data": data,
        "classes": _classes(data),
        "max_categories": MAX_CATEGORIES,
        "table": bool(spec.target),
        "baseline": summary.baseline,
    }


def _differences(line: Line, baseline: Line) -> tuple[float, ...]:
    """The paired differences, split by split; an objective that was ended early has the first ones only."""
    return tuple(ours - theirs for ours, theirs in zip(line.estimate.values, baseline.estimate.values, strict=False))


def _kind(found: Comparison | None) -> str:
    return "base" if found is None else KINDS.get(found.verdict, "neutral")


def _values_plot(summary: Summary, declared: dict[str, Line], other: dict[str, Line]) -> dict[str, Any]:
    metric = summary.metric
    both = [*declared.values(), *other.values()]
    ends = [end for line in both for end in (line.estimate.low, line.estimate.high, *line.estimate.values)]
    scale = plots.Scale.over(ends, within=(0.0, 1.0) if words.percent(metric) else (0.0, float("inf")))
    rows = []
    for label, line in declared.items():
        marks = [
            plots.Mark(one.estimate.mean, one.estimate.low, one.estimate.high, one.estimate.values, _kind(line.comparison))
            for one in (line, other[label])
        ]
        rows.append({"label": label, "text": words.number(metric, line.estimate.mean), "plot": plots.dot_row(marks, scale)})
    return {"rows": rows, "axis": plots.dot_axis(scale, plots.tick_labels(scale, metric))}


def _differences_plot(summary: Summary, declared: dict[str, Line], other: dict[str, Line]) -> dict[str, Any]:
    metric, base = summary.metric, summary.baseline
    plotted: list[tuple[str, list[tuple[Comparison, tuple[float, ...]]]]] = []
    for label, line in declared.items():
        both = ((line, declared[base]), (other[label], other[base]))
        found = [(ours.comparison, _differences(ours, theirs)) for ours, theirs in both if ours.comparison is not None]
        if found:
            plotted.append((label, found))
    ends = [0.0, *(end for _, found in plotted for one, seeds in found for end in (one.low, one.high, *seeds))]
    scale = plots.Scale.over(ends)
    rows = []
    for label, found in plotted:
        kind = _kind(found[0][0])
        marks = [plots.Mark(one.mean_difference, one.low, one.high, seeds, kind) for one, seeds in found]
        text = words.difference(metric, found[0][0].mean_difference)
        rows.append({"label": label, "text": text, "plot": plots.dot_row(marks, scale, zero=True)})
    return {"rows": rows, "axis": plots.dot_axis(scale, plots.tick_labels(scale, metric, signed=True))}


def _main_row(summary: Summary, line: Line, other: Line) -> dict[str, Any]:
    metric, found = summary.metric, line.comparison
    row = {
        "label": line.objective,
        "mean": words.number(metric, line.estimate.mean),
        "interval": words.mean_interval(metric, line.estimate.low, line.estimate.high),
        "missing": line.estimate.missing,
        "kind": _kind(found),
        "other_mean": words.number(metric, other.estimate.mean),
        "other_interval": words.mean_interval(metric, other.estimate.low, other.estimate.high),
        "verdict": "baseline",
        "difference": "",
        "difference_interval": "",
        "p": "",
    }
    if found is not None:
        row |= {
            "verdict": found.verdict,
            "difference": words.difference(metric, found.mean_difference),
            "difference_interval": words.interval(metric, found.low, found.high),
            "p": words.p_value(found.p_adjusted),
        }
    return row


def _reference(summary: Summary, standing: Standing) -> dict[str, Any]:
    metric, found = summary.metric, standing.comparison
    return {
        "name": standing.name,
        "mean": words.number(metric, standing.mean),
        "difference": words.difference(metric, found.mean_difference),
        "interval": words.interval(metric, found.low, found.high),
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
            "ece": words.number(METRICS["ece"], ece[label].mean),
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
                    "mean": words.number(metric, line.estimate.mean),
                    "interval": words.mean_interval(metric, line.estimate.low, line.estimate.high),
                    "difference": "" if found is None else words.difference(metric, found.mean_difference),
                    "difference_interval": "" if found is None else words.interval(metric, found.low, found.high),
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
                "chosen": "" if counts else words.chosen(summary, label, stop),
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
