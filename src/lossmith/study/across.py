r"""Several data sets at once: the same objectives compared with the same baseline on each, and two different claims about all of them.

Which data sets does a claim speak of? It has to be said, because the error of the claim depends on it:

* ``"these"``: the data sets at hand and no others. The mean over data sets of the mean differences is tested. Its standard error comes
  from the seeds, corrected on each data set for overlapping splits, :math:`\sqrt{\sum_i s_i^2 (1/n_i + r_i)} / q`, with the degrees of
  freedom of Welch and Satterthwaite; data sets that disagree with each other do not enter it. "On average over these three, better."
* ``"alike"``: data sets like these, of which these are a sample. The data sets' mean differences are tested by the exact signed-rank test.
  Only the number of data sets counts, not the number of seeds: with fewer than six, no p-value falls to 0.05 whatever is found.

The same rows with more noise or fewer labels are not another data set: its results hang together with those of the first, and either claim
would count it as independent news. So each setting has a table of its own, :func:`compare_across` takes several tables, and adjusts over
all their comparisons by Holm's rule.

References:
    Nadeau & Bengio 2003, "Inference for the generalization error"; Satterthwaite 1946, "An approximate distribution of estimates of
    variance components"; Demšar 2006, "Statistical comparisons of classifiers over multiple data sets".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import scipy

from lossmith.study.protocol import setting
from lossmith.study.sizes import Sizes
from lossmith.study.statistics.bayes import Chances, bayesian_signed_rank_test, correlated_t
from lossmith.study.statistics.paired import Verdict, direction, holm, mean_and_error, rounded
from lossmith.study.statistics.power import count
from lossmith.study.statistics.ranks import Method, Ranking, rank
from lossmith.study.statistics.signed_rank import fewest_pairs, signed_rank
from lossmith.study.summary import Summary

Population = Literal["these", "alike"]


@dataclass(frozen=True, eq=False)
class StudyTable:
    """What the same objectives reached on several data sets, in one metric.

    Attributes:
        setting: what was done to the data, the same for all, such as "with 40 % symmetric label noise"; empty if nothing.
        metric: the name of the metric.
        higher_is_better: its direction.
        baseline: the label to compare with.
        values: by data set and label, one value a seed; NaN where the trial failed.
        sizes: by data set, the rows of a seed's split.
    """

    setting: str
    metric: str
    higher_is_better: bool
    baseline: str
    values: Mapping[str, Mapping[str, np.ndarray]]
    sizes: Mapping[str, Sizes]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values: no data sets; wanted 1 or more")
        if self.sizes.keys() != self.values.keys():
            raise ValueError(f"sizes: of {', '.join(self.sizes)}; wanted those of {', '.join(self.values)}")
        first = next(iter(self.values))
        for name, rows in self.values.items():
            if set(rows) != set(self.values[first]):
                raise ValueError(
                    f"values: {', '.join(rows)} on {name}, {', '.join(self.values[first])} on {first}; wanted the same objectives"
                )
            if self.baseline not in rows:
                raise ValueError(f"baseline: no values for {self.baseline!r} on {name}; there are {', '.join(map(repr, rows))}")
            if len({len(row) for row in rows.values()}) != 1 or len(rows[self.baseline]) < 2:
                raise ValueError(f"values: on {name}, wanted the same number of seeds for every objective, 2 or more")

    @classmethod
    def of(cls, summaries: Sequence[Summary]) -> "StudyTable":
        """The table of several finished studies: different data, all else declared alike."""
        if not summaries:
            raise ValueError("summaries: none; wanted 1 or more")
        first = summaries[0].spec
        for summary in summaries:
            spec = summary.spec
            if spec.split_column is not None:
                raise ValueError(f"summaries: {summary.result.data['name']} has a split of its own; wanted splits that seeds redraw")
            for what in ("objectives", "metric", "stop", "noise", "imbalance", "labels", "model", "folds", "clean_validation"):
                if getattr(spec, what) != getattr(first, what):
                    raise ValueError(f"summaries: {what} differs from study to study; wanted it declared alike, a table for each otherwise")
        prints = [summary.result.data["fingerprint"] for summary in summaries]
        names = [summary.result.data["name"] for summary in summaries]
        for place, name in enumerate(names):
            if prints[place] in prints[:place] or name in names[:place]:
                raise ValueError(f"summaries: {name} is there twice; the same data are not another data set")
        return cls(
            setting=setting(first, "").strip(),
            metric=first.metric,
            higher_is_better=direction(first.metric),
            baseline=summaries[0].baseline,
            values={
                name: {line.objective: np.array(line.estimate.values) for line in summary.lines()}
                for name, summary in zip(names, summaries, strict=True)
            },
            sizes={name: summary.sizes for name, summary in zip(names, summaries, strict=True)},
        )

    @property
    def data_sets(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Labels, the baseline first."""
        labels = next(iter(self.values.values()))
        return (self.baseline, *(label for label in labels if label != self.baseline))

    def differences(self, objective: str) -> dict[str, np.ndarray]:
        """By data set, the paired differences to the baseline, a seed each; NaN where a trial failed."""
        return {name: _paired(rows[objective], rows[self.baseline]) for name, rows in self.values.items()}

    def failed(self, objective: str) -> dict[str, int]:
        """By data set, the seeds on which this objective failed; data sets without a failure are left out."""
        counts = {name: int((~np.isfinite(rows[objective])).sum()) for name, rows in self.values.items()}
        return {name: failed for name, failed in counts.items() if failed}

    def ranking(self, *, method: Method = "signed_rank", alpha: float = 0.05) -> Ranking:
        """The objectives ranked over the data sets by their means; those with a failed trial are left out."""
        whole = {label: [rows[label].mean() for rows in self.values.values()] for label in self.objectives if not self.failed(label)}
        return rank(whole, self.metric, method=method, alpha=alpha, higher_is_better=self.higher_is_better)

    def chances(self, objective: str, *, rope: float) -> Chances:
        """How likely the objective is better, as good, or worse on most data sets like these: the Bayesian signed-rank test."""
        return bayesian_signed_rank_test(self._towards_better(objective), rope=rope)

    def chances_on(self, data_set: str, objective: str, *, rope: float) -> Chances:
        """How likely it is on one of the data sets: the Bayesian correlated t-test."""
        sizes = self.sizes[data_set]
        sign = 1.0 if self.higher_is_better else -1.0
        differences = sign * self.differences(objective)[data_set]
        return correlated_t(differences, train_size=sizes.train, test_size=sizes.test, rope=rope)

    def _towards_better(self, objective: str) -> np.ndarray:
        """The mean difference on each data set, positive where the objective is better."""
        sign = 1.0 if self.higher_is_better else -1.0
        return sign * np.array([row.mean() for row in self.differences(objective).values()])


