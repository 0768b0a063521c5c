r"""The mean loss under the worst distribution near the data, nearness being measured by any f-divergence.

With p the data's weights (uniform, unless given) and q over the same points:

.. math:: R_\lambda = \max_q\ E_q \ell - \lambda D_f(q \| p)
        = \min_\eta\ \eta + \lambda E_p f^*\!\left(\frac{\ell - \eta}{\lambda}\right)

.. math:: R^\rho = \max_{D_f(q\|p) \le \rho} E_q \ell = \min_{\lambda \ge 0}\ \lambda \rho + R_\lambda

=====================  ===================================================================  ====================================
generator              :math:`R_\lambda`                                                    also known as
=====================  ===================================================================  ====================================
``kl``                 :math:`\lambda \log E_p e^{\ell/\lambda}`                            tilted or entropic risk, KL-DRO
``pearson_chi2``       mean + :math:`\mathrm{Var} / 4\lambda`, while no weight is 0         variance regularisation
``total_variation``    :math:`E_p \max(\ell, \max \ell - \lambda)`                          (half the sum of absolute differences)
=====================  ===================================================================  ====================================

Conventions differ in the literature, and the generator says which is meant: Levy et al. 2020 and Duchi & Namkoong 2021 call
chi-squared :math:`\tfrac12 (u - 1)^2`, which is ``0.5 * pearson_chi2``. Divergences are D_f(q||p), of the worst distribution from the
data: ``"reverse_kl"`` is the ball of KL(p||q), in which the empirical likelihood lives.

The pessimist's side, the smallest mean of a value V that is to be maximised, as robust reinforcement learning needs it, is this risk of
-V: :math:`\min_q E_q V + \lambda D_f(q\|p) = -R_\lambda(-V)`, ``-dro_risk(-V, generator, penalty=...)``.

The risk of a mini-batch's losses is not an unbiased estimate of the data's: being a minimum over :math:`\eta`, it is too small on
average, by what a batch cannot show of the tail (Levy et al. 2020 bound the bias).

Under plain ``torch.compile(fullgraph=True)`` the roots are found by torch's own loop operator, which torch does not yet compile inside
``torch.func`` transforms: compile a function of the risk, and transform it eagerly.
"""

import math
from typing import Literal

import torch

from lossmith._checks import describe, holds
from lossmith._typing import Bool, Float, Hyper, Tensor
from lossmith.divergences.tilting import Tilted, constrained, penalised
from lossmith.generators import FGenerator
from lossmith.generators.registry import named


def dro_risk(
    losses: Float[Tensor, "*dims"],
    generator: FGenerator | str,
    *,
    penalty: Hyper | None = None,
    radius: Hyper | None = None,
    weights: Float[Tensor, "*dims"] | Float[Tensor, " n"] | None = None,
    dim: int = -1,
) -> Float[Tensor, "*rows"]:
    r"""The distributionally robust risk: the largest mean loss over the distributions near the data.

    .. math:: \max_q\ E_q \ell - \lambda D_f(q \| p) \quad\text{with `penalty` } \lambda, \qquad
        \max_{D_f(q \| p) \le \rho} E_q \ell \quad\text{with `radius` } \rho

    Solved to the dtype's precision for every generator. Its gradient in the losses is the worst distribution q, `dro_weights`; it is
    differentiable in the penalty or radius and in the weights too, and twice where it is smooth (where f is not strictly convex, as
    total variation is not, it is straight in the losses between its kinks). With equal losses, q is p.

    ==================  ===============================================  ===========================================================
    the ends            value                                            q
    ==================  ===============================================  ===========================================================
    penalty inf         the mean                                         p
    penalty 0           the largest loss                                 p on the largest losses
    radius 0            the mean                                         p (the slope in the radius is infinite, and given as 0)
    large radius        the largest loss, once the ball reaches it       p on the largest losses
    ==================  ===============================================  ===========================================================

    Args:
        losses: finite or +inf, `(*rows, n)`; the distributions are over the last axis, or `dim`. A loss of +inf makes the risk +inf.
        generator: an `FGenerator` or the name of one.
        penalty: :math:`\lambda \ge 0`, in units of the loss per nat: a number, a 0-d tensor, or one a row.
        radius: :math:`\rho \ge 0`, in nats (the units of f): likewise. Exactly one of the two is given.
        weights: p up to a factor, not negative, of the losses' shape or one for each of the n. A weight of 0 removes the loss, whatever
            it is: no q is positive there. A row of zeros gives 0.
        dim: the axis of the losses.

    Returns:
        One risk a row, `(*rows)`, in float32 at least.

    Raises:
        ValueError, TypeError: neither or both of penalty and radius, or one of them negative; no losses; weights of another shape.

    Source:
        Ben-Tal, den Hertog, De Waegenaere, Melenberg & Rennen 2013, "Robust solutions of optimization problems affected by uncertain
        probabilities" (the dual); Namkoong & Duchi 2016, 2017 (chi-squared balls, variance); Hu & Hong 2013, "Kullback-Leibler divergence
        constrained distributionally robust optimization"; Levy, Carmon, Duchi & Sidford 2020, arXiv:2010.05893 (mini-batches).

    Example:
        >>> import torch
        >>> from lossmith.robust import dro_risk
        >>> losses = torch.tensor([0.0, 1.0, 2.0])
        >>> dro_risk(losses, "kl", penalty=1.0)  # log-mean-exp
        tensor(1.3090)
        >>> dro_risk(losses, "pearson_chi2", radius=0.1)  # mean + sqrt(radius * variance)
        tensor(1.2582)
        >>> dro_risk(losses, "total_variation", radius=0.1)  # a tenth of the weight moves from the smallest loss to the largest
        tensor(1.2000)
    """
    return _solve("dro_risk", losses, generator, penalty, radius, weights, dim).value


