"""What the probes of a study found, objective by objective: means over the splits, and differences to the baseline with their intervals.

None of this was declared beforehand, and none of it is tested.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossmith.study.data.shifts import SEVERITIES
from lossmith.study.results import StudyResult
from lossmith.study.statistics.paired import corrected_t
from lossmith.study.training.metrics import METRICS

SHARE = 0.95
"""Of the best value that an objective reaches, how much counts as nearly there."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One number that a probe gives.

    Attributes:
        probe: its name; a corruption over all severities without one.
        measure: which of its numbers.
        values: objective -> its values, one a split; NaN where there is none.
    """

    probe: str
    measure: str
    values: Mapping[str, NDArray[np.float64]]

    def mean(self, label: str) -> float:
        """Over the splits that have a value; NaN without any."""
        known = self.values[label][np.isfinite(self.values[label])]
        return float(known.mean()) if len(known) else math.nan

    def difference(self, label: str, baseline: str, *, train_size: int, test_size: int, overlap: bool, alpha: float = 0.05) -> "Difference":
        """The mean paired difference to the baseline and its interval, on the splits where both have a value."""
        paired = self.values[label] - self.values[baseline]
        paired = paired[np.isfinite(paired)]
        if len(paired) < 2:
            return Difference(float(paired.mean()) if len(paired) else math.nan, -math.inf, math.inf)
        if np.ptp(paired) == 0:
            return Difference(float(paired[0]), float(paired[0]), float(paired[0]))
        _, low, high, _ = corrected_t(paired, train_size=train_size, test_size=test_size, alpha=alpha, overlap=overlap)
        return Difference(float(paired.mean()), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """A mean paired difference and its interval, infinite where nothing can be said."""

    mean: float
    low: float
    high: float


def findings(result: StudyResult, stop: str | None = None) -> list[Finding]:
    """All that was found with the configurations chosen, at the study's stop unless said otherwise; the epochs it took come first."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    splits = range(len(result.spec.draws))
    for label in result.objectives:
        for i, draw in enumerate(list(result.spec.draws)[: result.ended.get(label)]):
            if result.outcome(label, draw, stop).status != "ok":
                continue  # what a run had before it diverged is no result, here as in every metric
            record = result.chosen(label, draw, stop)
            here = {("training", f"epochs to {100 * SHARE:g} % of the best"): _epochs(record, result.spec.metric)}
            for probe, numbers in record.get(stop or result.spec.stop, {}).get("probes", {}).items():
                here |= {(probe, measure): value for measure, value in numbers.items()}
            for place, value in (here | _over_severities(here)).items():
                values = found.setdefault(place, {one: [math.nan for _ in splits] for one in result.objectives})
                values[label][i] = math.nan if value is None else value
    return [Finding(*place, {label: np.array(row) for label, row in values.items()}) for place, values in found.items()]


def _over_severities(here: Mapping[tuple[str, str], float | None]) -> dict[tuple[str, str], float | None]:
    """The mean of a corruption over its severities."""
    together: dict[tuple[str, str], list[float | None]] = {}
    for (probe, measure), value in here.items():
        name, at, _ = probe.partition("@")
        if at:
            together.setdefault((name, measure), []).append(value)
    return {
        place: None if None in values or len(values) < len(SEVERITIES) else math.fsum(v for v in values if v is not None) / len(values)
        for place, values in together.items()
    }


def _epochs(record: Mapping[str, object], metric: str) -> float | None:
    """The first epoch at which the primary metric on validation rows was nearly as good as it ever was."""
    epochs = record["epochs"]
    assert isinstance(epochs, list)
    known = [(entry["epoch"], entry["val"][metric]) for entry in epochs if entry["val"][metric] is not None]
    if not known:
        return None
    if METRICS[metric].higher_is_better:
        best = max(value for _, value in known)
        return float(next(epoch for epoch, value in known if value >= SHARE * best))
    best = min(value for _, value in known)
    return float(next(epoch for epoch, value in known if value * SHARE <= best))
