r"""The threshold below which a sparse map gives probability 0, found to float accuracy and then made differentiable.

Every regularised argmax built on powers comes down to one equation a row. With :math:`u_k = (s + d_k)_+`, where
:math:`d_k = a\,(\theta_k - \max \theta) \le 0`, find the s in (0, 1] with

.. math:: \sum_k u_k^r = 1 .

s is the largest u, so it keeps its relative accuracy when 32000 classes share the mass and s is small. (For r < 0 all d are
:math:`\ge 0`, s is the smallest u and at least 1, and the support is full.) Three things make this fast and right:

* For r >= 1 and r < 0, :math:`(\sum u^r)^{1/r} - 1` is convex and monotone on the way from s = 1, so Newton's steps from there never
  overshoot, and their number has a bound (25 for 32000 classes in float32; 6 are usual). For 0 < r < 1 it is not convex, and s is found
  by bisection over the floats.
* Often only a few logits are in the support. If the smallest of the 128 largest is outside the support that these would have by
  themselves, so are all others, and the row is solved. If not, their s is an upper bound of s for Newton to start from. Which of the two
  is a question about values, so it is asked in eager mode on the CPU alone; elsewhere every step runs over the whole row.
* To autograd the root is a constant. A step from it whose value is zero and whose derivatives are not makes it a function of
  the logits: exact where the equation can be solved on a given support (r = 1, r = 2), and Newton's otherwise, k of whose steps from a root
  are right to :math:`2^k - 1` derivatives. No derivative ever sees the entries outside the support.
"""

from typing import NamedTuple

import torch

from lossmith._typing import Bool, Float, Integer, Tensor
from lossmith.generators import numerical

_FEW = 128
"""How many of the largest logits are tried first."""

_CACHED = 2**18
"""How many numbers Newton's steps are given at a time on a CPU: as many as stay in its cache from one step to the next."""


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
    if r > 0 and theta.shape[-1] > 2 * _FEW and theta.device.type == "cpu" and not torch.compiler.is_compiling():
        values, at = theta.topk(_FEW)
        top = values.detach()[..., :1]
        d = _distances(values, top, a)
        start = largest(d.detach(), r)
        if decided((start + d.detach()[..., -1:] <= 0).all()):
            return Solved(d, start, top, at, theta.shape[-1])
    top = theta.detach().amax(-1, keepdim=True)
    d = _distances(theta, top, a)
    return Solved(d, largest(d.detach(), r, start), top, None, theta.shape[-1])


def _distances(theta: Float[Tensor, "*rows c"], top: Float[Tensor, "*rows 1"], a: float) -> Float[Tensor, "*rows c"]:
    d = theta - top
    return d if a == 1 else a * d


def largest(d: Float[Tensor, "*rows c"], r: float, start: Float[Tensor, "*rows 1"] | None = None) -> Float[Tensor, "*rows 1"]:
    """The root s, a constant to autograd; `start` is an upper bound of it."""
    with torch.no_grad():
        start = d.new_ones(*d.shape[:-1], 1) if start is None else start
        if 0 < r < 1:
            root = numerical.largest_below(lambda s: (s + d).clamp(min=0).pow(r).sum(-1, keepdim=True), torch.ones_like(start))
            return root.clamp(max=1)  # a root rounds to 1 from above, too
        if d.device.type != "cpu" or torch.compiler.is_compiling():
            return _newton(d, r, start)
        few = max(1, _CACHED // d.shape[-1])
        blocks = zip(d.reshape(-1, d.shape[-1]).split(few), start.reshape(-1, 1).split(few), strict=True)
        return torch.cat([_newton(d, r, s) for d, s in blocks]).reshape(start.shape)


def _newton(d: Float[Tensor, "n c"], r: float, s: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
    """Newton's steps on (sum u^r)^(1/r) = 1 from a bound of s, which approach the root from one side."""
    eps = torch.finfo(d.dtype).eps
    for _ in range(_enough_steps(d.shape[-1], r, eps)):
        total, slope = _sums(s + d, r)
        step = (total - total.pow(1 - 1 / r)) / slope
        s = s - step
        if decided((step.abs() <= 2 * eps * s).all()):
            break
    return s


def _enough_steps(classes: int, r: float, eps: float) -> int:
    """How many of Newton's steps lead to the root from s = 1, whatever the row.

    For a convex function each step leaves shares of the residual and of the slope that add up to 1 at most. The slope of the norm lies
    within a factor C = c^(1/|r|) of 1, and the residual between C and eps: so n steps without arriving need 1 >= C^(-1/n) + (eps/C)^(1/n).
    """
    spread = classes ** (1 / abs(r))
    n = 1
    while spread ** (-1 / n) + (eps / spread) ** (1 / n) <= 1:
        n += 1
    return n + 1  # and one for the rounding


def _sums(u: Float[Tensor, "*rows c"], r: float) -> tuple[Float[Tensor, "*rows 1"], Float[Tensor, "*rows 1"]]:
    """sum u^r and sum u^(r-1) over the support, of a tensor that is overwritten."""
    if r > 0:
        u = u.relu_()
    if r == 1:
        return u.sum(-1, keepdim=True), u.sign_().sum(-1, keepdim=True)
    if r == 2:
        return torch.linalg.vecdot(u, u).unsqueeze(-1), u.sum(-1, keepdim=True)
    lower = u.pow(r - 1)
    return torch.where(lower == 0, 0, lower * u).sum(-1, keepdim=True), lower.sum(-1, keepdim=True)


def decided(condition: Bool[Tensor, ""]) -> bool:
    """Whether something holds; False where asking would wait for a device or has no answer: compiling, and under vmap."""
    if condition.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return bool(condition)
    except RuntimeError:
        return False


def power(u: Float[Tensor, "*n"], r: float) -> Float[Tensor, "*n"]:
    """u_+^r, with all derivatives 0 where u <= 0, and NaN where u is."""
    if r == 1:
        return u.relu()
    if r in (2, 3):
        return u.relu().pow(r)
    outside = u <= 0
    return torch.where(outside, 0, torch.where(outside, 1, u).pow(r))


def differentiable(s: Float[Tensor, "*rows 1"], d: Float[Tensor, "*rows k"], r: float, steps: int = 2) -> Float[Tensor, "*rows 1"]:
    """s with its derivatives in d: all of them for r = 1 and r = 2, otherwise those that so many of Newton's steps get right."""
    if r == 1:
        u = (s + d).relu()
        return s - only_derivatives(u.sum(-1, keepdim=True)) / u.detach().sign().sum(-1, keepdim=True)
    if r == 2:
        u = (s + d).relu()
        linear = u.sum(-1, keepdim=True)
        residual = only_derivatives(u.square().sum(-1, keepdim=True))
        n = u.detach().sign().sum(-1, keepdim=True)
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
