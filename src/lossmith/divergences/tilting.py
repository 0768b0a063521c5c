r"""The distribution near p that has the largest mean: p tilted by an inverse link, and that mean as a differentiable function.

Two problems over distributions q on the same points as p, of which everything dual to a divergence is made (the tight variational
bound, distributionally robust risks):

.. math:: \max_q\ E_q v - \lambda D_f(q \| p) \qquad\text{and}\qquad \max_q\ E_q v \ \text{ subject to }\ D_f(q \| p) \le \rho

Both are solved by :math:`q_i = p_i u_i` with :math:`u_i = (f')^{-1}(v_i / \lambda + c)`, c making q sum to 1 and, in the second,
:math:`\lambda` making the divergence :math:`\rho`. Throughout, v is measured from its maximum and f is tilted to f'(1) = 0, so that
c is at least 0 and at most :math:`f'(1/p_{max})`, and nothing overflows.

The roots are found on detached values. What autograd sees is the Lagrangian at the solution, whose first derivatives are right with u,
c and :math:`\lambda` held constant (envelope theorem), and two Newton steps on the optimality conditions, zero in value, which carry the
higher derivatives. Only where f is not strictly convex are the maximisers constant to autograd: they jump, and the value is straight
in between where f is made of straight pieces.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch._higher_order_ops.while_loop import while_loop

from lossmith._typing import Bool, Float, Tensor
from lossmith.generators import FGenerator, kl, total_variation
from lossmith.generators.numerical import largest_below

_MOST_STEPS, _STEPS_UNSEEN = 100, 30
"""Steps of a root finder: at most, and as many as there are where it cannot look whether it is done, under `vmap`."""
_WIDEST = 80.0
"""The logarithm of the largest and smallest ratio of the values' spread to lambda that a ball is searched for."""

_SMOOTH = 0.7
"""A ratio in place of those that do not move: not 1, where generators have their corners."""


class Tilted(NamedTuple):
    """The solution: its value and q, both differentiable in v, p and lambda or rho, and c for v and f as they were given, a constant."""

    value: Float[Tensor, "*rows"]
    q: Float[Tensor, "*rows n"]
    shift: Float[Tensor, "*rows"]


class _Solution(NamedTuple):
    """Ratios u = q / p, the shift c and the multiplier lambda."""

    u: Float[Tensor, "*rows n"]
    c: Float[Tensor, "*rows"]
    penalty: Float[Tensor, "*rows"]


class _Centred:
    """The generator with f'(1) = 0, without making a new one (a compiled graph cannot)."""

    def __init__(self, g: FGenerator, like: Tensor) -> None:
        self.g = g
        self.slope = g.df(like.new_ones(())).detach()

    def f(self, u: Tensor) -> Tensor:
        return self.g.f(u) - self.slope * (u - 1)

    def df(self, u: Tensor) -> Tensor:
        return self.g.df(u) - self.slope

    def ratio(self, t: Tensor) -> Tensor:
        """(f')^-1; a root that is no normal number is 0 where it may be, because f's formula may break down there."""
        u = self.g.inverse_link(t + self.slope)
        return torch.where(u < torch.finfo(u.dtype).tiny, 0, u) if math.isfinite(self.g.at_zero) else u

    def response(self, u: Tensor) -> Tensor:
        """du/dt = 1 / f''(u); 0 where u does not move, or moves infinitely fast."""
        inside = (u > 0) & u.isfinite()
        curvature = self.g.d2f(torch.where(inside, u, 1))
        usable = inside & (curvature > 0) & curvature.isfinite() & (1 / torch.where(curvature > 0, curvature, 1)).isfinite()
        return torch.where(usable, 1 / torch.where(usable, curvature, 1), 0)


