"""Paired comparisons of objectives with a baseline, over seeds that each redraw the split of one data set.

Three things make such comparisons go wrong, and each has its remedy here.

* **The seeds are not independent.** Every seed draws its training rows from the same data set, so the training sets
  overlap and so do the test sets; the differences agree with each other more than they would on new data, and a plain
  paired t-test finds false winners several times as often as it promises. The corrected resampled t-test (Nadeau &
  Bengio 2003) takes s² (1/n + n_test/n_train) for the variance of the mean difference instead of s²/n. The correction
  is approximate. Simulated with equal learners on 80 : 10 : 10 splits at alpha = 0.05, it finds a false winner in 4 %
  of studies with stable learners (nearest mean) and in 7 to 9 % with learners that memorise single rows (one nearest
  neighbour), where the plain test does in 27 and 36 % at 22 seeds.
* **Many objectives, many metrics.** One metric is declared before the run; it alone gets p-values, adjusted over all
  comparisons with the baseline by Holm's step-down rule. The other metrics get intervals and no verdict.
* **Trials that fail.** A trial that diverged has no value. Leaving it out would reward the objective for failing where
  it would have done worst, and no number can stand in for it in a mean without deciding the outcome. So a comparison
  in which any trial failed, on either side, is not tested: its verdict is "failed", its p is 1, it still counts among
  the comparisons that Holm's rule adjusts for, and its note says how many trials failed.

The exact signed-rank test is the second choice. It knows nothing of overlap: given the data set, splits are
independent draws, and it asks the narrower question whether the difference is centred on zero over splits of *this*
data set. The anytime-valid t-test (:mod:`lossmith.study.statistics.sequential`) asks the question of the corrected one and may be
looked at after every seed, at the price of power. Where all seeds share one split, nothing overlaps: ``paired_t`` is the
plain paired t-test, over initial weights and batches alone. :func:`what_p_means` has the sentence that belongs to each.

An objective that was ended early as hopeless (:mod:`lossmith.study.statistics.stopping`) gets no fixed-sample test: its p is 1 and
still counts among the comparisons. Whatever the rule that ended it, a false winner of the study with such a rule is one
of the study without, so the error rate cannot rise.

The interval of a comparison is at level 1 - alpha and belongs to the unadjusted p-value: it leaves out 0 exactly when
p is below alpha. The verdict goes by the adjusted p-value, so that "no difference shown" beside an interval that just
leaves out 0 means: not shown, given how many comparisons were made.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import scipy  # so in all of this room: `scipy.stats` is loaded when first used, and takes half a second that a worker needs not spend

from lossmith.study.statistics.sequential import anytime_t
from lossmith.study.statistics.signed_rank import signed_rank
from lossmith.study.training.metrics import METRICS

Test = Literal["corrected_t", "signed_rank", "anytime_t", "paired_t"]
Verdict = Literal["better", "worse", "no difference shown", "hopeless", "tied", "failed", "not tested"]

# One number a row of differences: an array, or a scalar when there was one row only.
_Numbers = np.ndarray | np.floating

# Differences smaller than this share of the values are rounding errors: 0.9 - 0.8 is not exactly 0.5 - 0.4.
_DIGITS = 12


@dataclass(frozen=True)
class Comparison:
    """One objective against the baseline in one metric.

    Attributes:
        objective: the label of the objective.
        baseline: the label of the baseline.
        metric: the name of the metric.
        test: ``corrected_t``, ``signed_rank``, ``anytime_t`` or ``paired_t``.
        n: the seeds on which both finished.
        failed: the seeds on which the objective failed.
        baseline_failed: the seeds on which the baseline failed.
        mean_difference: objective less baseline, mean over the n seeds, not turned round where lower is
            better; NaN if n is 0.
        standard_deviation: of the difference over the n seeds; NaN if n is below 2.
        low: lower end of the 1 - alpha interval (signed_rank: for the centre of the differences; after an early stop, one
            that holds whenever one stops); -inf where nothing can be said, as after a failed trial.
        high: upper end; inf where nothing can be said.
        p: two-sided; None for a metric that was not declared primary.
        p_adjusted: after Holm over all comparisons; None for a metric that was not declared primary.
        verdict: "better" or "worse" (p_adjusted at most alpha, by the metric's direction), "no difference shown",
            "hopeless" (ended early, because a worthwhile advantage was excluded), "tied" (equal on every seed to
            twelve digits), "failed" (trials without a value, see above), or "not tested" (the metric was not declared
            primary).
        note: what the reader must know besides, in words; often empty.
    """

    objective: str
    baseline: str
    metric: str
    test: Test
    n: int
    failed: int
    baseline_failed: int
    mean_difference: float
    standard_deviation: float
    low: float
    high: float
    p: float | None
    p_adjusted: float | None
    verdict: Verdict
    note: str = ""


def compare(
    values: Mapping[str, Sequence[float | None] | np.ndarray],
    baseline: str,
    metric: str,
    *,
    train_size: int,
    test_size: int,
    alpha: float = 0.05,
    test: Test = "corrected_t",
    primary: bool = True,
    higher_is_better: bool | None = None,
    stopped: Collection[str] = (),
) -> list[Comparison]:
    """Every objective against the baseline, in one metric.

    Args:
        values: for each objective's label its values, one a seed, the same seeds in the same order for all. NaN,
            infinity or None where the trial failed. Those that were stopped may have fewer, the first ones.
        baseline: the label to compare with.
        metric: the name of the metric, a key of ``METRICS`` unless ``higher_is_better`` is given.
        train_size: rows trained on, per seed. Rows used for validation count for neither size.
        test_size: rows tested on, per seed.
        alpha: the share of runs in which a false winner among all the comparisons is acceptable.
        test: ``corrected_t``; ``signed_rank`` for the narrower question of the module's description; ``anytime_t`` where
            the seeds were looked at as they came, and more may follow; ``paired_t`` where all seeds share one split.
        primary: whether this is the metric that was declared before the run. If not, there are intervals only.
        higher_is_better: the direction, when the metric is not one of ``METRICS``.
        stopped: labels whose seeds were ended early as hopeless.

    Returns:
        One :class:`Comparison` for each label but the baseline's, in the order of ``values``.

    References:
        Nadeau & Bengio 2003, "Inference for the generalization error", eq. 11; Holm 1979, "A simple sequentially
        rejective multiple test procedure".

    Example:
        >>> from lossmith.study.statistics.paired import compare
        >>> values = {
        ...     "cross_entropy": [0.80, 0.82, 0.79, 0.81, 0.80, 0.83],
        ...     "new_loss": [0.85, 0.86, 0.83, 0.87, 0.84, 0.88],
        ...     "alias": [0.80, 0.82, 0.79, 0.81, 0.80, 0.83],
        ... }
        >>> for c in compare(values, "cross_entropy", "accuracy", train_size=800, test_size=100):
        ...     print(f"{c.objective}: {c.mean_difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}] {c.verdict}")
        new_loss: +0.047 [+0.035, +0.058] better
        alias: +0.000 [+0.000, +0.000] tied
    """
    higher = direction(metric, higher_is_better)
    check_sizes(train_size, test_size, alpha, test)
    if baseline not in values:
        raise ValueError(f"baseline: no values for {baseline!r}; there are {', '.join(map(repr, values))}")
    table = {label: np.array(list(row), dtype=float) for label, row in values.items()}
    n = len(table[baseline])
    for label, row in table.items():
        if n == 0 or not (len(row) == n or (label in stopped and 0 < len(row) < n)):
            raise ValueError(f"values: {len(row)} seeds for {label!r}, {n} for the baseline; wanted the same, at least 1")
    found = []
    for label in (label for label in table if label != baseline):
        seen = len(table[label])
        rule = _Rule(test, train_size, test_size, alpha, stopped=seen < n)
        found.append(_unadjusted(label, baseline, metric, table[label], table[baseline][:seen], rule))
    adjusted = holm(np.array([one.p for one in found], dtype=float))
    return [_judged(one, p, alpha, higher, primary) for one, p in zip(found, adjusted.tolist(), strict=True)]


def corrected_t(
    differences: np.ndarray, *, train_size: int, test_size: int, alpha: float = 0.05, overlap: bool = True
) -> tuple[_Numbers, _Numbers, _Numbers, _Numbers]:
    """The corrected resampled t-test of paired differences, along the last axis.

    Where all n differences are equal and not zero, their spread would be 0 and the smallest difference certain. They
    were measured on ``test_size`` rows, so their spread is then taken to be the rounding error of one row in that many.

    Args:
        differences: ``(..., n)``, finite, n at least 2.
        train_size: rows trained on, per seed.
        test_size: rows tested on, per seed.
        alpha: the level of the interval.
        overlap: whether the seeds redraw the split; if not, the variance of the mean is s²/n.

    Returns:
        The mean difference, the interval's lower and upper end, and the two-sided p-value, each of shape ``(...)``.
    """
    n = differences.shape[-1]
    mean, error = mean_and_error(differences, train_size=train_size, test_size=test_size, overlap=overlap)
    t = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    reach = scipy.stats.t.isf(alpha / 2, n - 1) * error
    return mean, mean - reach, mean + reach, 2 * scipy.stats.t.sf(np.abs(t), n - 1)


def mean_and_error(differences: np.ndarray, *, train_size: int, test_size: int, overlap: bool = True) -> tuple[_Numbers, _Numbers]:
    """The mean of paired differences along the last axis, and its standard error, with the correction where splits overlap."""
    mean = differences.mean(-1)
    spread = differences.std(-1, ddof=1)
    constant = np.ptp(differences, axis=-1) == 0
    spread = np.where(constant, np.where(mean == 0, 0.0, 1 / (math.sqrt(12) * test_size)), spread)
    return mean, spread * math.sqrt(1 / differences.shape[-1] + (test_size / train_size if overlap else 0.0))


def shared_variance(test: Test, train_size: int, test_size: int) -> float:
    """The variance that all seeds share because they look at the same rows, beside a seed's own, in the question that the test asks.

    It is n_test / n_train where the question is about rows like these, and 0 where it is about this very data set or this very split.
    """
    return 0.0 if test in ("signed_rank", "paired_t") else test_size / train_size


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values along the last axis: the k-th smallest of m times m - k + 1, made monotone, at most 1.

    Rejecting what falls at or below alpha keeps the chance of any false rejection among the m at most alpha, however
    the p-values depend on each other.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.paired import holm
        >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, axis=-1)
    count = p.shape[-1]
    raised = np.take_along_axis(p, order, -1) * np.arange(count, 0, -1)
    raised = np.minimum(np.maximum.accumulate(raised, axis=-1), 1.0)
    adjusted = np.empty_like(raised)
    np.put_along_axis(adjusted, order, raised, -1)
    return adjusted


def what_p_means(test: Test = "corrected_t") -> str:
    """What a p-value of this test generalises over, in one sentence for the reader of a report."""
    if test == "signed_rank":
        return (
            "The p-values speak of new random splits and new initial weights on this very data set: they say neither"
            " how the objectives would compare on newly collected rows nor on other data sets."
        )
    if test == "paired_t":
        return (
            "The p-values speak of new initial weights and batches on this one split: the test rows are always the same,"
            " and what their choice adds to a difference is in no interval here."
        )
    looked = " They hold whenever one looks, and after more seeds too." if test == "anytime_t" else ""
    return (
        "The p-values speak of new random splits and new initial weights on rows like these, at this size (the"
        " correction for overlapping splits is approximate): they say nothing about other data sets, other sizes or"
        f" other models.{looked}"
    )


@dataclass(frozen=True)
class _Rule:
    """How differences are tested: the arguments that all comparisons of one call share."""

    test: Test
    train_size: int
    test_size: int
    alpha: float
    stopped: bool = False

    @property
    def overlap(self) -> float:
        return shared_variance(self.test, self.train_size, self.test_size)

    def apply(self, differences: np.ndarray) -> tuple[float, float, float]:
        """The interval's ends and the p-value; after an early stop those that hold whenever one stops."""
        if self.test == "anytime_t" or self.stopped:
            low, high, p = anytime_t(differences, overlap=self.overlap, test_size=self.test_size, alpha=self.alpha)
            return float(low), float(high), float(p) if self.test == "anytime_t" else 1.0
        if self.test == "signed_rank":
            ranked = signed_rank(differences, alpha=self.alpha)
            return ranked.low, ranked.high, ranked.p
        sizes = {"train_size": self.train_size, "test_size": self.test_size}
        _, low, high, p = corrected_t(differences, alpha=self.alpha, overlap=self.overlap > 0, **sizes)
        return float(low), float(high), float(p)


def _unadjusted(label: str, baseline: str, metric: str, ours: np.ndarray, theirs: np.ndarray, rule: _Rule) -> Comparison:
    """A comparison as it stands alone: its adjusted p is its own p, and its verdict has no direction yet."""
    failed, baseline_failed = int((~np.isfinite(ours)).sum()), int((~np.isfinite(theirs)).sum())
    finished = np.isfinite(ours) & np.isfinite(theirs)
    differences = rounded(ours[finished], theirs[finished])
    n, seeds = len(differences), len(ours)
    low, high, p, verdict, note = -math.inf, math.inf, 1.0, "no difference shown", ""
    if failed or baseline_failed:
        sides = ((failed, label), (baseline_failed, baseline))
        counted = " and ".join(f"{count} of {seeds} trials of {side} failed" for count, side in sides if count)
        verdict, note = "failed", f"{counted}; not tested, and the mean difference leaves those seeds out"
    elif not differences.any():
        low, high, verdict = 0.0, 0.0, "tied"
    elif n == 1:
        note = "one seed: nothing can be said about chance"
    else:
        low, high, p = rule.apply(differences)
        verdict = "hopeless" if rule.stopped else verdict
        if rule.test != "signed_rank" and np.ptp(differences) == 0:
            note = "the same difference on every seed: its spread was taken to be the rounding error of one test row"
    return Comparison(
        objective=label,
        baseline=baseline,
        metric=metric,
        test=rule.test,
        n=n,
        failed=failed,
        baseline_failed=baseline_failed,
        mean_difference=float(differences.mean()) if n else math.nan,
        standard_deviation=float(differences.std(ddof=1)) if n > 1 else math.nan,
        low=low,
        high=high,
        p=p,
        p_adjusted=p,
        verdict=verdict,
        note=note,
    )


def _judged(one: Comparison, p_adjusted: float, alpha: float, higher_is_better: bool, primary: bool) -> Comparison:
    """The comparison with its adjusted p-value and verdict."""
    if not primary:
        return replace(one, p=None, p_adjusted=None, verdict="not tested")
    verdict = one.verdict
    if verdict in ("no difference shown", "hopeless") and p_adjusted <= alpha:
        verdict = "better" if (_centre(one) > 0) == higher_is_better else "worse"
    return replace(one, p_adjusted=p_adjusted, verdict=verdict)


def adjusted_together(found: Sequence[Comparison], alpha: float) -> list[Comparison]:
    """Comparisons of several studies, in the metric each declared, adjusted over all of them by Holm's rule, and judged anew."""
    adjusted = holm(np.array([1.0 if one.p is None else one.p for one in found]))
    open_again = ("better", "worse")
    judged = []
    for one, p in zip(found, adjusted.tolist(), strict=True):
        plain = replace(one, verdict="no difference shown") if one.verdict in open_again else one
        judged.append(_judged(plain, p, alpha, direction(one.metric), one.p is not None))
    return judged


def _centre(one: Comparison) -> float:
    """What the sign of a verdict goes by: the interval's own side, which for ranks need not be the mean's."""
    return one.low + one.high if math.isfinite(one.low + one.high) else one.mean_difference


def rounded(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Differences without the rounding errors that would break ties and hide zeros."""
    if not len(ours):
        return ours
    largest = max(float(np.abs(ours).max()), float(np.abs(theirs).max()))
    if largest == 0:
        return np.zeros_like(ours)
    return np.round(ours - theirs, _DIGITS - 1 - math.floor(math.log10(largest)))


def direction(metric: str, higher_is_better: bool | None = None) -> bool:
    """Whether higher values of the metric are better."""
    if higher_is_better is not None:
        return higher_is_better
    if metric not in METRICS:
        raise ValueError(f"metric: {metric!r} is unknown, so higher_is_better must be given; known: {', '.join(METRICS)}")
    return METRICS[metric].higher_is_better


def check_sizes(train_size: int, test_size: int, alpha: float, test: Test) -> None:
    """Refuse sizes, levels and tests that make no sense, in one line."""
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size < 1:
            raise ValueError(f"{name}: {size}; wanted a number of rows, 1 or more")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha}; wanted a number between 0 and 1")
    if test not in get_args(Test):
        raise ValueError(f"test: {test!r}; wanted one of {', '.join(get_args(Test))}")
