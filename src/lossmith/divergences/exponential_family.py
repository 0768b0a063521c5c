r"""Closed forms within exponential families: gamma, beta, Dirichlet, exponential, Poisson and geometric distributions.

With natural parameters :math:`n` and the log-normaliser :math:`A`,

.. math::
    \log \int p^a q^{1-a} = A(a n_p + (1 - a) n_q) - a A(n_p) - (1 - a) A(n_q), \qquad
    KL(P\|Q) = A(n_q) - A(n_p) - \langle \nabla A(n_p), n_q - n_p \rangle

and the integral is infinite where the mixed parameter leaves the natural space. All of it is computed in float64, since the
normalisers of large parameters cancel. (Nielsen & Nock 2011, "On Renyi and Tsallis entropies and divergences for exponential families",
arXiv:1105.3259.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import distributions as D

from lossmith._typing import Bool, Float, Tensor
from lossmith.divergences.pairs import Pair, log_of_powers

Vector: TypeAlias = Float[Tensor, "*#batch parameters"]
Scalar: TypeAlias = Float[Tensor, "*#batch"]


class Family(NamedTuple):
    """One exponential family, its natural parameters along the last axis (up to a fixed linear map, which changes nothing)."""

    parameters: Callable[[Any], Vector]
    """What torch's distribution is given by."""
    log_normaliser: Callable[[Vector], Scalar]
    mean: Callable[[Vector], Vector]
    """The gradient of the log-normaliser, which is the mean of the sufficient statistics."""
    contains: Callable[[Vector], Bool[Tensor, "*#batch"]]
    """Whether a parameter lies in the natural space."""
    supremum: Callable[[Vector], Scalar]
    """The largest value that a parameter's product with the sufficient statistics takes: +inf, or less."""
    inside: float
    """A parameter of the natural space, if every component is this number."""
    natural: Callable[[Vector], Vector] = lambda given: given
    """The natural parameters of those."""


class ExponentialFamily(Pair):
    """Two members of one exponential family, by their natural parameters."""

    def __init__(self, family: Family, natural_p: Vector, natural_q: Vector, dtype: torch.dtype) -> None:
        self.family, self.natural_p, self.natural_q, self.dtype = family, natural_p, natural_q, dtype

    @staticmethod
    def of_parameters(family: Family, p: Vector, q: Vector) -> "ExponentialFamily":
        dtype = torch.promote_types(p.dtype, q.dtype)
        widest = dtype if p.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        return ExponentialFamily(family, family.natural(p.to(widest)), family.natural(q.to(widest)), dtype)

    def exchanged(self) -> "ExponentialFamily":
        return ExponentialFamily(self.family, self.natural_q, self.natural_p, self.dtype)

    def kl(self) -> Scalar:
        slope = self.family.mean(self.natural_p)
        same = (self.natural_p == self.natural_q) | (slope == 0)  # also where both are -inf
        step = torch.where(same, 0, self.natural_q - torch.where(same, 0, self.natural_p))
        value = self.family.log_normaliser(self.natural_q) - self.family.log_normaliser(self.natural_p) - (slope * step).sum(-1)
        return value.to(self.dtype)

    def log_integral(self, order: float) -> Scalar:
        mixed = log_of_powers(self.natural_p, self.natural_q, order)
        finite = self.family.contains(mixed)
        normaliser = self.family.log_normaliser(torch.where(finite.unsqueeze(-1), mixed, self.family.inside))
        ends = order * self.family.log_normaliser(self.natural_p) + (1 - order) * self.family.log_normaliser(self.natural_q)
        return torch.where(finite, normaliser - ends, torch.inf).to(self.dtype)

    def log_supremum(self) -> Scalar:
        same = self.natural_p == self.natural_q
        step = torch.where(same, 0, self.natural_p - torch.where(same, 0, self.natural_q))
        value = self.family.log_normaliser(self.natural_q) - self.family.log_normaliser(self.natural_p) + self.family.supremum(step)
        return value.to(self.dtype)


def _log_beta(c: Vector) -> Scalar:
    return torch.lgamma(c).sum(-1) - torch.lgamma(c.sum(-1))


def _supremum_of_gamma(step: Vector) -> Scalar:
    """Of c log x - r x over x > 0."""
    c, r = step.unbind(-1)
    peak = (c > 0) & (r > 0)
    c_peak, r_peak = torch.where(peak, c, 1), torch.where(peak, r, 1)
    return torch.where(peak, c_peak * (c_peak / r_peak).log() - c_peak, torch.where((c == 0) & (r >= 0), 0.0, torch.inf))


def _supremum_of_dirichlet(step: Vector) -> Scalar:
    """Of the sum of c log x over the simplex."""
    finite = (step >= 0).all(-1)
    c = torch.where(finite.unsqueeze(-1), step, 1)
    return torch.where(finite, torch.xlogy(c, c).sum(-1) - torch.xlogy(c.sum(-1), c.sum(-1)), torch.inf)


def _zero_or_infinite(finite: Bool[Tensor, "*#batch"], like: Vector) -> Scalar:
    return torch.where(finite, 0.0, torch.inf).to(like.dtype)


_dirichlet = Family(
    parameters=lambda p: p.concentration,
    log_normaliser=_log_beta,
    mean=lambda c: torch.digamma(c) - torch.digamma(c.sum(-1, keepdim=True)),
    contains=lambda c: (c > 0).all(-1),
    supremum=_supremum_of_dirichlet,
    inside=1.0,
)
_gamma = Family(
    parameters=lambda p: torch.stack([p.concentration, p.rate], -1),
    log_normaliser=lambda n: torch.lgamma(n[..., 0]) - n[..., 0] * n[..., 1].log(),
    mean=lambda n: torch.stack([torch.digamma(n[..., 0]) - n[..., 1].log(), -n[..., 0] / n[..., 1]], -1),
    contains=lambda n: (n > 0).all(-1),
    supremum=_supremum_of_gamma,
    inside=1.0,
)
FAMILIES: dict[type[D.Distribution], Family] = {
    D.Dirichlet: _dirichlet,
    D.Beta: _dirichlet._replace(parameters=lambda p: torch.stack([p.concentration1, p.concentration0], -1)),
    D.Gamma: _gamma,
    D.Chi2: _gamma,
    D.Exponential: Family(
        parameters=lambda p: p.rate.unsqueeze(-1),
        log_normaliser=lambda r: -r[..., 0].log(),
        mean=lambda r: -1 / r,
        contains=lambda r: r[..., 0] > 0,
        supremum=lambda step: _zero_or_infinite(step[..., 0] >= 0, step),
        inside=1.0,
    ),
    D.Poisson: Family(
        parameters=lambda p: p.rate.unsqueeze(-1),
        log_normaliser=lambda n: n[..., 0].exp(),
        mean=lambda n: n.exp(),
        contains=lambda n: n[..., 0] < torch.inf,
        supremum=lambda step: _zero_or_infinite(step[..., 0] <= 0, step),
        inside=0.0,
        natural=torch.log,
    ),
    D.Geometric: Family(
        parameters=lambda p: p.probs.unsqueeze(-1),
        log_normaliser=lambda n: -(-torch.expm1(n[..., 0])).log(),
        mean=lambda n: n.exp() / -torch.expm1(n),
        contains=lambda n: n[..., 0] < 0,
        supremum=lambda step: _zero_or_infinite(step[..., 0] <= 0, step),
        inside=-1.0,
        natural=lambda chance: torch.log1p(-chance),
    ),
}
"""The families by the class of torch's distribution."""
