r"""What two rows of log-probabilities are compared by, class by class, and the derivatives that their softmaxes need.

With a = log q of the teacher and b = log p of the student, a divergence is a sum of terms :math:`\varphi(a, b)`. An f-divergence's are
homogeneous, :math:`\varphi = p f(q/p)`, so that by Euler's theorem its *shares* are all there is to know:

.. math::
    A = \partial\varphi/\partial b = p\, f^{\circ\prime}(p/q), \qquad B = \partial\varphi/\partial a = q\, f'(q/p), \qquad \varphi = A + B

with :math:`f^\circ` the reverse generator. By a logit, the divergence has the derivative :math:`A_j - p_j \sum_k A_k`, and by one of the
teacher's :math:`B_j - q_j \sum_k B_k`. All links are centred, f'(1) = 0: the divergence of two close rows is then a sum of small numbers
and not a difference of large ones.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lossmith.divergences.categorical import terms_of_logs
from lossmith.generators import FGenerator, get
from lossmith.generators.numerical import Elementwise, scaled

CROSS_ENTROPY = "cross_entropy"
"""The code of :class:`CrossEntropy`; all other codes are generators."""

_GENERATORS: dict[str, FGenerator] = {}
"""Generators by the word that stands for them in an operator's arguments. They are kept: a compiled graph may come back to one."""


def code_of(g: FGenerator) -> str:
    """The word for a generator: its name, with a number where another has that name."""
    code, number = g.name, 1
    while _GENERATORS.setdefault(code, g) is not g or code == CROSS_ENTROPY:
        number += 1
        code = f"{g.name} #{number}"
    return code


@functools.lru_cache(maxsize=256)
def terms_of(code: str, dtype: torch.dtype) -> "Divergence | CrossEntropy":
    """What a code stands for."""
    if code == CROSS_ENTROPY:
        return CrossEntropy()
    return Divergence(_GENERATORS[code] if code in _GENERATORS else get(code), dtype)


