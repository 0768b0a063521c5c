r"""Generators made of powers: Hellinger, the chi-squared divergences, total variation and the triangular discrimination.

=====================  ==================================  =====================================================================
name                   f(u)                                divergence
=====================  ==================================  =====================================================================
``squared_hellinger``  :math:`(\sqrt u - 1)^2`             :math:`\sum (\sqrt p - \sqrt q)^2`, in [0, 2]; some halve it
``pearson_chi2``       :math:`(u - 1)^2`                   :math:`\sum (p - q)^2 / q`, what most call the chi-squared divergence
``neyman_chi2``        :math:`(u - 1)^2 / u`               :math:`\sum (p - q)^2 / p`
``total_variation``    :math:`\frac12 |u - 1|`             :math:`\frac12 \sum |p - q|`, in [0, 1]; some double it
``triangular``         :math:`(u - 1)^2 / (u + 1)`         :math:`\sum (p - q)^2 / (p + q)`, in [0, 2]; Vincze and Le Cam halve it
``chi_p``              :math:`|u - 1|^p`                   :math:`\sum |p - q|^p / q^{p-1}`
=====================  ==================================  =====================================================================
"""

import math

import torch

from lossmith._typing import Float, Tensor
from lossmith.card import Range
from lossmith.generators._names import inside
from lossmith.generators.fgenerator import FGenerator
from lossmith.generators.numerical import expm1
from lossmith.generators.registry import family, register

squared_hellinger = register(
    FGenerator(
        name="squared_hellinger", formula=r"(\sqrt u - 1)^2", source="Hellinger 1909; Liese & Vajda 2006",
        f=lambda u: (u.sqrt() - 1).square(),
        df=lambda u: 1 - u.rsqrt(),
        d2f=lambda u: 0.5 * u.rsqrt() / u,
        conjugate=lambda t: t / (1 - t),
        inverse_link=lambda t: (1 - t).square().reciprocal(),
        f_log=lambda r: expm1(r / 2).square(),
        df_log=lambda r: -torch.expm1(-r / 2),
        score_weight=lambda r: 0.5 * (r / 2).exp(),
        activation=lambda v: -torch.expm1(-v),
        at_zero=1.0, slope_at_zero=-math.inf, slope_at_infinity=1.0, twin=lambda: squared_hellinger,
        alphas=((0.5, 0.5),),
    )
)  # fmt: skip

pearson_chi2 = register(
    FGenerator(
        name="pearson_chi2", formula=r"(u - 1)^2", source="Pearson 1900",
        f=lambda u: (u - 1).square(),
        df=lambda u: 2 * (u - 1),
        d2f=lambda u: torch.full_like(u, 2),
        conjugate=lambda t: t * (1 + t / 4),
        inverse_link=lambda t: 1 + t / 2,
        f_log=lambda r: expm1(r).square(),
        df_log=lambda r: 2 * torch.expm1(r),
        score_weight=lambda r: 2 * (2 * r).exp(),
        at_zero=1.0, slope_at_zero=-2.0, slope_at_infinity=math.inf, twin=lambda: neyman_chi2,
        alphas=((2.0, 2.0),),
    )
)  # fmt: skip

neyman_chi2 = register(
    FGenerator(
        name="neyman_chi2", formula=r"(u - 1)^2 / u", source="Neyman 1949",
        f=lambda u: (u - 1) * (1 - 1 / u),
        df=lambda u: (1 + 1 / u) * (1 - 1 / u),
        d2f=lambda u: 2 / u / u / u,
        conjugate=lambda t: 2 * t / (1 + (1 - t).sqrt()),
        inverse_link=lambda t: (1 - t).rsqrt(),
        f_log=lambda r: (2 * (r / 2).sinh()).square(),
        df_log=lambda r: -torch.expm1(-2 * r),
        score_weight=lambda r: 2 * (-r).exp(),
        activation=lambda v: -torch.expm1(-v),
        at_zero=math.inf, slope_at_zero=-math.inf, slope_at_infinity=1.0, closed=True, twin=lambda: pearson_chi2,
        alphas=((-1.0, 2.0),),
    )
)  # fmt: skip

total_variation = register(
    FGenerator(
        name="total_variation", formula=r"\tfrac12 |u - 1|", source="Liese & Vajda 2006",
        f=lambda u: 0.5 * (u - 1).abs(),
        df=lambda u: 0.5 * (u - 1).sign(),
        d2f=torch.zeros_like,
        conjugate=lambda t: t,
        inverse_link=torch.ones_like,
        f_log=lambda r: 0.5 * expm1(r).abs(),
        df_log=lambda r: 0.5 * r.sign(),
        score_weight=torch.zeros_like,
        activation=lambda v: 0.5 * v.tanh(),
        at_zero=0.5, slope_at_zero=-0.5, slope_at_infinity=0.5, closed=True, strict=False, twin=lambda: total_variation,
    )
)  # fmt: skip

