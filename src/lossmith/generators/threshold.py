r"""The threshold below which a sparse map gives probability 0, found to float accuracy and then made differentiable.

Every regularised argmax built on powers comes down to one equation a row. With :math:`u_k = (s + d_k)_+`, where
:math:`d_k = a\,(\theta_k - \max \theta) \le 0`, find the s in (0, 1] with

.. math:: \sum_k u_k^r = 1 .

s is the largest u, so it keeps its relative accuracy when 32000 classes share the mass and s is small. (For r < 0 all d are
:math:`\ge 0`, s is the smallest u and at least 1, and the support is full.) Three things make this fast and right:

* For r >= 1 and r < 0, :math:`(\sum u^r)^{1/r} - 1` is convex and monotone on the way from s = 1, so Newton's steps from there never
  overshoot. In each of them the residual or the slope is halved, which bounds their number by
  :math:`\log_2 c + \tfrac12 \log_2 (1/\epsilon)`. For 0 < r < 1 it is not convex, and s is found by bisection over the floats.
* Only a few logits can be in the support. The s of the 64 largest alone is an upper bound of s; if the smallest of the 64 is then
  outside the support, so are all others, and the row is solved. If not, that bound says how many more to look at. This needs shapes
  that depend on the data, so it is done in eager mode on the CPU alone; elsewhere every step runs over the whole row.
* To autograd the root is a constant. A step from it whose value is zero and whose derivatives are not makes it a function of
  the logits: exact where the equation can be solved on a given support (r = 1, r = 2), and Newton's otherwise, k of whose steps from a root
  are right to :math:`2^k - 1` derivatives. No derivative ever sees the entries outside the support.
"""

import math
from typing import NamedTuple

import torch

from lossmith._typing import Bool, Float, Integer, Tensor
from lossmith.generators import numerical

_FEW = 64
"""How many of the largest logits are tried first."""


