r"""Evidence that may be looked at after every seed: e-processes of paired differences whose splits overlap.

The model is the one that the corrected t-test assumes (Nadeau & Bengio 2003): the differences of the seeds on one data set are

.. math:: d_i = \mu + \sigma (\sqrt{\rho}\, b + \varepsilon_i), \qquad b, \varepsilon_1, \varepsilon_2, \dots \sim N(0, 1),

where b is shared by all seeds, because they look at the same rows, and rho = n_test / n_train. For rho = 0 the seeds are
independent draws and mu is the mean over splits of this very data set.

Two e-processes follow, both likelihood ratios of what the differences say regardless of their unit (of the maximal invariant under
changes of scale), hence free of the unknown sigma. With m the mean and S the sum of squares about it after k seeds:

* against "no difference", mu = 0, in favour of effects mu / sigma drawn from N(0, kappa):

  .. math:: E_k = \sqrt{\frac{1 + k\rho}{1 + k(\rho + \kappa)}}
            \left(\frac{S + k m^2 / (1 + k\rho)}{S + k m^2 / (1 + k(\rho + \kappa))}\right)^{k/2};

* against "an advantage of delta or more", mu / sigma >= delta, in favour of mu = 0: the ratio of a central to a noncentral t.

Each is a test martingale where its hypothesis holds with equality, so by Ville's inequality the chance that it *ever* reaches 1/alpha is
at most alpha: one may look after every seed, stop for whatever reason, and go on later. That holds of a threshold reached, and of
1 / max E as a p-value. It does not hold of averages of several such processes, whose filtrations differ from objective to objective;
several are therefore combined by Holm's rule on their p-values, which asks nothing of how they depend on each other.

What is assumed is normality and that the shared part is as large as the correction says. Where the correction falls short (learners that
memorise single rows) this falls short too.

References:
    Wang & Ramdas 2024, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance" (arXiv 2310.03722);
    Pérez-Ortiz, Lardy, de Heide & Grünwald 2024, "E-statistics, group invariance and anytime-valid testing" (arXiv 2208.07610);
    Ramdas, Grünwald, Vovk & Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference" (arXiv 2210.01948);
    Choe & Ramdas 2024, "Combining evidence across filtrations" (arXiv 2402.09698). The shared part b is our addition: it only changes the
    covariance from the identity to one that is known up to the scale.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

KAPPA = 1.5**2
"""Prior variance of mu / sigma under the alternative: effects of about the size that studies are planned for."""

# Nodes of the integral over the scale: four a standard deviation, and where the integrand has fallen by exp(-40) it ends.
_PER_DEVIATION = 4
_NEGLIGIBLE = 40.0


class Anytime(NamedTuple):
    """A p-value that may be looked at after every seed, and an interval with the same licence; each of shape ``(...)``."""

    low: np.ndarray | np.floating
    high: np.ndarray | np.floating
    p: np.ndarray | np.floating


def anytime_t(differences: np.ndarray, *, overlap: float, test_size: int, alpha: float = 0.05) -> Anytime:
    r"""The anytime-valid t-test of paired differences on overlapping splits, along the last axis.

    The p-value is 1 / max E over the seeds seen. The interval holds every mu that was never rejected at level alpha, the intersection of
    the intervals after each seed; should that be empty, which happens with probability below alpha, it is the last of them.

    Args:
        differences: ``(..., n)``, finite, in the order in which the seeds were run.
        overlap: n_test / n_train, or 0 for the question about splits of this very data set.
        test_size: rows tested on, per seed; equal differences have the spread of one row's rounding, as in ``corrected_t``.
        alpha: the level of the interval.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.sequential import anytime_t
        >>> d = np.array([0.04, 0.05, 0.03, 0.05, 0.06, 0.04, 0.05, 0.04])
        >>> low, high, p = anytime_t(d, overlap=1 / 8, test_size=100)
        >>> print(f"[{low:.3f}, {high:.3f}], p = {p:.4f}")
        [0.026, 0.064], p = 0.0022
    """
    seen, mean, squares, shared, wider = _moments(differences, overlap, test_size)
    ever = log_evidence(differences, overlap=overlap, test_size=test_size).max(-1)
    # E <= 1/alpha, solved for the distance of the mean from mu.
    allowed = (np.sqrt(wider / shared) / alpha) ** (2 / seen)
    room = 1 / shared - allowed / wider
    reach = np.sqrt(np.divide(squares * (allowed - 1), seen * room, out=np.full_like(squares, math.inf), where=room > 0))
    low, high = (mean - reach).max(-1), (mean + reach).min(-1)
    empty = low > high
    low, high = np.where(empty, (mean - reach)[..., -1], low), np.where(empty, (mean + reach)[..., -1], high)
    return Anytime(low, high, np.exp(-np.maximum(ever, 0.0)))


def log_evidence(differences: np.ndarray, *, overlap: float, test_size: int) -> np.ndarray:
    """The logarithm of the e-process against "no difference", ``(..., n)``: its value after each seed.

    Args:
        differences: ``(..., n)``, finite, in the order in which the seeds were run.
        overlap: n_test / n_train, or 0.
        test_size: rows tested on, per seed.
    """
    seen, mean, squares, shared, wider = _moments(differences, overlap, test_size)
    apart = seen * mean**2
    narrow, wide = squares + apart / shared, squares + apart / wider
    ratio = np.divide(narrow, wide, out=np.ones_like(wide), where=wide > 0)
    return 0.5 * np.log(shared / wider) + seen / 2 * np.log(ratio) + np.where(wide > 0, 0.0, 0.5 * np.log(wider / shared))


def log_evidence_against_advantage(differences: np.ndarray, *, overlap: float, test_size: int, effect: float = 1.5) -> np.ndarray:
    """The logarithm of the e-process against "the advantage is `effect` standard deviations or more", ``(..., n)``.

    At mu / sigma = effect it is a test martingale. A larger advantage moves every mean up and no spread, and with the mean the process
    goes down, so that the chance of ever reaching a threshold only falls.

    Args:
        differences: ``(..., n)``, finite, positive where the objective is better, in the order in which the seeds were run.
        overlap: n_test / n_train, or 0.
        test_size: rows tested on, per seed.
        effect: the advantage, in standard deviations of the paired difference.
    """
    shift, information = _shift(differences, overlap, test_size, effect)
    seeds = range(shift.shape[-1])
    noncentral = np.concatenate([_log_scale_integral(k + 1, shift[..., k : k + 1]) for k in seeds], axis=-1)
    central = np.concatenate([_log_scale_integral(k + 1, np.zeros(1)) for k in seeds])
    return effect**2 * information / 2 + central - noncentral


def seeds_until_excluded(
    differences: np.ndarray, *, overlap: float, test_size: int, effect: float = 1.5, miss: float = 0.05
) -> NDArray[np.int64]:
    """After how many seeds an advantage of `effect` is excluded, of many studies at once: `(...)`, one more than there are seeds where
    it never is.

    The same as where :func:`log_evidence_against_advantage` first reaches its threshold. After each number of seeds that evidence is a
    falling function of one number alone, so that here the threshold is solved for once, not every study's evidence integrated.
    """
    shift, information = _shift(differences, overlap, test_size, effect)
    excluded = shift <= np.array([_excluding_shift(k + 1, each, effect, miss) for k, each in enumerate(information)])
    return np.where(excluded.any(-1), excluded.argmax(-1), shift.shape[-1]) + 1


def seeds_until_hopeless(differences: np.ndarray, *, overlap: float, test_size: int, effect: float = 1.5, miss: float = 0.05) -> int | None:
    """After how many seeds an advantage of `effect` is excluded, or None: an objective that has it is given up with chance at most `miss`.

    Example:
        >>> import numpy as np
        >>> from lossmith.study.statistics.sequential import seeds_until_hopeless
        >>> d = np.array([0.01, -0.02, 0.00, -0.01, 0.01, -0.01, 0.00, -0.02])
        >>> seeds_until_hopeless(d, overlap=1 / 8, test_size=100)
        3
    """
    seeds = int(seeds_until_excluded(differences, overlap=overlap, test_size=test_size, effect=effect, miss=miss))
    return seeds if seeds <= len(differences) else None


def fewest_seeds(comparisons: int, overlap: float, alpha: float = 0.05, most: int = 1000) -> int:
    """The fewest seeds with which one of that many adjusted anytime p-values can reach alpha; `most` + 1 if none does.

    The most extreme outcome has no spread at all: E is then ((1 + n (rho + kappa)) / (1 + n rho)) to the power (n - 1) / 2.
    """
    for n in range(2, most + 1):
        ratio = (1 + n * (overlap + KAPPA)) / (1 + n * overlap)
        if (n - 1) / 2 * math.log(ratio) >= math.log(comparisons / alpha):
            return n
    return most + 1


def _moments(differences: np.ndarray, overlap: float, test_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """After each seed: how many, their mean, the squares about it, and 1 + k rho and 1 + k (rho + kappa)."""
    seen = np.arange(1.0, differences.shape[-1] + 1)
    mean = differences.cumsum(-1) / seen
    # Welford's step keeps the squares exact where the mean is large beside the spread; the first seed adds none.
    before = np.concatenate([np.zeros_like(mean[..., :1]), mean[..., :-1]], axis=-1)
    squares = ((differences - before) * (differences - mean)).cumsum(-1)
    constant = np.maximum.accumulate(differences, axis=-1) == np.minimum.accumulate(differences, axis=-1)
    squares = np.where(constant, (seen - 1) / (12 * test_size**2), squares)
    return seen, mean, squares, 1 + seen * overlap, 1 + seen * (overlap + KAPPA)


def _shift(differences: np.ndarray, overlap: float, test_size: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """After each seed: what the evidence against an advantage depends on, the mean in units of the differences' length; and how much
    the seeds tell of the mean, in units of the variance."""
    seen, mean, squares, shared, _ = _moments(differences, overlap, test_size)
    information = seen / shared
    length = np.sqrt(squares + seen * mean**2 / shared)
    return effect * np.divide(information * mean, length, out=np.zeros_like(mean), where=length > 0), information


@cache
def _excluding_shift(n: int, information: float, effect: float, miss: float) -> float:
    """The largest shift after n seeds at which the evidence against the advantage is 1 / miss; -inf where none is small enough."""
    at_none = effect**2 * information / 2 + _log_scale_integral(n, np.zeros(1))[0] + math.log(miss)

    def short(shift: float) -> float:
        return float(_log_scale_integral(n, np.array([shift]))[0] - at_none)

    most = effect * math.sqrt(information)  # of any differences, by Cauchy and Schwarz
    if short(-most) > 0:
        return -math.inf
    return most if short(most) <= 0 else scipy.optimize.root_scalar(short, bracket=(-most, most), xtol=1e-12).root


def _log_scale_integral(n: int, shift: np.ndarray) -> np.ndarray:
    r"""The logarithm of :math:`\int_0^\infty u^{n-1} \exp(-u^2/2 + u z)\,du` at each shift z, a Hermite function of negative order.

    Taken over v = log u, where the integrand is smooth and falls to 0 at both ends, so that the trapezoid rule converges geometrically.
    """
    top = (shift + np.sqrt(shift**2 + 4 * n)) / 2
    step = 1 / (_PER_DEVIATION * np.sqrt(2 * top**2 - top * shift))
    # To the left the integrand falls no slower than u^n; to the right faster than a normal density.
    below = int(np.ceil(_NEGLIGIBLE / (n * step.min()))) + 8 * _PER_DEVIATION
    nodes = np.log(top)[..., None] + step[..., None] * np.arange(-below, 10 * _PER_DEVIATION + 1)
    u = np.exp(nodes)
    return scipy.special.logsumexp(n * nodes - u**2 / 2 + u * shift[..., None], axis=-1) + np.log(step)
