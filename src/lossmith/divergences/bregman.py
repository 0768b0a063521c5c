"""The Bregman divergence of any convex function."""

from collections.abc import Callable

import torch

from lossmith._checks import describe
from lossmith._typing import Float, Tensor


def bregman(
    p: Float[Tensor, "*#rows c"], q: Float[Tensor, "*#rows c"], phi: Callable[[Float[Tensor, "*rows c"]], Float[Tensor, "*rows"]]
) -> Float[Tensor, "*rows"]:
    r"""How far a convex function at p lies above its tangent at q.

    .. math:: B_\phi(p, q) = \phi(p) - \phi(q) - \langle \nabla \phi(q), p - q \rangle \ge 0

    Half the squared norm gives half the squared distance, minus Shannon's entropy gives KL(p || q) of probabilities, and minus the
    log-determinant's diagonal, :math:`-\sum \log x`, gives Itakura and Saito's divergence. The gradient is autograd's. Convexity is the
    caller's word: a phi that is not convex gives negative values.

    Args:
        p: rows `(*rows, c)`; a number a row is `c` = 1.
        q: the same; both broadcast.
        phi: a differentiable function of rows that gives one number a row, each row for itself.

    Returns:
        One divergence a row, `(*rows)`, with gradients in p, in q and in whatever phi depends on. Where a slope at q is infinite but p
        and q agree, as entropy's is at 0, that component counts 0.

    Raises:
        TypeError, ValueError: p or q is not a floating-point tensor of rows, or phi does not give one number a row.

    Source:
        Bregman 1967; Banerjee et al. 2005, "Clustering with Bregman divergences".

    Example:
        >>> import torch
        >>> from lossmith.divergences import bregman
        >>> bregman(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0]), lambda x: 0.5 * x.square().sum(-1))
        tensor(2.5000)
    """
    for argument, x in (("p", p), ("q", q)):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
            raise TypeError(f"bregman: {argument} must be a floating-point tensor of shape (*rows, c); got {describe(x)}")
    p, q = (x if x.dtype in (torch.float32, torch.float64) else x.float() for x in torch.broadcast_tensors(p, q))
    at_p, at_q = phi(p), phi(q)
    if at_p.shape != p.shape[:-1]:
        raise ValueError(f"bregman: phi must give one number a row, of shape {tuple(p.shape[:-1])}; got {describe(at_p)}")
    slope = torch.func.grad(lambda x: phi(x).sum())(q)
    slope = torch.where(slope.isinf() & (p == q), 0, slope)
    return at_p - at_q - (slope * (p - q)).sum(-1)
