"""Temperature scaling: one number that makes the confidences of given logits fit the labels best.

The log-likelihood of labels under softmax(logits / T) is concave in the inverse temperature b = 1/T: its gradient is
the expected logit less the logit of the label, and its curvature the variance of the logit under the softmax. So the
problem is to find the zero of one monotone function of one variable. Newton's method does it in a handful of steps,
but its first step can overshoot far (the curvature vanishes where the softmax saturates); a bracket that shrinks with
every step, halved on the scale of log b whenever Newton would leave it, makes it certain. Fixed-step recipes in wide
use stop well short of the optimum.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MAX_STEPS = 200


@torch.no_grad()
def fit_temperature(
    logits: Float[Tensor, "n c"],
    target: Int[Tensor, " n"],
    *,
    prior: float = 0.0,
    bounds: tuple[float, float] = (1e-2, 1e3),
) -> float:
    r"""The temperature T at which softmax(logits / T) gives the labels the largest likelihood.

    .. math:: T = \arg\min_T \; \sum_i -\log \mathrm{softmax}(z_i / T)_{y_i}
        \;+\; \frac{\lambda}{nc} \sum_{i,k} -\log \mathrm{softmax}(z_i / T)_k

    Args:
        logits: ``(n, c)``, c at least 2, finite; of rows not used for training.
        target: class indices ``(n,)``.
        prior: :math:`\lambda`, the weight, in rows, of the opinion that every class is as likely as every other. 0 is
            maximum likelihood. Where the most probable class of every row is the right one, the likelihood only grows
            as T falls, so that a few dozen rows of an easy problem give the lower bound and, with it, absurd certainty
            elsewhere; ``prior=1`` (as Platt's rule for two classes) keeps the answer finite and moves it by no more
            than the order 1/n otherwise.
        bounds: the smallest and largest temperature to return.

    Returns:
        The temperature. It equals ``bounds[0]`` exactly when the likelihood still grows there (labels separated by
        the logits), ``bounds[1]`` exactly when flatter is still better there (logits that say less than nothing about
        the labels), and 1 when every row's logits are all equal, where temperature changes nothing.

    References:
        Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, section 4.2; Platt 1999, "Probabilistic outputs for
        support vector machines", section 2.2 (the prior).

    Example:
        >>> import torch
        >>> from lossmith.calibration import fit_temperature
        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)  # sure, yet right on three rows of four only
        >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
        >>> round(temperature, 4)  # 2 / log 3
        1.8205
        >>> [round(p, 4) for p in torch.softmax(logits[0] / temperature, 0).tolist()]
        [0.75, 0.25]
    """
    low, high = _checked(logits, target, prior, bounds)
    z = logits.double()
    z = z - z.amax(1, keepdim=True)  # shifts change nothing, and large logits lose no digits
    if not bool(z.any()):
        return 1.0
    smoothing = prior / (len(z) + prior)
    wanted = (1 - smoothing) * z.gather(1, target.long()[:, None]).mean() + smoothing * z.mean()

    def slope_and_curvature(b: float) -> tuple[float, float]:
        p = torch.softmax(b * z, 1)
        weighted = p * z
        mean = weighted.sum(1)
        variance = (weighted * z).sum(1) - mean.square()
        return (mean.mean() - wanted).item(), variance.mean().item()

    b_low, b_high = 1 / high, 1 / low
    if slope_and_curvature(b_high)[0] <= 0:
        return low
    if slope_and_curvature(b_low)[0] >= 0:
        return high
    b = min(max(1.0, b_low), b_high)
    for _ in range(_MAX_STEPS):
        slope, curvature = slope_and_curvature(b)
        if slope < 0:
            b_low = b
        else:
            b_high = b
        step = slope / curvature if curvature > 0 else math.inf
        new = b - step
        if not b_low < new < b_high:
            new = math.sqrt(b_low * b_high)
        if slope == 0 or abs(new - b) <= 1e-13 * b:
            return 1 / b
        b = new
    return 1 / b


def _checked(logits: Tensor, target: Tensor, prior: float, bounds: tuple[float, float]) -> tuple[float, float]:
    if logits.ndim != 2 or logits.shape[0] == 0 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(f"logits: {logits.dtype} of shape {tuple(logits.shape)}; wanted floats of shape (n, c), n >= 1, c >= 2")
    if target.shape != logits.shape[:1] or target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target: {target.dtype} of shape {tuple(target.shape)}; wanted class indices of shape ({len(logits)},)")
    if not bool(((target >= 0) & (target < logits.shape[1])).all()):
        raise ValueError(f"target: a class index outside 0 to {logits.shape[1] - 1}")
    if not bool(logits.isfinite().all()):
        raise ValueError("logits: infinite or NaN entries; wanted finite numbers")
    if not (math.isfinite(prior) and prior >= 0):
        raise ValueError(f"prior: {prior}; wanted a number of rows, 0 or more")
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds: {bounds}; wanted 0 < lower < upper")
    return float(low), float(high)
