"""Divergences between categorical distributions, by their generator: the sum over outcomes."""

import math

import torch

from lossmith._typing import Float, Tensor
from lossmith.generators import FGenerator
from lossmith.generators.numerical import scaled


def of_rows(p: Float[Tensor, "*#rows c"], q: Float[Tensor, "*#rows c"], g: FGenerator, *, log: bool) -> Float[Tensor, "*rows"]:
    """The f-divergence of each row of probabilities, or of log-probabilities."""
    return (terms_of_logs(p, q, g) if log else _terms(p, q, g)).sum(-1)


def _terms(p: Float[Tensor, "*#rows c"], q: Float[Tensor, "*#rows c"], g: FGenerator) -> Float[Tensor, "*rows c"]:
    below, nothing = p <= q, (p == 0) & (q == 0)
    p, q = torch.where(nothing, 1, p), torch.where(nothing, 1, q)
    smaller, larger = torch.where(below, p, q), torch.where(below, q, p)
    f = _term(g, torch.where(below, smaller, larger), larger)
    reverse = _term(g.reverse(), torch.where(below, larger, smaller), larger)
    return torch.where(nothing, 0, torch.where(below, f, reverse))


def _term(g: FGenerator, smaller: Float[Tensor, "*rows c"], larger: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
    """The larger probability times f of their ratio, also where f alone is no float."""
    if not g.growth:
        return larger * g.f(smaller / larger)
    far = (smaller > 0) & (smaller < math.exp(-20 / g.growth) * larger)
    log_s, log_l = (torch.where(far, x, 1).log() for x in (smaller, larger))
    near = larger * g.f(torch.where(far, larger, smaller) / larger)
    return torch.where(far, scaled(g.f_log, g.growth, log_s - log_l, log_l), near)


def terms_of_logs(log_p: Float[Tensor, "*#rows c"], log_q: Float[Tensor, "*#rows c"], g: FGenerator) -> Float[Tensor, "*rows c"]:
    """Each outcome's share of the divergence: (larger probability) times f of the ratio that is at most 1."""
    nothing = log_p.isneginf() & log_q.isneginf()
    log_p, log_q = torch.where(nothing, 0, log_p), torch.where(nothing, 0, log_q)
    below = log_p <= log_q
    log_ratio = torch.where(below, log_p - log_q, log_q - log_p)
    off = log_ratio.isneginf()  # one of them has no mass here: f(0) of the generator or of its reverse, without a gradient
    inside = torch.where(off, 0, log_ratio)
    log_larger, reverse = torch.where(below, log_q, log_p), g.reverse()
    of_f = scaled(g.f_log, g.growth, torch.where(below, inside, 0), log_larger)
    of_reverse = scaled(reverse.f_log, reverse.growth, torch.where(below, 0, inside), log_larger)
    at_zero = torch.where(below, torch.full_like(log_larger, g.at_zero), g.slope_at_infinity)
    infinite = off & at_zero.isposinf()  # even where the larger probability rounds to 0
    of_larger = log_larger.exp() * torch.where(off & ~infinite, at_zero, 0)
    value = torch.where(off, of_larger, torch.where(below, of_f, of_reverse))
    return torch.where(nothing, 0, torch.where(infinite, torch.inf, value))
