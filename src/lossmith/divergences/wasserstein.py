r"""Wasserstein distances of Gaussians, where optimal transport has a closed form.

The trace of :math:`(S_2^{1/2} S_1 S_2^{1/2})^{1/2}` is the sum of the singular values of :math:`L_1^T L_2`, for any factors
:math:`S_i = L_i L_i^T`, whose singular vectors give the rotation that brings the factors closest. No square root of a matrix is taken,
so covariances may be equal, commute, or be singular; and no traces are subtracted, so the distance of covariances that are nearly equal
is exact and never negative. The derivatives do not go through those of the singular vectors, which are infinite where singular values
coincide: the sum itself is smooth there.
"""

import math

import torch
import torch.nn.functional as F
from torch import distributions as D

from lossmith._checks import describe
from lossmith._typing import Float, Tensor
from lossmith.divergences.closed import no_closed_form, pair_of
from lossmith.divergences.gaussian import MultivariateNormals, Normals
from lossmith.divergences.pairs import Independent, Pair


def wasserstein_gaussian(p: D.Distribution, q: D.Distribution) -> Float[Tensor, "*batch"]:
    r"""The squared 2-Wasserstein distance of Gaussians: of their means, and of their covariances (:func:`bures`).

    .. math:: W_2^2 = |m_1 - m_2|^2 + \operatorname{tr}\big(S_1 + S_2 - 2 (S_2^{1/2} S_1 S_2^{1/2})^{1/2}\big)

    It is squared because the square is what is smooth, what adds up over independent components, and what FID reports.

    Args:
        p: a ``Normal``, a ``MultivariateNormal`` (also of low rank), or an ``Independent`` of normals.
        q: the same; batches broadcast.

    Returns:
        One squared distance a distribution of the batch, in the squared unit of what is distributed.

    Raises:
        NotImplementedError: p or q is not Gaussian.

    Source:
        Dowson & Landau 1982; Olkin & Pukelsheim 1982.

    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> from lossmith.divergences import wasserstein_gaussian
        >>> wasserstein_gaussian(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(2.)
    """
    pair = pair_of("wasserstein_gaussian", p, q, invariant=False)
    squared = None if pair is None else _squared_distance(pair)
    if squared is None:
        raise no_closed_form("wasserstein_gaussian", "it", p, q)
    return squared


def _squared_distance(pair: Pair) -> Float[Tensor, "*batch"] | None:
    match pair:
        case Normals():
            return (pair.mean_p - pair.mean_q).square() + (pair.scale_p - pair.scale_q).square()
        case MultivariateNormals():
            return (pair.mean_p - pair.mean_q).square().sum(-1) + bures(pair.factor_p, pair.factor_q)
        case Independent():
            components = _squared_distance(pair.components)
            return None if components is None else pair.summed(components)
    return None


def bures(a: Float[Tensor, "*#batch d k"], b: Float[Tensor, "*#batch d l"]) -> Float[Tensor, "*batch"]:
    r"""The squared Bures distance of two covariances, given by factors: :math:`S_1 = a a^T` and :math:`S_2 = b b^T`.

    .. math:: \operatorname{tr}\big(S_1 + S_2 - 2 (S_2^{1/2} S_1 S_2^{1/2})^{1/2}\big) = |a|^2 + |b|^2 - 2 \|a^T b\|_*
        = \min_{R R^T = I} |a - b R|^2

    Any factors will do: Cholesky's, square roots, or n centred samples of d features as `(d, n)`, divided by :math:`\sqrt{n-1}`, whose
    covariance may be singular. As a function of the factors it is differentiable twice wherever both covariances are regular, equal or
    not; where one is singular it may have a corner, as the absolute value has at 0, and the gradient given is a finite subgradient.

    Args:
        a: factors `(*batch, d, k)`.
        b: factors `(*batch, d, l)`.

    Returns:
        One squared distance a pair.

    Raises:
        TypeError, ValueError: not matrices, or of different d.

    Source:
        Bhatia, Jain & Lim 2019, "On the Bures-Wasserstein distance between positive definite matrices", arXiv:1712.01504.

    Example:
        >>> import torch
        >>> from lossmith.divergences import bures
        >>> bures(torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
        tensor(5.)
    """
    for argument, x in (("a", a), ("b", b)):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
            raise TypeError(f"bures: {argument} must be a floating-point tensor of shape (*batch, d, k); got {describe(x)}")
    if a.shape[-2] != b.shape[-2]:
        raise ValueError(f"bures: a and b must have the same number of rows, the dimension; got {describe(a)} and {describe(b)}")
    a, b = (x if x.dtype in (torch.float32, torch.float64) else x.float() for x in (a, b))
    columns = max(a.shape[-1], b.shape[-1])
    a, b = F.pad(a, (0, columns - a.shape[-1])), F.pad(b, (0, columns - b.shape[-1]))
    rotation, curvature = _best_rotation(a.mT @ b)
    return (a - b @ rotation).square().sum((-2, -1)) - curvature


