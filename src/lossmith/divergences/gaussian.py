r"""Closed forms between Gaussians, in one dimension, of independent components, and with full covariance.

With :math:`A = L_2^{-1} L_1` (the Cholesky factor of :math:`S_1` as :math:`S_2` sees it), :math:`b = L_2^{-1}(m_2 - m_1)` and
:math:`W = (1 - a) A A^T + a I`,

.. math::
    KL(P\|Q) = \tfrac12 \Big[\sum_i (A_{ii}^2 - 1 - 2 \log A_{ii}) + \sum_{i>j} A_{ij}^2 + |b|^2\Big], \qquad
    \log \int p^a q^{1-a} = -\tfrac12 \Big[a (1 - a)\, b^T W^{-1} b + \log |W| - 2 (1 - a) \sum_i \log A_{ii}\Big]

and the integral is infinite where W, the mixed covariance :math:`(1 - a) S_1 + a S_2` as :math:`S_2` sees it, is not positive
definite. Every term of the first sum is at least 0, so that KL is. In one dimension, and of independent components, everything is exact as
a tends to 0 or 1; with full covariance the error of an alpha divergence is that of KL by 1/a or 1/(1 - a).
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch

from lossmith._typing import Bool, Float, Tensor
from lossmith.divergences.pairs import Pair, of_equal_shapes


class Normals(Pair):
    """Two normal distributions of numbers, by their means and standard deviations."""

    def __init__(
        self,
        mean_p: Float[Tensor, "*#batch"],
        scale_p: Float[Tensor, "*#batch"],
        mean_q: Float[Tensor, "*#batch"],
        scale_q: Float[Tensor, "*#batch"],
    ) -> None:
        self.mean_p, self.scale_p, self.mean_q, self.scale_q = mean_p, scale_p, mean_q, scale_q

    def exchanged(self) -> "Normals":
        return Normals(self.mean_q, self.scale_q, self.mean_p, self.scale_p)

    def kl(self) -> Float[Tensor, "*batch"]:
        log_ratio = 2 * (self.scale_p / self.scale_q).log()
        shift = ((self.mean_q - self.mean_p) / self.scale_q).square()
        return 0.5 * (torch.expm1(log_ratio) - log_ratio + shift)

    def log_integral(self, order: float) -> Float[Tensor, "*batch"]:
        # The same integral from either side, so that it is exact as the order tends to 0 and as it tends to 1.
        return self.exchanged()._log_integral(order) if order < 0.5 else self._log_integral(1 - order)

    def _log_integral(self, rest: float) -> Float[Tensor, "*batch"]:
        """Of p^(1 - rest) q^rest."""
        log_ratio = 2 * (self.scale_p / self.scale_q).log()
        shift = ((self.mean_q - self.mean_p) / self.scale_q).square()
        grown = rest * torch.expm1(log_ratio)  # the mixed variance, less 1
        finite = grown > -1
        grown = torch.where(finite, grown, 0)
        value = -0.5 * ((1 - rest) * rest * shift / (1 + grown) + torch.log1p(grown) - rest * log_ratio)
        return torch.where(finite, value, torch.inf)

    def log_supremum(self) -> Float[Tensor, "*batch"]:
        ratio, shift = self.scale_p / self.scale_q, (self.mean_q - self.mean_p) / self.scale_q
        narrower = ratio < 1
        inside = torch.where(narrower, ratio, 0.5)
        value = 0.5 * shift.square() / ((1 - inside) * (1 + inside)) - inside.log()
        return torch.where(narrower, value, torch.where((ratio == 1) & (shift == 0), 0.0, torch.inf))

    def mahalanobis(self) -> Float[Tensor, "*batch"] | None:
        return _if_equal(self.scale_p, self.scale_q, lambda scale: ((self.mean_q - self.mean_p) / scale).square())

    def total_variation(self) -> Float[Tensor, "*batch"]:
        """By the two points between which the narrower density is the larger one.

        Where the densities are equal there is a corner, and 0 is a subgradient.
        """
        p_wider = self.scale_p >= self.scale_q
        wide, narrow = torch.where(p_wider, self.scale_p, self.scale_q), torch.where(p_wider, self.scale_q, self.scale_p)
        difference = (self.mean_q - self.mean_p) / wide
        shift, ratio = torch.where(difference < 0, -difference, difference), narrow / wide  # a mirror image has the same value
        equal = (shift == 0) & (ratio == 1)
        (near, far), (near_of_narrow, far_of_narrow) = _crossings(torch.where(equal, 1, shift), torch.where(equal, 1, ratio))
        more_of_narrow = _upper_tail(near_of_narrow) - _upper_tail(near) + (_upper_tail(far) - _upper_tail(far_of_narrow))
        return torch.where(equal, 0, more_of_narrow)


Points: TypeAlias = tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]


def _crossings(shift: Float[Tensor, "*batch"], ratio: Float[Tensor, "*batch"]) -> tuple[Points, Points]:
    r"""Where the densities of N(0, 1) and N(shift, ratio^2) cross, with shift >= 0 and ratio <= 1: as either of them sees it.

    They are the roots of :math:`(1 - r^2) x^2 - 2 s x + s^2 + 2 r^2 \log r = 0`. The smaller one is found from the larger one for similar
    scales, where subtraction would cancel, and by subtraction for different ones, where squares would underflow.
    """
    gap = (1 - ratio) * (1 + ratio)
    unit = torch.maximum(shift, 1 - ratio).detach()  # in which squares neither overflow nor underflow
    root = unit * ((shift / unit).square() - 2 * (gap / unit) * (ratio.log() / unit)).sqrt()
    sum_of_both = shift + ratio * root
    similar, same = ratio >= 0.5, gap == 0
    near = shift * (shift / sum_of_both) + 2 * ratio.square() * ratio.log() / sum_of_both
    near_of_narrow = (near - shift) / ratio
    apart = torch.where(similar, 1, gap)
    near = torch.where(similar, near, (shift - ratio * root) / apart)
    near_of_narrow = torch.where(similar, near_of_narrow, (shift * ratio - root) / apart)
    gap = torch.where(same, 1, gap)
    far, far_of_narrow = (torch.where(same, torch.inf, x / gap) for x in (sum_of_both, shift * ratio + root))
    return (near, far), (near_of_narrow, far_of_narrow)


def _upper_tail(z: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The probability that a standard normal number exceeds z."""
    return 0.5 * torch.erfc(z / math.sqrt(2))


