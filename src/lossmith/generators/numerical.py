"""What no formula is given for: derivatives, inverse links and conjugates found from the convex function itself.

Derivatives come from ``torch.func.grad``. The inverse link, the u with f'(u) = t, comes from a bisection over the floats themselves:
positive floats are ordered as their bits are, so 30 halvings of an integer interval (62 in float64) end at the largest float with
f'(u) <= t, whatever its size. That root is a constant to autograd. Two Newton steps from it, whose value is zero and whose derivatives
are not, then make it a function of t: k Newton steps from a root are right to 2^k - 1 derivatives, so first, second and third
derivatives are exact, by plain operations that ``vmap``, ``torch.func.grad`` and ``torch.compile`` pass through.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch

from lossmith._typing import Float, Tensor

Elementwise: TypeAlias = Callable[[Tensor], Tensor]

_BITS = {torch.float32: (torch.int32, 30, 7), torch.float64: (torch.int64, 62, 10)}
"""Integers as wide as the floats, the halvings that leave neighbours, and the k for which 2^(2^k) is still a float."""


def expm1(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """e^r - 1, exact where that is small, with a slope that is exact where e^r is: torch's is expm1 + 1, and rounds e^r away."""
    far = r < -1
    return torch.where(far, torch.where(far, r, -1).exp() - 1, torch.expm1(r))


