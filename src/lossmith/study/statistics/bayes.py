r"""How likely an objective is better, as good, or worse: Bayesian counterparts of the paired tests, with a region of practical equivalence.

A p-value cannot say that two objectives are as good as each other, nor that a difference is large enough to matter. A posterior can, given
how small a difference matters to nobody: the region of practical equivalence, or rope, from -r to r around 0, in the metric's own units.

* One data set: the correlated t-test. With the improper prior 1/sigma² and seeds that correlate by n_test / (n_test + n_train), the
  posterior of the mean difference is a t distribution with n - 1 degrees of freedom about the mean, of scale :math:`s \sqrt{1/n +
  n_{test}/n_{train}}`. Its intervals are those of the corrected t-test.
* Several data sets: the sign test and the signed-rank test under a Dirichlet process. The three probabilities are then that the difference
  lies *most often* below, inside or above the rope, among data sets like these (of pairs of them, for the signed ranks).

The probabilities are not adjusted for the number of objectives: among twenty that are equal, one may well reach 0.95 by chance. The
p-values of :mod:`lossmith.study.statistics.paired` are the ones that keep an error rate.

References:
    Corani & Benavoli 2015, "A Bayesian approach for comparing cross-validated algorithms on multiple data sets"; Benavoli, Mangili,
    Corani, Zaffalon & Ruggeri 2014, "A Bayesian Wilcoxon signed-rank test based on the Dirichlet process"; Benavoli, Corani, Demšar &
    Zaffalon 2017, "Time for a change: a tutorial for comparing multiple classifiers through Bayesian analysis" (arXiv 1606.04316).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from lossmith.study.statistics.paired import check_sizes, mean_and_error

_SAMPLES = 50_000
_CHUNK = 5_000


@dataclass(frozen=True)
class Chances:
    """Posterior probabilities that sum to 1.

    Attributes:
        worse: that the objective is worse by more than the rope.
        equivalent: that the difference is inside the rope.
        better: that the objective is better by more than the rope.
    """

    worse: float
    equivalent: float
    better: float

    def verdict(self, level: float = 0.95) -> Literal["better", "equivalent", "worse", "undecided"]:
        """The one of the three that is at least this probable; "undecided" where none is."""
        if self.better >= level:
            return "better"
        if self.worse >= level:
            return "worse"
        return "equivalent" if self.equivalent >= level else "undecided"


def correlated_t(differences: np.ndarray, *, train_size: int, test_size: int, rope: float, overlap: bool = True) -> Chances:
    """The Bayesian correlated t-test of one data set's paired differences.

    Where all differences are equal and not zero, their spread is that of ``corrected_t``: the rounding error of one test row.

    Args:
        differences: ``(n,)``, finite, n at least 2; positive where the objective is better.
        train_size: rows trained on, per seed.
        test_size: rows tested on, per seed.
        rope: the largest difference that does not matter, in the metric's own units.
        overlap: whether the seeds redraw the split; if not, the seeds do not correlate.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.bayes import correlated_t
        >>> d = np.array([0.02, 0.01, 0.03, 0.00, 0.02, 0.01])
        >>> chances = correlated_t(d, train_size=800, test_size=100, rope=0.01)
        >>> f"{chances.worse:.3f} {chances.equivalent:.3f} {chances.better:.3f}", chances.verdict()
        ('0.003 0.205 0.791', 'undecided')
    """
    check_sizes(train_size, test_size, 0.05, "corrected_t")
    _check(differences, rope, fewest=2)
    mean, error = mean_and_error(differences, train_size=train_size, test_size=test_size, overlap=overlap)
    if error == 0:
        return Chances(0.0, 1.0, 0.0)
    posterior = scipy.stats.t(len(differences) - 1, float(mean), float(error))
    worse, better = float(posterior.cdf(-rope)), float(posterior.sf(rope))
    return Chances(worse, 1 - worse - better, better)


def bayesian_sign_test(differences: np.ndarray, *, rope: float, prior: float = 1.0) -> Chances:
    """The Bayesian sign test over data sets: which of below, inside and above the rope is the most frequent.

    The three frequencies have a Dirichlet posterior with the counts as parameters; the probability that one is the largest is an integral
    over gamma distributions, taken numerically rather than by sampling.

    Args:
        differences: ``(q,)``, the mean difference on each data set, finite; positive where the objective is better.
        rope: the largest difference that does not matter, in the metric's own units.
        prior: the weight of one imagined data set inside the rope.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.bayes import bayesian_sign_test
        >>> chances = bayesian_sign_test(np.array([0.04, 0.03, 0.00, 0.05, 0.06, 0.02, 0.04, 0.03]), rope=0.01)
        >>> round(chances.better, 3), chances.verdict()
        (0.965, 'better')
    """
    _check(differences, rope)
    _check_prior(prior)
    below, above = int((differences < -rope).sum()), int((differences > rope).sum())
    weights = (float(below), len(differences) - below - above + prior, float(above))
    return Chances(*(_largest(weights, place) for place in range(3)))


def bayesian_signed_rank_test(differences: np.ndarray, *, rope: float, prior: float = 0.5) -> Chances:
    """The Bayesian signed-rank test over data sets: where the average of two data sets' differences lies most often.

    With Dirichlet weights on the data sets, and `prior` on an imagined one without a difference, each draw gives the probability that a
    pair's average is below, inside and above the rope; counted is which of the three is the largest. A pair exactly on the border counts
    half to either side. The draws are the same in every run; with 50,000 of them a probability is right to within 0.005.

    Args:
        differences: ``(q,)``, the mean difference on each data set, finite; positive where the objective is better.
        rope: the largest difference that does not matter, in the metric's own units.
        prior: the weight of the imagined data set.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.bayes import bayesian_signed_rank_test
        >>> chances = bayesian_signed_rank_test(np.array([0.04, 0.03, 0.00, 0.05, 0.06, 0.02, 0.04, 0.03]), rope=0.01)
        >>> chances.verdict()
        'better'
    """
    _check(differences, rope)
    _check_prior(prior)
    values = np.concatenate([[0.0], differences])
    sums = values[:, None] + values[None, :]
    above = np.heaviside(sums - 2 * rope, 0.5)
    below = np.heaviside(-sums - 2 * rope, 0.5)
    rng = np.random.default_rng(0)
    counts = np.zeros(3)
    for _ in range(_SAMPLES // _CHUNK):
        weights = rng.standard_gamma(np.array([prior, *np.ones(len(differences))]), (_CHUNK, len(values)))
        weights /= weights.sum(1, keepdims=True)
        high, low = ((weights @ side * weights).sum(1) for side in (above, below))
        counts += np.bincount(np.stack([low, 1 - low - high, high]).argmax(0), minlength=3)
    worse, equivalent, better = (counts / counts.sum()).tolist()
    return Chances(worse, equivalent, better)


def _largest(weights: tuple[float, float, float], place: int) -> float:
    """The probability that this part of a Dirichlet vector is the largest: that its gamma variable exceeds the others'."""
    if weights[place] == 0:
        return 0.0
    others = [weight for k, weight in enumerate(weights) if k != place and weight > 0]

    def density(v: float) -> float:
        x = math.exp(v)  # over the logarithm, since the density of a weight below 1 has a pole at 0
        return float(scipy.stats.gamma.pdf(x, weights[place])) * x * math.prod(float(scipy.stats.gamma.cdf(x, other)) for other in others)

    middle = math.log(weights[place])
    left, right = (scipy.integrate.quad(density, *ends, epsabs=1e-12)[0] for ends in ((middle - 40, middle), (middle, middle + 8)))
    return left + right


def _check(differences: np.ndarray, rope: float, fewest: int = 1) -> None:
    if differences.ndim != 1 or len(differences) < fewest or not np.isfinite(differences).all():
        raise ValueError(f"differences: shape {differences.shape}; wanted {fewest} finite numbers or more, in one row")
    if not rope > 0:
        raise ValueError(f"rope: {rope}; wanted a positive number, the largest difference that does not matter")


def _check_prior(prior: float) -> None:
    if not prior > 0:
        raise ValueError(f"prior: {prior}; wanted a positive weight")
