r"""Generators made of logarithms: both Kullback-Leibler divergences, Jeffreys, and the comparisons with a mixture.

==========================  ============================================  =====================================================
name                        f(u)                                          divergence
==========================  ============================================  =====================================================
``kl``                      :math:`u \log u`                              :math:`KL(P\|Q)`
``reverse_kl``              :math:`-\log u`                               :math:`KL(Q\|P)`
``jeffreys``                :math:`(u - 1) \log u`                        :math:`KL(P\|Q) + KL(Q\|P)`
``jensen_shannon``          with weight 1/2                               :math:`\frac12 KL(P\|M) + \frac12 KL(Q\|M)`, at most log 2
``jensen_shannon_gan``      twice that                                    the f-GAN table's "Jensen-Shannon", at most 2 log 2
``gan``                     that, plus a multiple of u - 1                the same; its bound is Goodfellow et al.'s objective
``jensen_shannon_skewed``   :math:`w u \log\frac um - (1-w) \log m`       :math:`w KL(P\|M) + (1-w) KL(Q\|M), M = wP + (1-w)Q`
``skew_kl``                 :math:`u \log\frac um`, m of weight a         :math:`KL(P\|aP + (1-a)Q)`
``skew_reverse_kl``         :math:`-\log(a + (1-a)u)`                     :math:`KL(Q\|aQ + (1-a)P)`
==========================  ============================================  =====================================================

Here :math:`m = wu + 1 - w`, with `a` for `w` in the skewed ones. Each formula is arranged so that neither small nor large ratios
overflow or cancel: ratios above 1 are written in 1/u.
"""

import math

import torch
import torch.nn.functional as F

from lossmith._typing import Float, Tensor
from lossmith.card import Range
from lossmith.generators._names import inside
from lossmith.generators.fgenerator import FGenerator
from lossmith.generators.numerical import Elementwise
from lossmith.generators.registry import family, register

_LOG2 = math.log(2.0)
_LIN = "Lin 1991, 'Divergence measures based on the Shannon entropy'"
_FGAN = "Nowozin, Cseke & Tomioka 2016, 'f-GAN', arXiv:1606.00709, table 6"

kl = register(
    FGenerator(
        name="kl", formula=r"u \log u", source="Kullback & Leibler 1951, 'On information and sufficiency'",
        f=lambda u: u * u.log(),
        df=lambda u: 1 + u.log(),
        d2f=lambda u: 1 / u,
        conjugate=lambda t: (t - 1).exp(),
        inverse_link=lambda t: (t - 1).exp(),
        f_log=lambda r: _times_exp(r, r),
        df_log=lambda r: 1 + r,
        score_weight=torch.exp,
        at_zero=0.0, slope_at_zero=-math.inf, slope_at_infinity=math.inf, twin=lambda: reverse_kl,
        alphas=((1.0, 1.0),),
    )
)  # fmt: skip

reverse_kl = register(
    FGenerator(
        name="reverse_kl", formula=r"-\log u", source=kl.source,
        f=lambda u: -u.log(),
        df=lambda u: -1 / u,
        d2f=lambda u: 1 / u / u,
        conjugate=lambda t: -1 - (-t).log(),
        inverse_link=lambda t: -1 / t,
        f_log=lambda r: -r,
        df_log=lambda r: -(-r).exp(),
        score_weight=torch.ones_like,
        activation=lambda v: -(-v).exp(),
        at_zero=math.inf, slope_at_zero=-math.inf, slope_at_infinity=0.0, twin=lambda: kl,
        alphas=((0.0, 1.0),),
    )
)  # fmt: skip

jeffreys = register(
    FGenerator(
        name="jeffreys", formula=r"(u - 1) \log u", source="Jeffreys 1946, 'An invariant form for the prior probability'",
        f=lambda u: (u - 1) * u.log(),
        df=lambda u: u.log() + (1 - 1 / u),
        d2f=lambda u: (1 + 1 / u) / u,
        f_log=lambda r: r * torch.expm1(r),
        df_log=lambda r: r - torch.expm1(-r),
        score_weight=lambda r: 1 + r.exp(),
        at_zero=math.inf, slope_at_zero=-math.inf, slope_at_infinity=math.inf, twin=lambda: jeffreys,
        alphas=((1.0, 1.0), (0.0, 1.0)),
    )
)  # fmt: skip


