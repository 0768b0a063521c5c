r"""What several data sets can show, said before they are run: on average over these, or on data sets like them.

A standardised difference is a mean difference in standard deviations of the paired difference over seeds, as on one data set. Over q data
sets with n seeds each and r = n_test / n_train:

* the average over **these** data sets has the standard error :math:`\sqrt{(1/n + r) / q}`. What no number of seeds can do on one data set,
  more data sets can;
* over data sets **alike** the differences vary by :math:`\sqrt{\tau^2 + 1/n + r}` from one to the next, tau being how much the true
  differences vary. No number of seeds replaces data sets: below six no p-value falls to 0.05.
"""

import math
from dataclasses import dataclass

import scipy

from lossmith.study.across import Population
from lossmith.study.statistics.paired import check_sizes
from lossmith.study.statistics.power import count, fewest, signed_rank_power, threshold
from lossmith.study.statistics.signed_rank import fewest_pairs

_MOST_SEEDS, _MOST_DATA_SETS = 1000, 200


@dataclass(frozen=True)
class ProspectAcross:
    """What a number of data sets and seeds can show.

    Attributes:
        population: "these" or "alike": which data sets the claim will speak of.
        n_data_sets: the data sets planned.
        n_seeds: the seeds planned on each.
        n_comparisons: the comparisons with the baseline, over all settings.
        alpha: the share of runs in which a false winner is acceptable.
        power: the probability with which a real difference should be found.
        can_reach_alpha: whether any adjusted p-value can fall to alpha or below, whatever the outcome.
        smallest_effect: the smallest standardised difference found with that power; inf where there is none.
        effect: the standardised difference that ``recommended`` is for.
        recommended: the fewest seeds on each data set ("these"), or the fewest data sets ("alike"), that find it with that power; None
            where no number does.
    """

    population: Population
    n_data_sets: int
    n_seeds: int
    n_comparisons: int
    alpha: float
    power: float
    can_reach_alpha: bool
    smallest_effect: float
    effect: float
    recommended: int | None

    @property
    def sentence(self) -> str:
        """The same in words, for the terminal and the report."""
        where = "On average over these" if self.population == "these" else "On data sets like these"
        planned = f"{count(self.n_data_sets, 'data set')}, {self.n_seeds} seeds and {count(self.n_comparisons, 'comparison')}"
        if not self.can_reach_alpha:
            said = f"{where}, with {planned}, no adjusted p-value can fall to {self.alpha:g}, whatever the outcome."
        elif math.isinf(self.smallest_effect):
            said = f"{where}, with {planned}, no difference would be found with probability {self.power:g}."
        else:
            said = (
                f"{where}, with {planned}, a difference of {self.smallest_effect:.1f} standard deviations of the paired difference would be"
                f" found with probability {self.power:g}."
            )
        unit = "seed" if self.population == "these" else "data set"
        if self.recommended is None:
            return f"{said} No number of {unit}s finds one of {self.effect:g}."
        return f"{said} For one of {self.effect:g} it takes {count(self.recommended, unit)}."


def what_data_sets_can_show(
    n_data_sets: int,
    n_seeds: int,
    n_comparisons: int,
    train_size: int,
    test_size: int,
    *,
    population: Population,
    variation: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
    effect: float = 1.5,
) -> ProspectAcross:
    """What a study of several data sets can show.

    Args:
        n_data_sets: the data sets planned, at least 1.
        n_seeds: the seeds planned on each, at least 2.
        n_comparisons: the objectives compared with the baseline, times the settings.
        train_size: rows trained on, per seed; of data sets of different sizes any one's, where the shares are the same.
        test_size: rows tested on, per seed.
        population: ``"these"`` data sets, or data sets ``"alike"``.
        variation: for data sets alike, the standard deviation of the true difference from data set to data set, in standard deviations of
            the paired difference over seeds. A guess: at 1 the data sets differ as much as the seeds of one.
        alpha: the share of runs in which a false winner among all the comparisons is acceptable.
        power: the probability with which a real difference should be found: from the t distribution for "these", approximate in its degrees
            of freedom; simulated for "alike".
        effect: the standardised difference to recommend for.

    Example:
        >>> from lossmith.study.power_across import what_data_sets_can_show
        >>> these = what_data_sets_can_show(3, 10, 4, 800, 100, population="these")
        >>> round(these.smallest_effect, 1), these.recommended
        (1.0, 4)
        >>> alike = what_data_sets_can_show(3, 10, 4, 800, 100, population="alike")
        >>> alike.can_reach_alpha, alike.recommended
        (False, 11)
    """
    check_sizes(train_size, test_size, alpha, "corrected_t")
    for name, value, least in (("n_data_sets", n_data_sets, 1), ("n_seeds", n_seeds, 2), ("n_comparisons", n_comparisons, 1)):
        if value < least:
            raise ValueError(f"{name}: {value}; wanted {least} or more")
    if not (0 < power < 1 and effect > 0 and variation >= 0):
        raise ValueError(f"power, effect, variation: {power}, {effect}, {variation}; wanted one in (0, 1), one above 0, one of 0 or more")
    level, ratio = alpha / n_comparisons, test_size / train_size

    def found(difference: float, data_sets: int, seeds: int) -> float:
        width = 1 / seeds + ratio
        if population == "alike":
            return signed_rank_power(difference / math.sqrt(variation**2 + width), data_sets, level)
        degrees = data_sets * (seeds - 1)
        return float(scipy.stats.nct.sf(scipy.stats.t.isf(level / 2, degrees), degrees, difference / math.sqrt(width / data_sets)))

    reachable = population == "these" or n_data_sets >= fewest_pairs(n_comparisons, alpha)
    smallest = math.inf
    if reachable:
        smallest = threshold(lambda difference: found(difference, n_data_sets, n_seeds) >= power, 0.0, 1.0)
    if population == "these":
        recommended = fewest(lambda count: found(effect, n_data_sets, count) >= power, 2, _MOST_SEEDS)
    else:
        recommended = fewest(lambda count: found(effect, count, n_seeds) >= power, 1, _MOST_DATA_SETS)
    return ProspectAcross(
        population=population,
        n_data_sets=n_data_sets,
        n_seeds=n_seeds,
        n_comparisons=n_comparisons,
        alpha=alpha,
        power=power,
        can_reach_alpha=reachable,
        smallest_effect=smallest,
        effect=effect,
        recommended=recommended,
    )
