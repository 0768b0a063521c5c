"""The exact signed-rank test, with ties and zeros, and the interval that belongs to it.

Under the hypothesis that the differences are symmetric about zero, every choice of their signs is equally likely given
their sizes. The statistic is the sum of the ranks of the positive ones; tied sizes share their mean rank, and zeros
are ranked with the rest but have no sign. (Dropping them first, as Wilcoxon did, can turn a result that favours one
side insignificant when every difference moves further to that side; Pratt 1959.) The distribution over all signs is
computed exactly, whatever the ties, where tables and normal approximations assume none.

The interval holds every shift that the same test would not reject. With this treatment of zeros the one-sided
probabilities are monotone in the shift, ties or not, so its two ends can be found by bisection among the averages of
pairs of differences, the only points at which the statistic changes.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy


@dataclass(frozen=True)
class SignedRank:
    """The outcome of the test.

    Attributes:
        p: two-sided: twice the smaller one-sided probability, at most 1.
        low: the lower end of the interval for the centre of symmetry; -inf where n is too small to bound it.
        high: the upper end. The ends are limits of shifts not rejected: an end that is exactly 0 may itself be
            rejected, so p, not the interval, decides in that case.
    """

    p: float
    low: float
    high: float


def signed_rank(differences: np.ndarray, *, alpha: float = 0.05) -> SignedRank:
    """The exact two-sided signed-rank test of differences against zero, with its 1 - alpha interval.

    Args:
        differences: one a pair, finite. Rounding errors would break ties, so they are taken to twelve digits of the
            largest.
        alpha: the level of the interval.

    References:
        Wilcoxon 1945, "Individual comparisons by ranking methods"; Pratt 1959, "Remarks on zeros and ties in the
        Wilcoxon signed rank procedures".

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.signed_rank import signed_rank
        >>> signed_rank(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
        SignedRank(p=0.03125, low=0.1, high=0.6)
    """
    largest = float(np.abs(differences).max())
    if largest == 0:
        return SignedRank(1.0, 0.0, 0.0)
    # Whole multiples of a unit, so that ties and pair sums are exact.
    unit = 10.0 ** (math.floor(math.log10(largest)) - 12)
    units = np.rint(differences / unit).astype(np.int64)
    below, above = _tails(units)
    low = _lower_end(units, alpha)
    high = -_lower_end(-units, alpha)
    return SignedRank(min(1.0, 2 * min(below, above)), *(_in_digits(end * unit, unit) for end in (low, high)))


def fewest_pairs(comparisons: int, alpha: float = 0.05) -> int:
    """The fewest pairs with which the smallest of that many adjusted p-values can reach alpha.

    The most extreme outcome of n pairs has p = 2 / 2^n, so n must be at least log2(2 m / alpha).
    """
    pairs = 1
    while comparisons * 2.0 ** (1 - pairs) > alpha:
        pairs += 1
    return pairs


def rank_sums(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray | np.integer]:
    """Twice the rank of each size along the last axis, which is whole even in ties, and twice the positive rank sum."""
    ranks = np.rint(2 * scipy.stats.rankdata(np.abs(differences), axis=-1)).astype(np.int64)
    return ranks, np.where(differences > 0, ranks, 0).sum(-1)


def null_distribution(doubled_ranks: np.ndarray) -> np.ndarray:
    """The probability of each value of the doubled statistic when every sign is a fair coin."""
    probability = np.zeros(int(doubled_ranks.sum()) + 1)
    probability[0] = 1.0
    reached = 0
    for rank in doubled_ranks:
        with_it = np.zeros(reached + rank + 1)
        with_it[: reached + 1] = probability[: reached + 1]
        with_it[rank:] += probability[: reached + 1]
        reached += int(rank)
        probability[: reached + 1] = with_it / 2
    return probability


def _tails(units: np.ndarray) -> tuple[float, float]:
    """The probabilities of a statistic as small as this one, and as large."""
    ranks, statistic = rank_sums(units)
    probability = null_distribution(ranks[units != 0])
    return float(probability[: statistic + 1].sum()), float(probability[statistic:].sum())


def _lower_end(units: np.ndarray, alpha: float) -> float:
    """The limit below which every shift is rejected as too low, in the units given."""
    if 2.0 ** -len(units) > alpha / 2:
        return -math.inf
    upper = np.triu_indices(len(units))
    sums = np.unique((units[:, None] + units[None, :])[upper])
    # Shifts in quarters of a unit, so that the points midway between two averages are whole as well: first every
    # average and every gap after it, in order. The largest average itself is never rejected as too low.
    shifts = np.empty(2 * len(sums) - 1, dtype=np.int64)
    shifts[::2] = 2 * sums
    shifts[1::2] = sums[:-1] + sums[1:]

    def kept(place: int) -> bool:
        return _tails(4 * units - shifts[place])[1] > alpha / 2

    first, last = 0, len(shifts) - 1
    while first < last:
        middle = (first + last) // 2
        if kept(middle):
            last = middle
        else:
            first = middle + 1
    return float(sums[first // 2]) / 2


def _in_digits(value: float, unit: float) -> float:
    """The value without the rounding error of multiplying by the unit."""
    if not math.isfinite(value):
        return value
    return round(value, 1 - math.floor(math.log10(unit)))