@dataclass(frozen=True)
class AcrossComparison:
    """One objective against the baseline over several data sets.

    Attributes:
        setting: of the table.
        objective: its label.
        baseline: the label of the baseline.
        metric: the name of the metric.
        population: "these" or "alike": which data sets the claim speaks of.
        data_sets: how many there are.
        better_on: on how many its mean is better.
        worse_on: on how many it is worse.
        differences: by data set, the mean difference over seeds, not turned round where lower is better; NaN where a trial failed.
        mean_difference: their mean, every data set counting alike.
        low: lower end of the 1 - alpha interval of what is claimed; -inf where nothing can be said.
        high: upper end.
        p: two-sided.
        p_adjusted: after Holm over all comparisons of all tables.
        verdict: as on one data set.
        note: what the reader must know besides; often empty.
    """

    setting: str
    objective: str
    baseline: str
    metric: str
    population: Population
    data_sets: int
    better_on: int
    worse_on: int
    differences: Mapping[str, float]
    mean_difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    verdict: Verdict
    note: str = ""


def compare_across(*tables: StudyTable, population: Population, alpha: float = 0.05) -> list[AcrossComparison]:
    """Every objective against the baseline over the data sets of each table.

    Args:
        *tables: one, or one for each setting of the same question.
        population: ``"these"`` data sets, or data sets ``"alike"``; to be declared before the run.
        alpha: the chance with which any false winner among all the comparisons is acceptable.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.across import StudyTable, compare_across
        >>> from lossmith.study.sizes import Sizes
        >>> rng = np.random.default_rng(0)
        >>> def seeds(mean):
        ...     return rng.normal(mean, 0.01, 10)
        >>> values = {
        ...     "digits": {"ce": seeds(0.90), "new": seeds(0.93)},
        ...     "wine": {"ce": seeds(0.80), "new": seeds(0.84)},
        ...     "breast_cancer": {"ce": seeds(0.85), "new": seeds(0.88)},
        ... }
        >>> table = StudyTable("", "accuracy", True, "ce", values, {name: Sizes(800, 100, 100) for name in values})
        >>> for population in ("these", "alike"):
        ...     (found,) = compare_across(table, population=population)
        ...     print(f"{population}: {found.mean_difference:+.3f}, p = {found.p_adjusted:.3f}: {found.verdict}")
        these: +0.028, p = 0.000: better
        alike: +0.028, p = 0.250: no difference shown
    """
    if population not in get_args(Population):
        raise ValueError(f"population: {population!r}; wanted one of {', '.join(get_args(Population))}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha}; wanted a number between 0 and 1")
    several = [(table, label) for table in tables for label in table.objectives[1:]]
    found = [_unadjusted(table, label, population, alpha) for table, label in several]
    adjusted = holm(np.array([one.p for one in found])).tolist()
    judged = []
    for (table, _), one, p in zip(several, found, adjusted, strict=True):
        verdict = one.verdict
        if verdict == "no difference shown" and p <= alpha:
            centre = one.low + one.high if math.isfinite(one.low + one.high) else one.mean_difference
            verdict = "better" if (centre > 0) == table.higher_is_better else "worse"
        elif verdict == "no difference shown" and population == "alike" and one.data_sets < fewest_pairs(len(found), alpha):
            fewest = fewest_pairs(len(found), alpha)
            needed = f"with {count(len(found), 'comparison')} it takes {fewest} data sets or more, so nothing could have been shown"
            one = replace(one, note=f"{one.note}; {needed}" if one.note else needed)
        judged.append(replace(one, p_adjusted=p, verdict=verdict))
    return judged