class Solved(NamedTuple):
    """Rows with their threshold: what is needed of the logits, and s as a constant."""

    d: Float[Tensor, "*rows k"]
    s: Float[Tensor, "*rows 1"]
    top: Float[Tensor, "*rows 1"]
    at: Integer[Tensor, "*rows k"] | None
    """Which logits these are; None if all of them."""
    classes: int

    def spread(self, p: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows c"]:
        """Probabilities of these logits as probabilities of all: 0 for the others."""
        if self.at is None:
            return p
        return p.new_zeros(*p.shape[:-1], self.classes).scatter(-1, self.at, p)


def solve(theta: Float[Tensor, "*rows c"], a: float, r: float) -> Solved:
    """Find s of every row; `theta` may be tracked by autograd, s is not."""
    start = None
    if theta.shape[-1] > 4 * _FEW and theta.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            solved, start = _among_the_largest(theta, a, r)
        except RuntimeError:  # under vmap and on fake tensors there are no values to decide by
            solved = None
        if solved is not None:
            return solved
    top = theta.detach().amax(-1, keepdim=True)
    d = _distances(theta, top, a)
    return Solved(d, largest(d.detach(), r, start), top, None, theta.shape[-1])


def _distances(theta: Float[Tensor, "*rows c"], top: Float[Tensor, "*rows 1"], a: float) -> Float[Tensor, "*rows c"]:
    d = theta - top
    return d if a == 1 else a * d


def _among_the_largest(theta: Float[Tensor, "*rows c"], a: float, r: float) -> tuple[Solved | None, Float[Tensor, "*rows 1"] | None]:
    """The rows solved with few of their logits, or else nothing but a bound of s."""
    if r < 0:
        return None, None
    few, start = _FEW, None
    for _ in range(2):
        values, at = theta.topk(few)
        top = values.detach()[..., :1]
        d = _distances(values, top, a)
        s = largest(d.detach(), r, start)
        if bool((s + d.detach()[..., -1:] <= 0).all()):
            return Solved(d, s, top, at, theta.shape[-1]), None
        start = s
        above = torch.nextafter(top - s / a, top.new_full((), -math.inf))
        few = 1 + int((theta.detach() > above).to(s.dtype).sum(-1).amax())
        if few > theta.shape[-1] // 4:
            return None, start
    return None, start


def largest(d: Float[Tensor, "*rows c"], r: float, start: Float[Tensor, "*rows 1"] | None = None) -> Float[Tensor, "*rows 1"]:
    """The root s, a constant to autograd; `start` is an upper bound of it."""
    with torch.no_grad():
        if 0 < r < 1:
            zeros = d.new_zeros(*d.shape[:-1], 1)
            return numerical.largest_below(lambda s: (s + d).clamp(min=0).pow(r).sum(-1, keepdim=True), zeros + 1)
        return _newton(d, r, start)


def _newton(d: Float[Tensor, "*rows c"], r: float, start: Float[Tensor, "*rows 1"] | None) -> Float[Tensor, "*rows 1"]:
    """Newton's steps on (sum u^r)^(1/r) = 1 from s = 1, where they approach the root from one side."""
    eps = torch.finfo(d.dtype).eps
    s = d.new_ones(*d.shape[:-1], 1) if start is None else start
    for _ in range(math.ceil(math.log2(d.shape[-1]) - math.log2(eps) / 2) + 1):
        total, slope = _sums(s + d, r)
        step = (total - total.pow(1 - 1 / r)) / slope
        s = s - step
        if settled(step.abs() <= 2 * eps * s):
            break
    return s


def _sums(u: Float[Tensor, "*rows c"], r: float) -> tuple[Float[Tensor, "*rows 1"], Float[Tensor, "*rows 1"]]:
    """sum u^r and sum u^(r-1) over the support, of a tensor that may be overwritten."""
    if r == 1:
        return u.clamp(min=0).sum(-1, keepdim=True), (u > 0).to(u.dtype).sum(-1, keepdim=True)
    if r == 2:
        u = u.clamp(min=0)
        return torch.linalg.vecdot(u, u).unsqueeze(-1), u.sum(-1, keepdim=True)
    lower = (u.clamp(min=0) if r > 0 else u).pow(r - 1)
    return torch.where(lower == 0, 0, lower * u).sum(-1, keepdim=True), lower.sum(-1, keepdim=True)


def settled(small: Bool[Tensor, "*rows 1"]) -> bool:
    """Whether to stop; where asking would wait for a device or has no answer, never."""
    if small.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return bool(small.all())
    except RuntimeError:
        return False


def power(u: Float[Tensor, "*n"], r: float) -> Float[Tensor, "*n"]:
    """u_+^r, with all derivatives 0 where u <= 0."""
    if r == 1:
        return u.relu()
    if r == 2:
        return u.relu().square()
    inside = u > 0
    return torch.where(inside, torch.where(inside, u, 1).pow(r), 0)


def differentiable(s: Float[Tensor, "*rows 1"], d: Float[Tensor, "*rows k"], r: float, steps: int = 2) -> Float[Tensor, "*rows 1"]:
    """s with its derivatives in d: all of them for r = 1 and r = 2, otherwise those that so many of Newton's steps get right."""
    if r == 1:
        u = (s + d).relu()
        return s - only_derivatives(u.sum(-1, keepdim=True)) / (u.detach() > 0).to(u.dtype).sum(-1, keepdim=True)
    if r == 2:
        u = (s + d).relu()
        linear = u.sum(-1, keepdim=True)
        residual = only_derivatives(u.square().sum(-1, keepdim=True))
        n = (u.detach() > 0).to(u.dtype).sum(-1, keepdim=True)
        return s - residual / (linear + (linear.square() - n * residual).sqrt())
    for _ in range(steps):
        u = s + d
        residual = only_derivatives(power(u, r).sum(-1, keepdim=True))
        s = s - residual / (r * power(u, r - 1).sum(-1, keepdim=True))
    return s


def only_derivatives(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What has x's derivatives and is zero."""
    return x - x.detach()


def without_slope(
    value: Float[Tensor, "*rows 1"], slope: Float[Tensor, "*rows 1"], s: Float[Tensor, "*rows 1"]
) -> Float[Tensor, "*rows 1"]:
    """A minimum over s, freed of what rounding s left of its slope there: second derivatives of s may blow that up."""
    return value - slope.detach() * only_derivatives(s)