def penalised(v: Float[Tensor, "*rows n"], p: Float[Tensor, "*rows n"], g: FGenerator, penalty: Float[Tensor, "*rows"]) -> Tilted:
    """max_q E_q v - penalty D_f(q||p), for a penalty in [0, inf]; points with p = 0 are left out, whatever v is there."""
    v, top, infinite = _finite(v, p)
    x = v - top.unsqueeze(-1)
    centred = _Centred(g, v)
    with torch.no_grad():
        edge = (penalty == 0) | penalty.isinf()
        safe = torch.where(edge, 1, penalty)
        u, c = _tilt(_scaled(x, 1 / safe), p, centred)
        u = torch.where((penalty == 0).unsqueeze(-1), _on_maximum(x, p), torch.where(penalty.isinf().unsqueeze(-1), 1, u))
        c = torch.where(edge, 0, c)
    penalty = torch.where(edge, 1, penalty)
    if g.strict:
        moving = ~edge.unsqueeze(-1)
        live = u, c
        for _ in range(2):
            live = _penalised_step(*live, x, p, penalty, centred, moving)
        u, c = live
    value = top + _lagrangian(_Solution(u, c, penalty), x, p, centred, ~edge)
    shift = (c - top / penalty + centred.slope).detach()
    return _with_infinite(Tilted(value, p * u, shift), infinite, p)


def constrained(v: Float[Tensor, "*rows n"], p: Float[Tensor, "*rows n"], g: FGenerator, radius: Float[Tensor, "*rows"]) -> Tilted:
    """max E_q v over the q with D_f(q||p) <= radius, for a radius of at least 0; points with p = 0 are left out."""
    v, top, infinite = _finite(v, p)
    x = v - top.unsqueeze(-1)
    centred = _Centred(g, v)
    with torch.no_grad():
        spread = torch.where(p > 0, -x, 0).amax(-1)
        largest = _on_maximum(x, p)
        at_top = (radius >= _divergence(largest, p, centred)) | (spread == 0)
        edge = at_top | (radius == 0)
        scale = torch.where(spread > 0, spread, 1)
        safe = torch.where(edge, 1, radius)
        u, c, inverse = _ball(x / scale.unsqueeze(-1), p, centred, safe)
        u = torch.where(at_top.unsqueeze(-1), largest, torch.where((radius == 0).unsqueeze(-1), 1, u))
        c, inverse = torch.where(edge, 0, c), torch.where(edge, 1, inverse / scale)
    tau, radius = inverse, torch.where(edge, 0, radius)
    if g.strict:
        for _ in range(2):
            u, c, tau = _constrained_step(u, c, tau, x, p, radius, centred, edge)
    value = top + _lagrangian(_Solution(u, c, 1 / tau), x, p, centred, ~edge, radius)
    shift = (c - top * tau + centred.slope).detach()
    return _with_infinite(Tilted(value, p * u, shift), infinite, p)


def _finite(v: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Bool[Tensor, "*rows n"]]:
    """The values without what p leaves out, their maximum (a constant), and where they are +inf: such rows are solved for zeros."""
    kept = p > 0
    infinite = kept & v.isposinf()
    v = torch.where(kept & ~infinite.any(-1, keepdim=True), v, 0)
    top = torch.where(kept, v, -torch.inf).amax(-1).detach()
    return torch.where(kept, v, top.unsqueeze(-1)), top, infinite


def _with_infinite(solution: Tilted, infinite: Bool[Tensor, "*rows n"], p: Tensor) -> Tilted:
    some = infinite.any(-1)
    share = torch.where(infinite, p, 0)
    share = share / torch.where(some, share.sum(-1), 1).unsqueeze(-1)
    value, q = torch.where(some, torch.inf, solution.value), torch.where(some.unsqueeze(-1), share, solution.q)
    return Tilted(value, q, torch.where(some, -torch.inf, solution.shift))


def _scaled(x: Tensor, inverse: Tensor) -> Tensor:
    """x / penalty, finite however small the penalty is."""
    return (x * inverse.unsqueeze(-1)).clamp(min=-torch.finfo(x.dtype).max / 8)


