"""Which closed form two of torch's distributions have: the one place that looks at their classes."""

import contextlib
import math

import torch
from torch import distributions as D

from lossmith._checks import describe
from lossmith._typing import Float, Tensor
from lossmith.divergences.categorical import of_rows
from lossmith.divergences.exponential_family import FAMILIES, ExponentialFamily
from lossmith.divergences.gaussian import MultivariateNormals, Normals
from lossmith.divergences.outcomes import Outcomes, rows_of
from lossmith.divergences.pairs import Independent, Pair, alpha_divergence
from lossmith.generators import FGenerator

_DENSE = (D.MultivariateNormal, D.LowRankMultivariateNormal)


def pair_of(function: str, p: D.Distribution, q: D.Distribution, *, invariant: bool = True) -> Pair | None:
    """The pair with closed forms that two distributions make, or None. Errors are in the function's name.

    Equal transforms are taken off both where what is asked for is invariant under them, as f-divergences are.
    """
    _check_events(function, p, q)
    if invariant:
        p, q = _untransformed(p, q)
    rows = rows_of(function, p, q)
    if rows is not None:
        row_p, row_q, log = rows
        return Outcomes.of_rows(row_p, row_q, log)
    if isinstance(p, _DENSE) or isinstance(q, _DENSE):
        dense = _dense(p), _dense(q)
        return None if dense[0] is None or dense[1] is None else MultivariateNormals(*dense[0], *dense[1])
    if isinstance(p, D.Independent) and isinstance(q, D.Independent):
        if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
            return None
        components = pair_of(function, p.base_dist, q.base_dist, invariant=invariant)
        return None if components is None else Independent(components, p.reinterpreted_batch_ndims)
    if isinstance(p, D.Normal) and isinstance(q, D.Normal):
        return Normals(*(_real(x) for x in (p.loc, p.scale, q.loc, q.scale)))
    family = FAMILIES.get(type(p))
    if family is not None and family is FAMILIES.get(type(q)):
        return ExponentialFamily.of_parameters(family, _real(family.parameters(p)), _real(family.parameters(q)))
    return None


def _check_events(function: str, p: D.Distribution, q: D.Distribution) -> None:
    for argument, x in (("p", p), ("q", q)):
        if not isinstance(x, D.Distribution):
            raise TypeError(f"{function}: {argument} must be a distribution of torch; got {describe(x)}")
    if p.event_shape != q.event_shape:
        raise ValueError(f"{function}: p and q must have the same event shape; got {_kind(p)} and {_kind(q)}")


def _untransformed(p: D.Distribution, q: D.Distribution) -> tuple[D.Distribution, D.Distribution]:
    """What two distributions are equal transforms of: a bijection changes no divergence, nor does |x| between symmetric ones."""
    while isinstance(p, D.TransformedDistribution) and isinstance(q, D.TransformedDistribution):
        folded = isinstance(p, D.HalfNormal) and isinstance(q, D.HalfNormal)
        same = len(p.transforms) == len(q.transforms) and all(map(_same_bijection, p.transforms, q.transforms))
        if not (folded or same):
            break
        p, q = p.base_dist, q.base_dist
    return p, q


def _same_bijection(t: D.Transform, u: D.Transform) -> bool:
    """Whether two transforms are one bijection, and stay one: two that are trained apart and agree today have a gradient."""
    if not t.bijective or t != u:
        return False
    if isinstance(t, D.ComposeTransform) and isinstance(u, D.ComposeTransform):
        return all(map(_same_bijection, t.parts, u.parts))
    trained = any(isinstance(x, Tensor) and x.requires_grad for x in (*vars(t).values(), *vars(u).values()))
    return t is u or not trained


def _dense(p: D.Distribution) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]] | None:
    """A Gaussian vector's mean and Cholesky factor."""
    if isinstance(p, _DENSE):
        return _real(p.loc), _real(p.scale_tril)
    if isinstance(p, D.Independent) and isinstance(p.base_dist, D.Normal) and p.reinterpreted_batch_ndims == 1:
        return _real(p.base_dist.loc), torch.diag_embed(_real(p.base_dist.scale))
    return None


def _real(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def multiple_of_total_variation(g: FGenerator) -> float | None:
    """The c with D_f = c TV, or None: f is then straight on both sides of 1, which its limits and those of its reverse tell."""
    reverse = g.reverse()
    straight = (h.at_zero == -h.slope_at_zero and math.isfinite(h.at_zero) for h in (g, reverse))
    return g.slope_at_infinity - g.slope_at_zero if all(straight) else None


def of_distributions(p: D.Distribution, q: D.Distribution, g: FGenerator) -> Float[Tensor, "*batch"]:
    """The f-divergence of two distributions, where it has a closed form; NotImplementedError elsewhere."""
    _check_events("divergence", p, q)
    rows = rows_of("divergence", p, q)
    if rows is not None:
        row_p, row_q, log = rows
        return of_rows(row_p, row_q, g, log=log)
    pair = pair_of("divergence", p, q)
    if pair is not None:
        if g.alphas is not None:
            return torch.stack([weight * alpha_divergence(pair, order) for order, weight in g.alphas]).sum(0)
        multiple = multiple_of_total_variation(g)
        if multiple is not None and (total_variation := pair.total_variation()) is not None:
            return multiple * total_variation
    elif g.alphas is not None and all(order in (0, 1) for order, _ in g.alphas):  # torch knows more pairs than we have integrals
        with contextlib.suppress(NotImplementedError):
            both = {1: lambda: D.kl_divergence(p, q), 0: lambda: D.kl_divergence(q, p)}
            return torch.stack([weight * both[int(order)]() for order, weight in g.alphas]).sum(0)
    raise no_closed_form("divergence", g.name, p, q)


def no_closed_form(function: str, what: str, p: object, q: object) -> NotImplementedError:
    """The error that says where to go on."""
    onward = "; estimate_divergence finds it from samples" if function == "divergence" else ""
    return NotImplementedError(f"{function}: {what} has no closed form here for {_kind(p)} and {_kind(q)}{onward}")


def _kind(p: object) -> str:
    return f"{type(p).__name__} with events of shape {tuple(p.event_shape)}" if isinstance(p, D.Distribution) else describe(p)
