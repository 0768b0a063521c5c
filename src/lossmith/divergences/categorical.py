"""Divergences between categorical distributions, by their generator."""

import torch

from lossmith._checks import describe, holds
from lossmith._typing import Float, Tensor
from lossmith.generators import FGenerator, get


def divergence(
    p: Float[Tensor, "*rows c"], q: Float[Tensor, "*rows c"], generator: FGenerator | str, *, log: bool = False
) -> Float[Tensor, "*rows"]:
    r"""The f-divergence of categorical distributions, in the order of mathematics: D_f(p || q).

    .. math:: D_f(p \| q) = \sum_{q_k > 0} q_k f(p_k / q_k) + f'(\infty) \sum_{q_k = 0} p_k, \qquad 0 f(0/0) = 0

    In nats. Where one distribution has no mass the value is f(0) or f'(inf) times what the other has there: +inf for the
    Kullback-Leibler divergences on their wrong side, finite for the bounded ones, never NaN. Each term is taken in whichever of p/q
    and q/p is at most 1, so that no ratio overflows; with logarithms, Kullback-Leibler divergences of probabilities far below the
    smallest float are finite and right.

    For KL, torch takes the arguments in the other order and the second in logarithms: ``divergence(p, q, "kl")`` is
    ``F.kl_div(q.log(), p, reduction="none").sum(-1)``, and ``divergence(log_p, log_q, "kl", log=True)`` is
    ``F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)``.

    Under ``torch.compile(fullgraph=True)`` a generator that is no registered instance must have been asked for its ``reverse()``
    once before: a graph can use a generator but not make one.

    Args:
        p: probabilities `(*rows, c)`, summing to 1 over the last axis; or their logarithms with ``log=True``.
        q: the same; p and q broadcast against each other.
        generator: an `FGenerator`, or the name of one: "kl", "jensen_shannon", "total_variation" ...
        log: whether p and q are log-probabilities.

    Returns:
        One divergence a row, `(*rows)`, in float32 at least, with gradients in both arguments.

    Raises:
        ValueError, TypeError: p or q is not a floating-point tensor, or their last axes differ; under ``lossmith.validate(True)``, a
            row does not sum to 1.

    Example:
        >>> import torch
        >>> from lossmith.divergences import divergence
        >>> p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
        >>> divergence(p, q, "kl")
        tensor(0.3466)
        >>> divergence(q, p, "kl"), divergence(q, p, "jensen_shannon")
        (tensor(inf), tensor(0.1079))
    """
    g = get(generator) if isinstance(generator, str) else generator
    if not isinstance(g, FGenerator):
        raise TypeError(f"divergence: generator must be an FGenerator or the name of one; got {describe(generator)}")
    p, q = _distribution("p", p, log), _distribution("q", q, log)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"divergence: p and q must have the same last axis; got {describe(p)} and {describe(q)}")
    if log:
        return _terms_of_logs(p, q, g).sum(-1)
    return _terms(p, q, g).sum(-1)


def _terms(p: Float[Tensor, "*rows c"], q: Float[Tensor, "*rows c"], g: FGenerator) -> Float[Tensor, "*rows c"]:
    below, nothing = p <= q, (p == 0) & (q == 0)
    larger = torch.where(nothing, 1, torch.where(below, q, p))
    ratio = torch.where(nothing, 1, torch.where(below, p, q)) / larger
    f, reverse = g.f(torch.where(below, ratio, 1)), g.reverse().f(torch.where(below, 1, ratio))
    return torch.where(nothing, 0, larger * torch.where(below, f, reverse))


def _terms_of_logs(log_p: Float[Tensor, "*rows c"], log_q: Float[Tensor, "*rows c"], g: FGenerator) -> Float[Tensor, "*rows c"]:
    nothing = log_p.isneginf() & log_q.isneginf()
    log_p, log_q = torch.where(nothing, 0, log_p), torch.where(nothing, 0, log_q)
    below = log_p <= log_q
    log_ratio = torch.where(below, log_p - log_q, log_q - log_p)
    off = log_ratio.isneginf()  # one of them has no mass here: f(0) of the generator or of its reverse, without a gradient
    inside = torch.where(off, 0, log_ratio)
    f = g.f_log(torch.where(below, inside, 0))
    reverse = g.reverse().f_log(torch.where(below, 0, inside))
    larger = torch.where(below, log_q, log_p).exp()
    at_zero = torch.where(below, torch.full_like(larger, g.at_zero), g.slope_at_infinity)
    infinite = off & at_zero.isposinf()  # even where the larger probability rounds to 0
    value = larger * torch.where(off, torch.where(infinite, 0, at_zero), torch.where(below, f, reverse))
    return torch.where(nothing, 0, torch.where(infinite, torch.inf, value))


def _distribution(argument: str, x: Float[Tensor, "*rows c"], log: bool) -> Float[Tensor, "*rows c"]:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
        raise TypeError(f"divergence: {argument} must be a floating-point tensor of shape (*rows, c); got {describe(x)}")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    total = x.exp().sum(-1) if log else x.sum(-1)
    if not holds(lambda: ((total - 1).abs() <= 1e-3).all(), x):
        wrong = total[(total - 1).abs() > 1e-3][0].item()
        kind = "log-probabilities" if log else "probabilities"
        raise ValueError(f"divergence: {argument} must be {kind} that sum to 1 over the last axis; got a row that sums to {wrong:.4g}")
    return x
