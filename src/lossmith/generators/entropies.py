r"""The entropies: Shannon's, Tsallis's, and those made of norms.

=========================  ===================================================  ===================  ======
name                       Omega(p)                                             argmax               margin
=========================  ===================================================  ===================  ======
``shannon``                :math:`\sum p \log p`                                softmax              inf
``gini``                   :math:`\tfrac12 (\sum p^2 - 1)`                      sparsemax            1
``tsallis``                :math:`(\sum p^\alpha - 1) / (\alpha(\alpha - 1))`   alpha-entmax         1/(alpha - 1)
``norm_entropy``           :math:`\|p\|_q - 1`                                  q-normmax            1
``squared_norm_entropy``   :math:`\tfrac12 (\|p\|_q^2 - 1)`                     sparsemax at q = 2   1
=========================  ===================================================  ===================  ======

(Below alpha = 1 Tsallis's margin is infinite too.)
"""

import torch

from lossmith._typing import Float, Tensor
from lossmith.card import Range
from lossmith.generators import numerical
from lossmith.generators._names import inside
from lossmith.generators.entropy import Entropy
from lossmith.generators.entropy_registry import entropy_family, register_entropy
from lossmith.generators.sparse_maps import tsallis_argmax, tsallis_conjugate
from lossmith.generators.threshold import differentiable, only_derivatives, power, solve, without_slope

FENCHEL_YOUNG = "Blondel, Martins & Niculae 2020, arXiv:1901.02324"