def _in_two_halves(up_to_one: Elementwise, in_inverse: Elementwise) -> Elementwise:
    """f(u) by one formula for u <= 1, and by u g(1/u) above, with g(v) = v f(1/v) of v < 1."""

    def f(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        large = u > 1
        v, w = 1 / torch.where(large, u, 1), torch.where(large, u, 1)
        return torch.where(large, w * in_inverse(v), up_to_one(torch.where(large, 1, u)))

    return f


def _log_share(u: Float[Tensor, "*n"], weight: float) -> Float[Tensor, "*n"]:
    """log of u / (weight u + 1 - weight)."""
    small = u < 1
    v, w = torch.where(small, u, 1), torch.where(small, 1, u)  # 1/v would overflow, and v be lost beside a large w
    return torch.where(small, v.log() - torch.log1p(weight * (v - 1)), -(weight + (1 - weight) / w).log())


def _u_log_u(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """u log u, without the NaN that log has at the 0 to which 1/u may round."""
    return u * torch.where(u > 0, u, 1).log()


@family({"weight": 0.1}, {"weight": 0.7})
def jensen_shannon_skewed(weight: float) -> FGenerator:
    r"""Jensen-Shannon with weights: w KL(P||M) + (1 - w) KL(Q||M), the mixture being M = w P + (1 - w) Q.

    Divided by w (1 - w), it tends to KL(P||Q) as w tends to 0 and to KL(Q||P) as w tends to 1.

    Args:
        weight: w in (0, 1), the weight of the first argument; 1/2 gives `jensen_shannon`.

    Source:
        Lin 1991, "Divergence measures based on the Shannon entropy", section IV.

    Example:
        >>> from lossmith.generators import jensen_shannon_skewed
        >>> g = jensen_shannon_skewed(0.1)
        >>> g.slope_at_infinity  # what a point off the support of Q costs, -w log w
        0.23025850929940456
    """
    w = inside("jensen_shannon_skewed", "weight", weight, Range(0.0, 1.0, open_low=True, open_high=True))
    return _jensen_shannon(f"jensen_shannon_skewed(weight={w})", w)


def _jensen_shannon(name: str, w: float) -> FGenerator:
    def half(weight: float) -> Elementwise:
        return lambda u: weight * _u_log_u(u) - (1 + weight * (u - 1)) * torch.log1p(weight * (u - 1))

    def f_log(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        mixture, share = _mixture_logs(r.clamp(max=1000), w, 1 - w)  # beyond, u is infinite
        return w * _times_exp(share, r) - (1 - w) * mixture

    result = FGenerator(
        name=name, formula=rf"w u \log\frac um - (1 - w) \log m, m = w u + 1 - w, w = {w:g}", source=_LIN,
        f=_in_two_halves(half(w), half(1 - w)),
        df=lambda u: w * _log_share(u, w),
        d2f=lambda u: w * (1 - w) / u / (w * u + (1 - w)),
        conjugate=lambda t: (1 - w) * (math.log(1 - w) - _log1m_exp(t / w + math.log(w))),
        inverse_link=lambda t: (1 - w) * (t / w - _log1m_exp(t / w + math.log(w))).exp(),
        f_log=f_log,
        df_log=lambda r: -w * torch.logaddexp(r.new_tensor(math.log(w)), math.log(1 - w) - r),
        score_weight=lambda r: (1 - w) * (r + math.log(w / (1 - w))).sigmoid(),
        at_zero=-(1 - w) * math.log(1 - w), slope_at_zero=-math.inf, slope_at_infinity=-w * math.log(w),
        twin=lambda: result if w == 0.5 else jensen_shannon_skewed(1 - w),
    )  # fmt: skip
    return result


def _log1m_exp(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(1 - e^x) for x <= 0, also where rounding has carried x across 0."""
    return (-torch.expm1(x.clamp(max=0))).log()


jensen_shannon = register(_jensen_shannon("jensen_shannon", 0.5))

jensen_shannon_gan = register(jensen_shannon.scaled(2.0, name="jensen_shannon_gan"))


def _gan_of_log(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """u log u - (u + 1) log(u + 1) + 2 log 2 of a log ratio: by 1/u where that is below 1, as its slopes round to 0."""
    large = r > 0
    s, v = torch.where(large, 0, r), torch.where(large, -r, 0).clamp(min=-30).exp()
    above = -torch.log1p(v) / v - torch.log1p(v) - r  # the first term tends to -1
    below = _times_exp(F.logsigmoid(s), s) - F.softplus(s)
    return torch.where(large, above, below) + 2 * _LOG2


_gan_reverse = jensen_shannon_gan.tilted(_LOG2)

gan = register(
    FGenerator(
        name="gan", formula=r"u \log u - (u + 1) \log(u + 1) + 2 \log 2", source=_FGAN,
        f=_in_two_halves(
            lambda u: _u_log_u(u) - (1 + u) * torch.log1p(u) + 2 * _LOG2,
            lambda v: _u_log_u(v) - (1 + v) * torch.log1p(v) + 2 * _LOG2 * v,
        ),
        df=lambda u: -torch.log1p(1 / u),
        d2f=lambda u: 1 / u / (1 + u),
        conjugate=lambda t: -_log1m_exp(t) - 2 * _LOG2,
        inverse_link=lambda t: -t.exp() / torch.expm1(t),
        f_log=_gan_of_log,
        df_log=F.logsigmoid,
        score_weight=torch.sigmoid,
        at_zero=2 * _LOG2, slope_at_zero=-math.inf, slope_at_infinity=0.0, twin=lambda: _gan_reverse,
    )
)  # fmt: skip


@family({"skew": 0.1}, {"skew": 0.5})
def skew_kl(skew: float) -> FGenerator:
    r"""KL(P || a P + (1 - a) Q): finite for every P and Q, at most -log a.

    Args:
        skew: a in [0, 1), the weight of the first argument in the mixture; 0 gives `kl`, and DistiLLM's default is 0.1.

    Source:
        Lee 2001, "On the effectiveness of the skew divergence for statistical language analysis"; Ko et al. 2024,
        "DistiLLM", arXiv:2402.03898, equation 2. Its inverse link is a Lambert function and is found numerically.

    Example:
        >>> from lossmith.generators import skew_kl
        >>> skew_kl(0.5).slope_at_infinity
        0.6931471805599453
    """
    a = inside("skew_kl", "skew", skew, Range(0.0, 1.0, open_high=True))
    return FGenerator(
        name=f"skew_kl(skew={a})", formula=rf"u \log\frac um, m = a u + 1 - a, a = {a:g}", source="Lee 2001; Ko et al. 2024",
        f=lambda u: u * _log_share(u, a),
        df=lambda u: _log_share(u, a) + (1 - a) / (a * u + (1 - a)),
        d2f=lambda u: ((1 - a) / (a * u + (1 - a))).square() / u,
        f_log=lambda r: _times_exp(_mixture_logs(r, a, 1 - a)[1], r),
        df_log=lambda r: _log_share_log(r, a) + _second_share(r, a),
        score_weight=lambda r: (1 - a) / a * _second_share(-r, 1 - a) * _second_share(r, a) if a > 0 else r.exp(),
        at_zero=0.0, slope_at_zero=-math.inf, slope_at_infinity=-math.log(a) if a > 0 else math.inf, closed=a > 0,
        twin=lambda: skew_reverse_kl(a), alphas=None if a else kl.alphas,
    )  # fmt: skip


def _times_exp(logarithm: Float[Tensor, "*n"], r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """u times a logarithm of u, of a log ratio; 0 with no gradient where u is long 0 and the logarithm may not be finite."""
    nothing = r < -2000
    return torch.where(nothing, 0, torch.where(nothing, 0, r).exp() * torch.where(nothing, 0, logarithm))


def _mixture_logs(r: Float[Tensor, "*n"], weight: float, rest: float) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """log m and log u/m of a log ratio, with m = weight u + rest, where the two add up to 1.

    Both are exact near 0, and have slopes that are exact at both ends.
    """
    if not (weight and rest):
        return weight * r, rest * r

    def up_to_one(s: Float[Tensor, "*n"], w: float, rest: float) -> Float[Tensor, "*n"]:
        near = s > -1
        far = (rest + w * torch.where(near, -1, s).exp()).log()
        return torch.where(near, torch.log1p(w * torch.expm1(torch.where(near, s, 0))), far)

    large = r > 0
    above, below = up_to_one(torch.where(large, -r, 0), rest, weight), up_to_one(torch.where(large, 0, r), weight, rest)
    return torch.where(large, r + above, below), torch.where(large, -above, r - below)


def _log_share_log(r: Float[Tensor, "*n"], weight: float) -> Float[Tensor, "*n"]:
    """`_log_share` of a log ratio."""
    return -torch.logaddexp(r.new_tensor(math.log(weight) if weight > 0 else -math.inf), math.log(1 - weight) - r)


def _second_share(r: Float[Tensor, "*n"], weight: float) -> Float[Tensor, "*n"]:
    """(1 - weight) / (weight u + 1 - weight) of a log ratio."""
    return (math.log((1 - weight) / weight) - r).sigmoid() if weight > 0 else torch.ones_like(r)


@family({"skew": 0.1}, {"skew": 0.5})
def skew_reverse_kl(skew: float) -> FGenerator:
    r"""KL(Q || a Q + (1 - a) P), the reverse of `skew_kl`: at most -log a.

    Args:
        skew: a in [0, 1), the weight of the second argument in the mixture; 0 gives `reverse_kl`.

    Source:
        Ko et al. 2024, "DistiLLM", arXiv:2402.03898, equation 3.

    Example:
        >>> from lossmith.generators import skew_kl, skew_reverse_kl
        >>> skew_kl(0.1).reverse() is skew_reverse_kl(0.1)
        True
    """
    a = inside("skew_reverse_kl", "skew", skew, Range(0.0, 1.0, open_high=True))
    b = 1 - a
    return FGenerator(
        name=f"skew_reverse_kl(skew={a})", formula=rf"-\log(a + (1 - a) u), a = {a:g}", source="Ko et al. 2024",
        f=lambda u: -(a + b * u).log(),
        df=lambda u: -b / (a + b * u),
        d2f=lambda u: (b / (a + b * u)).square(),
        conjugate=lambda t: math.log(b) - (-t).log() - a / b * t - 1,
        inverse_link=lambda t: (-1 / t) - a / b,
        f_log=lambda r: -_mixture_logs(r, b, a)[0],
        df_log=lambda r: -b / a * _second_share(r, b) if a > 0 else -(-r).exp(),
        score_weight=lambda r: _second_share(-r, a).square(),
        at_zero=-math.log(a) if a > 0 else math.inf, slope_at_zero=-b / a if a > 0 else -math.inf, slope_at_infinity=0.0,
        twin=lambda: skew_kl(a), alphas=None if a else reverse_kl.alphas,
    )  # fmt: skip