def _on_maximum(x: Tensor, p: Tensor) -> Tensor:
    """The ratios of p restricted to the largest values."""
    top = (x == 0) & (p > 0)
    return torch.where(top, 1 / torch.where(top, p, 0).sum(-1, keepdim=True), 0)


def _mean(p: Tensor, x: Tensor) -> Tensor:
    """sum_i p_i x_i, in which no share of an infinity is nothing."""
    return torch.where(p > 0, p * x, 0).sum(-1)


def _divergence(u: Tensor, p: Tensor, centred: _Centred) -> Tensor:
    return _mean(p, centred.f(u))


def _tilt(y: Tensor, p: Tensor, centred: _Centred) -> tuple[Tensor, Tensor]:
    """The ratios (f')^-1(y + c) that average 1, and c, for y <= 0 with maximum 0."""
    if centred.g is kl:
        c = -(y + p.log()).logsumexp(-1)
        return (y + c.unsqueeze(-1)).exp(), c
    if centred.g is total_variation:  # what lies below by more than 1 moves to the top
        u, top = (y >= -1).to(y.dtype), _on_maximum(y, p)
        return u + (1 - _mean(p, u)).unsqueeze(-1) * top, torch.full_like(y[..., 0], 0.5)
    return _tilt_strict(y, p, centred) if centred.g.strict else _tilt_with_jumps(y, p, centred)