triangular = register(
    FGenerator(
        name="triangular", formula=r"(u - 1)^2 / (u + 1)", source="Vincze 1981; Le Cam 1986; Topsoe 2000",
        f=lambda u: (u - 1) * (1 - 2 / (u + 1)),
        df=lambda u: (1 - 2 / (u + 1)) * (1 + 2 / (u + 1)),
        d2f=lambda u: (2 / (u + 1)).pow(3),
        conjugate=lambda t: t * (3 - (1 - t).sqrt()) / (1 + (1 - t).sqrt()),
        inverse_link=lambda t: 2 * (1 - t).rsqrt() - 1,
        f_log=lambda r: expm1(r) * _tanh_half(r),
        df_log=lambda r: (r / 2).tanh() * (1 + 2 * (-r).sigmoid()),
        score_weight=lambda r: 8 * r.sigmoid().square() * (-r).sigmoid(),
        at_zero=1.0, slope_at_zero=-3.0, slope_at_infinity=1.0, closed=True, twin=lambda: triangular,
    )
)  # fmt: skip


def _tanh_half(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """(e^r - 1) / (e^r + 1), with a slope that is exact at both ends: torch's of tanh is 1 - tanh^2."""
    above = r > 0
    less = expm1(torch.where(above, -r, r))
    half = less / (less + 2)
    return torch.where(above, -half, half)


@family({"p": 1.5}, {"p": 3.0})
def chi_p(p: float) -> FGenerator:
    r"""Vajda's chi divergence of order p: the sum of `|P - Q|^p / Q^(p-1)`.

    Args:
        p: its order, above 1; 2 gives `pearson_chi2`. (At 1 it is twice `total_variation`.)

    Source:
        Vajda 1973, "chi-alpha divergence and generalized Fisher information".

    Example:
        >>> import torch
        >>> from lossmith.generators import chi_p
        >>> chi_p(3.0).conjugate(torch.tensor([0.0, 3.0]))
        tensor([0., 5.])
    """
    p = inside("chi_p", "p", p, Range(1.0, open_low=True))
    return FGenerator(
        name=f"chi_p(p={p})", formula=rf"|u - 1|^p, p = {p:g}", source="Vajda 1973",
        f=lambda u: (u - 1).abs().pow(p),
        df=lambda u: p * (u - 1).sign() * (u - 1).abs().pow(p - 1),
        d2f=lambda u: p * (p - 1) * (u - 1).abs().pow(p - 2),
        conjugate=lambda t: t + (p - 1) * (t / p).abs().pow(p / (p - 1)),
        inverse_link=lambda t: 1 + t.sign() * (t / p).abs().pow(1 / (p - 1)),
        f_log=lambda r: _odds_below_one(r).pow(p) * (p * r.clamp(min=0)).exp(),
        df_log=lambda r: p * r.sign() * _odds_below_one(r).pow(p - 1) * ((p - 1) * r.clamp(min=0)).exp(),
        score_weight=lambda r: p * (p - 1) * _odds_below_one(r).pow(p - 2) * torch.where(r > 0, p * r, 2 * r).exp(),
        at_zero=1.0, slope_at_zero=-p, slope_at_infinity=math.inf,
        twin=lambda: _reverse_chi_p(p), alphas=pearson_chi2.alphas if p == 2 else None,
    )  # fmt: skip


def _odds_below_one(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """1 - 1/u for u > 1 and 1 - u below, of a log ratio; 1 without a gradient far out, where what multiplies it may be infinite."""
    return -expm1(-r.abs().clamp(max=80))


def _reverse_chi_p(p: float) -> FGenerator:
    def odds(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (1 - 1 / u).abs()

    def f(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        large = u > 1
        v, w = torch.where(large, 1, u), torch.where(large, u, 1)
        return torch.where(large, w * (1 - 1 / w).pow(p), (1 - v).pow(p) * v.pow(1 - p))

    def df_log(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        beyond = r < -math.log(torch.finfo(r.dtype).max) / p
        inside = torch.where(beyond, 0, r)
        sign, away = inside.sign(), _odds_below_one(inside) * (-inside).clamp(min=0).exp()  # |1 - 1/u|
        return torch.where(beyond, -math.inf, sign * away.pow(p - 1) * (p - (p - 1) * sign * away))

    return FGenerator(
        name=f"reverse of chi_p(p={p})", formula=rf"|u - 1|^p / u^{{p - 1}}, p = {p:g}", source="Vajda 1973",
        f=f,
        f_log=lambda r: _odds_below_one(r).pow(p) * torch.where(r > 0, r, (1 - p) * r).exp(),
        df=lambda u: odds(u).pow(p - 1) * (p * (u - 1).sign() - (p - 1) * odds(u)),
        df_log=df_log,
        d2f=lambda u: p * (p - 1) * odds(u).pow(p - 2) / u / u / u,
        score_weight=lambda r: p * (p - 1) * _odds_below_one(r).pow(p - 2) * torch.where(r > 0, -r, (1 - p) * r).exp(),
        at_zero=math.inf, slope_at_zero=-math.inf, slope_at_infinity=1.0, closed=True, twin=lambda: chi_p(p),
        alphas=neyman_chi2.alphas if p == 2 else None,
    )  # fmt: skip
