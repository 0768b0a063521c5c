"""Where the references outside the comparison stand beside the objectives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lossmith.study.statistics.paired import Comparison, Test, compare
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.yardsticks import Reference


@dataclass(frozen=True)
class Standing:
    """A reference beside the best of the objectives, in the primary metric at the declared stop.

    Attributes:
        name: of the reference.
        mean: over the splits; NaN where it failed on any.
        best: the objective with the best mean among those without a failure.
        best_mean: that mean.
        comparison: the reference against that objective, paired over splits, with an interval and no verdict.
    """

    name: str
    mean: float
    best: str
    best_mean: float
    comparison: Comparison

    @property
    def ahead(self) -> bool:
        """Whether its mean is better than that of every objective."""
        gain = self._gain
        return math.isfinite(gain) and gain > 0

    @property
    def surely(self) -> bool:
        """Whether it is ahead and the interval of the difference leaves out 0."""
        return self.ahead and (self.comparison.low > 0 or self.comparison.high < 0)

    @property
    def _gain(self) -> float:
        sign = 1 if METRICS[self.comparison.metric].higher_is_better else -1
        return sign * (self.mean - self.best_mean)


def standings(
    references: Sequence[Reference],
    objectives: Mapping[str, Sequence[float]],
    metric: str,
    *,
    train_size: int,
    test_size: int,
    alpha: float,
    test: Test,
) -> list[Standing]:
    """Every reference beside the best objective, the best reference first; empty where no objective has a value on every split.

    Args:
        references: whose values are compared.
        objectives: the values of each objective, one a split.
        metric: which of the references' metrics.
        train_size, test_size, alpha, test: as `compare` takes them.
    """
    sign = 1 if METRICS[metric].higher_is_better else -1
    whole = {label: float(np.mean(row)) for label, row in objectives.items() if np.isfinite(row).all()}
    if not whole:
        return []
    best = max(whole, key=lambda label: sign * whole[label])
    found = []
    for one in references:
        values = {best: objectives[best], one.name: one.values[metric]}
        (compared,) = compare(
            values, best, metric, train_size=train_size, test_size=test_size, alpha=alpha, test=test, primary=False
        )  # fmt: skip
        found.append(Standing(one.name, float(np.mean(one.values[metric])), best, whole[best], compared))
    return sorted(found, key=lambda one: (math.isnan(one.mean), -sign * one.mean))
