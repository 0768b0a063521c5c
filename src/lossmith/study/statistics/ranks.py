r"""Objectives ranked over several data sets: who is told apart from whom.

A row of values here is one data set and holds each objective's mean over seeds there. Data sets are independent of each other where seeds
of one are not, so nothing has to be corrected for overlap; what is claimed is about data sets *like these*, and the data sets are the
sample.

* :func:`friedman` asks whether any objective differs from any other: Friedman's chi-squared and the less conservative F of Iman and
  Davenport, both approximate where data sets are few.
* **Which pairs differ** is asked of all pairs. The default is the exact signed-rank test of each pair's differences, adjusted over all
  pairs by Holm's rule. The classical alternative, Nemenyi's test, compares mean ranks with one critical difference. It is offered because
  papers report it, and it is not the default because a pair's mean ranks depend on which other objectives take part: by adding or leaving
  out third objectives the same two can be made to differ or not (Benavoli, Corani & Mangili 2016). It also uses only the order within
  each data set, not the size of the differences. The signed-rank test of a pair looks at nothing but that pair.

The pairs are a family of their own. A study's declared comparisons with its baseline are fewer, adjusted for fewer, and have more power.

References:
    Demšar 2006, "Statistical comparisons of classifiers over multiple data sets"; Iman & Davenport 1980, "Approximations of the critical
    region of the Friedman statistic"; Benavoli, Corani & Mangili 2016, "Should we really use post-hoc tests based on mean-ranks?"
    (arXiv 1505.02288).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import scipy

from lossmith.study.statistics.paired import direction, holm, rounded
from lossmith.study.statistics.signed_rank import fewest_pairs, signed_rank

Method = Literal["signed_rank", "nemenyi"]


@dataclass(frozen=True)
class Friedman:
    """Whether any of several objectives differs, over data sets.

    Attributes:
        chi_squared: Friedman's statistic, corrected for ties; its p-value is ``p``.
        p: from the chi-squared distribution with k - 1 degrees of freedom.
        f: Iman and Davenport's statistic; inf where every data set orders the objectives alike.
        p_f: from the F distribution with k - 1 and (k - 1)(N - 1) degrees of freedom.
    """

    chi_squared: float
    p: float
    f: float
    p_f: float


@dataclass(frozen=True)
class Pair:
    """Two objectives and whether they are told apart.

    Attributes:
        better: the label of the one that comes out ahead, in rank or in sign.
        worse: the label of the other.
        p: two-sided; with ``nemenyi`` it is adjusted for all pairs already.
        p_adjusted: over all pairs.
        differ: whether p_adjusted is at most alpha.
    """

    better: str
    worse: str
    p: float
    p_adjusted: float
    differ: bool


@dataclass(frozen=True)
class Ranking:
    """Objectives in the order of their mean ranks, rank 1 being best.

    Attributes:
        mean_ranks: by label, the best first; tied values share their ranks.
        data_sets: how many were ranked.
        friedman: whether any objective differs from any other.
        method: how pairs are compared.
        alpha: the chance of telling any two equal ones apart.
        pairs: all of them.
        groups: the largest sets of objectives no two of which are told apart, two objectives at least, the best first.
        critical_difference: of mean ranks, with ``nemenyi``; None otherwise.
        can_tell_apart: whether so many data sets could tell any two apart at all.
    """

    mean_ranks: Mapping[str, float]
    data_sets: int
    friedman: Friedman
    method: Method
    alpha: float
    pairs: tuple[Pair, ...]
    groups: tuple[tuple[str, ...], ...]
    critical_difference: float | None
    can_tell_apart: bool


def rank(
    values: Mapping[str, Sequence[float] | np.ndarray],
    metric: str,
    *,
    method: Method = "signed_rank",
    alpha: float = 0.05,
    higher_is_better: bool | None = None,
) -> Ranking:
    """Rank objectives over data sets and find which pairs are told apart.

    Args:
        values: for each objective's label its mean on each data set, the same data sets in the same order for all, finite.
        metric: a key of ``METRICS`` unless ``higher_is_better`` is given.
        method: ``signed_rank``, or ``nemenyi`` for the classical mean ranks, against which the module's description advises.
        alpha: the chance with which any two equal objectives may be told apart.
        higher_is_better: the direction, when the metric is not one of ``METRICS``.

    Example:
        >>> from lossmith.study.statistics.ranks import rank
        >>> values = {
        ...     "base": [0.80, 0.71, 0.90, 0.65, 0.77, 0.88, 0.69, 0.93],
        ...     "good": [0.84, 0.76, 0.92, 0.70, 0.80, 0.91, 0.75, 0.94],
        ...     "same": [0.81, 0.70, 0.91, 0.64, 0.78, 0.87, 0.70, 0.92],
        ... }
        >>> ranking = rank(values, "accuracy")
        >>> ranking.mean_ranks
        {'good': 1.0, 'base': 2.5, 'same': 2.5}
        >>> ranking.groups
        (('base', 'same'),)
    """
    higher = direction(metric, higher_is_better)
    labels = list(values)
    table = _checked(values, method, alpha)
    ranks = scipy.stats.rankdata(-table if higher else table, axis=1)
    mean_ranks = dict(sorted(zip(labels, ranks.mean(0).tolist(), strict=True), key=lambda one: one[1]))
    n, k = table.shape
    critical = nemenyi_critical_difference(n, k, alpha) if method == "nemenyi" else None
    pairs = _by_mean_ranks(mean_ranks, n, alpha) if method == "nemenyi" else _by_signed_ranks(table, labels, mean_ranks, higher, alpha)
    apart = {frozenset((pair.better, pair.worse)) for pair in pairs if pair.differ}
    return Ranking(
        mean_ranks=mean_ranks,
        data_sets=n,
        friedman=friedman(table),
        method=method,
        alpha=alpha,
        pairs=tuple(pairs),
        groups=_groups(list(mean_ranks), apart),
        critical_difference=critical,
        can_tell_apart=critical <= k - 1 if critical is not None else n >= fewest_pairs(len(pairs), alpha),
    )


def friedman(values: np.ndarray) -> Friedman:
    """Friedman's test of N data sets (rows) and k objectives (columns), and Iman and Davenport's F.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.ranks import friedman
        >>> values = np.array([[0.80, 0.84, 0.81], [0.71, 0.76, 0.70], [0.90, 0.92, 0.91], [0.65, 0.70, 0.64], [0.77, 0.80, 0.78]])
        >>> round(friedman(values).chi_squared, 2)
        7.6
    """
    n, k = values.shape
    ranks = scipy.stats.rankdata(values, axis=1)
    spread = ((ranks - (k + 1) / 2) ** 2).sum()
    if spread == 0:
        return Friedman(0.0, 1.0, 0.0, 1.0)
    # n² times the squares of the mean ranks over the squares of all ranks: n k (k + 1) (k - 1) / 12 without ties.
    chi_squared = float((k - 1) * n**2 * ((ranks.mean(0) - (k + 1) / 2) ** 2).sum() / spread)
    left = n * (k - 1) - chi_squared
    f = (n - 1) * chi_squared / left if left > 1e-9 * n * (k - 1) else math.inf
    return Friedman(chi_squared, float(scipy.stats.chi2.sf(chi_squared, k - 1)), f, float(scipy.stats.f.sf(f, k - 1, (k - 1) * (n - 1))))


def nemenyi_critical_difference(data_sets: int, objectives: int, alpha: float = 0.05) -> float:
    r"""How far mean ranks must lie apart: :math:`q_\alpha \sqrt{k (k + 1) / (6 N)}`, q being the Studentized range over :math:`\sqrt 2`.

    Example:
        >>> from lossmith.study.statistics.ranks import nemenyi_critical_difference
        >>> round(nemenyi_critical_difference(14, 4), 2)  # Demšar 2006, section 3.2.2
        1.25
    """
    return float(scipy.stats.studentized_range.isf(alpha, objectives, np.inf)) * math.sqrt(objectives * (objectives + 1) / (12 * data_sets))


def _by_signed_ranks(table: np.ndarray, labels: Sequence[str], mean_ranks: Mapping[str, float], higher: bool, alpha: float) -> list[Pair]:
    """Every pair by the exact signed-rank test, Holm over all."""
    column = {label: table[:, place] if higher else -table[:, place] for place, label in enumerate(labels)}
    couples = list(combinations(mean_ranks, 2))
    found = [signed_rank(rounded(column[one], column[other]), alpha=alpha) for one, other in couples]
    p = [one.p for one in found]
    pairs = []
    for (one, other), test, adjusted in zip(couples, found, holm(np.array(p)).tolist(), strict=True):
        ahead = test.low + test.high if math.isfinite(test.low) else float((column[one] - column[other]).mean())
        better, worse = (one, other) if ahead >= 0 else (other, one)
        pairs.append(Pair(better, worse, test.p, adjusted, adjusted <= alpha))
    return pairs


def _by_mean_ranks(mean_ranks: Mapping[str, float], data_sets: int, alpha: float) -> list[Pair]:
    """Every pair by Nemenyi's test."""
    k = len(mean_ranks)
    pairs = []
    for one, other in combinations(mean_ranks, 2):
        distance = (mean_ranks[other] - mean_ranks[one]) / math.sqrt(k * (k + 1) / (12 * data_sets))
        p = float(scipy.stats.studentized_range.sf(distance, k, np.inf))
        pairs.append(Pair(one, other, p, p, p <= alpha))
    return pairs


