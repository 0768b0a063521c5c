"""What a study can show, said before it starts: which differences n seeds can tell from chance.

A standardised difference here is a mean difference divided by the standard deviation of the paired difference over
seeds, the spread that the table of a finished study shows. With the correction for overlapping splits, the standard
error of the mean does not fall below sqrt(n_test/n_train) of that deviation however many seeds are run: new seeds look
at the same rows again. So beyond some number of seeds only more data helps, and with a large test share a given
standardised difference may be out of reach for good.

That is why 80 : 10 : 10 is the split to prefer for training, validation and test. Its ratio of 1/8 leaves a difference
of 1.5 deviations within reach: with 22 seeds for four comparisons, with 63 for nineteen. With 70 : 15 : 15 it is out of
reach from three comparisons on. In the metric's own units little is lost: a smaller test set spreads more from seed to
seed, but that is the part that more seeds do average out, and at ten seeds the interval is about 4 % wider.

What the standard deviation of the paired difference will be, in the metric's own units, is known only from trials. For accuracy it can be
guessed from how often two objectives' networks disagree: see :func:`accuracy_spread`.

Plans are for the worst case of Holm's rule, in which the comparison of interest must pass the first and hardest step,
alpha divided by the number of comparisons.

A study that ends the hopeless early (:mod:`lossmith.study.statistics.stopping`) now and then ends one that would have won. That costs a
fraction of one per cent of power, which a plan for such a study counts: it can decide whether a number of seeds is enough.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from lossmith.study.statistics.paired import Test, check_sizes, shared_variance
from lossmith.study.statistics.sequential import fewest_seeds, log_evidence, seeds_until_excluded
from lossmith.study.statistics.signed_rank import fewest_pairs, null_distribution, rank_sums
from lossmith.study.statistics.stopping import EFFECT, MISS

_MOST_SEEDS = {"corrected_t": 1000, "paired_t": 1000, "signed_rank": 200, "anytime_t": 200}
_LARGEST_EFFECT = 1e4
_DRAWS = 4000
_ENDED_DRAWS = 20_000
"""Studies drawn to count what early ending costs, which is rare."""


@dataclass(frozen=True)
class Prospect:
    """What a number of seeds can show.

    Attributes:
        n_seeds: the seeds planned.
        n_comparisons: the comparisons with the baseline.
        alpha: the share of runs in which a false winner is acceptable.
        power: the probability with which a real difference should be found.
        test: ``corrected_t``, ``signed_rank``, ``anytime_t`` or ``paired_t``.
        can_reach_alpha: whether any adjusted p-value can fall to alpha or below, whatever the outcome.
        smallest_effect: the smallest standardised difference found with that power; inf where there is none.
        effect: the standardised difference that ``recommended_seeds`` is for.
        recommended_seeds: the fewest seeds that find it with that power; None where no number of seeds does.
        unit: what a paired difference comes from, a "seed" or a "fold", for the sentence.
    """

    n_seeds: int
    n_comparisons: int
    alpha: float
    power: float
    test: Test
    can_reach_alpha: bool
    smallest_effect: float
    effect: float
    recommended_seeds: int | None
    unit: str = "seed"

    @property
    def sentence(self) -> str:
        """The same in words, for the terminal and the report."""
        planned = f"{count(self.n_seeds, self.unit)} and {count(self.n_comparisons, 'comparison')}"
        if not self.can_reach_alpha:
            said = f"With {planned} no adjusted p-value can fall to {self.alpha:g}, whatever the outcome."
        elif math.isinf(self.smallest_effect):
            said = f"With {planned} no difference would be found with probability {self.power:g}."
        else:
            said = (
                f"With {planned} a difference of {self._smallest} standard deviations of the paired"
                f" difference would be found with probability {self.power:g}."
            )
        if self.recommended_seeds is None:
            return f"{said} No number of {self.unit}s finds one of {self.effect:g} on splits like these; a smaller test share would help."
        return f"{said} For one of {self.effect:g} it takes {count(self.recommended_seeds, self.unit)}."

    @property
    def _smallest(self) -> str:
        """To one digit; upwards where it would seem to be the effect that takes more seeds than these."""
        rounded = f"{self.smallest_effect:.1f}"
        return f"{math.ceil(10 * self.smallest_effect) / 10:.1f}" if float(rounded) <= self.effect < self.smallest_effect else rounded

    def in_units(self, standard_deviation: float) -> float:
        """The smallest difference found with that power in the metric's own units, where paired differences spread like this.

        Args:
            standard_deviation: of the paired difference over seeds: from an earlier study of the kind, or :func:`accuracy_spread`.
        """
        return self.smallest_effect * standard_deviation


def accuracy_spread(disagreement: float, test_size: int) -> float:
    r"""The standard deviation over seeds of a difference in accuracy, before anything was run: :math:`\sqrt{r / n_{test}}`.

    Two networks differ in accuracy by the test rows on which one is right and the other wrong. If that is a share r of the rows, either way
    about as often, each seed's difference varies by r / n_test because of the rows it happens to be tested on. What the training
    adds is not counted, so the spread seen will be larger rather than smaller.

    Args:
        disagreement: the share r of test rows on which one of the two is right and the other is not.
        test_size: rows tested on, per seed.

    Example:
        >>> from lossmith.study.statistics.power import accuracy_spread, what_can_be_shown
        >>> prospect = what_can_be_shown(10, 4, train_size=1440, test_size=180)
        >>> round(100 * prospect.in_units(accuracy_spread(0.05, 180)), 1)
        3.2
    """
    if not 0 < disagreement <= 1:
        raise ValueError(f"disagreement: {disagreement}; wanted a share of the rows, above 0 and at most 1")
    if test_size < 1:
        raise ValueError(f"test_size: {test_size}; wanted a number of rows, 1 or more")
    return math.sqrt(disagreement / test_size)


def what_can_be_shown(
    n_seeds: int,
    n_comparisons: int,
    train_size: int,
    test_size: int,
    alpha: float = 0.05,
    *,
    power: float = 0.8,
    effect: float = 1.5,
    test: Test = "corrected_t",
    stop_hopeless: bool = False,
) -> Prospect:
    """What a study of this size can show, and how many seeds it should have.

    Args:
        n_seeds: the seeds planned, at least 1.
        n_comparisons: the objectives compared with the baseline, at least 1.
        train_size: rows trained on, per seed.
        test_size: rows tested on, per seed.
        alpha: the share of runs in which a false winner among all the comparisons is acceptable.
        power: the probability with which a real difference should be found.
        effect: the standardised difference to recommend seeds for.
        test: the test that will be used. Its power is exact for ``corrected_t`` in the model that the correction
            assumes and for ``paired_t``, and simulated for ``signed_rank`` and, in that model, for ``anytime_t``, to within a seed.
        stop_hopeless: whether objectives are ended early. What that costs is simulated, and taken as high as the simulation leaves open.

    Example:
        >>> from lossmith.study.statistics.power import what_can_be_shown
        >>> prospect = what_can_be_shown(10, 4, train_size=800, test_size=100)
        >>> round(prospect.smallest_effect, 1), prospect.recommended_seeds
        (1.9, 22)
        >>> what_can_be_shown(7, 4, train_size=800, test_size=100, test="signed_rank").can_reach_alpha
        False
    """
    _check_plan(n_comparisons, power, effect)
    check_sizes(train_size, test_size, alpha, test)
    if n_seeds < 1:
        raise ValueError(f"n_seeds: {n_seeds}; wanted 1 or more")
    plan = _Plan(alpha / n_comparisons, shared_variance(test, train_size, test_size), test, power, stop_hopeless)
    least = {
        "corrected_t": 2,
        "signed_rank": fewest_pairs(n_comparisons, alpha),
        "paired_t": 2,
        "anytime_t": fewest_seeds(n_comparisons, plan.ratio, alpha),
    }
    reachable = n_seeds >= least[test]
    return Prospect(
        n_seeds=n_seeds,
        n_comparisons=n_comparisons,
        alpha=alpha,
        power=power,
        test=test,
        can_reach_alpha=reachable,
        smallest_effect=_smallest_effect(plan, n_seeds) if reachable else math.inf,
        effect=effect,
        recommended_seeds=recommended_seeds(
            n_comparisons, train_size, test_size, effect, alpha=alpha, power=power, test=test, stop_hopeless=stop_hopeless
        ),
    )


def recommended_seeds(
    n_comparisons: int,
    train_size: int,
    test_size: int,
    effect: float = 1.5,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    test: Test = "corrected_t",
    stop_hopeless: bool = False,
) -> int | None:
    """The fewest seeds that find a standardised difference with that power; None if a thousand are too few (200 where it is simulated).

    Example:
        >>> from lossmith.study.statistics.power import recommended_seeds
        >>> recommended_seeds(1, train_size=800, test_size=100)
        10
        >>> recommended_seeds(19, train_size=700, test_size=150) is None
        True
        >>> recommended_seeds(1, train_size=142, test_size=18), recommended_seeds(1, train_size=142, test_size=18, stop_hopeless=True)
        (10, 11)
    """
    _check_plan(n_comparisons, power, effect)
    check_sizes(train_size, test_size, alpha, test)
    plan = _Plan(alpha / n_comparisons, shared_variance(test, train_size, test_size), test, power, stop_hopeless)
    whole = fewest(lambda n: plan.power_of_all(effect, n) >= power, 1, _MOST_SEEDS[test])
    if whole is None or not stop_hopeless:
        return whole
    return fewest(lambda n: plan.finds(effect, n), whole, _MOST_SEEDS["signed_rank"])  # what early ending costs is drawn


@dataclass(frozen=True)
class _Plan:
    """How one comparison is decided, at what level, and with what probability it should find a difference."""

    level: float
    ratio: float
    test: Test
    power: float
    stop_hopeless: bool

    def finds(self, effect: float, n: int) -> bool:
        """Whether n seeds find a standardised difference with that probability."""
        return self.power_of_all(effect, n) - (self._lost(effect, n) if self.stop_hopeless else 0.0) >= self.power

    def power_of_all(self, effect: float, n: int) -> float:
        """The probability that the two-sided test finds it, where all seeds are run."""
        if n < 2:
            return 0.0
        if self.test == "signed_rank":
            return signed_rank_power(effect, n, self.level)
        if self.test == "anytime_t":
            evidence = log_evidence(effect + _drawn(_DRAWS, n, self.ratio), overlap=self.ratio, test_size=1)
            return float((evidence.max(-1) >= -math.log(self.level)).mean())
        # Over data sets the mean varies by s² (1/n + ratio) and s² is the variance within one, so that the statistic is a
        # noncentral t in the model that the correction assumes.
        critical = scipy.stats.t.isf(self.level / 2, n - 1)
        centre = effect / math.sqrt(1 / n + self.ratio)
        return float(scipy.stats.nct.sf(critical, n - 1, centre))

    def _lost(self, effect: float, n: int) -> float:
        """The probability that it would have been found, had it not been ended early; three standard errors above what is counted."""
        d = effect + _drawn(_ENDED_DRAWS, n, self.ratio)
        after = seeds_until_excluded(d, overlap=self.ratio, test_size=1, effect=EFFECT, miss=MISS)
        d, after = d[after < n], after[after < n]
        if self.test == "anytime_t":  # which finds at any time, before the end too
            evidence = log_evidence(d, overlap=self.ratio, test_size=1) >= -math.log(self.level)
            found = evidence.any(-1) & (evidence.argmax(-1) >= after)
        elif self.test == "signed_rank":
            least = _rejected_rank_sum(n, self.level)
            found = rank_sums(d)[1] >= (math.inf if least is None else least)
        else:
            error = d.std(-1, ddof=1) * math.sqrt(1 / n + self.ratio)
            found = d.mean(-1) >= scipy.stats.t.isf(self.level / 2, n - 1) * error
        lost = float(found.sum()) / _ENDED_DRAWS
        return lost + 3 * math.sqrt(lost * (1 - lost) / _ENDED_DRAWS)


def _drawn(studies: int, n: int, ratio: float) -> np.ndarray:
    """Differences without an effect in the model of the corrected test, `(studies, n)`; the first seeds are the same whatever n, so that
    what is counted of them grows with effect and seeds."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((studies, 1))
    return math.sqrt(ratio) * shared + rng.standard_normal((n, studies)).T


