"""Errors of stated confidence: the expected calibration error, its reliability curve, and the risk-coverage area.

All of them look at one confidence a row and whether that row was right. A row of class probabilities is reduced to the
probability of its most probable class first (top-label calibration). The work is done in float64 and without gradients:
these are instruments for looking, not objectives.

Three details in which implementations in use differ are settled here, and tests hold them:

* A confidence of exactly 1 belongs to the last bin and a confidence of exactly 0 to the first. (Counting it past the
  last edge puts it in a bin of its own and changes the value.)
* Rows of equal confidence are interchangeable: no value depends on the order in which such rows came.
* The sum of (confidence - correct) in a bin is one weighted count; no bin is divided by its size, so that empty bins
  need no special case.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# A softmax in half precision sums to 1 only roughly, and its largest entry may pass 1 by a rounding error.
_SUM_TOLERANCE = 2e-2
_RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ReliabilityCurve:
    """What a reliability diagram draws, bin by bin.

    Attributes:
        lower: the lower edge of each bin (of an equal-mass bin: its smallest confidence).
        upper: the upper edge of each bin (of an equal-mass bin: its largest confidence).
        confidence: the mean confidence of the rows in the bin; NaN where the bin is empty.
        accuracy: the share of them that was right; NaN where the bin is empty.
        count: how many rows fell into the bin.
    """

    lower: Float[Tensor, " bins"]
    upper: Float[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    count: Int[Tensor, " bins"]


@torch.no_grad()
def expected_calibration_error(
    probabilities: Float[Tensor, "n c"] | Float[Tensor, " n"],
    target: Int[Tensor, " n"] | Bool[Tensor, " n"] | Float[Tensor, " n"],
    *,
    bins: int = 15,
    equal_mass: bool = False,
) -> Float[Tensor, ""]:
    r"""The mean gap between confidence and accuracy, over bins of confidence.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\,\bigl|\mathrm{acc}_b - \mathrm{conf}_b\bigr|
        = \frac1n \sum_b \Bigl|\sum_{i \in b} (p_i - r_i)\Bigr|

    with :math:`p_i` the confidence of row i and :math:`r_i` whether it was right.

    Args:
        probabilities: class probabilities ``(n, c)``, of which the largest is the confidence; or confidences ``(n,)``.
        target: class indices ``(n,)`` with class probabilities; with confidences, whether each row was right
            (booleans, or numbers from 0 to 1 where the probability of being right is itself known).
        bins: how many.
        equal_mass: bins of equally many rows instead of equal width.

    Returns:
        A float64 scalar on the device of ``probabilities``, in [0, 1].

    Note:
        The value is a lower bound on the true error for infinite data (within a bin, errors of opposite sign cancel)
        and too large for finite data: a perfectly calibrated predictor with uniform confidences has an expected value
        of about :math:`\frac{\pi}{8}\sqrt{2B/(\pi n)}`, 0.012 for ten thousand rows and 15 bins. Compare it between
        predictors on the same rows, not with zero.

    References:
        Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning" (equal
        width); Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, eq. 3; Nguyen & O'Connor 2015, arXiv:1508.05154
        (equal mass).

    Example:
        >>> import torch
        >>> from lossmith.calibration import expected_calibration_error
        >>> confidence = torch.tensor([0.95, 1.0], dtype=torch.float64)
        >>> round(expected_calibration_error(confidence, torch.tensor([True, False]), bins=10).item(), 4)
        0.475
        >>> probabilities = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)
        >>> round(expected_calibration_error(probabilities, torch.tensor([0, 0, 1, 0])).item(), 4)
        0.15
    """
    confidence, correct = _confidence_and_correct(probabilities, target)
    confidence, correct, index, _ = _binned(confidence, correct, bins, equal_mass)
    gaps = torch.bincount(index, weights=confidence - correct, minlength=bins)
    return gaps.abs().sum() / confidence.numel()


@torch.no_grad()
def reliability_curve(
    probabilities: Float[Tensor, "n c"] | Float[Tensor, " n"],
    target: Int[Tensor, " n"] | Bool[Tensor, " n"] | Float[Tensor, " n"],
    *,
    bins: int = 15,
    equal_mass: bool = False,
) -> ReliabilityCurve:
    r"""Mean confidence, accuracy and count of each bin of confidence: the data of a reliability diagram.

    For every non-empty bin b, ``confidence[b]`` is :math:`\frac1{n_b}\sum_{i\in b} p_i` and ``accuracy[b]`` is
    :math:`\frac1{n_b}\sum_{i\in b} r_i`; :func:`expected_calibration_error` is the mean of their distances weighted
    by ``count``.

    Args:
        probabilities: class probabilities ``(n, c)`` or confidences ``(n,)``.
        target: class indices, or whether each row was right; as in :func:`expected_calibration_error`.
        bins: how many.
        equal_mass: bins of equally many rows instead of equal width.

    Returns:
        A :class:`ReliabilityCurve` of tensors of length ``bins``.

    References:
        DeGroot & Fienberg 1983, "The comparison and evaluation of forecasters"; Guo, Pleiss, Sun & Weinberger 2017,
        arXiv:1706.04599, section 2.

    Example:
        >>> import torch
        >>> from lossmith.calibration import reliability_curve
        >>> confidence = torch.tensor([0.25, 0.75, 0.75, 1.0], dtype=torch.float64)
        >>> curve = reliability_curve(confidence, torch.tensor([False, True, False, True]), bins=2)
        >>> curve.count.tolist(), [round(a, 3) for a in curve.accuracy.tolist()]
        ([1, 3], [0.0, 0.667])
    """
    confidence, correct = _confidence_and_correct(probabilities, target)
    confidence, correct, index, (lower, upper) = _binned(confidence, correct, bins, equal_mass)
    count = torch.bincount(index, minlength=bins)
    return ReliabilityCurve(
        lower=lower,
        upper=upper,
        confidence=torch.bincount(index, weights=confidence, minlength=bins) / count,
        accuracy=torch.bincount(index, weights=correct, minlength=bins) / count,
        count=count,
    )


@torch.no_grad()
def area_under_risk_coverage(
    probabilities: Float[Tensor, "n c"] | Float[Tensor, " n"],
    target: Int[Tensor, " n"] | Bool[Tensor, " n"] | Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    r"""The error rate among the most confident rows, averaged over how many of them are kept.

    .. math:: \mathrm{AURC} = \frac1n \sum_{k=1}^{n} \frac1k \sum_{i \le k} (1 - r_{(i)}),
        \qquad p_{(1)} \ge p_{(2)} \ge \dots

    Only the order of the confidences matters, so any score that orders the rows will do in place of a probability.
    Rows of equal confidence have no order; the value is the expectation over all orders of each such group, in which
    each of its rows counts with the group's mean error.

    Args:
        probabilities: class probabilities ``(n, c)``, of which the largest is the confidence; or one score a row
            ``(n,)``, the larger the more confident.
        target: class indices ``(n,)`` with class probabilities; with scores, whether each row was right.

    Returns:
        A float64 scalar in [0, 1]; lower is better. With error rate r, a ranking at random gives r on average, and a
        perfect one :math:`r + (1 - r)\ln(1 - r)` as n grows.

    References:
        El-Yaniv & Wiener 2010, "On the foundations of noise-free selective classification"; Geifman, Uziel & El-Yaniv
        2019, arXiv:1805.08206, section 3.

    Example:
        >>> import torch
        >>> from lossmith.calibration import area_under_risk_coverage
        >>> right = torch.tensor([True, True, False])
        >>> round(area_under_risk_coverage(torch.tensor([0.9, 0.8, 0.7]), right).item(), 4)
        0.1111
        >>> round(area_under_risk_coverage(torch.tensor([0.5, 0.5, 0.5]), right).item(), 4)
        0.3333
    """
    if probabilities.ndim == 2:
        score, correct = _confidence_and_correct(probabilities, target)
    else:
        _check_rows(probabilities, target)
        score, correct = probabilities.double(), _correctness(target)
    if score.isnan().any():
        raise ValueError("probabilities: NaN among the scores; a row without a confidence cannot be ranked")
    order = torch.argsort(score, descending=True)
    error = 1 - _mean_over_ties(score[order], correct[order])
    kept = torch.arange(1, error.numel() + 1, dtype=torch.float64, device=error.device)
    return (error.cumsum(0) / kept).mean()


def _confidence_and_correct(
    probabilities: Float[Tensor, "n c"] | Float[Tensor, " n"],
    target: Int[Tensor, " n"] | Bool[Tensor, " n"] | Float[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """One confidence in [0, 1] a row, and whether the row was right, in float64."""
    _check_rows(probabilities, target)
    values = probabilities.double()
    # Written so that NaN fails as well: every comparison with NaN is false.
    if not bool(((values >= -_RANGE_TOLERANCE) & (values <= 1 + _RANGE_TOLERANCE)).all()):
        raise ValueError("probabilities: values outside [0, 1] (or NaN); logits need a softmax first")
    values = values.clamp(0, 1)
    if values.ndim == 1:
        return values, _correctness(target)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target: {target.dtype} with class probabilities; wanted class indices")
    if not bool(((values.sum(1) - 1).abs() <= _SUM_TOLERANCE).all()):
        raise ValueError("probabilities: rows that do not sum to 1; logits need a softmax first")
    confidence, predicted = values.max(1)
    return confidence, (predicted == target).double()


def _check_rows(probabilities: Tensor, target: Tensor) -> None:
    if not probabilities.is_floating_point() or probabilities.ndim not in (1, 2):
        came = f"{probabilities.dtype} of shape {tuple(probabilities.shape)}"
        raise ValueError(f"probabilities: {came}; wanted floats of shape (n, c) or (n,)")
    if target.shape != probabilities.shape[:1]:
        raise ValueError(f"target: shape {tuple(target.shape)}; wanted ({len(probabilities)},), one entry a row")
    if target.numel() == 0:
        raise ValueError("target: no rows; wanted at least one")


def _correctness(target: Bool[Tensor, " n"] | Int[Tensor, " n"] | Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    correct = target.double()
    if not bool(((correct >= 0) & (correct <= 1)).all()):
        raise ValueError("target: values outside [0, 1] with confidences; wanted whether each row was right")
    return correct


def _binned(
    confidence: Float[Tensor, " n"], correct: Float[Tensor, " n"], bins: int, equal_mass: bool
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Int[Tensor, " n"], tuple[Tensor, Tensor]]:
    """The rows (perhaps in another order), the bin of each, and the bins' lower and upper edges."""
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins: {bins!r}; wanted a whole number, 1 or more")
    steps = torch.arange(bins + 1, dtype=torch.float64, device=confidence.device)
    if not equal_mass:
        edges = steps / bins
        # right=True makes bins [a, b); leaving the outer edges out puts 0 in the first bin and 1 in the last.
        index = torch.bucketize(confidence, edges[1:-1], right=True)
        return confidence, correct, index, (edges[:-1], edges[1:])
    confidence, order = confidence.sort()
    # A tie may straddle two bins; sharing its mean out makes the result independent of the order within it.
    correct = _mean_over_ties(confidence, correct[order])
    n = confidence.numel()
    index = torch.arange(n, device=confidence.device) * bins // n
    first = torch.searchsorted(index, steps[:-1].long()).clamp(max=n - 1)
    last = (torch.searchsorted(index, steps[:-1].long(), right=True) - 1).clamp(min=0)
    return confidence, correct, index, (confidence[first], confidence[last])


def _mean_over_ties(ordered: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Each value replaced by the mean over the rows that share its key; the keys must be sorted, either way."""
    _, group, size = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    return (torch.bincount(group, weights=values) / size)[group]
