r"""Alpha divergences, whose parameter means a different thing in every paper: here each convention has its own name.

==================  =====================================================================  =====================  ==================
convention          divergence                                                             KL(P||Q) at alpha =    KL(Q||P) at
==================  =====================================================================  =====================  ==================
``alpha_cichocki``  :math:`\frac{\sum p^\alpha q^{1-\alpha} - 1}{\alpha(\alpha-1)}`         1                      0
``alpha_amari``     :math:`\frac4{1-\alpha^2} (1 - \sum p^{(1-\alpha)/2}q^{(1+\alpha)/2})`  -1                     1
``alpha_f_dpo``     Cichocki's at 1 - alpha; link :math:`(1 - u^{-\alpha})/\alpha`          0                      1
``alpha_tsallis``   :math:`\frac{\sum p^\alpha q^{1-\alpha} - 1}{\alpha-1}`                 1                      (vanishes at 0)
==================  =====================================================================  =====================  ==================

The first three are one family under three parameters, and :func:`convert_alpha` takes a parameter from one to another. Cichocki's
(also TRL's, and what TensorFlow Probability calls ``amari_alpha``) is the one the library computes. Its generator is centred,
:math:`f = \frac{u^\alpha - 1 - \alpha(u - 1)}{\alpha(\alpha - 1)}`, so that its link :math:`(u^{\alpha-1} - 1)/(\alpha - 1)`
runs through log u at 1; written with expm1, everything runs smoothly through 0 and 1. ``alpha_tsallis`` is alpha times Cichocki's:
Tsallis' relative entropy, the Hellinger divergence of order alpha. Renyi's divergence is no f-divergence, but a function of it:
:math:`R_\alpha = \log(1 + (\alpha - 1) D)/(\alpha - 1)`.
"""

import math
from typing import Literal, get_args

import torch

from lossmith._checks import nearest
from lossmith._typing import Float, Tensor
from lossmith.card import Range
from lossmith.generators._names import inside
from lossmith.generators.fgenerator import FGenerator
from lossmith.generators.numerical import expm1
from lossmith.generators.registry import family

Convention = Literal["cichocki", "amari", "f_dpo"]
_REALS = Range(-math.inf, math.inf)


def _difference(u: Float[Tensor, "*n"], a: float, b: float) -> Float[Tensor, "*n"]:
    """(u^a - u^b) / (a - b), and its limit u^b log u, exact wherever the two powers are close."""
    if a == b:
        return u.pow(b) * u.log()
    near = ((a - b) * u.detach().log()).abs() < 1
    v, w = torch.where(near, u, 1), torch.where(near, 1, u)
    return torch.where(near, v.pow(b) * torch.expm1((a - b) * v.log()), w.pow(a) - w.pow(b)) / (a - b)


def _difference_log(r: Float[Tensor, "*n"], a: float, b: float) -> Float[Tensor, "*n"]:
    """`_difference` of e^r, also where e^r rounds to 0 and its powers do not."""
    if a == b:
        return (b * r).exp() * r
    near = ((a - b) * r.detach()).abs() < 1
    s, w = torch.where(near, r, 0), torch.where(near, 0, r)
    return torch.where(near, (b * s).exp() * torch.expm1((a - b) * s), (a * w).exp() - (b * w).exp()) / (a - b)


def _solve_power(t: Float[Tensor, "*n"], a: float) -> Float[Tensor, "*n"]:
    """The u with (u^a - 1) / a = t, and its limit e^t."""
    if a == 0:
        return t.exp()
    near = (a * t.detach()).abs() < 0.5
    s = torch.where(near, t, 0)
    return torch.where(near, (torch.log1p(a * s) / a).exp(), (1 + a * torch.where(near, 0, t)).pow(1 / a))


