"""What a finished study says: means with intervals, differences to the baseline, and which of them are tested.

One metric at one stop was declared before the run, and it alone gets p-values and verdicts. Every other number gets an interval and no
verdict. Words are put to all this in :mod:`lossmith.study.report.words`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from lossmith.study import bounds
from lossmith.study.protocol import fitting_test, time_note
from lossmith.study.results import Outcome, StudyResult
from lossmith.study.sizes import Sizes
from lossmith.study.spec import StudySpec
from lossmith.study.standing import Standing, standings
from lossmith.study.statistics.bayes import Chances, correlated_t
from lossmith.study.statistics.paired import Comparison, Test, compare, corrected_t, rounded
from lossmith.study.statistics.power import Prospect, what_can_be_shown
from lossmith.study.training.metrics import METRICS, Metric

ALPHA = 0.05
"""The share of studies in which a false winner is acceptable, and one less the level of every interval."""


ROPE = 0.01
"""A difference this small matters to nobody, unless said otherwise: one point of what is measured in percent."""


def prospect(spec: StudySpec, rows: Sizes, test: Test = "corrected_t") -> Prospect | None:
    """What the study can show; None when there is nothing to compare."""
    if len(spec.objectives) < 2:
        return None
    shown = what_can_be_shown(
        len(spec.draws), len(spec.objectives) - 1, rows.train, rows.test, ALPHA, test=test, stop_hopeless=spec.stop_hopeless is not None
    )
    return replace(shown, unit=spec.unit)


@dataclass(frozen=True)
class Estimate:
    """A metric of one objective over the seeds.

    Attributes:
        values: one a seed; NaN where every learning rate diverged or the metric is not defined.
        mean: over the seeds that have a value; NaN without any.
        low, high: its interval, infinite where nothing can be said.
        scaled: whether the probabilities were taken after temperature scaling.
    """

    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    scaled: bool

    @property
    def missing(self) -> int:
        """Seeds without a value."""
        return sum(not math.isfinite(value) for value in self.values)


@dataclass(frozen=True)
class Line:
    """One objective in one metric at one stop: its estimate, and its comparison with the baseline (None for the baseline itself)."""

    objective: str
    estimate: Estimate
    comparison: Comparison | None


@dataclass(frozen=True, eq=False)
class Summary:
    """A study's results with their statistics.

    Attributes:
        result: the study.
        test: how differences are tested; ``paired_t`` takes the place of ``corrected_t`` where all seeds share one split.
        stopped: for each objective that was ended early as hopeless, how many of the seeds, the first ones, it was run on; those that the
            study itself ended are added.
    """

    result: StudyResult
    test: Test = "corrected_t"
    stopped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "test", fitting_test(self.result.spec, self.test))
        object.__setattr__(self, "stopped", {**self.result.ended, **self.stopped})

    @property
    def spec(self) -> StudySpec:
        return self.result.spec

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return METRICS[self.spec.metric]

    @property
    def baseline(self) -> str:
        return self.result.objectives[0]

    @property
    def other_stop(self) -> str:
        """The stop that was not declared."""
        return "best" if self.spec.stop == "last" else "last"

    @property
    def redrawn(self) -> bool:
        """Whether seeds redraw the split, so that their rows overlap."""
        return self.spec.split_column is None

    @cached_property
    def sizes(self) -> Sizes:
        rows = (record["rows"] for record in self.result.trials.values())
        return Sizes.mean((row["train"], row["validation"], row["test"]) for row in rows)

    @cached_property
    def prospect(self) -> Prospect | None:
        return prospect(self.spec, self.sizes, self.test)

    @property
    def notes(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        return [*time_note(self.spec, self.prospect), *self.result.notes]

    @cached_property
    def standings(self) -> list[Standing]:
        """The references beside the best objective, the best reference first."""
        name, rows = self.spec.metric, self.sizes
        values = {label: self._values(label, name, self.spec.stop) for label in self.result.objectives if label not in self.stopped}
        return standings(
            self.result.references, values, name, train_size=rows.train, test_size=rows.test, alpha=ALPHA, test=self.test
        )  # fmt: skip

    def lines(self, metric: str | None = None, stop: str | None = None) -> list[Line]:
        """Every objective in one metric at one stop, the baseline first; the primary metric at the declared stop unless said otherwise."""
        name, where = metric or self.spec.metric, stop or self.spec.stop
        values = {label: tuple(self._values(label, name, where)) for label in self.result.objectives}
        primary = (name, where) == (self.spec.metric, self.spec.stop)
        compared: dict[str, Comparison] = {}
        if len(values) > 1:
            found = compare(
                values, self.baseline, name, train_size=self.sizes.train, test_size=self.sizes.test, alpha=ALPHA, test=self.test,
                primary=primary, stopped=self.stopped,
            )  # fmt: skip
            compared = {one.objective: one for one in found}
        return [Line(label, self._estimate(label, name, where, row), compared.get(label)) for label, row in values.items()]

    @property
    def rope(self) -> float | None:
        """The largest difference in the primary metric that does not matter; None where the metric has no scale of its own."""
        return ROPE if self.metric.needs in ("labels", "scores") else None

    def chances(self) -> dict[str, Chances]:
        """How likely each objective is worse, as good, or better than the baseline; left out are those with a failed trial, and those that
        are equal to it on every split, of whose spread nothing is known."""
        if self.rope is None:
            return {}
        sign = 1.0 if self.metric.higher_is_better else -1.0
        baseline, *others = (np.array(line.estimate.values) for line in self.lines())
        found = {}
        for label, ours in zip(self.result.objectives[1:], others, strict=True):
            theirs = baseline[: len(ours)]
            if len(ours) > 1 and np.isfinite(ours).all() and np.isfinite(theirs).all():
                differences = sign * rounded(ours, theirs)
                if not differences.any():
                    continue
                found[label] = correlated_t(
                    differences, train_size=self.sizes.train, test_size=self.sizes.test, rope=self.rope, overlap=self.redrawn
                )
        return found

    def _values(self, label: str, metric: str, stop: str) -> list[float]:
        return [_value(outcome, metric) for outcome in self.result.over(label, stop)[: self.stopped.get(label)]]

    def _estimate(self, label: str, metric: str, stop: str, values: tuple[float, ...]) -> Estimate:
        finite = np.array([value for value in values if math.isfinite(value)])
        scaled = METRICS[metric].needs == "probabilities" and self.result.over(label, stop)[0].calibration != "raw"
        mean = float(finite.mean()) if len(finite) else math.nan
        low, high = -math.inf, math.inf
        if len(finite) > 1:
            if np.ptp(finite) == 0:
                low = high = mean  # the same on every seed: the rounding error of one row is for differences
            else:
                _, lower, upper, _ = corrected_t(
                    finite, train_size=self.sizes.train, test_size=self.sizes.test, alpha=ALPHA, overlap=self.redrawn
                )
                low, high = bounds.within(bounds.of_values(METRICS[metric]), float(lower), float(upper))
        return Estimate(values, mean, low, high, scaled)

    def at_edge(self, label: str, stop: str | None = None) -> int:
        """Seeds on which something chosen is at the edge of what was tried, such as the smallest or largest learning rate."""
        return sum(outcome.at_edge for outcome in self.result.over(label, stop))

    def rates(self, label: str, stop: str | None = None) -> dict[float, int]:
        """How many seeds chose each learning rate of the grid."""
        chosen = [outcome.learning_rate for outcome in self.result.over(label, stop)]
        return {rate: chosen.count(rate) for rate in self.spec.learning_rates or ()}


def _value(outcome: Outcome, metric: str) -> float:
    """A run that diverged has no value: what it had before that is no result."""
    return outcome.metrics[metric] if outcome.status == "ok" else math.nan