def derivative(f: Elementwise) -> Elementwise:
    """The derivative of an elementwise function, itself differentiable."""

    def slope(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.func.grad(lambda v: f(v).sum())(u)

    return slope


def largest_below(slope: Elementwise, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The largest float u with slope(u) <= t, for a non-decreasing slope; 0 where there is none. A constant to autograd.

    The bracket is widened from 1 outwards, through 2^(2^k), so that a formula that breaks down at the far ends of the range is not
    asked there about a root in the middle.
    """
    integers, halvings, doublings = _BITS[t.dtype]
    with torch.no_grad():
        t = t.detach()
        one = torch.ones_like(t)
        upwards = slope(one) <= t
        low, high = torch.where(upwards, one, 0), torch.where(upwards, torch.inf, one)
        searching = torch.ones_like(upwards)
        for k in range(doublings):
            u = torch.where(upwards, 2.0 ** (2**k) * one, 2.0 ** -(2**k) * one)
            below = slope(u) <= t
            low = torch.where(searching & below, u, low)
            high = torch.where(searching & ~below, u, high)
            searching = searching & (below == upwards)
        low, high = low.view(integers), high.view(integers)
        for _ in range(halvings):
            middle = low + (high - low) // 2
            below = slope(middle.view(t.dtype)) <= t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low.view(t.dtype)


def inverse_of(df: Elementwise, d2f: Elementwise) -> Elementwise:
    """The inverse link (f')^-1 of a monotone f': 0 below its range, +inf above it."""

    def inverse_link(t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        root = largest_below(df, t)
        largest = torch.finfo(t.dtype).max
        inside = (root > 0) & (root < largest) & df(root).detach().isfinite()
        u = torch.where(inside, root, 1)
        t = torch.where(inside, t, 0)
        for _ in range(2):
            residual = df(u) - t
            residual = residual - residual.detach()  # the root is exact to a float: only its derivatives are wanted
            curvature = d2f(u)
            strict = curvature > 0
            u = u - torch.where(strict, residual / torch.where(strict, curvature, 1), 0)
        return torch.where(inside, u, torch.where(root < largest, root, torch.inf))

    return inverse_link


def conjugate_of(f: Elementwise, df: Elementwise, inverse_link: Elementwise, at_zero: float, reverse_df: Elementwise | None) -> Elementwise:
    """f*(t) = t u - f(u) at u = (f')^-1(t).

    For large u that is a small difference of large numbers. Where the reverse g(v) = v f(1/v) has a formula, -g'(1/u) takes its place
    there: the same number, for f* is the intercept of f's tangent and g' is minus it.
    """

    def conjugate(t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        u = inverse_link(t)
        inside = (u > 0) & u.isfinite()
        safe = torch.where(inside, u, 1)
        # The derivative of t u - f(u) in u is zero at the root, but in floats a rounding error that du/dt may blow up: it is taken out.
        error = (t - df(safe)).detach()
        value = t * safe - f(safe) - error * (safe - safe.detach())
        if reverse_df is None:
            value = torch.where(inside, value, torch.inf)
        else:
            large = u > 2
            # At a corner of f the link jumps over t, and from there on f* is straight.
            straight = inside & (error > 64 * torch.finfo(t.dtype).eps * t.detach().abs())
            beyond = torch.where(straight, safe.detach() * (t - torch.where(straight, df(safe).detach(), 0)), 0)
            value = torch.where(large, beyond - reverse_df(1 / torch.where(large, u, 3)), value)
        value = torch.where(value.isnan(), torch.inf, value)  # both terms beyond the largest float: so is f*
        return torch.where(u > 0, value, -at_zero)

    return conjugate


def score_weight_of(d2f: Elementwise) -> Elementwise:
    """u^2 f''(u) of a log ratio, by f''.

    Beyond ratios whose cube is a float, where u or f'' overflow, it goes on as the power of u that it is there: exact in the limit for
    every f that behaves like a power at 0 and at infinity.
    """

    def weight(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        u = r.exp()
        return u * (u * d2f(u))

    def score_weight(r: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        end = math.log(torch.finfo(r.dtype).max) / 3
        held = r.clamp(-end, end)
        at_end = weight(held)
        growing = (r != held) & (at_end > 0) & at_end.isfinite()
        power = torch.where(growing, derivative(weight)(held) / torch.where(growing, at_end, 1), 0)
        return at_end * (power * torch.where(growing, r - held, 0)).exp()

    return score_weight


def growth_of(f_log: Elementwise) -> float:
    """The s for which f(u) is like u^-s as u tends to 0: judged from f(e^r) in float64, 0 where it grows slower than any power.

    A power's slope on logarithmic scales is the same twice as far out, where a logarithm's is half.
    """
    r = -300 * 0.7 ** torch.arange(16, dtype=torch.float64).unsqueeze(1) * torch.tensor([1.0, 0.9, 0.5, 0.45], dtype=torch.float64)
    with torch.no_grad():
        logs = f_log(r).abs().log()
    for far, r_far in zip(logs, r, strict=True):
        if far.isfinite().all():
            slope, half = ((far[::2] - far[1::2]) / (r_far[::2] - r_far[1::2])).tolist()
            return -slope if slope < 0.9 * half < 0 else 0.0
    return 0.0


def scaled(h: Elementwise, growth: float, r: Float[Tensor, "*n"], log_scale: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """e^log_scale h(r) for r <= 0, where h grows as e^(-growth r): right wherever it is a float, though neither factor be one.

    Far out the two are one exponential, and where h is no float it goes on as the power that it is there. A value beyond the largest
    float is infinite, without a gradient.
    """
    if not growth:
        return log_scale.exp() * h(r)
    start, largest = 20 / growth, math.log(torch.finfo(r.dtype).max)
    far = r < -start
    kept = torch.where(far, r, -start)
    kept = kept if kept.device.type == "mps" else kept.double()  # float32's range may end before the power is all there is
    held = kept.clamp(min=-0.75 * math.log(torch.finfo(kept.dtype).max) / growth)
    at_end = h(held)
    exponent = (at_end.abs().log() + growth * (held - kept)).to(r.dtype) + log_scale
    beyond = exponent > largest
    power = torch.where(beyond, torch.inf, torch.where(far & ~beyond, exponent, 0).exp()) * at_end.sign().to(r.dtype)
    return torch.where(far, power, torch.where(far, 0, log_scale).exp() * h(torch.where(far, 0, r)))


def limit(g: Elementwise, towards: float) -> float:
    """The limit of a monotone function at 0 or at infinity, judged from its values at 10^k, k = 1, 2, 4, ... 256 (or 10^-k).

    The values have a limit when the last step is less than half the one before (a logarithm's steps double). Slower convergence,
    as of 1 / log u, is taken for divergence: state such a limit instead.
    """
    sign = 1 if towards > 0 else -1
    ladder = torch.tensor([10.0 ** (sign * 2**k) for k in range(9)], dtype=torch.float64)
    values = [value for value in g(ladder).tolist() if not math.isnan(value)]
    if len(values) < 3 or math.isinf(values[-1]):
        return values[-1] if values else math.nan
    before, last = values[-2] - values[-3], values[-1] - values[-2]
    if abs(last) <= max(abs(before) / 2, 1e-9 * max(1.0, abs(values[-1]))):
        return values[-1] if abs(values[-1]) > 1e-60 else 0.0
    return math.copysign(math.inf, last)


def check_convex(f: Elementwise, df: Elementwise, interval: tuple[float, float], points: int) -> None:
    """Raise ValueError where f' falls between neighbours of a logarithmic grid, or f leaves the bounds its tangents set there."""
    low, high = interval
    u = torch.logspace(math.log10(low), math.log10(high), points, dtype=torch.float64)
    value, slope = f(u), df(u)
    searched = f"searched {points} points of [{low:g}, {high:g}]"
    bad = ~(value.isfinite() & slope.isfinite())
    if bad.any():
        at = u[bad][0].item()
        raise ValueError(f"from_function: f and f' must be finite; f({at:.6g}) = {f(u[bad][:1]).item():.6g} ({searched})")
    rounding = 1e-9 * (slope.abs() + value.abs() / u)
    falls = slope[1:] - slope[:-1] < -(rounding[1:] + rounding[:-1])
    if falls.any():
        i = int(falls.nonzero()[0])
        raise ValueError(
            f"from_function: f is not convex: f' falls from {slope[i].item():.6g} at u = {u[i].item():.6g} to "
            f"{slope[i + 1].item():.6g} at u = {u[i + 1].item():.6g} ({searched})"
        )
    above_tangent = value[1:] - value[:-1] - slope[:-1] * (u[1:] - u[:-1])
    dips = above_tangent < -(rounding[1:] * u[1:] + rounding[:-1] * u[:-1])
    if dips.any():
        i = int(dips.nonzero()[0])
        raise ValueError(
            f"from_function: f is not convex: it falls below its tangent at u = {u[i].item():.6g} by {-above_tangent[i].item():.6g} "
            f"at u = {u[i + 1].item():.6g} ({searched})"
        )