class MultivariateNormals(Pair):
    """Two Gaussians in d dimensions, by their means and the lower Cholesky factors of their covariances."""

    def __init__(
        self,
        mean_p: Float[Tensor, "*#batch d"],
        factor_p: Float[Tensor, "*#batch d d"],
        mean_q: Float[Tensor, "*#batch d"],
        factor_q: Float[Tensor, "*#batch d d"],
    ) -> None:
        self.mean_p, self.factor_p, self.mean_q, self.factor_q = mean_p, factor_p, mean_q, factor_q

    def exchanged(self) -> "MultivariateNormals":
        return MultivariateNormals(self.mean_q, self.factor_q, self.mean_p, self.factor_p)

    def _as_q_sees_it(self) -> tuple[Float[Tensor, "*batch d d"], Float[Tensor, "*batch d 1"]]:
        """A and b of the module's formulas."""
        factor = torch.linalg.solve_triangular(self.factor_q, self.factor_p, upper=False)
        shift = torch.linalg.solve_triangular(self.factor_q, (self.mean_q - self.mean_p).unsqueeze(-1), upper=False)
        return factor, shift

    def kl(self) -> Float[Tensor, "*batch"]:
        factor, shift = self._as_q_sees_it()
        log_ratio = 2 * _diagonal(factor).log()
        return 0.5 * ((torch.expm1(log_ratio) - log_ratio).sum(-1) + factor.tril(-1).square().sum((-2, -1)) + shift.square().sum((-2, -1)))

    def log_integral(self, order: float) -> Float[Tensor, "*batch"]:
        return self.exchanged()._log_integral(order) if order < 0.5 else self._log_integral(1 - order)

    def _log_integral(self, rest: float) -> Float[Tensor, "*batch"]:
        """Of p^(1 - rest) q^rest."""
        factor, shift = self._as_q_sees_it()
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        root, finite = _cholesky(rest * factor @ factor.mT + (1 - rest) * identity)
        shift = torch.linalg.solve_triangular(root, shift, upper=False).square().sum((-2, -1))
        volumes = 2 * _diagonal(root).log().sum(-1) - 2 * rest * _diagonal(factor).log().sum(-1)
        return torch.where(finite, -0.5 * ((1 - rest) * rest * shift + volumes), torch.inf)

    def log_supremum(self) -> Float[Tensor, "*batch"]:
        factor, shift = self._as_q_sees_it()
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        root, narrower = _cholesky(identity - factor @ factor.mT)
        value = 0.5 * torch.linalg.solve_triangular(root, shift, upper=False).square().sum((-2, -1)) - _diagonal(factor).log().sum(-1)
        equal = (factor == identity).all(-1).all(-1) & (shift == 0).all(-1).all(-1)
        return torch.where(narrower, value, torch.where(equal, 0.0, torch.inf))

    def mahalanobis(self) -> Float[Tensor, "*batch"] | None:
        shift = (self.mean_q - self.mean_p).unsqueeze(-1)
        return _if_equal(
            self.factor_p,
            self.factor_q,
            lambda factor: torch.linalg.solve_triangular(factor, shift, upper=False).square().sum((-2, -1)),
        )

    def total_variation(self) -> Float[Tensor, "*batch"] | None:
        if self.mean_p.shape[-1] == 1:
            factors = self.factor_p[..., 0, 0], self.factor_q[..., 0, 0]
            return Normals(self.mean_p[..., 0], factors[0], self.mean_q[..., 0], factors[1]).total_variation()
        squared = self.mahalanobis()
        return None if squared is None else of_equal_shapes(squared)


def _diagonal(matrix: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d"]:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _cholesky(matrix: Float[Tensor, "*batch d d"]) -> tuple[Float[Tensor, "*batch d d"], Bool[Tensor, "*batch"]]:
    """The Cholesky factor and whether there is one; the identity, and no gradient, where there is none."""
    positive = torch.linalg.cholesky_ex(matrix.detach()).info == 0
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky_ex(torch.where(positive[..., None, None], matrix, identity)).L, positive


def _if_equal(
    x: Float[Tensor, "*#scale"], y: Float[Tensor, "*#scale"], function: Callable[[Float[Tensor, "*scale"]], Float[Tensor, "*batch"]]
) -> Float[Tensor, "*batch"] | None:
    """A function of what x and y agree on, or None. Where they agree, both have the same gradient: half of the whole."""
    return function((x + y) / 2) if x is y or bool((x == y).all()) else None
