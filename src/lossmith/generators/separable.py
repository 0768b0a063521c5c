r"""A user's entropy made of one convex function of a probability, :math:`\Omega(p) = \sum_k \omega(p_k)`: what follows from omega alone.

Derivatives come from autograd. The argmax is :math:`p_k = (\omega')^{-1}(\theta_k - \tau)`, or 0 where :math:`\theta_k - \tau \le
\omega'(0)`. We look for the level :math:`\max \theta - \tau`, the slope at the largest probability, because that probability is known to
lie between 1/c and 1. The total mass grows with the level; Newton's steps find where it is 1, inside a bracket that is halved whenever
they would leave it, and every other time when they are slow. Every slope is inverted by a search over the floats. Both roots are
constants to autograd, and steps of value zero make them functions of the logits, as in `lossmith.generators.threshold`.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch

from lossmith._typing import Bool, Float, Tensor
from lossmith.generators import numerical
from lossmith.generators.entropy import Entropy
from lossmith.generators.threshold import decided, only_derivatives

Elementwise: TypeAlias = Callable[[Tensor], Tensor]

_BITS = {torch.float32: (torch.int32, 30), torch.float64: (torch.int64, 62)}
"""Integers as wide as the floats, and the bits that tell the floats of [0, 1] apart."""

_ROUNDS = 40
"""How many steps the level may take; it takes them all where it cannot be asked whether it has settled. 5 to 12 are usual."""


def separable_entropy(
    omega: Elementwise, name: str | None, slope_at_zero: float | None, interval: tuple[float, float], points: int
) -> Entropy:
    """The entropy of an elementwise omega, after a search for a point where it is not convex."""
    one = torch.ones(1, dtype=torch.float64)
    if omega(one).shape != one.shape:
        raise ValueError(
            f"from_function: omega must be elementwise when separable; a tensor of shape (1,) gave one of {tuple(omega(one).shape)}"
        )
    at_one, at_zero = omega(one).item(), numerical.limit(omega, 0.0)
    if not (abs(at_one) <= 1e-9 and abs(at_zero) <= 1e-9):
        raise ValueError(
            f"from_function: omega(0) and omega(1) must be 0; got {at_zero:.6g} and {at_one:.6g}. Subtract the straight line between them"
        )
    slope = numerical.derivative(omega)
    numerical.check_convex(lambda p: omega(p).detach(), lambda p: slope(p).detach(), interval, points)
    called = name or getattr(omega, "__name__", "omega")
    rows = _Separable(omega, slope, numerical.limit(slope, 0.0) if slope_at_zero is None else slope_at_zero)
    return Entropy(
        name=called,
        formula=rf"\sum_k \text{{{called}}}(p_k)",
        omega=lambda p: rows.term(p).sum(-1),
        gradient=rows.slope,
        argmax=rows.argmax,
    )


class _Separable:
    """omega, its derivatives, and the probabilities at which its slopes are what the logits say."""

    def __init__(self, omega: Elementwise, slope: Elementwise, slope_at_zero: float) -> None:
        self._omega, self._slope, self._curvature = omega, slope, numerical.derivative(slope)
        self._slope_at_zero = slope_at_zero
        slope_at_one = slope(torch.ones(1, dtype=torch.float64)).item()
        self._slope_at_one = slope_at_one if math.isfinite(slope_at_one) else math.inf

    def term(self, p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """omega(p), which is 0 at 0 and 1; with no derivative there if its slope is infinite."""
        apart = self._apart(p)
        return torch.where(apart, 0, self._omega(torch.where(apart, 0.5, p)))

    def slope(self, p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """omega'(p), with no derivative at 0, where the curvature may be infinite."""
        apart = self._apart(p) | (p == 0)
        slope = self._slope(torch.where(apart, 0.5, p))
        return torch.where(p == 0, self._slope_at_zero, torch.where(apart, self._slope_at_one, slope))

    def _apart(self, p: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Where the slope is infinite: the formula is not evaluated there."""
        at_zero = (p == 0) & math.isinf(self._slope_at_zero)
        return at_zero | ((p == 1) & math.isinf(self._slope_at_one))

    def argmax(self, theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        d = theta - theta.detach().amax(-1, keepdim=True)
        with torch.no_grad():
            level, p = self._solve(d.detach())
        for _ in range(2):
            tracked = self._tracked(p, level + d)
            level = level - only_derivatives(tracked.sum(-1, keepdim=True)) / self._total_flow(tracked)
        return torch.where(d.isnan().any(-1, keepdim=True), torch.nan, self._tracked(p, level + d))

    def _solve(self, d: Float[Tensor, "*rows c"]) -> tuple[Float[Tensor, "*rows 1"], Float[Tensor, "*rows c"]]:
        """The level, and every probability."""
        eps = torch.finfo(d.dtype).eps
        ones = torch.ones_like(d[..., :1])
        high = self.slope(ones - eps / 2 if math.isinf(self._slope_at_one) else ones)
        low = torch.minimum(self.slope(ones / d.shape[-1]), high)
        level = low
        for k in range(_ROUNDS):
            p = self._inverse(level + d)
            excess = p.sum(-1, keepdim=True) - 1
            low, high = torch.where(excess <= 0, level, low), torch.where(excess > 0, level, high)
            step = excess / self._total_flow(p)
            found = (excess.abs() <= 4 * eps) | (step.abs() <= eps * level.abs()) | (high - low <= eps * high.abs())
            if decided(found.all()):
                break
            astray = (level - step < low) | (level - step > high) | (k >= 12 and k % 2 == 1)
            level = torch.where(found, level, torch.where(astray, (low + high) / 2, level - step))
        return level, p

    def _inverse(self, v: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        """The largest p in [0, 1] with omega'(p) <= v; 0 where there is none.

        Positive floats are ordered as their bits are, so this is a search over integers: by 64 parts at a time among few, by halves among
        many, whose 64 parts would not fit in the memory.
        """
        integers, bits = _BITS[v.dtype]
        ways = 64 if v.numel() <= 2**16 else 2
        parts = torch.arange(1, ways, dtype=integers, device=v.device)
        last = torch.ones((), dtype=v.dtype, device=v.device).view(integers)
        low, high = torch.zeros_like(v).view(integers), torch.ones_like(v).view(integers)
        for _ in range(math.ceil(bits / math.log2(ways))):
            step = (high - low + ways - 1) // ways
            tried = torch.minimum(low.unsqueeze(-1) + step.unsqueeze(-1) * parts, last)
            below = self.slope(tried.view(v.dtype)) <= v.unsqueeze(-1)
            low = torch.minimum(low + step * below.sum(-1, dtype=integers), last)
            high = torch.minimum(low + step, last)
        p = low.view(v.dtype)
        return torch.where(v > self._slope_at_zero, torch.where(v >= self._slope_at_one, 1, p), 0)

    def _tracked(self, p: Float[Tensor, "*rows c"], v: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        """The constant p = (omega')^-1(v) as a function of v."""
        inside = self._inside(p)
        v = torch.where(inside, v, 0)
        tracked = torch.where(inside, p, 0.5)
        for _ in range(2):
            tracked = tracked - only_derivatives(self._slope(tracked) - v) / self._curvature(tracked)
        return torch.where(inside, tracked, p)

    def _total_flow(self, p: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows 1"]:
        """How fast the mass grows when every slope does: the sum of dp/dv = 1 / omega''(p) over the support (1 where nothing moves)."""
        inside = self._inside(p)
        flow = torch.where(inside, 1 / self._curvature(torch.where(inside, p, 0.5)), 0).sum(-1, keepdim=True)
        return torch.where(flow > 0, flow, 1)

    def _inside(self, p: Float[Tensor, "*rows c"]) -> Bool[Tensor, "*rows c"]:
        """Where p moves with its slope."""
        p = p.detach()
        outside = (p == 0) | self._apart(p)
        curvature = self._curvature(torch.where(outside, 0.5, p)).detach()
        return ~outside & (curvature > 0) & curvature.isfinite()