def _log(p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log p, without a derivative where p is 0."""
    return torch.where(p == 0, -torch.inf, torch.where(p == 0, 1, p).log())


def _p_log_p(p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    inside = torch.where(p == 0, 1, p)
    return torch.where(p == 0, 0, inside * inside.log())


shannon = register_entropy(
    Entropy(
        name="shannon", formula=r"\sum_k p_k \log p_k", source="Shannon 1948",
        omega=lambda p: _p_log_p(p).sum(-1),
        gradient=_log,
        argmax=lambda theta: tsallis_argmax(theta, 1),
        conjugate=lambda theta: tsallis_conjugate(theta, 1),
    )
)  # fmt: skip

gini = register_entropy(
    Entropy(
        name="gini", formula=r"\tfrac12 \left(\sum_k p_k^2 - 1\right)", source="Gini 1912; Martins & Astudillo 2016, arXiv:1602.02068",
        omega=lambda p: (p.square().sum(-1) - 1) / 2,
        gradient=lambda p: p,
        argmax=lambda theta: tsallis_argmax(theta, 2),
        conjugate=lambda theta: tsallis_conjugate(theta, 2),
    )
)  # fmt: skip


@entropy_family({"alpha": 0.5}, {"alpha": 1.2}, {"alpha": 1.5}, {"alpha": 3.0})
def tsallis(alpha: float) -> Entropy:
    r"""Tsallis's entropy of order alpha, whose argmax is alpha-entmax.

    .. math:: \Omega(p) = \frac{\sum_k p_k^\alpha - 1}{\alpha (\alpha - 1)}

    Args:
        alpha: its order, above 0. 1 is `shannon` and 2 is `gini`. Above 1 the argmax is sparse, below 1 it never is.

    Source:
        Tsallis 1988; Peters, Niculae & Martins 2019, "Sparse Sequence-to-Sequence Models", arXiv:1905.05702.

    Example:
        >>> import torch
        >>> from lossmith.generators import tsallis
        >>> tsallis(1.5).argmax(torch.tensor([2.0, 1.0, 0.0, -1.0]))
        tensor([0.8307, 0.1693, 0.0000, 0.0000])
        >>> tsallis(1.5).margin
        2.0
    """
    alpha = inside("tsallis", "alpha", alpha, Range(0.0, open_low=True))
    if alpha in (1.0, 2.0):
        return shannon if alpha == 1 else gini
    return Entropy(
        name=f"tsallis(alpha={alpha})",
        formula=rf"\frac{{\sum_k p_k^\alpha - 1}}{{\alpha (\alpha - 1)}}, \alpha = {alpha:g}",
        source="Tsallis 1988; Peters, Niculae & Martins 2019, arXiv:1905.05702",
        omega=lambda p: (power(p, alpha).sum(-1) - 1) / (alpha * (alpha - 1)),
        gradient=lambda p: _slope_of_power(p, alpha - 1) / (alpha - 1),
        argmax=lambda theta: tsallis_argmax(theta, alpha),
        conjugate=lambda theta: tsallis_conjugate(theta, alpha),
    )


@entropy_family({"q": 1.5}, {"q": 2.0}, {"q": 4.0})
def norm_entropy(q: float) -> Entropy:
    r"""The q-norm as a negative entropy. Its argmax is sparse.

    .. math:: \Omega(p) = \|p\|_q - 1, \qquad
        \left(p / \|p\|_q\right)^{q-1} = (\theta - \tau)_+, \qquad \Omega^*(\theta) = \tau + 1

    where tau is such that :math:`\|(\theta - \tau)_+\|_{q/(q-1)} = 1`.

    Args:
        q: above 1.

    Source:
        Blondel, Martins & Niculae 2020, "Learning with Fenchel-Young Losses", arXiv:1901.02324, section 4.3.

    Example:
        >>> import torch
        >>> from lossmith.generators import norm_entropy
        >>> norm_entropy(4.0).argmax(torch.tensor([1.0, 0.5, -1.0]))
        tensor([0.5768, 0.4232, 0.0000])
    """
    q = inside("norm_entropy", "q", q, Range(1.0, open_low=True))
    r = q / (q - 1)

    def argmax(theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        rows = solve(theta, 1, r)
        p = power(differentiable(rows.s, rows.d, r) + rows.d, r - 1)
        return rows.spread(p / p.sum(-1, keepdim=True))

    def conjugate(theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows"]:
        rows = solve(theta, 1, r)
        return (rows.top + (1 - differentiable(rows.s, rows.d, r))).squeeze(-1)

    return Entropy(
        name=f"norm_entropy(q={q})", formula=rf"\|p\|_q - 1, q = {q:g}", source=f"{FENCHEL_YOUNG}, section 4.3",
        omega=lambda p: _norm(p, q).squeeze(-1) - 1,
        gradient=lambda p: _slope_of_power(p / _norm(p, q), q - 1),
        argmax=argmax,
        conjugate=conjugate,
    )  # fmt: skip


@entropy_family({"q": 1.5}, {"q": 4.0})
def squared_norm_entropy(q: float) -> Entropy:
    r"""Half the squared q-norm as a negative entropy; q = 2 is `gini`, with sparsemax. Its argmax is sparse.

    .. math:: \Omega(p) = \tfrac12 (\|p\|_q^2 - 1), \qquad
        \Omega^*(\theta) = \min_\tau \tau + \tfrac12 \|(\theta - \tau)_+\|_{q/(q-1)}^2 + \tfrac12

    With :math:`u = (\theta - \tau)_+` at the minimum, p is :math:`u^{1/(q-1)}` divided by its sum.

    Args:
        q: above 1.

    Source:
        Blondel, Martins & Niculae 2020, "Learning with Fenchel-Young Losses", arXiv:1901.02324, section 4.3.

    Example:
        >>> import torch
        >>> from lossmith.generators import squared_norm_entropy
        >>> squared_norm_entropy(4.0).argmax(torch.tensor([1.0, 0.5, -1.0]))
        tensor([0.6394, 0.3606, 0.0000])
    """
    q = inside("squared_norm_entropy", "q", q, Range(1.0, open_low=True))
    if q == 2:
        return gini
    r = q / (q - 1)

    def mass(u: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows 1"]:
        """The sum of half the squared r-norm's gradient: 1 at the threshold, and rising with u."""
        return _norm(u, r).pow(2 - r) * power(u, r - 1).sum(-1, keepdim=True)

    def slope(u: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows 1"]:
        """Its derivative when every u on the support rises alike."""
        norm, linear = _norm(u, r), power(u, r - 1).sum(-1, keepdim=True)
        return norm.pow(2 - r) * ((2 - r) * norm.pow(-r) * linear.square() + (r - 1) * power(u, r - 2).sum(-1, keepdim=True))

    def threshold(theta: Float[Tensor, "*rows c"], steps: int) -> tuple[Tensor, Tensor, Tensor]:
        top = theta.detach().amax(-1, keepdim=True)
        d = theta - top
        with torch.no_grad():
            s = numerical.largest_below(lambda s: mass(s + d), torch.ones_like(top))
        for _ in range(steps):
            s = s - only_derivatives(mass(s + d)) / slope(s + d)
        return top, s, (s + d).relu()

    def argmax(theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        p = power(threshold(theta, 2)[2], r - 1)
        return p / p.sum(-1, keepdim=True)

    def conjugate(theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows"]:
        top, s, u = threshold(theta, 1)
        return without_slope(top + (1 - s) + (_norm(u, r).square() - 1) / 2, mass(u) - 1, s).squeeze(-1)

    return Entropy(
        name=f"squared_norm_entropy(q={q})", formula=rf"\tfrac12 (\|p\|_q^2 - 1), q = {q:g}", source=f"{FENCHEL_YOUNG}, section 4.3",
        omega=lambda p: (_norm(p, q).squeeze(-1).square() - 1) / 2,
        gradient=lambda p: _norm(p, q) * _slope_of_power(p / _norm(p, q), q - 1),
        argmax=argmax,
        conjugate=conjugate,
    )  # fmt: skip


def _slope_of_power(p: Float[Tensor, "*n"], r: float) -> Float[Tensor, "*n"]:
    """p^r, infinite at 0 for r < 0, there without a derivative.

    For r < 1 by the logarithm: autograd multiplies r p^(r-1), which overflows for small p, by something as small only afterwards.
    """
    if r >= 1:
        return power(p, r)
    value = torch.where(p == 0, 1, p)
    return torch.where(p == 0, torch.inf if r < 0 else 0.0, (r * value.log()).exp())


def _norm(p: Float[Tensor, "*rows c"], q: float) -> Float[Tensor, "*rows 1"]:
    """The q-norm of probabilities, which neither overflows nor vanishes: it is relative to the largest."""
    top = p.detach().amax(-1, keepdim=True)
    top = torch.where(top > 0, top, 1)
    return top * power(p / top, q).sum(-1, keepdim=True).pow(1 / q)