def _groups(labels: Sequence[str], apart: set[frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """The maximal cliques of "not told apart", by Bron and Kerbosch."""
    near = {one: {other for other in labels if other != one and frozenset((one, other)) not in apart} for one in labels}
    found: list[tuple[str, ...]] = []

    def grow(chosen: set[str], possible: set[str], done: set[str]) -> None:
        if not possible and not done and len(chosen) > 1:
            found.append(tuple(label for label in labels if label in chosen))
        if not possible:
            return
        pivot = max(possible | done, key=lambda label: (len(near[label] & possible), label))
        for label in sorted(possible - near[pivot]):
            grow(chosen | {label}, possible & near[label], done & near[label])
            possible = possible - {label}
            done = done | {label}

    grow(set(), set(labels), set())
    place = {label: k for k, label in enumerate(labels)}
    return tuple(sorted(found, key=lambda group: [place[label] for label in group]))


def _checked(values: Mapping[str, Sequence[float] | np.ndarray], method: Method, alpha: float) -> np.ndarray:
    """The values as a table of data sets and objectives."""
    if method not in get_args(Method):
        raise ValueError(f"method: {method!r}; wanted one of {', '.join(get_args(Method))}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha}; wanted a number between 0 and 1")
    if len(values) < 2:
        raise ValueError(f"values: {len(values)} objectives; wanted 2 or more")
    lengths = {len(row) for row in values.values()}
    if len(lengths) > 1 or min(lengths) < 2:
        raise ValueError(f"values: {', '.join(map(str, sorted(lengths)))} data sets; wanted the same number for all, 2 or more")
    table = np.array([list(row) for row in values.values()], dtype=float).T
    for label, column in zip(values, table.T, strict=True):
        if not np.isfinite(column).all():
            raise ValueError(f"values: {label!r} has no value on some data set; what failed cannot be ranked, leave it out and say so")
    return table