def dro_weights(
    losses: Float[Tensor, "*dims"],
    generator: FGenerator | str,
    *,
    penalty: Hyper | None = None,
    radius: Hyper | None = None,
    weights: Float[Tensor, "*dims"] | Float[Tensor, " n"] | None = None,
    dim: int = -1,
) -> Float[Tensor, "*dims"]:
    r"""The worst distribution q of `dro_risk`, which is also the gradient of the risk in the losses.

    .. math:: q_i = p_i (f')^{-1}\!\left(\frac{\ell_i - \eta}{\lambda}\right)

    For ``"kl"`` with a penalty it is ``softmax(losses / penalty)``. It is differentiable; detach it for a weighted loss whose gradient is
    the risk's: ``(dro_weights(losses.detach(), ...) * losses).sum(-1)``.

    Args:
        losses, generator, penalty, radius, weights, dim: as for `dro_risk`.

    Returns:
        Weights of the losses' shape, summing to 1 along `dim`; zeros where all weights given are 0.

    Raises:
        ValueError, TypeError: as `dro_risk`.

    Source:
        As `dro_risk`.

    Example:
        >>> import torch
        >>> from lossmith.robust import dro_weights
        >>> dro_weights(torch.tensor([0.0, 1.0, 2.0]), "kl", penalty=1.0)
        tensor([0.0900, 0.2447, 0.6652])
    """
    q = _solve("dro_weights", losses, generator, penalty, radius, weights, dim).q
    return q.movedim(-1, dim)


def conditional_value_at_risk(
    losses: Float[Tensor, "*dims"],
    level: float,
    *,
    weights: Float[Tensor, "*dims"] | Float[Tensor, " n"] | None = None,
    dim: int = -1,
) -> Float[Tensor, "*rows"]:
    r"""CVaR, also called expected shortfall or superquantile: the mean of the worst share `level` of the losses.

    .. math:: \max_{q \le p / \alpha} E_q \ell = \min_\eta\ \eta + \frac1\alpha E_p (\ell - \eta)_+

    The robust risk of the generator that is 0 on :math:`[0, 1/\alpha]` and +inf beyond. Its weights, the gradient, are :math:`p/\alpha`
    above the quantile, and those on it share the rest by p.

    Args:
        losses: `(*rows, n)` along the last axis, or `dim`.
        level: :math:`\alpha` in (0, 1], the share of the worst that counts: 1 is the mean, and towards 0 it is the largest loss. (What
            finance calls CVaR at confidence 95 % has level 0.05.)
        weights, dim: as for `dro_risk`.

    Returns:
        One risk a row, `(*rows)`, in float32 at least.

    Raises:
        ValueError, TypeError: level is not in (0, 1], no losses, or weights of another shape.

    Source:
        Rockafellar & Uryasev 2000, "Optimization of conditional value-at-risk"; Levy et al. 2020, arXiv:2010.05893, section 2.

    Example:
        >>> import torch
        >>> from lossmith.robust import conditional_value_at_risk
        >>> conditional_value_at_risk(torch.tensor([0.0, 1.0, 2.0, 3.0]), 0.5)
        tensor(2.5000)
    """
    name = "conditional_value_at_risk"
    if isinstance(level, bool) or not isinstance(level, (int, float)):
        raise TypeError(f"{name}: level must be a number in (0, 1]; got {describe(level)}")
    if not 0 < level <= 1:
        raise ValueError(f"{name}: level must be in (0, 1]; got {level!r}")
    losses, p, _ = _points(name, losses, weights, dim)
    with torch.no_grad():
        kept = torch.where(p > 0, losses, -torch.inf)
        order = kept.argsort(-1, descending=True)
        worst = p.gather(-1, order).cumsum(-1)
        reached = (worst < level * (1 - 4 * torch.finfo(p.dtype).eps)).sum(-1, keepdim=True).clamp(max=losses.shape[-1] - 1)
        quantile = kept.gather(-1, order.gather(-1, reached))
        above, at = torch.where(kept > quantile, p, 0), torch.where((kept == quantile) & (p > 0), p, 0)
        rest = (level - above.sum(-1, keepdim=True)).clamp(min=0)
        held = at.sum(-1, keepdim=True)
        share = above / level + at * torch.where(held > 0, rest / torch.where(held > 0, held, 1), 0) / level
    return torch.where((share > 0) | kept.isnan(), share * losses, 0).sum(-1)