def _best_rotation(matrix: Float[Tensor, "*batch k k"]) -> tuple[Float[Tensor, "*batch k k"], Float[Tensor, "*batch"]]:
    r"""The R that minimises |a - b R|, from M = a^T b, and what the square has to lose for its second derivatives to be right.

    At R, a constant to autograd, the square is the minimum without any cancellation, and so are its first derivatives (envelope
    theorem). With M = U (S + E) V^T and E small, R = V U^T, and the nuclear norm of M, which enters with -2, is tr S + tr E + sum over
    i < j of (E_ij - E_ji)^2 / (2 (s_i + s_j)) up to third order: that last sum is zero in value and in its first derivatives.
    """
    u, s, vh = torch.linalg.svd(matrix.detach())
    rotated = u.mT @ matrix @ vh.mT
    change = rotated - rotated.detach()
    skew = change - change.mT
    sums = s.unsqueeze(-1) + s.unsqueeze(-2)
    curvature = torch.where(sums > 0, 0.5 / torch.where(sums > 0, sums, 1), 0)  # each pair comes twice
    return vh.mT @ u.mT, (curvature * skew.square()).sum((-2, -1))


def wasserstein1_normal(p: D.Normal, q: D.Normal) -> Float[Tensor, "*batch"]:
    r"""The 1-Wasserstein distance of two normal distributions of numbers, the mean of a folded normal distribution.

    .. math:: W_1 = E|\delta + \sigma Z|
        = \sigma \sqrt{2/\pi}\, e^{-\delta^2 / 2 \sigma^2} + \delta \operatorname{erf}(\delta / \sigma \sqrt 2),
        \qquad \delta = m_1 - m_2, \sigma = |s_1 - s_2|

    Args:
        p, q: normal distributions; batches broadcast.

    Returns:
        One distance a distribution of the batch, in the unit of what is distributed.

    Raises:
        NotImplementedError: p or q is not a ``Normal``.

    Source:
        Leone, Nelson & Nottingham 1961, "The folded normal distribution"; in one dimension quantiles are matched.

    Example:
        >>> from torch.distributions import Normal
        >>> from lossmith.divergences import wasserstein1_normal
        >>> wasserstein1_normal(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(1.1666)
    """
    pair = pair_of("wasserstein1_normal", p, q, invariant=False)
    if not isinstance(pair, Normals):
        raise no_closed_form("wasserstein1_normal", "it", p, q)
    difference, spread = pair.mean_p - pair.mean_q, (pair.scale_p - pair.scale_q).abs()
    shift = torch.where(difference < 0, -difference, difference)  # whose curvature at 0, unlike that of abs, is not lost
    # Far from 0 by more than 40 spreads, or without a spread, it is the shift itself.
    folded = shift < 40 * spread
    ratio = torch.where(folded, shift, 0) / torch.where(folded, spread, 1)
    value = spread * (math.sqrt(2 / math.pi) * (-0.5 * ratio.square()).exp() + ratio * torch.erf(ratio / math.sqrt(2)))
    return torch.where(folded, value, shift)