def what_is_claimed(population: Population, data_sets: Sequence[str]) -> str:
    """Which data sets a claim speaks of, in a sentence for the reader of a report."""
    named = ", ".join(data_sets)
    if population == "these":
        return (
            f"The claims are about the average over {named}, each counting alike: about new rows like theirs and new initial weights, not"
            " about any other data set. The data sets may disagree with each other, and the average hides it."
        )
    return (
        f"The claims are about data sets like {named}, of which these {len(data_sets)} are taken for an independent sample."
        " Whether yours is like them is for you to judge: they were not drawn at random."
    )


def _unadjusted(table: StudyTable, label: str, population: Population, alpha: float) -> AcrossComparison:
    """A comparison as it stands alone: its adjusted p is its own p, and its verdict has no direction yet."""
    differences = table.differences(label)
    means = np.array([row.mean() for row in differences.values()])
    low, high, p, verdict, note = -math.inf, math.inf, 1.0, "no difference shown", ""
    if not np.isfinite(means).all():
        lost = {side: table.failed(side) for side in (label, table.baseline)}
        told = [f"{count(failed, 'trial')} of {side} on {name}" for side, counts in lost.items() for name, failed in counts.items()]
        verdict, note = "failed", f"failed: {', '.join(told)}; not tested"
    elif not any(row.any() for row in differences.values()):
        low, high, verdict = 0.0, 0.0, "tied"
    elif population == "alike":
        ranked = signed_rank(means, alpha=alpha)
        low, high, p = ranked.low, ranked.high, ranked.p
    else:
        low, high, p = _average(list(differences.values()), list(table.sizes.values()), alpha)
    turned = means if table.higher_is_better else -means
    return AcrossComparison(
        setting=table.setting,
        objective=label,
        baseline=table.baseline,
        metric=table.metric,
        population=population,
        data_sets=len(means),
        better_on=int((turned > 0).sum()),
        worse_on=int((turned < 0).sum()),
        differences=dict(zip(differences, means.tolist(), strict=True)),
        mean_difference=float(means.mean()),
        low=low,
        high=high,
        p=p,
        p_adjusted=p,
        verdict=verdict,
        note=note,
    )


def _average(rows: Sequence[np.ndarray], sizes: Sequence[Sizes], alpha: float) -> tuple[float, float, float]:
    """The interval and p-value of the mean over data sets of the mean differences."""
    found = [mean_and_error(row, train_size=size.train, test_size=size.test) for row, size in zip(rows, sizes, strict=True)]
    means, variances = np.array([mean for mean, _ in found]), np.array([error**2 for _, error in found])
    freedom = np.array([len(row) - 1 for row in rows])
    degrees = variances.sum() ** 2 / (variances**2 / freedom).sum()
    mean, error = float(means.mean()), math.sqrt(variances.sum()) / len(rows)
    reach = float(scipy.stats.t.isf(alpha / 2, degrees)) * error
    return mean - reach, mean + reach, float(2 * scipy.stats.t.sf(abs(mean) / error, degrees))


def _paired(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Differences without rounding errors where both have a value, NaN elsewhere."""
    finished = np.isfinite(ours) & np.isfinite(theirs)
    differences = np.full(len(ours), math.nan)
    differences[finished] = rounded(ours[finished], theirs[finished])
    return differences
