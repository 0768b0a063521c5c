"""The convex function behind an f-divergence, with everything that is derived from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lossmith._checks import describe
from lossmith._typing import Float, Tensor
from lossmith.card import Range
from lossmith.generators import numerical
from lossmith.generators.numerical import Elementwise

DERIVED: Any = None
"""In place of a formula: derive it numerically from the others."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FGenerator:
    r"""A convex function f on [0, inf) with f(1) = 0, its derivatives, its conjugate and its limits.

    The conventions of the whole library, stated here once. The divergence it generates is

    .. math:: D_f(P \| Q) = E_Q\, f(dP/dQ) + f'(\infty)\, P(dQ = 0) \ge 0,

    so that `u` is always the ratio of the first argument to the second, and ``kl`` is :math:`u \log u`. Outside [0, inf) f is
    +inf; this makes the conjugate the constant :math:`-f(0)` below :math:`f'(0)`, where tables that let u be negative go on with
    their formula. Values are in nats. f is as the literature writes it; :meth:`tilted` adds a multiple of u - 1, which changes
    conjugate and link but no divergence.

    =====================  ===================================================  ==========================================
    member                 what it is                                           defined for (elsewhere)
    =====================  ===================================================  ==========================================
    ``f(u)``               :math:`f`                                            u >= 0 (+inf)
    ``df(u)``              :math:`f'`, the link                                 u >= 0 (NaN)
    ``d2f(u)``             :math:`f''`                                          u > 0 (NaN below 0)
    ``conjugate(t)``       :math:`f^*(t) = \sup_{u \ge 0} ut - f(u)`            ``t in conjugate_domain`` (+inf)
    ``inverse_link(t)``    :math:`(f')^{-1} = (f^*)'`                           ``t in conjugate_domain`` (+inf)
    ``f_log(r)``           :math:`f(e^r)`, f of a log ratio                     every r
    ``df_log(r)``          :math:`f'(e^r)`, the link of a log ratio             every r
    ``score_weight(r)``    :math:`u^2 f''(u)` at :math:`u = e^r`                every r
    ``at_zero``            :math:`f(0)`, or +inf                                a number
    ``slope_at_zero``      :math:`f'(0)`, or -inf                               a number
    ``slope_at_infinity``  :math:`f'(\infty) = \lim f(u)/u`, or +inf            a number
    =====================  ===================================================  ==========================================

    Members are elementwise torch functions of any shape, in float32 or float64 (half precision is computed in float32 and returned
    in it), differentiable, and good for ``vmap``, ``torch.func`` and ``torch.compile``. A member of `u` holds up to the dtype's
    largest number; where slope_at_zero is -inf, f has gradient 0 at u = 0, so that what is off the support receives none. Of
    the formulas only `f` is required: what an entry leaves out is derived numerically (see `lossmith.generators.numerical`)
    and named in `numerical`.

    Attributes:
        name: its name in the registry, or one that says how it was derived.
        formula: f in TeX.
        source: who proposed it, or where the form is taken from.
        closed: whether f* is finite at the upper end of its domain, f'(inf).
        strict: whether f is strictly convex. If not, the link has no inverse, and ``inverse_link`` is one of the subgradients of f*.
        activation: a published increasing function from the reals onto the inside of the conjugate's domain, for the last layer of a
            critic; None where `links.output_activation` derives one.
        twin: gives the reverse's own closed form; None to derive it.
        alphas: the pairs (order, weight) with :math:`D_f = \sum \text{weight} \cdot D_{\text{order}}`, a sum of `alpha_cichocki`
            divergences with positive weights, such as ``((1.0, 1.0),)`` for `kl`; None where it is no such sum. Wherever
            :math:`\int p^a q^{1-a}` has a closed form, as between Gaussians, so has such a divergence.
        growth: the s for which f(u) is like u^-s as u tends to 0, and 0 where f grows slower than any power.
        numerical: the members that were derived numerically, or from such.

    Example:
        >>> import torch
        >>> from lossmith.generators import kl
        >>> u = torch.tensor([0.0, 0.5, 1.0, 2.0])
        >>> kl.f(u)
        tensor([ 0.0000, -0.3466,  0.0000,  1.3863])
        >>> kl.conjugate(kl.df(u)) - (u * kl.df(u)).nan_to_num() + kl.f(u)  # Fenchel-Young holds with equality at t = f'(u)
        tensor([0., 0., 0., 0.])
        >>> q = torch.tensor([0.2, 0.2, 0.6])
        >>> p = torch.tensor([0.5, 0.3, 0.2])
        >>> (q * kl.f(p / q)).sum()
        tensor(0.3601)
    """

    name: str
    f: Elementwise
    df: Elementwise = DERIVED
    d2f: Elementwise = DERIVED
    conjugate: Elementwise = DERIVED
    inverse_link: Elementwise = DERIVED
    f_log: Elementwise = DERIVED
    df_log: Elementwise = DERIVED
    score_weight: Elementwise = DERIVED
    activation: Elementwise | None = None
    at_zero: float
    slope_at_zero: float
    slope_at_infinity: float
    formula: str = ""
    source: str = ""
    closed: bool = False
    strict: bool = True
    twin: Callable[[], "FGenerator"] | None = None
    alphas: tuple[tuple[float, float], ...] | None = None
    numerical: tuple[str, ...] = ()
    growth: float = field(init=False, default=0.0)
    _reverse: "FGenerator | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Derive what is missing, then put every formula behind the domain it holds on."""
        formulas = ("df", "d2f", "conjugate", "inverse_link")
        object.__setattr__(self, "numerical", (*self.numerical, *(name for name in formulas if getattr(self, name) is DERIVED)))
        members: dict[str, Elementwise] = {}
        members["f"] = self._on_ratios("f", self.f, math.inf, self.at_zero)
        members["df"] = self._on_ratios("df", self.df or numerical.derivative(self.f), math.nan, self.slope_at_zero)
        members["d2f"] = self._on_ratios("d2f", self.d2f or numerical.derivative(members["df"]), math.nan, math.inf)
        inverse = self.inverse_link or numerical.inverse_of(members["df"], members["d2f"])
        members["inverse_link"] = self._on_slopes("inverse_link", inverse, 0.0)
        conjugate = self.conjugate or self._numerical_conjugate(members)
        members["conjugate"] = self._on_slopes("conjugate", conjugate, -self.at_zero)
        members["f_log"] = self._on_logs("f_log", self.f_log or (lambda r: members["f"](r.exp())))
        members["df_log"] = self._on_logs("df_log", self.df_log or self._link_of_log(members["df"]))
        members["score_weight"] = self._on_logs("score_weight", self.score_weight or numerical.score_weight_of(members["d2f"]))
        for name, member in members.items():
            object.__setattr__(self, name, member)
        if math.isinf(self.at_zero):
            growth = numerical.growth_of(self.f_log) if self.alphas is None else max(0.0, *(-order for order, _ in self.alphas))
            object.__setattr__(self, "growth", growth)

    def _numerical_conjugate(self, members: dict[str, Elementwise]) -> Elementwise:
        twin = self.twin  # asked only when needed: a twin names its own twin
        reverse_df = None if twin is None else lambda v: twin().df(v)
        return numerical.conjugate_of(members["f"], members["df"], members["inverse_link"], self.at_zero, reverse_df)

    def _on_ratios(self, member: str, formula: Elementwise, outside: float, at_zero: float) -> Elementwise:
        """A formula of u >= 0, also at 0; a formula with a vertical tangent at 0 is not evaluated there."""
        vertical = math.isinf(self.slope_at_zero)

        def of_ratio(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
            u = self._real(member, "u", u)
            apart = u <= 0 if vertical else u < 0
            value = formula(torch.where(apart, 1, u))
            if vertical:
                value = torch.where(u == 0, at_zero, value)
            return torch.where(u < 0, outside, value)

        return of_ratio

    def _on_logs(self, member: str, formula: Elementwise) -> Elementwise:
        return lambda r: formula(self._real(member, "r", r))

    def _link_of_log(self, df: Elementwise) -> Elementwise:
        """f'(e^r) by f'; beyond the ratios that are floats it is its limit, a constant."""

        def df_log(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
            u = r.exp()
            inside = (u > 0) & u.isfinite()
            value = df(torch.where(inside, r, 0).exp())  # masked before exp: its slope there, times 0, would be NaN
            return torch.where(inside, value, torch.where(r < 0, torch.full_like(r, self.slope_at_zero), self.slope_at_infinity))

        return df_log

    def _on_slopes(self, member: str, formula: Elementwise, below_slope_at_zero: float) -> Elementwise:
        """A formula of t in the conjugate's domain: constant below f'(0), +inf beyond f'(inf)."""
        low, high, closed = self.slope_at_zero, self.slope_at_infinity, self.closed
        inside = 0.0 if low < 0.0 < high else high - 1 if math.isinf(low) else low + 1 if math.isinf(high) else (low + high) / 2

        def of_slope(t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
            t = self._real(member, "t", t)
            below = t <= low if math.isinf(low) else t < low
            above = t > high if closed or math.isinf(high) else t >= high
            value = formula(torch.where(below | above, inside, t))
            value = torch.where(below, below_slope_at_zero, value)
            return torch.where(above, math.inf, value)

        return of_slope

    def _real(self, member: str, argument: str, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{self.name}.{member}: {argument} must be a floating-point tensor; got {describe(x)}")
        return x if x.dtype in (torch.float32, torch.float64) else x.float()

    @property
    def domain(self) -> Range:
        """The ratios u at which f is finite."""
        return Range(0.0, math.inf, open_low=math.isinf(self.at_zero))

    @property
    def conjugate_domain(self) -> Range:
        """The slopes t at which f* is finite: up to f'(inf), with it or without it."""
        return Range(-math.inf, self.slope_at_infinity, open_high=not self.closed)

    def __repr__(self) -> str:
        return f"FGenerator({self.name}: {self.formula})"

    def reverse(self) -> "FGenerator":
        r"""The generator of the divergence with its arguments exchanged, :math:`u f(1/u)`: :math:`D_{f^\circ}(P\|Q) = D_f(Q\|P)`.

        Its conjugate is minus the inverse function of f*: :math:`(f^\circ)^*(-f^*(t)) = -t`. A symmetric divergence's generator
        gives itself; the reverse of a reverse is the generator itself.

        Example:
            >>> from lossmith.generators import jensen_shannon, kl, reverse_kl
            >>> kl.reverse() is reverse_kl, jensen_shannon.reverse() is jensen_shannon
            (True, True)
        """
        if self._reverse is None:
            reverse = self.twin() if self.twin is not None else self._derived_reverse()
            object.__setattr__(self, "_reverse", reverse)
            if reverse._reverse is None:
                object.__setattr__(reverse, "_reverse", self)
        assert self._reverse is not None
        return self._reverse

    def _derived_reverse(self) -> "FGenerator":
        return FGenerator(
            name=f"reverse of {self.name}",
            formula=rf"u f(1/u) \text{{ with }} f(u) = {self.formula}",
            source=self.source,
            f=lambda u: u * self.f(1 / u),
            df=lambda u: self.f(1 / u) - self.df(1 / u) / u,
            d2f=lambda u: self.d2f(1 / u) / u / u / u,
            at_zero=self.slope_at_infinity,
            slope_at_zero=-self.conjugate(torch.tensor(self.slope_at_infinity, dtype=torch.float64)).item() if self.closed else -math.inf,
            slope_at_infinity=self.at_zero,
            closed=math.isfinite(self.slope_at_zero),
            strict=self.strict,
            twin=lambda: self,
            alphas=None if self.alphas is None else tuple((1 - order, weight) for order, weight in self.alphas),
        )

    def symmetrised(self) -> "FGenerator":
        r"""The generator of the mean of both directions, :math:`\tfrac12 (f(u) + u f(1/u))`. A symmetric one gives itself."""
        reverse = self.reverse()
        if reverse is self:
            return self
        mean: FGenerator = _sum([(0.5, self), (0.5, reverse)], f"symmetrised {self.name}", lambda: mean)
        return mean

    def scaled(self, c: float, *, name: str | None = None) -> "FGenerator":
        """c f, for c > 0, whose conjugate is c f*(t / c). Also written ``c * g``."""
        if isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 < c < math.inf:
            raise ValueError(f"{self.name}.scaled: c must be a positive finite number; got {describe(c)}")
        activation = self.activation or (lambda v: v)
        result = FGenerator(
            name=name or (f"{c:g} * ({self.name})" if " " in self.name else f"{c:g} * {self.name}"),
            formula=rf"{c:g} \left({self.formula}\right)",
            source=self.source,
            f=lambda u: c * self.f(u),
            df=lambda u: c * self.df(u),
            d2f=lambda u: c * self.d2f(u),
            conjugate=lambda t: c * self.conjugate(t / c),
            inverse_link=lambda t: self.inverse_link(t / c),
            f_log=lambda r: c * self.f_log(r),
            df_log=lambda r: c * self.df_log(r),
            score_weight=lambda r: c * self.score_weight(r),
            activation=None if self.activation is None else lambda v: c * activation(v),
            at_zero=c * self.at_zero,
            slope_at_zero=c * self.slope_at_zero,
            slope_at_infinity=c * self.slope_at_infinity,
            closed=self.closed,
            strict=self.strict,
            alphas=None if self.alphas is None else tuple((order, c * weight) for order, weight in self.alphas),
            numerical=self.numerical,
            twin=lambda: result if self.reverse() is self else self.reverse().scaled(c),
        )
        return result

    def tilted(self, c: float) -> "FGenerator":
        r"""f(u) + c (u - 1): the same divergence, with the link moved by c and the conjugate :math:`f^*(t - c) + c`."""
        if isinstance(c, bool) or not isinstance(c, (int, float)) or not math.isfinite(c):
            raise ValueError(f"{self.name}.tilted: c must be a finite number; got {describe(c)}")
        activation = self.activation or (lambda v: v)
        return FGenerator(
            name=f"{self.name} {'-' if c < 0 else '+'} {abs(c):g} (u - 1)",
            formula=rf"{self.formula} {'-' if c < 0 else '+'} {abs(c):g} (u - 1)",
            source=self.source,
            f=lambda u: self.f(u) + c * (u - 1),
            df=lambda u: self.df(u) + c,
            d2f=self.d2f,
            conjugate=lambda t: self.conjugate(t - c) + c,
            inverse_link=lambda t: self.inverse_link(t - c),
            f_log=lambda r: self.f_log(r) + c * numerical.expm1(r),
            df_log=lambda r: self.df_log(r) + c,
            score_weight=self.score_weight,
            activation=None if self.activation is None else lambda v: activation(v) + c,
            at_zero=self.at_zero - c,
            slope_at_zero=self.slope_at_zero + c,
            slope_at_infinity=self.slope_at_infinity + c,
            closed=self.closed,
            strict=self.strict,
            alphas=self.alphas,
            numerical=self.numerical,
            twin=lambda: self.reverse().tilted(-c),
        )

    def centred(self) -> "FGenerator":
        """The tilt with f'(1) = 0, which is nowhere negative: every term of its divergence is >= 0, for unnormalised measures too."""
        slope = self.df(torch.ones((), dtype=torch.float64)).item()
        return self if slope == 0 else self.tilted(-slope)

    def __add__(self, other: "FGenerator") -> "FGenerator":
        """The generator of the sum of two divergences. Its conjugate, an infimal convolution, is found numerically."""
        if not isinstance(other, FGenerator):
            return NotImplemented
        reverses = self.reverse(), other.reverse()
        symmetric = reverses in ((self, other), (other, self))
        result: FGenerator = _sum(
            [(1.0, self), (1.0, other)], f"{self.name} + {other.name}", lambda: result if symmetric else reverses[0] + reverses[1]
        )
        return result

    def __rmul__(self, c: float) -> "FGenerator":
        return self.scaled(c)

    @staticmethod
    def from_function(
        f: Elementwise,
        *,
        name: str | None = None,
        at_zero: float | None = None,
        slope_at_zero: float | None = None,
        slope_at_infinity: float | None = None,
        interval: tuple[float, float] = (1e-6, 1e6),
        points: int = 2001,
    ) -> "FGenerator":
        """A generator from a convex function alone: derivatives by autograd, inverse link and conjugate by root finding.

        Convexity is searched for counterexamples, not proved: f is refused when f' falls between neighbours of a logarithmic grid,
        or f drops below a tangent, and the message names the point and the interval searched. The upper end f'(inf) counts as outside
        the conjugate's domain.

        Args:
            f: elementwise, of differentiable torch operations, with f(1) = 0. Parameters inside f receive gradients.
            name: what to call it; the function's own name by default.
            at_zero, slope_at_zero, slope_at_infinity: f(0), f'(0), f'(inf), each judged from values at powers of ten if not given.
            interval, points: where convexity is searched, and at how many points.

        Raises:
            ValueError: f(1) is not 0, f is not finite somewhere in the interval, or f is not convex there.

        Example:
            >>> import torch
            >>> from lossmith.generators import FGenerator
            >>> g = FGenerator.from_function(lambda u: u * u.log(), name="mine")
            >>> g.conjugate(torch.tensor([0.0, 1.0]))
            tensor([0.3679, 1.0000])
            >>> FGenerator.from_function(lambda u: u.log())
            Traceback (most recent call last):
            ...
            ValueError: from_function: f is not convex: f' falls from 1e+06 at u = 1e-06 to 986279 at u = 1.01391e-06 \
(searched 2001 points of [1e-06, 1e+06])
        """
        one = torch.ones(1, dtype=torch.float64)
        if f(one).shape != one.shape:
            raise ValueError(f"from_function: f must be elementwise; a tensor of shape (1,) gave {describe(f(one))}")
        if not abs(f(one).item()) <= 1e-9:
            raise ValueError(f"from_function: f(1) must be 0; got {f(one).item():.6g}. Subtract it")
        slope = numerical.derivative(f)
        numerical.check_convex(lambda u: f(u).detach(), lambda u: slope(u).detach(), interval, points)
        grid = torch.logspace(math.log10(interval[0]), math.log10(interval[1]), points, dtype=torch.float64)
        flat = numerical.derivative(slope)(grid).detach() == 0
        called = name or getattr(f, "__name__", "f")
        return FGenerator(
            name=called,
            formula=rf"\text{{{called}}}(u)",
            f=f,
            strict=not bool((flat[1:] & flat[:-1]).any()),  # one flat point alone, as u - 1 to the fourth has, is no straight piece
            at_zero=numerical.limit(f, 0.0) if at_zero is None else at_zero,
            slope_at_zero=numerical.limit(slope, 0.0) if slope_at_zero is None else slope_at_zero,
            slope_at_infinity=numerical.limit(slope, math.inf) if slope_at_infinity is None else slope_at_infinity,
        )


def _sum(terms: Sequence[tuple[float, FGenerator]], name: str, twin: Callable[[], FGenerator]) -> FGenerator:
    """The weighted sum of generators; only its conjugate and inverse link have no formula."""

    def total(member: str) -> Elementwise:
        parts = [(c, getattr(g, member)) for c, g in terms]
        return lambda x: torch.stack([c * part(x) for c, part in parts]).sum(0)

    return FGenerator(
        name=name,
        formula=" + ".join(g.formula if c == 1 else rf"{c:g} \left({g.formula}\right)" for c, g in terms),
        source="; ".join(dict.fromkeys(g.source for _, g in terms)),
        f=total("f"),
        df=total("df"),
        d2f=total("d2f"),
        f_log=total("f_log"),
        df_log=total("df_log"),
        score_weight=total("score_weight"),
        at_zero=sum(c * g.at_zero for c, g in terms),
        slope_at_zero=sum(c * g.slope_at_zero for c, g in terms),
        slope_at_infinity=sum(c * g.slope_at_infinity for c, g in terms),
        closed=all(g.closed for _, g in terms),
        strict=any(g.strict for _, g in terms),
        twin=twin,
        alphas=_sum_of_alphas(terms),
    )


def _sum_of_alphas(terms: Sequence[tuple[float, FGenerator]]) -> tuple[tuple[float, float], ...] | None:
    """The orders of all terms, each once; None if some term has none."""
    total: dict[float, float] = {}
    for c, g in terms:
        if g.alphas is None:
            return None
        for order, weight in g.alphas:
            total[order] = total.get(order, 0.0) + c * weight
    return tuple(total.items())
