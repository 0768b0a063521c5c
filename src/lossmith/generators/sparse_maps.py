r"""The sparse relatives of softmax: sparsemax, 1.5-entmax and entmax of any order, with their conjugates.

The alpha-entmax of a row of logits is the maximiser of :math:`\langle p, \theta \rangle - \Omega_\alpha(p)` over the simplex, where
:math:`\Omega_\alpha(p) = (\sum_k p_k^\alpha - 1) / (\alpha(\alpha - 1))`:

.. math:: p_k = \left[(\alpha - 1)(\theta_k - \tau)\right]_+^{1/(\alpha - 1)} .

alpha = 1 is softmax, 2 is sparsemax, the Euclidean projection onto the simplex. Above 1 probabilities can be exactly 0; below 1 none is,
and the tails are heavier than softmax's.
"""

import torch

from lossmith._checks import describe
from lossmith._reduce import full_precision, working_dtype
from lossmith._typing import Float, Tensor
from lossmith.card import Range
from lossmith.generators._names import inside
from lossmith.generators.threshold import differentiable, power, solve, without_slope

_STEEP = 32
"""Beyond this exponent, which is that of alpha within 3 % of 1, powers are taken in float64: u^r is r times as wrong as u."""


def tsallis_argmax(theta: Float[Tensor, "*rows c"], alpha: float) -> Float[Tensor, "*rows c"]:
    """alpha-entmax along the last axis."""
    if alpha == 1:
        return theta.softmax(-1)
    r = 1 / (alpha - 1)
    if abs(r) > _STEEP and theta.dtype != torch.float64:
        return tsallis_argmax(theta.double(), alpha).to(theta.dtype)
    rows = solve(theta, alpha - 1, r)
    s = differentiable(rows.s, rows.d, r)
    return rows.spread(power(s + rows.d, r))


def tsallis_conjugate(theta: Float[Tensor, "*rows c"], alpha: float) -> Float[Tensor, "*rows"]:
    r"""Its maximum, by the dual: :math:`\min_\tau \tau + \sum_k \omega^*(\theta_k - \tau)`, whose derivative in theta is p itself.

    One step makes s exact to three derivatives here, for what is minimal in s does not feel a first error in it. Written in 1 - s and
    1 - sum p^alpha, both of which vanish with the loss.
    """
    if alpha == 1:
        return theta.logsumexp(-1)
    r = 1 / (alpha - 1)
    if abs(r) > _STEEP and theta.dtype != torch.float64:
        return tsallis_conjugate(theta.double(), alpha).to(theta.dtype)
    rows = solve(theta, alpha - 1, r)
    s = differentiable(rows.s, rows.d, r, steps=1)
    missing = 1 - power(s + rows.d, r + 1).sum(-1, keepdim=True)
    value = rows.top + r * ((1 - s) - missing / (r + 1))
    if r not in (1, 2):
        value = without_slope(value, r * (power(s + rows.d, r).sum(-1, keepdim=True) - 1), s)
    return value.squeeze(-1)


def entmax(logits: Float[Tensor, "..."], alpha: float = 1.5, dim: int = -1) -> Float[Tensor, "..."]:
    r"""Turn logits into probabilities many of which are exactly 0.

    .. math::
        \operatorname{entmax}_\alpha(\theta) = \arg\max_{p \in \Delta} \langle p, \theta \rangle
            - \frac{\sum_k p_k^\alpha - 1}{\alpha (\alpha - 1)}
            = \left[(\alpha - 1)(\theta - \tau)\right]_+^{1/(\alpha - 1)}

    Exact for any support, with exact first and second derivatives, at sparse rows too. A logit of -inf has probability exactly 0.
    Equal logits have equal probabilities.

    Args:
        logits: of any shape.
        alpha: above 0; 1 is softmax, 2 is sparsemax. The larger, the sparser.
        dim: the axis of the classes.

    Returns:
        Probabilities of the logits' shape, which sum to 1 along `dim`: in float32 at least, since rows rounded to half precision do not
        (three equal probabilities sum to 1.002 in bfloat16). Gradients come in the logits' dtype.

    Raises:
        ValueError, TypeError: the logits are no floating-point tensor, or alpha is out of range.

    Source:
        Peters, Niculae & Martins 2019, "Sparse Sequence-to-Sequence Models", arXiv:1905.05702.

    Example:
        >>> import torch
        >>> from lossmith.generators import entmax
        >>> entmax(torch.tensor([2.0, 1.0, 0.0, -1.0]))
        tensor([0.8307, 0.1693, 0.0000, 0.0000])
        >>> entmax(torch.tensor([1.0, 0.5, -1.0]), alpha=2)
        tensor([0.7500, 0.2500, 0.0000])
    """
    alpha = inside("entmax", "alpha", alpha, Range(0.0, open_low=True))
    return _along("entmax", logits, alpha, dim)


def sparsemax(logits: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    r"""Project logits onto the simplex: the probabilities nearest to them, many of which are exactly 0.

    .. math:: \operatorname{sparsemax}(\theta) = \arg\min_{p \in \Delta} \|p - \theta\|_2^2 = (\theta - \tau)_+

    It is `entmax` at alpha = 2, and what is said there holds here.

    Args:
        logits: of any shape.
        dim: the axis of the classes.

    Returns:
        Probabilities of the logits' shape, in float32 at least, which sum to 1 along `dim`.

    Raises:
        TypeError: the logits are no floating-point tensor.

    Source:
        Martins & Astudillo 2016, "From Softmax to Sparsemax", arXiv:1602.02068.

    Example:
        >>> import torch
        >>> from lossmith.generators import sparsemax
        >>> sparsemax(torch.tensor([1.0, 0.5, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    return _along("sparsemax", logits, 2.0, dim)


def _along(function: str, logits: Float[Tensor, "..."], alpha: float, dim: int) -> Float[Tensor, "..."]:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"{function}: logits must be a floating-point tensor; got {describe(logits)}")
    with full_precision(logits):
        theta = logits.to(working_dtype(logits))
        if logits.numel() == 0 or logits.ndim == 0:
            return torch.ones_like(theta)
        return tsallis_argmax(theta.movedim(dim, -1), alpha).movedim(-1, dim)
