"""The section on what was looked at beside the metrics: how soon each objective got there, and what the probes found."""

import math
from typing import Any

from lossmith.study.data.shifts import SEVERITIES
from lossmith.study.probed import Difference, Finding, findings
from lossmith.study.report import numbers
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.probes import ATTACKS, PLAIN

FIGURES = 3
"""Significant digits of a number that is no metric."""


def section(summary: Summary) -> dict[str, Any]:
    """Rows of a table with a cell for each objective; corruptions over all severities, and severity by severity below."""
    found = findings(summary.result)
    whole = [one for one in found if "@" not in one.probe]
    return {
        "objectives": summary.result.objectives,
        "rows": [_row(summary, one) for one in whole],
        "severities": [_row(summary, one) for one in found if "@" in one.probe],
    }


def facts(summary: Summary) -> list[dict[str, Any]]:
    """The same as plain values, for JSON; missing numbers and infinite ends are None."""
    return [
        {
            "probe": one.probe,
            "measure": one.measure,
            "objectives": {
                label: {"mean": _plain(one.mean(label)), **_ends(_difference(summary, one, label))} for label in summary.result.objectives
            },
        }
        for one in findings(summary.result)
    ]


def _row(summary: Summary, found: Finding) -> dict[str, Any]:
    cells = []
    for label in summary.result.objectives:
        mean, apart = found.mean(label), _difference(summary, found, label)
        cells.append(
            {"text": _number(found.measure, mean), "value": mean, "difference": "" if apart is None else _apart(found.measure, apart)}
        )
    return {"name": _title(found), "cells": cells}


def _title(found: Finding) -> str:
    name, at, severity = found.probe.partition("@")
    kind, _, radius = name.partition(":")
    if kind in ATTACKS:
        return f"{found.measure} under {kind.upper()} of radius {radius}"
    if name == "training" or kind in PLAIN or name.startswith("ood "):
        where = name.removeprefix("training").replace("ood ", "strange rows, by ")
        return f"{where} {found.measure}".strip().replace("_", " ")
    return f"{name.replace('_', ' ')}{f' at severity {severity}' if at else f', mean of {len(SEVERITIES)} severities'}: {found.measure}"


def _difference(summary: Summary, found: Finding, label: str) -> Difference | None:
    if label == summary.baseline:
        return None
    sizes = summary.sizes
    return found.difference(label, summary.baseline, train_size=sizes.train, test_size=sizes.test, overlap=summary.redrawn)


def _number(measure: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    return numbers.number(METRICS[measure], value) if measure in METRICS else f"{value:.{FIGURES}g}"


def _apart(measure: str, apart: Difference) -> str:
    if math.isnan(apart.mean):
        return ""
    if measure in METRICS:
        said = numbers.difference(METRICS[measure], apart.mean)
        return said if math.isinf(apart.low) else f"{said} {numbers.interval(METRICS[measure], apart.low, apart.high)}"
    if math.isinf(apart.low):
        return f"{apart.mean:+.{FIGURES}g}".replace("-", "−")
    mean, low, high = _alike(apart.mean, apart.low, apart.high)
    return f"{mean} [{low}, {high}]".replace("-", "−")


def _alike(*values: float) -> list[str]:
    """Signed numbers with as many digits behind the point as the largest of them needs; very small ones each by itself."""
    largest = max(map(abs, values))
    digits = max(0, FIGURES - 1 - math.floor(math.log10(largest))) if largest else 0
    return [f"{value:+.{digits}f}" if digits <= 6 else f"{value:+.{FIGURES}g}" for value in values]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ends(apart: Difference | None) -> dict[str, float | None]:
    return {} if apart is None else {"difference": _plain(apart.mean), "low": _plain(apart.low), "high": _plain(apart.high)}
