"""What a small comp-sum risk guarantees about the error rate: H-consistency bounds.

For a comp-sum loss of parameter tau (:func:`lossmith.comp_sum`; cross-entropy is tau = 1) and n classes there is an increasing
function :math:`T_\\tau` of [0, 1] below which no surrogate excess risk can lie: whoever errs by :math:`\\beta` more than the best
classifier has a surrogate risk at least :math:`T_\\tau(\\beta)` above the best. Its inverse turns a surrogate excess risk, which training
makes small, into a guarantee on the error rate.

Mao, Mohri & Zhong 2023, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", arXiv:2304.07288, Theorem 3.1.
"""

import math

from lossmith._checks import describe

_LOG_2 = math.log(2)


def h_consistency_transform(tau: float, beta: float, classes: int) -> float:
    r"""The least surrogate excess risk of a classifier whose error rate is beta above the best: T of the H-consistency bound.

    With :math:`M = \big[\tfrac{1}{2}(1 + \beta)^{1/(2 - \tau)} + \tfrac{1}{2}(1 - \beta)^{1/(2 - \tau)}\big]^{2 - \tau}`,

    .. math::
        T_\tau(\beta) = \begin{cases}
            2^{1 - \tau} (1 - M) / (1 - \tau) & 0 \le \tau < 1 \\
            \tfrac{1 + \beta}{2} \log(1 + \beta) + \tfrac{1 - \beta}{2} \log(1 - \beta) & \tau = 1 \\
            n^{1 - \tau} (M - 1) / (\tau - 1) & 1 < \tau < 2 \\
            n^{1 - \tau} \beta / (\tau - 1) & \tau \ge 2
        \end{cases}

    It is continuous in tau. Near 0 it is quadratic in beta below tau = 2, hence the square root in every bound on the error rate, and
    linear from there on, at the price of the number of classes.

    Args:
        tau: the parameter of the comp-sum loss; at least 0.
        beta: the excess error rate, in [0, 1].
        classes: the number of classes n; at least 2.

    Returns:
        The surrogate excess risk, in the units of the loss.

    Example:
        >>> import lossmith
        >>> round(lossmith.h_consistency_transform(1.0, 0.5, classes=10), 6)
        0.130812
    """
    _check("h_consistency_transform", tau, classes)
    if not 0 <= beta <= 1:
        raise ValueError(f"h_consistency_transform: beta must be in [0, 1]; got {beta!r}")
    return _transform(tau, beta, classes)


def h_consistency_bound(tau: float, epsilon: float, classes: int, *, minimizability_gap: float = 0.0, zero_one_gap: float = 0.0) -> float:
    r"""How far above the best error rate a classifier can be whose comp-sum risk is epsilon above the best.

    .. math:: R_{01}(h) - R_{01}^* \le T_\tau^{-1}\big(R_\tau(h) - R_\tau^* + M_\tau\big) - M_{01}

    for every distribution and every hypothesis set that treats all classes alike and whose scores take every real value. The risks are
    measured against the best of that set, and the minimizability gaps M say how far that best is from choosing the best scores at
    each input separately; both are 0 when the set holds all measurable functions. For tau in [0, 1] no smaller bound holds; for larger
    tau the same is true of two classes only (tau <= 2), or where the bound is below 1 / (n - 1) (tau = 2).

    Args:
        tau: the parameter of the comp-sum loss: 1 cross-entropy, 1 + q generalised cross-entropy, 2 mean absolute error.
        epsilon: the excess of the surrogate risk, :math:`R_\tau(h) - R_\tau^*`; at least 0.
        classes: the number of classes; at least 2.
        minimizability_gap: of the surrogate loss.
        zero_one_gap: of the zero-one loss.

    Returns:
        The guaranteed excess error rate, in [0, 1]: 1 says nothing. Rounding errs upwards.

    Example:
        >>> import lossmith
        >>> round(lossmith.h_consistency_bound(1.0, 0.01, classes=10), 4)
        0.1412
        >>> lossmith.h_consistency_bound(1.0, 0.7, classes=10)
        1.0
    """
    name = "h_consistency_bound"
    _check(name, tau, classes)
    for argument, value in (("epsilon", epsilon), ("minimizability_gap", minimizability_gap), ("zero_one_gap", zero_one_gap)):
        if not value >= 0:
            raise ValueError(f"{name}: {argument} must be at least 0; got {value!r}")
    bound = _inverse(tau, epsilon + minimizability_gap, classes)
    if zero_one_gap > bound:
        raise ValueError(f"{name}: zero_one_gap must not exceed the bound without it, {bound:.6g}; got {zero_one_gap!r}")
    return bound - zero_one_gap


def _check(name: str, tau: float, classes: int) -> None:
    if not 0 <= tau < math.inf:
        raise ValueError(f"{name}: tau must be in [0, inf); got {tau!r}")
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise TypeError(f"{name}: classes must be an integer; got {describe(classes)}")
    if classes < 2:
        raise ValueError(f"{name}: classes must be at least 2; got {classes}")


def _transform(tau: float, beta: float, classes: int) -> float:
    scale = (2 if tau < 1 else classes) ** (1 - tau)
    if tau >= 2:
        return scale * beta / (tau - 1)
    slope = _slope(tau, beta)
    exponent = (tau - 1) * slope  # log M
    return scale * slope * (math.expm1(exponent) / exponent if exponent else 1.0)


def _slope(tau: float, beta: float) -> float:
    """log(M) / (tau - 1), to the last places for small beta and for tau near 1, where it tends to T_1.

    With d = atanh(beta) and r = 2 - tau, log M = f(r) - f(1) for f(r) = r log cosh(d / r).
    """
    if beta == 1:
        return _LOG_2
    d = math.atanh(beta)
    r = 2 - tau
    if abs(tau - 1) > 1e-3:
        return (r * _log_cosh(d / r) - _log_cosh(d)) / (tau - 1)
    # the difference would cancel: integrate f' instead, by Simpson's rule
    ends = _minus_f_prime(d) + _minus_f_prime(d / r)
    return (ends + 4 * _minus_f_prime(2 * d / (1 + r))) / 6


def _minus_f_prime(x: float) -> float:
    """-f'(r) at x = d / r."""
    return x * math.tanh(x) - _log_cosh(x)


def _log_cosh(x: float) -> float:
    return math.log1p(math.sinh(x) ** 2) / 2 if x < 1 else x + math.log1p(math.exp(-2 * x)) - _LOG_2


def _inverse(tau: float, epsilon: float, classes: int) -> float:
    """The beta at which T reaches epsilon, by bisection down to neighbouring numbers; the upper one, so that the bound holds."""
    low, high = 0.0, 1.0
    if epsilon >= _transform(tau, high, classes):
        return high
    if epsilon == 0:
        return low
    while low < (middle := low + (high - low) / 2) < high:
        if _transform(tau, middle, classes) < epsilon:
            low = middle
        else:
            high = middle
    return high
