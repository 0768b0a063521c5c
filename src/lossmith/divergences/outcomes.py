"""Discrete distributions with finitely many outcomes, as rows of probabilities."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import distributions as D

from lossmith._typing import Float, Tensor
from lossmith.divergences.categorical import of_rows
from lossmith.divergences.pairs import Pair, log_of_powers
from lossmith.generators import alpha_cichocki, kl

Rows: TypeAlias = tuple[Float[Tensor, "*rows c"], bool]
"""One row a distribution, and whether it holds logarithms."""


def _given_by_probabilities(p: D.Distribution) -> bool:
    """torch derives either of probs and logits from the other, and clamps the logits so derived: only the given one is exact."""
    known = vars(p)
    return "probs" in known and ("logits" not in known or known.get("_param") is known["probs"])


def _categorical(p: D.Categorical | D.OneHotCategorical) -> Rows:
    p = p._categorical if isinstance(p, D.OneHotCategorical) else p
    if _given_by_probabilities(p):
        return p.probs, False
    if "probs" not in vars(p):
        return p.logits, True
    clamped = (p.probs == 0) & (p.logits.exp() > 0)  # `expand` has forgotten that the probabilities were given
    return torch.where(clamped, -torch.inf, p.logits), True


def _bernoulli(p: D.Bernoulli | D.Binomial) -> Rows:
    if _given_by_probabilities(p):
        return torch.stack([1 - p.probs, p.probs], -1), False
    log_p = torch.stack([F.logsigmoid(-p.logits), F.logsigmoid(p.logits)], -1)
    if "probs" not in vars(p):
        return log_p, True
    chance = p.logits.sigmoid()
    clamped = torch.stack([(p.probs == 1) & (chance < 1), (p.probs == 0) & (chance > 0)], -1)
    return torch.where(clamped, -torch.inf, log_p), True


def _binomial(p: D.Binomial) -> Rows:
    """Up to the largest count of the batch, beyond which a smaller count has no mass. Reading that count waits for a GPU."""
    row, log = _bernoulli(p)
    log_failure, log_success = (row if log else _log(row)).unsqueeze(-2).unbind(-1)
    count = p.total_count.to(row.dtype).unsqueeze(-1)
    k = torch.arange(int(p.total_count.max()) + 1, dtype=row.dtype, device=row.device)
    ways = torch.lgamma(count + 1) - torch.lgamma(k + 1) - torch.lgamma((count - k).clamp(min=0) + 1)
    log_p = ways + _times(k, log_success) + _times(count - k, log_failure)
    return torch.where(k <= count, log_p, -torch.inf), True


def _times(k: Float[Tensor, "*#rows c"], log_p: Float[Tensor, "*#rows 1"]) -> Float[Tensor, "*rows c"]:
    """k log p, and 0 where k is 0, whatever p is."""
    return torch.where(k == 0, 0, k * torch.where(k == 0, 0, log_p))


_ROWS: dict[type[D.Distribution], Callable[..., Rows]] = {
    D.Categorical: _categorical,
    D.OneHotCategorical: _categorical,
    D.OneHotCategoricalStraightThrough: _categorical,
    D.Bernoulli: _bernoulli,
    D.Binomial: _binomial,
}


def rows_of(
    function: str, p: D.Distribution, q: D.Distribution
) -> tuple[Float[Tensor, "*#rows c"], Float[Tensor, "*#rows c"], bool] | None:
    """The rows of two distributions of one kind and whether they are logarithms; None if they are of no kind with finitely many."""
    if type(p) is not type(q) or type(p) not in _ROWS:
        return None
    (row_p, log_p), (row_q, log_q) = _ROWS[type(p)](p), _ROWS[type(q)](q)
    if log_p != log_q:
        row_p, row_q = row_p if log_p else _log(row_p), row_q if log_q else _log(row_q)
    if isinstance(p, D.Binomial):
        more = row_q.shape[-1] - row_p.shape[-1]
        row_p, row_q = F.pad(row_p, (0, max(more, 0)), value=-torch.inf), F.pad(row_q, (0, max(-more, 0)), value=-torch.inf)
    if row_p.shape[-1] != row_q.shape[-1]:
        raise ValueError(f"{function}: p and q must have the same outcomes; got {row_p.shape[-1]} and {row_q.shape[-1]} of them")
    return row_p, row_q, log_p or log_q


def _log(x: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
    """log x with no gradient where x is 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).log(), -torch.inf)


class Outcomes(Pair):
    """Two rows of log-probabilities."""

    def __init__(self, log_p: Float[Tensor, "*#rows c"], log_q: Float[Tensor, "*#rows c"]) -> None:
        self.log_p, self.log_q = torch.broadcast_tensors(log_p, log_q)

    @staticmethod
    def of_rows(p: Float[Tensor, "*#rows c"], q: Float[Tensor, "*#rows c"], log: bool) -> "Outcomes":
        return Outcomes(p, q) if log else Outcomes(_log(p), _log(q))

    def exchanged(self) -> "Outcomes":
        return Outcomes(self.log_q, self.log_p)

    def kl(self) -> Float[Tensor, "*rows"]:
        return of_rows(self.log_p, self.log_q, kl, log=True)

    def log_integral(self, order: float) -> Float[Tensor, "*rows"]:
        """log-sum-exp of the powers, and through the alpha divergence where it is close to 0 and its logarithm would cancel."""
        powers = log_of_powers(self.log_p, self.log_q, order)
        infinite, empty = powers.isposinf().any(-1), powers.isneginf().all(-1)
        usual = ~(infinite | empty)
        value = torch.where(usual.unsqueeze(-1), powers, 0).logsumexp(-1)
        if order not in (0, 1):
            close = usual & (value.abs() < 0.5)
            log_p, log_q = (torch.where(close.unsqueeze(-1), x, 0.0) for x in (self.log_p, self.log_q))
            divergence = of_rows(log_p, log_q, alpha_cichocki(order), log=True)
            value = torch.where(close, torch.log1p(order * (order - 1) * divergence), value)
        return torch.where(infinite, torch.inf, torch.where(empty, -torch.inf, value))

    def log_supremum(self) -> Float[Tensor, "*rows"]:
        off = self.log_p.isneginf()
        log_ratio = torch.where(off, 0, self.log_p) - torch.where(off, 0, self.log_q)
        return torch.where(off, -torch.inf, log_ratio).amax(-1)