def signed_rank_power(effect: float, n: int, level: float) -> float:
    """The probability that the exact signed-rank test of n normal differences finds an effect, in standard deviations, at a level.

    Simulated, with the same draws for every effect, so that it grows with the effect.
    """
    least = _rejected_rank_sum(n, level)
    if least is None:
        return 0.0
    draws = np.random.default_rng(n).standard_normal((_DRAWS, n))
    _, statistics = rank_sums(draws + effect)
    return float((statistics >= least).mean())


def _rejected_rank_sum(n: int, level: float) -> int | None:
    """The smallest statistic that the exact signed-rank test of n pairs rejects on the side of the better; None where it rejects none."""
    tail = null_distribution(2 * np.arange(1, n + 1))[::-1].cumsum()[::-1]
    rejected = np.flatnonzero(tail <= level / 2)
    return int(rejected[0]) if len(rejected) else None


def fewest(enough: Callable[[int], bool], start: int, most: int) -> int | None:
    """The first count from `start` to `most` that is enough, where all after it are too: by steps that double, then by bisection."""
    low, high, step = start - 1, min(start, most), 1
    while not enough(high):
        if high == most:
            return None
        low, high, step = high, min(most, high + step), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _smallest_effect(plan: _Plan, n: int) -> float:
    """The effect at which the power is reached, to three digits."""
    whole = threshold(lambda effect: plan.power_of_all(effect, n) >= plan.power, 0.0, 1.0)
    return threshold(lambda effect: plan.finds(effect, n), whole, 1e-3 * whole) if plan.stop_hopeless and math.isfinite(whole) else whole


def threshold(enough: Callable[[float], bool], low: float, step: float) -> float:
    """The smallest effect above `low` that is enough, by steps that double, then by bisection; inf if none is."""
    high = low + step
    while not enough(high):
        low, high, step = high, high + 2 * step, 2 * step
        if high > _LARGEST_EFFECT:
            return math.inf
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check_plan(n_comparisons: int, power: float, effect: float) -> None:
    if n_comparisons < 1:
        raise ValueError(f"n_comparisons: {n_comparisons}; wanted 1 or more")
    if not 0 < power < 1:
        raise ValueError(f"power: {power}; wanted a number between 0 and 1")
    if not effect > 0:
        raise ValueError(f"effect: {effect}; wanted a positive number of standard deviations")
