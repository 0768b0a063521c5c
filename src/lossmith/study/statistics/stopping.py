"""Objectives that need no more seeds: a worthwhile advantage over the baseline is already excluded.

After every seed, each objective's differences are weighed against the hypothesis that it is better by `effect` standard deviations of the
paired difference, the advantage that the study was planned to find. Where the evidence against that reaches 1 / `miss`, the objective is
ended. Two promises hold, of different kinds:

* **False winners.** An objective that was ended wins nothing, and the others are tested on all planned seeds, adjusted for all
  comparisons, ended ones included. So whoever wins with this rule would have won without it: the error rate is that of the whole study or
  lower, whatever the data are like, and even if the rule's own model is wrong.
* **Missed winners.** An objective whose advantage is `effect` or more is ended by mistake with probability at most `miss`, whenever and
  however often one looks. This holds for each objective, in the model of :mod:`lossmith.study.statistics.sequential`.

Winners do not end early by this rule: the test at the planned number of seeds is valid at that number only. A study that wants to look at
its winners too is tested by ``anytime_t``.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lossmith.study.statistics.paired import Test, check_sizes, direction, rounded, shared_variance
from lossmith.study.statistics.sequential import seeds_until_hopeless

EFFECT = 1.5
"""The advantage that is worth finding, in standard deviations of the paired difference."""

MISS = 0.05
"""The chance with which an objective that has it may be given up."""


def hopeless(
    values: Mapping[str, Sequence[float | None] | np.ndarray],
    baseline: str,
    metric: str,
    *,
    train_size: int,
    test_size: int,
    test: Test = "corrected_t",
    effect: float = EFFECT,
    miss: float = MISS,
    higher_is_better: bool | None = None,
) -> dict[str, int]:
    """The objectives that a worthwhile advantage is excluded for, by the seeds seen so far.

    To be asked after every seed, on all the seeds that are done, in the order in which they were planned; the answer for the seeds that
    were there before never changes. Hand the labels to ``compare(..., stopped=...)`` when the study is over.

    Args:
        values: for each objective's label its values so far, one a seed, the same seeds in the same order; an objective may have fewer
            than the baseline. NaN, infinity or None where the trial failed: then there is no comparison and nothing to stop.
        baseline: the label to compare with.
        metric: the metric that is tested, a key of ``METRICS`` unless ``higher_is_better`` is given.
        train_size: rows trained on, per seed.
        test_size: rows tested on, per seed.
        test: the test that the study will end with. The rule asks the question that it asks: of this very data set for
            ``signed_rank``, of this very split for ``paired_t``.
        effect: the advantage not to be missed, in standard deviations of the paired difference.
        miss: the chance with which it may be.
        higher_is_better: the direction, when the metric is not one of ``METRICS``.

    Returns:
        For each label to be ended, the number of seeds after which it could have been.

    Example:
        >>> from lossmith.study.statistics.stopping import hopeless
        >>> values = {
        ...     "cross_entropy": [0.80, 0.82, 0.79, 0.81, 0.80],
        ...     "no_good": [0.79, 0.83, 0.79, 0.80, 0.80],
        ...     "good": [0.84, 0.85, 0.83, 0.84, 0.85],
        ... }
        >>> hopeless(values, "cross_entropy", "accuracy", train_size=800, test_size=100)
        {'no_good': 4}
    """
    check_sizes(train_size, test_size, 0.05, test)
    if not 0 < miss < 1:
        raise ValueError(f"miss: {miss}; wanted a number between 0 and 1")
    if not effect > 0:
        raise ValueError(f"effect: {effect}; wanted a positive number of standard deviations")
    if baseline not in values:
        raise ValueError(f"baseline: no values for {baseline!r}; there are {', '.join(map(repr, values))}")
    sign = 1.0 if direction(metric, higher_is_better) else -1.0
    overlap = shared_variance(test, train_size, test_size)
    theirs = np.array(list(values[baseline]), dtype=float)
    ended = {}
    for label, row in values.items():
        ours = np.array(list(row), dtype=float)
        if label == baseline or not len(ours):
            continue
        if len(ours) > len(theirs):
            raise ValueError(f"values: {len(ours)} seeds for {label!r}, {len(theirs)} for the baseline; wanted no more than that")
        both = theirs[: len(ours)]
        if not (np.isfinite(ours).all() and np.isfinite(both).all()):
            continue
        seeds = seeds_until_hopeless(sign * rounded(ours, both), overlap=overlap, test_size=test_size, effect=effect, miss=miss)
        if seeds is not None:
            ended[label] = seeds
    return ended
