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
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lossmith.study.statistics.paired import Test, check_sizes, shared_variance
from lossmith.study.statistics.sequential import fewest_seeds, log_evidence
from lossmith.study.statistics.signed_rank import fewest_pairs, null_distribution, rank_sums

_MOST_SEEDS = {"corrected_t": 1000, "paired_t": 1000, "signed_rank": 200, "anytime_t": 200}
_LARGEST_EFFECT = 1e4
_DRAWS = 4000


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
                f"With {planned} a difference of {self.smallest_effect:.1f} standard deviations of the paired"
                f" difference would be found with probability {self.power:g}."
            )
        if self.recommended_seeds is None:
            return f"{said} No number of {self.unit}s finds one of {self.effect:g} on splits like these; a smaller test share would help."
        return f"{said} For one of {self.effect:g} it takes {count(self.recommended_seeds, self.unit)}."

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
    level, ratio = alpha / n_comparisons, shared_variance(test, train_size, test_size)
    fewest = {
        "corrected_t": 2,
        "signed_rank": fewest_pairs(n_comparisons, alpha),
        "paired_t": 2,
        "anytime_t": fewest_seeds(n_comparisons, ratio, alpha),
    }
    reachable = n_seeds >= fewest[test]
    return Prospect(
        n_seeds=n_seeds,
        n_comparisons=n_comparisons,
        alpha=alpha,
        power=power,
        test=test,
        can_reach_alpha=reachable,
        smallest_effect=_smallest_effect(n_seeds, level, ratio, power, test) if reachable else math.inf,
        effect=effect,
        recommended_seeds=recommended_seeds(n_comparisons, train_size, test_size, effect, alpha=alpha, power=power, test=test),
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
) -> int | None:
    """The fewest seeds that find a standardised difference with that power; None if a thousand are too few (200 for the simulated tests).

    Example:
        >>> from lossmith.study.statistics.power import recommended_seeds
        >>> recommended_seeds(1, train_size=800, test_size=100)
        10
        >>> recommended_seeds(19, train_size=700, test_size=150) is None
        True
    """
    _check_plan(n_comparisons, power, effect)
    check_sizes(train_size, test_size, alpha, test)
    level, ratio = alpha / n_comparisons, shared_variance(test, train_size, test_size)
    most = _MOST_SEEDS[test]
    if _power(effect, most, level, ratio, test) < power:
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        if _power(effect, middle, level, ratio, test) >= power:
            high = middle
        else:
            low = middle
    return high


def _power(effect: float, n: int, level: float, ratio: float, test: Test) -> float:
    """The probability that a two-sided test at this level finds a standardised difference, by any of the tests."""
    if n < 2:
        return 0.0
    if test == "signed_rank":
        return signed_rank_power(effect, n, level)
    if test == "anytime_t":
        return _anytime_power(effect, n, level, ratio)
    # Over data sets the mean varies by s² (1/n + ratio) and s² is the variance within one, so that the statistic is a
    # noncentral t in the model that the correction assumes.
    critical = stats.t.isf(level / 2, n - 1)
    centre = effect / math.sqrt(1 / n + ratio)
    return float(stats.nct.sf(critical, n - 1, centre))


def signed_rank_power(effect: float, n: int, level: float) -> float:
    """The probability that the exact signed-rank test of n normal differences finds an effect, in standard deviations, at a level.

    Simulated, with the same draws for every effect, so that it grows with the effect.
    """
    distribution = null_distribution(2 * np.arange(1, n + 1))
    tail = distribution[::-1].cumsum()[::-1]
    rejected = np.flatnonzero(tail <= level / 2)
    if not len(rejected):
        return 0.0
    draws = np.random.default_rng(n).standard_normal((_DRAWS, n))
    _, statistics = rank_sums(draws + effect)
    return float((statistics >= rejected[0]).mean())


def _anytime_power(effect: float, n: int, level: float, ratio: float) -> float:
    """By simulation in the model of the test, the same draws for every effect and number of seeds, so that it grows with both."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((_DRAWS, 1))
    own = rng.standard_normal((_DRAWS, _MOST_SEEDS["anytime_t"]))[:, :n]
    evidence = log_evidence(effect + math.sqrt(ratio) * shared + own, overlap=ratio, test_size=1)
    return float((evidence.max(-1) >= -math.log(level)).mean())


def _smallest_effect(n: int, level: float, ratio: float, power: float, test: Test) -> float:
    """The effect at which the power is reached, by bisection to three digits."""
    low, high = 0.0, 1.0
    while _power(high, n, level, ratio, test) < power:
        low, high = high, 2 * high
        if high > _LARGEST_EFFECT:
            return math.inf
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if _power(middle, n, level, ratio, test) >= power:
            high = middle
        else:
            low = middle
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