@family({"alpha": -1.0}, {"alpha": 0.0}, {"alpha": 0.3}, {"alpha": 0.5}, {"alpha": 1.0}, {"alpha": 1.5}, {"alpha": 3.0})
def alpha_cichocki(alpha: float) -> FGenerator:
    r"""The alpha divergence as Cichocki and Amari 2010 write it: KL(P||Q) at 1, KL(Q||P) at 0.

    At 1/2 it is twice the squared Hellinger distance, at 2 half of Pearson's and at -1 half of Neyman's chi-squared divergence.

    Args:
        alpha: any real number. As it tends to 0 or 1 every member tends to the member there.

    Source:
        Cichocki & Amari 2010, "Families of alpha- beta- and gamma-divergences", Entropy 12(6), equation 28.

    Example:
        >>> import torch
        >>> from lossmith.generators import alpha_cichocki, convert_alpha
        >>> alpha_cichocki(0.3).df(torch.tensor(0.7).exp())
        tensor(0.5534)
        >>> alpha_cichocki(convert_alpha(0.3, "f_dpo", "cichocki")).df(torch.tensor(0.7).exp())
        tensor(0.6314)
    """
    a = inside("alpha_cichocki", "alpha", alpha, _REALS)
    b, by = (0.0, a - 1) if a < 0.5 else (1.0, a)  # the power that is subtracted, and what is divided by: never near 0
    at_zero = 1 / a if a > 0 else math.inf

    def f_log(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        nothing, too_much = r.isneginf(), r > math.log(torch.finfo(r.dtype).max)  # f grows at least as u does
        inside = torch.where(nothing | too_much, 0, r)
        value = (_difference_log(inside, a, b) - expm1(inside)) / by
        return torch.where(too_much, torch.inf, torch.where(nothing, at_zero, value))

    result = FGenerator(
        name=f"alpha_cichocki(alpha={a})", formula=rf"\frac{{u^\alpha - 1 - \alpha (u - 1)}}{{\alpha (\alpha - 1)}}, \alpha = {a:g}",
        source="Cichocki & Amari 2010",
        f=lambda u: (_difference(u, a, b) - (u - 1)) / by,
        df=lambda u: _difference(u, a - 1, 0.0),
        d2f=lambda u: u.pow(a - 2),
        conjugate=lambda t: _difference(_solve_power(t, a - 1), a, 0.0),
        inverse_link=lambda t: _solve_power(t, a - 1),
        f_log=f_log,
        df_log=lambda r: torch.expm1((a - 1) * r) / (a - 1) if a != 1 else r,
        score_weight=lambda r: (a * r).exp(),
        at_zero=at_zero, slope_at_zero=1 / (1 - a) if a > 1 else -math.inf,
        slope_at_infinity=1 / (1 - a) if a < 1 else math.inf, closed=a < 0,
        twin=lambda: result if a == 0.5 else alpha_cichocki(1 - a), alphas=((a, 1.0),),
    )  # fmt: skip
    return result


def alpha_amari(alpha: float) -> FGenerator:
    r"""The alpha divergence of information geometry: KL(P||Q) at -1, KL(Q||P) at 1, symmetric at 0.

    Args:
        alpha: any real number; the divergence is Cichocki's at (1 - alpha) / 2.

    Source:
        Amari & Nagaoka 2000, "Methods of information geometry", section 3.2.
    """
    return alpha_cichocki(convert_alpha(inside("alpha_amari", "alpha", alpha, _REALS), "amari", "cichocki"))


def alpha_f_dpo(alpha: float) -> FGenerator:
    r"""The alpha divergence of f-DPO, by its link (1 - u^-alpha) / alpha: KL(P||Q) at 0, KL(Q||P) at 1.

    Args:
        alpha: any real number; the divergence is Cichocki's at 1 - alpha.

    Source:
        Wang et al. 2023, "Beyond reverse KL", arXiv:2309.16240, table 1.
    """
    return alpha_cichocki(convert_alpha(inside("alpha_f_dpo", "alpha", alpha, _REALS), "f_dpo", "cichocki"))


@family({"alpha": 0.3}, {"alpha": 2.5})
def alpha_tsallis(alpha: float) -> FGenerator:
    r"""Tsallis' relative entropy, the Hellinger divergence of order alpha: Renyi's is log(1 + (alpha - 1) D) / (alpha - 1).

    Args:
        alpha: above 0; KL(P||Q) at 1.

    Source:
        Liese & Vajda 2006, "On divergences and informations"; Tsallis 1998.
    """
    a = inside("alpha_tsallis", "alpha", alpha, Range(0.0, open_low=True))
    return alpha_cichocki(a).scaled(a, name=f"alpha_tsallis(alpha={a})")


def convert_alpha(alpha: float, given: Convention, wanted: Convention) -> float:
    """The parameter of the same divergence in another convention: "cichocki", "amari" or "f_dpo".

    Example:
        >>> from lossmith.generators import convert_alpha
        >>> convert_alpha(-1.0, "amari", "cichocki"), convert_alpha(0.25, "cichocki", "f_dpo")
        (1.0, 0.75)
    """
    for argument, name in (("given", given), ("wanted", wanted)):
        if name not in get_args(Convention):
            known = ", ".join(map(repr, get_args(Convention)))
            raise ValueError(f"convert_alpha: {argument} must be one of {known}; got {name!r}{nearest(str(name), get_args(Convention))}")
    cichocki = {"cichocki": alpha, "amari": (1 - alpha) / 2, "f_dpo": 1 - alpha}[given]
    return {"cichocki": cichocki, "amari": 1 - 2 * cichocki, "f_dpo": 1 - cichocki}[wanted]
