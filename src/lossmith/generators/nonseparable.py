r"""A user's entropy that is no sum over the classes: what follows from a convex Omega(p) of whole rows.

The argmax is found by an interior-point method on the conditions of optimality

.. math:: \nabla\Omega(p) - \theta + \tau - \lambda = 0, \qquad \lambda_k p_k = \mu, \qquad \sum_k p_k = 1

with mu going to 0: Newton's steps that stop short of the boundary, with the Hessian by autograd. At the end a class is in the support
if its probability exceeds its multiplier; the others get exactly 0, and Newton's steps among the rest find the root to rounding. As in
`lossmith.generators.threshold`, that root is a constant to autograd, and two more steps, of value zero, make it a function of the logits.
A step costs a linear system of c equations a row, in float64, so this is for tens or hundreds of classes. Second derivatives ask for
an omega whose own third derivatives are finite at p = 0.
"""

import torch

from lossmith._typing import Bool, Float, Tensor
from lossmith.generators.entropy import Entropy, Rows, slope_of
from lossmith.generators.threshold import only_derivatives

_STEPS = 60
"""Of the interior-point method, each of which shrinks mu to a tenth where the boundary leaves it room; 15 to 25 suffice."""

_POLISH = 4

_FAR = 1e8
"""How far below the largest a logit of -inf is taken to be: far enough for no probability above 1e-38, which counts as none."""


def nonseparable_entropy(omega: Rows, name: str | None) -> Entropy:
    """The entropy of an Omega of whole rows."""
    gradient = slope_of(omega)
    one = torch.eye(3, dtype=torch.float64)
    if omega(one).shape != (3,):
        raise ValueError(f"from_function: omega must give one number a row; a tensor of shape (3, 3) gave one of {tuple(omega(one).shape)}")
    if not bool((omega(one).abs() <= 1e-9).all()):
        raise ValueError(f"from_function: omega must be 0 at the vertices; at those of 3 classes it is {omega(one).tolist()}")

    def curvature(p: Float[Tensor, "n c"]) -> Float[Tensor, "n c c"]:
        return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(omega)))(p)

    def argmax(theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        rows = theta.reshape(-1, theta.shape[-1]).double()
        unanswerable = ~rows.detach().amax(-1, keepdim=True).isfinite()  # such a row would have no solution, and stop all others
        rows = torch.where(unanswerable, 0, rows)
        rows = torch.where(rows.isneginf(), rows.detach().amax(-1, keepdim=True) - _FAR, rows)
        with torch.no_grad():
            p, support = _interior(gradient, curvature, rows.detach())
            for _ in range(_POLISH):
                p = p + _on_support(curvature(p), rows.detach() - gradient(p), 1 - p.sum(-1, keepdim=True), support)
        for _ in range(2):
            p = p + _on_support(curvature(p), only_derivatives(rows - gradient(p)), -only_derivatives(p.sum(-1, keepdim=True)), support)
        return torch.where(unanswerable, torch.nan, p).to(theta.dtype).reshape(theta.shape)

    called = name or getattr(omega, "__name__", "omega")
    return Entropy(name=called, formula=rf"\text{{{called}}}(p)", omega=omega, gradient=gradient, argmax=argmax)


def _interior(gradient: Rows, curvature: Rows, theta: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n c"], Bool[Tensor, "n c"]]:
    """The maximum over the interior as the barrier vanishes, and which classes it keeps."""
    p = torch.full_like(theta, 1 / theta.shape[-1])
    multiplier = torch.ones_like(theta)
    for _ in range(_STEPS):
        barrier = (0.1 * (p * multiplier).mean(-1, keepdim=True)).clamp(min=1e-30)
        matrix = curvature(p) + torch.diag_embed(multiplier / p)
        dp = _step(matrix, theta - gradient(p) + barrier / p, 1 - p.sum(-1, keepdim=True))
        change = barrier / p - multiplier - multiplier / p * dp
        room = torch.minimum(_room(p, dp), _room(multiplier, change))
        p, multiplier = p + room * dp, multiplier + room * change
    support = p > multiplier
    return torch.where(support, p, 0), support


def _room(x: Float[Tensor, "n c"], step: Float[Tensor, "n c"]) -> Float[Tensor, "n 1"]:
    """The share of the step that leaves every entry positive."""
    return (0.99 * torch.where(step < 0, -x / step, 1e3).amin(-1, keepdim=True)).clamp(max=1)


def _on_support(
    matrix: Float[Tensor, "n c c"], force: Float[Tensor, "n c"], mass: Float[Tensor, "n 1"], support: Bool[Tensor, "n c"]
) -> Float[Tensor, "n c"]:
    """Newton's step among the classes of the support."""
    both = support.unsqueeze(-1) & support.unsqueeze(-2)
    matrix = torch.where(both, matrix, torch.eye(support.shape[-1], dtype=matrix.dtype, device=matrix.device))
    return _step(matrix, torch.where(support, force, 0), mass, support.to(matrix.dtype))


def _step(
    matrix: Float[Tensor, "n c c"], force: Float[Tensor, "n c"], mass: Float[Tensor, "n 1"], along: Float[Tensor, "n c"] | None = None
) -> Float[Tensor, "n c"]:
    """The dp with matrix dp + tau = force and sum dp = mass, as one system: the matrix may be singular where the sum is not 0."""
    along = torch.ones_like(force) if along is None else along
    corner = torch.zeros_like(mass).unsqueeze(-1)
    system = torch.cat([torch.cat([matrix, along.unsqueeze(-1)], -1), torch.cat([along.unsqueeze(-2), corner], -1)], -2)
    return torch.linalg.solve(system, torch.cat([force, mass], -1))[..., :-1]