def _solve(
    name: str,
    losses: Tensor,
    generator: FGenerator | str,
    penalty: Hyper | None,
    radius: Hyper | None,
    weights: Tensor | None,
    dim: int,
) -> Tilted:
    g = named(name, generator)
    if (penalty is None) == (radius is None):
        raise ValueError(f"{name}: exactly one of penalty and radius must be given; got penalty={penalty!r} and radius={radius!r}")
    losses, p, nothing = _points(name, losses, weights, dim)
    if penalty is not None:
        solution = penalised(losses, p, g, _per_row(name, "penalty", penalty, losses))
    else:
        assert radius is not None
        solution = constrained(losses, p, g, _per_row(name, "radius", radius, losses))
    return solution._replace(q=torch.where(nothing, 0, solution.q))


def _points(name: str, losses: Tensor, weights: Tensor | None, dim: int) -> tuple[Tensor, Tensor, Bool[Tensor, "*rows 1"]]:
    """The losses along the last axis in float32 at least, p beside them, and the rows without weight: of zeros, and p uniform."""
    if not isinstance(losses, Tensor) or not losses.is_floating_point() or losses.ndim == 0:
        raise TypeError(f"{name}: losses must be a floating-point tensor of shape (*rows, n); got {describe(losses)}")
    if not -losses.ndim <= dim < losses.ndim:
        raise ValueError(f"{name}: dim must be an axis of the losses; got {dim} for {describe(losses)}")
    if losses.shape[dim] == 0:
        raise ValueError(f"{name}: losses must have at least one entry along dim; got {describe(losses)}")
    n = losses.shape[dim]
    dtype = losses.dtype if losses.dtype in (torch.float32, torch.float64) else torch.float32
    if weights is None:
        losses = losses.movedim(dim, -1).to(dtype)
        return losses, torch.full_like(losses, 1 / n), losses.new_zeros((*losses.shape[:-1], 1), dtype=torch.bool)
    if not isinstance(weights, Tensor) or weights.shape not in (losses.shape, (n,)):
        raise ValueError(f"{name}: weights must have the losses' shape {tuple(losses.shape)} or ({n},); got {describe(weights)}")
    if not holds(lambda: (weights >= 0).all(), weights):
        raise ValueError(f"{name}: weights must not be negative; the smallest is {weights.min().item():g}")
    losses = losses.movedim(dim, -1).to(dtype)
    given = weights.to(dtype)
    given = given.expand_as(losses) if given.ndim == 1 else given.movedim(dim, -1)
    total = given.sum(-1, keepdim=True)
    nothing = total == 0
    given = torch.where(nothing, 1 / n, given)
    return torch.where(nothing, 0, losses), given / torch.where(nothing, 1, total), nothing


def _per_row(name: str, argument: Literal["penalty", "radius"], value: Hyper, losses: Tensor) -> Tensor:
    rows = losses.shape[:-1]
    if isinstance(value, Tensor):
        if value.ndim and value.shape != rows:
            raise ValueError(f"{name}: {argument} must be a number, a 0-d tensor or one a row {tuple(rows)}; got {describe(value)}")
        if not holds(lambda: (value >= 0).all(), value):
            raise ValueError(f"{name}: {argument} must be at least 0; got {value.min().item():g}")
        return value.to(losses).expand(rows)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: {argument} must be a number or a tensor; got {describe(value)}")
    if not value >= 0 or (argument == "radius" and math.isnan(value)):
        raise ValueError(f"{name}: {argument} must be at least 0; got {value!r}")
    return losses.new_full(rows, value)