class Divergence:
    """The terms of an f-divergence of the teacher's row from the student's."""

    of_logs = False
    """Whether a tile's shares are made of log-probabilities themselves."""

    def __init__(self, g: FGenerator, dtype: torch.dtype) -> None:
        self.g = g.centred()
        self.link, self.reverse_link = centred_links(g)
        self.growth, self.reverse_growth = g.growth, g.reverse().growth
        self.links = links_together(g, self.link, self.reverse_link)
        self.low, self.high = _limits(self.link, self.reverse_link, dtype)
        self.level = g.alphas is not None and all(order == 1 for order, _ in g.alphas)  # of KL, the sum of A = p - q is 0

    def of_tile(
        self, log_p: Tensor, p: Tensor, q: Tensor, ratio: Tensor, v: Tensor | None, out: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The shares (A, B) of a tile, of log ratios within the limits, in `out`, whose first may be q."""
        reverse_link, link = self.links(ratio)
        share_b = torch.mul(link, q, out=out[1])
        return torch.mul(reverse_link, p, out=out[0]), share_b

    def value(self, sum_a: Tensor, sum_b: Tensor) -> Tensor:
        """The divergence, by the sums of its shares."""
        return sum_a + sum_b

    def shares(self, a: Tensor, b: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(terms, A, B) for every log-probability, -inf too, by operations that can be differentiated.

        Links are asked of ratios of at least 1 alone, the terms of ratios of at most 1: nothing overflows that is finite. A term that is
        infinite passes nothing on.
        """
        term = terms_of_logs(a, b, self.g)
        below = a <= b
        nothing = a.isneginf() & b.isneginf()
        off = torch.where(below, a.isneginf(), b.isneginf())  # one of them has no mass: the term is linear in the other's
        ratio = torch.where(off | nothing, 0, a) - torch.where(off | nothing, 0, b)
        by_b = torch.where(off, term, scaled(self.reverse_link, self.growth, torch.where(below, ratio, 0), b))
        by_a = torch.where(off, term, scaled(lambda r: self.link(-r), self.reverse_growth, torch.where(below, 0, -ratio), a))
        share_a, share_b = torch.where(below, by_b, term - by_a), torch.where(below, term - by_b, by_a)
        outside = nothing | term.isinf()
        return term, torch.where(outside, 0, share_a), torch.where(outside, 0, share_b)


class CrossEntropy:
    """The terms -v q log p of the cross-entropy to the teacher's prediction, weighted by class where there are weights v."""

    level = False
    of_logs = True
    low, high = -float("inf"), 1e29  # beyond, a class that the student excludes and the teacher does not

    def of_tile(
        self, log_p: Tensor, p: Tensor, q: Tensor, ratio: Tensor, v: Tensor | None, out: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        share = torch.neg(q, out=out[0]) if v is None else torch.mul(q, -v, out=out[0])
        return share, torch.mul(log_p, share, out=out[1])

    def value(self, sum_a: Tensor, sum_b: Tensor) -> Tensor:
        return sum_b

    def shares(self, a: Tensor, b: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        share = -a.exp() if v is None else -a.exp() * v
        none = a.isneginf() | (v == 0) if v is not None else a.isneginf()  # no mass to name, or named with no weight
        infinite = b.isneginf() & ~none
        term = share * torch.where(b.isneginf(), 0, b)
        return torch.where(infinite, torch.inf, term), share, term


def centred_links(g: FGenerator) -> tuple[Elementwise, Elementwise]:
    r"""f'(e^r) and the reverse's f'(e^-r), both 0 at r = 0.

    Where g is made of alpha divergences these are sums of :math:`(e^{(\alpha - 1) r} - 1)/(\alpha - 1)` and of
    :math:`(1 - e^{\alpha r})/\alpha`, centred to the last digit; elsewhere a constant is taken away, and rounded.
    """
    if g.alphas is not None:
        return _total([(_power(order - 1), c) for order, c in g.alphas]), _total([(_power(order), -c) for order, c in g.alphas])
    centred = g.centred()
    reverse = centred.reverse()
    return centred.df_log, lambda r: reverse.df_log(-r)


def _power(s: float) -> Elementwise:
    """(e^(s r) - 1) / s, and its limit r."""
    if s == 0:
        return lambda r: r
    return torch.expm1 if s == 1 else lambda r: torch.expm1(s * r) / s


def _total(parts: list[tuple[Elementwise, float]]) -> Elementwise:
    """A weighted sum of functions."""
    (first, c), *others = parts

    def total(r: Tensor) -> Tensor:
        value = first(r) if c == 1 else c * first(r)
        for other, weight in others:
            value = value + weight * other(r)
        return value

    return total


def links_together(g: FGenerator, link: Elementwise, reverse_link: Elementwise) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    r"""(reverse link, link) of log ratios by one transcendental function, where one is enough: elsewhere by one each.

    A multiple of a comparison with a mixture (all Jensen-Shannons and skewed divergences are), of the triangular discrimination, the total
    variation or a chi divergence is known by its links, whatever it is called.
    """
    r = torch.linspace(-40, 40, 161, dtype=torch.float64)
    expected = reverse_link(r), link(r)
    for together in _candidates(*expected, r):
        if all(torch.allclose(mine, exact, rtol=1e-12, atol=1e-14) for mine, exact in zip(together(r), expected, strict=True)):
            return together
    if g.alphas is None:
        return lambda r: (reverse_link(r), link(r))
    of_link, of_reverse = ([(order - 1, c) for order, c in g.alphas], [(order, -c) for order, c in g.alphas])
    return lambda r: (_powers(of_reverse, r), _powers(of_link, r))


def _powers(parts: Sequence[tuple[float, float]], r: Tensor) -> Tensor:
    """The sum of c (e^(s r) - 1) / s, as :func:`_total` has it, in one new tensor where it takes one."""
    value, linear = None, sum(c for s, c in parts if s == 0)
    for s, c in parts:
        if s != 0:
            e = torch.expm1(r) if s == 1 else torch.mul(r, s).expm1_()
            value = (e if c == s else e.mul_(c / s)) if value is None else value.add_(e, alpha=c / s)
    if value is None:
        return r if linear == 1 else r * linear
    return value.add_(r, alpha=linear) if linear else value


def _candidates(reverse_link: Tensor, link: Tensor, r: Tensor) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """What both links may be made of, with the constants that they have at the ends of r."""
    (low, *_, high), (reverse_low, *_, reverse_high) = link.tolist(), reverse_link.tolist()
    yield _signs(high)
    yield _triangle(high)
    slopes = [((of[-1] - of[-2]) / (r[-1] - r[-2])).abs().item() for of in (reverse_link, link.flip(0))]  # towards infinite ratios
    if min(slopes) > 0:
        yield _mixture(slopes[1] / sum(slopes), sum(slopes))
    if reverse_low > 0 > reverse_high and 0.01 <= (a := reverse_low / (reverse_low - reverse_high)) <= 0.99:
        yield _skewed(a, reverse_low / (1 - a))
    if high > 0 > low and 0.01 <= (a := high / (high - low)) <= 0.99:
        yield _reversed(_skewed(a, high / (1 - a)))
    if reverse_low > 0 and -low > reverse_low:
        yield _chi(-low / reverse_low, reverse_low)
    if high > 0 and -reverse_high > high:
        yield _reversed(_chi(-reverse_high / high, high))


def _signs(c: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The total variation's: c sign(r) and its negative."""

    def together(r: Tensor) -> tuple[Tensor, Tensor]:
        link = r.sign().mul_(c)
        return -link, link

    return together


def _triangle(c: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The triangular discrimination's: with t = tanh(r/2), which is 1 - 2/(u + 1), c t (2 - t) and -c t (2 + t)."""

    def together(r: Tensor) -> tuple[Tensor, Tensor]:
        e = r.abs().neg_().expm1_()
        t = torch.copysign(e.div_(e + 2), r)
        square, twice = (t * t).mul_(c), t.mul_(2 * c)
        return (twice + square).neg_(), twice.sub_(square)

    return together


def _reversed(together: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The reverse generator's."""

    def exchanged(r: Tensor) -> tuple[Tensor, Tensor]:
        reverse_link, link = together(-r)
        return link, reverse_link

    return exchanged


def _skewed(a: float, c: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    r"""The skew divergence's: with :math:`y = (1 - a)(1/u - 1)` and h = y / (1 + y), c (1 - a) h and c (a h - log(1 + y)).

    1/u is kept finite: where it would not be, q is nothing beside p.
    """

    def together(r: Tensor) -> tuple[Tensor, Tensor]:
        y = r.clamp_min(math.log(torch.finfo(r.dtype).tiny)).neg_().expm1_().mul_(1 - a)
        h = y / (y + 1)
        link = torch.sub(h, y.log1p_(), alpha=1 / a).mul_(c * a)
        return h.mul_(c * (1 - a)), link

    return together


def _chi(p: float, c: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    r"""The chi divergence's of order p: with :math:`l = |u - 1|^{p-1} \mathrm{sign}(u - 1)`, c p l and -c l (1 + (p - 1) u)."""

    def together(r: Tensor) -> tuple[Tensor, Tensor]:
        beyond = torch.expm1(r)
        link = torch.copysign(beyond.abs().pow_(p - 1), beyond)
        reverse_link = beyond.mul_(-c * (p - 1)).sub_(c * p).mul_(link)
        return reverse_link, link.mul_(c * p)

    return together


def _mixture(w: float, c: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Jensen-Shannon's: with m = log(w u + 1 - w), c w (r - m) and -c (1 - w) m, both exact near r = 0 and far from it.

    With l = log(1 + w (e^-|r| - 1)), where for positive r 1 - w takes the place of w, m is max(r, 0) + l.
    """

    def together(r: Tensor) -> tuple[Tensor, Tensor]:
        e = r.abs().neg_().expm1_()
        if w == 0.5:
            e.mul_(w)
        else:
            e.mul_(torch.gt(r, 0, out=torch.empty_like(r)).mul_(1 - 2 * w).add_(w))
        low, up = e.log1p_(), r.clamp_min(0)
        reverse_link = (up + low).mul_(-c * (1 - w))
        return reverse_link, up.sub_(r).add_(low).mul_(-c * w)

    return together


def _limits(link: Callable[[Tensor], Tensor], reverse_link: Callable[[Tensor], Tensor], dtype: torch.dtype) -> tuple[float, float]:
    """The log ratios between which both links times a probability that is rounded to 0 are nothing; infinite where they always are."""
    largest = 1e-6 / torch.finfo(dtype).tiny
    r = torch.arange(4000, dtype=torch.float64) / 2

    def first_beyond(of: Tensor) -> float:
        beyond = ~(link(of).abs() < largest) | ~(reverse_link(of).abs() < largest)
        return (r[beyond][0] - 0.5).item() if beyond.any() else float("inf")

    return -first_beyond(-r), first_beyond(r)
