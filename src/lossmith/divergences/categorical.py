"""Divergences between categorical distributions, by their generator: the sum over outcomes."""

import torch

from lossmith._typing import Float, Tensor
from lossmith.generators import FGenerator


def of_rows(p: Float[Tensor, "*#rows c"], q: Float[Tensor, "*#rows c"], g: FGenerator, *, log: bool) -> Float[Tensor, "*rows"]:
    """The f-divergence of each row of probabilities, or of log-probabilities."""
    return (terms_of_logs(p, q, g) if log else _terms(p, q, g)).sum(-1)


def _terms(p: Float[Tensor, "*#rows c"], q: Float[Tensor, "*#rows c"], g: FGenerator) -> Float[Tensor, "*rows c"]:
    below, nothing = p <= q, (p == 0) & (q == 0)
    larger = torch.where(nothing, 1, torch.where(below, q, p))
    ratio = torch.where(nothing, 1, torch.where(below, p, q)) / larger
    f, reverse = g.f(torch.where(below, ratio, 1)), g.reverse().f(torch.where(below, 1, ratio))
    return torch.where(nothing, 0, larger * torch.where(below, f, reverse))


def terms_of_logs(log_p: Float[Tensor, "*#rows c"], log_q: Float[Tensor, "*#rows c"], g: FGenerator) -> Float[Tensor, "*rows c"]:
    """Each outcome's share of the divergence: (larger probability) times f of the ratio that is at most 1."""
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