def _tilt_strict(y: Tensor, p: Tensor, centred: _Centred) -> tuple[Tensor, Tensor]:
    """Newton's method on the logarithm of the average ratio."""

    def error(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = centred.ratio(y + c.unsqueeze(-1))
        total = _mean(p, u)
        slope = _mean(p, centred.response(u)) / total
        return total.log(), slope, 4 * torch.finfo(c.dtype).eps * (1 + (c + centred.slope).abs() * slope)

    high = centred.df(1 / torch.where(y == 0, p, 0).sum(-1)) * (1 + 1e-6)
    c = _increasing_root(error, torch.minimum(_mean(p, -y), high), torch.zeros_like(high), high).at
    u = centred.ratio(y + c.unsqueeze(-1))
    response = centred.response(u)
    weight = _mean(p, response)
    missing = (1 - _mean(p, u)) / torch.where(weight > 0, weight, 1)
    return (u + response * missing.unsqueeze(-1)).clamp(min=0), c


def _tilt_with_jumps(y: Tensor, p: Tensor, centred: _Centred) -> tuple[Tensor, Tensor]:
    """Where f has straight pieces the average ratio jumps over 1: the points that jump there share what is missing, by their p."""

    def average(c: Tensor) -> Tensor:
        return _mean(p, centred.ratio(y + c.unsqueeze(-1)))

    one = y.new_ones(y.shape[:-1])
    c = largest_below(average, one)
    u = centred.ratio(y + c.unsqueeze(-1))
    above = centred.ratio(y + torch.nextafter(c, one * torch.inf).unsqueeze(-1))
    unbounded = above.isinf() & (p > 0)
    jump = torch.where(unbounded.any(-1, keepdim=True), unbounded.to(u.dtype), above - u)
    missing, room = 1 - _mean(p, u), _mean(p, jump)
    share = torch.where(room > 0, missing / torch.where(room > 0, room, 1), 0)
    return u + share.unsqueeze(-1) * jump, c


def _ball(x: Tensor, p: Tensor, centred: _Centred, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ratios, shift and 1/lambda at which the divergence is the radius, for x in [-1, 0]: by its logarithm, over s = -log lambda."""

    def error(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = _scaled(x, s.exp())
        u, _ = _tilt(y, p, centred)
        divergence, response = _divergence(u, p, centred), centred.response(u)
        weight = _mean(p, response)
        mean = _mean(p, response * y) / torch.where(weight > 0, weight, 1)
        growth = _mean(p, response * (y - mean.unsqueeze(-1)).square())
        # Near p a divergence rounds to 0 or below, which has no logarithm; there it is half its second derivative.
        divergence = torch.where(divergence > 0, divergence, growth / 2)
        eps = torch.finfo(s.dtype).eps
        slope = growth / divergence
        rounding = 8 * (eps * (1 + s.abs() * slope) + (eps / radius).clamp(max=1e-6))
        return (divergence / radius).log(), slope, rounding.clamp(max=1e-3)  # a slope that is itself rounding error excuses nothing

    variance = _mean(p, (x - _mean(p, x).unsqueeze(-1)).square())
    start = 0.5 * (2 * radius * centred.g.d2f(x.new_ones(())) / variance).log()  # right for small radii
    start = torch.where(start.isfinite(), start, 0).clamp(-_WIDEST / 2, _WIDEST / 2)
    root = _increasing_root(error, start, torch.full_like(start, -_WIDEST), torch.full_like(start, _WIDEST))
    if centred.g.strict:
        return *_tilt(_scaled(x, root.at.exp()), p, centred), root.at.exp()
    (u, c), (above, _) = (_tilt(_scaled(x, end.exp()), p, centred) for end in (root.low, root.high))
    inside, outside = _divergence(u, p, centred), _divergence(above, p, centred)
    jump = torch.where(outside > inside, outside - inside, 1)
    share = ((radius - inside) / jump).clamp(0, 1).unsqueeze(-1)  # both ends maximise, and so does all between
    return u + share * (above - u), c, root.low.exp()


class _Bracket(NamedTuple):
    """Where a root is searched: the best point so far, its error in roundings, the next point, the last error, and the ends."""

    at: Tensor
    roundings: Tensor
    next: Tensor
    before: Tensor
    low: Tensor
    high: Tensor


def _increasing_root(error: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], start: Tensor, low: Tensor, high: Tensor) -> _Bracket:
    """Newton's method inside a bracket, which is halved wherever a step leaves it or does not halve the error; every row on its own.

    `error` gives an increasing function's value, its slope, and the value that rounding may give it at its root.
    """

    def step(bracket: _Bracket) -> _Bracket:
        c = bracket.next
        value, slope, rounding = error(c)
        low, high = torch.where(value < 0, c, bracket.low), torch.where(value < 0, bracket.high, c)
        roundings = value.abs() / rounding
        better = roundings < bracket.roundings
        newton = c - value / slope
        helps = (newton > low) & (newton < high) & (value.abs() < bracket.before / 2)
        return _Bracket(
            at=torch.where(better, c, bracket.at),
            roundings=torch.where(better, roundings, bracket.roundings),
            next=torch.where(helps, newton, low + (high - low) / 2),
            before=torch.where(helps, value.abs(), torch.inf),
            low=low,
            high=high,
        )

    def settled(bracket: _Bracket) -> Tensor:
        narrow = bracket.high - bracket.low <= torch.finfo(start.dtype).eps * bracket.low.abs()
        return ((bracket.roundings <= 1) | narrow).all()

    anything = torch.full_like(start, torch.inf)
    bracket = _Bracket(start.clone(), anything, start.clone(), anything.clone(), low, high)
    if torch.compiler.is_compiling():  # unrolled, two nested searches would be a graph of a hundred thousand nodes
        return _Bracket(
            *while_loop(
                lambda i, *state: (i < _MOST_STEPS) & ~settled(_Bracket(*state)),
                lambda i, *state: (i + 1, *step(_Bracket(*state))),
                (torch.zeros((), dtype=torch.int64, device=start.device), *bracket),
            )[1:]
        )
    looks = _has_values(start)
    for _ in range(_MOST_STEPS if looks else _STEPS_UNSEEN):
        bracket = step(bracket)
        if looks and bool(settled(bracket)):
            break
    return bracket


def _has_values(x: Tensor) -> bool:
    """Whether there are values to decide by; under `vmap` there are not."""
    try:
        return bool(x.isfinite().any()) or True
    except RuntimeError:
        return False


def _residual(x: Tensor) -> Tensor:
    """What is zero at the solution, as autograd sees it."""
    return x - x.detach()


def _penalised_step(
    u: Tensor, c: Tensor, x: Tensor, p: Tensor, penalty: Tensor, centred: _Centred, moving: Tensor
) -> tuple[Tensor, Tensor]:
    """A Newton step on f'(u) = x / penalty + c and E_p u = 1."""
    response = torch.where(moving, centred.response(u), 0)
    at = torch.where(response > 0, u, _SMOOTH)
    off = _residual(centred.df(at) - x / penalty.unsqueeze(-1) - c.unsqueeze(-1))
    weight = _mean(p, response)
    dc = torch.where(weight > 0, (_mean(p, response * off) - _residual(_mean(p, u))) / torch.where(weight > 0, weight, 1), 0)
    return torch.where(response > 0, u + response * (dc.unsqueeze(-1) - off), u), c + dc


def _constrained_step(
    u: Tensor, c: Tensor, tau: Tensor, x: Tensor, p: Tensor, radius: Tensor, centred: _Centred, edge: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A Newton step on f'(u) = tau x + c, E_p u = 1 and E_p f(u) = radius."""
    response = torch.where(edge.unsqueeze(-1), 0, centred.response(u))
    at = torch.where(response > 0, u, _SMOOTH)
    y = tau.unsqueeze(-1) * x
    off = _residual(centred.df(at) - y - c.unsqueeze(-1))
    mass = _residual(_mean(p, u))
    distance = _residual(_divergence(torch.where(edge.unsqueeze(-1), 1, u), p, centred) - radius)
    weight = _mean(p, response)
    mean = _mean(p, response * y) / torch.where(weight > 0, weight, 1)
    variance = _mean(p, response * (y - mean.unsqueeze(-1)).square())
    solvable = (weight > 0) & (variance > 0) & ~edge
    first = _mean(p, response * off) - mass
    second = _mean(p, response * y * off) + c * mass - distance
    growth = torch.where(solvable, (second - mean * first) / torch.where(solvable, variance, 1), 0)
    dc = torch.where(solvable, first / torch.where(solvable, weight, 1) - mean * growth, 0)
    step = response * (growth.unsqueeze(-1) * y + dc.unsqueeze(-1) - off)
    moves = solvable.unsqueeze(-1) & (response > 0)
    return torch.where(moves, u + step, u), c + dc, tau * (1 + growth)


def _lagrangian(
    at: _Solution, x: Tensor, p: Tensor, centred: _Centred, inside: Bool[Tensor, "*rows"], radius: Tensor | None = None
) -> Float[Tensor, "*rows"]:
    """E_p[u x] - penalty (E_p f(u) - radius) + penalty c (E_p u - 1); without its last two terms at the ends of the problem's range.

    Its derivatives in u, c and a multiplier vanish at the solution, but in floats are rounding errors that the derivatives of those may
    blow up: they are taken out.
    """
    u, c, penalty = at
    active = inside.unsqueeze(-1)
    excess = _mean(p, torch.where(active, centred.f(torch.where(active, u, 1)), 0))
    if radius is not None:
        excess = excess - radius
    mass = _mean(p, u) - 1
    value = _mean(p, u * x) - torch.where(inside, penalty * (excess - c * mass), 0)
    moves = active & (u > 0)
    slope = torch.where(moves, centred.df(torch.where(moves, u, 1)), 0)
    error = (p * (x - torch.where(moves, penalty.unsqueeze(-1) * (slope - c.unsqueeze(-1)), 0))).detach()
    value = value - torch.where(moves, error * _residual(u), 0).sum(-1) - (penalty * mass).detach() * _residual(c)
    if radius is not None:
        value = value + (excess - c * mass).detach() * _residual(penalty)
    # A large penalty times a divergence that is rounding error would be anything; p itself and q without its price are bounds.
    held = torch.clamp(value.detach(), _mean(p, x).detach(), _mean(p, u * x).detach())
    return held + _residual(value)
