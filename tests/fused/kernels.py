"""What the Triton kernels are held to, on any device: by the interpreter on the CPU, for real on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lossmith.fused import linear_stats
from lossmith.fused.reference import WANTED, row_stats
from tests.fused.heads import Problem, dense, gradients, leaf, problem

TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}
"""Of gradients, relative to the largest: float32's sums; the slopes' and the results' rounding in half precision."""


class Case(NamedTuple):
    """A problem in some dtype, the same in float64, and what to do with it."""

    narrow: Problem
    wide: Problem

    @classmethod
    def of(cls, rows: int, dtype: torch.dtype, device: str = "cpu", **how) -> Case:
        p = problem(rows, **how).to(dtype)
        moved = Problem(*(leaf(t.detach().to(device)) for t in p.inputs), p.target.to(device))
        return cls(moved, moved.to(torch.float64))


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal to within the largest entry."""
    largest = expected.detach().abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * max(largest, 1e-30))


def everything(case: Case, *, softcap: float | None, weighted: bool, betas: tuple[float, ...] = (2.0, 0.5)) -> None:
    """Every statistic, and the gradient of a mixture of them by everything it is differentiable in."""
    p, q = case
    cap = None if softcap is None else leaf(torch.tensor(softcap, device=p.hidden.device))
    v = leaf(torch.rand(p.weight.shape[0], device=p.hidden.device)) if weighted else None
    how = {"want": WANTED, "temperatures": betas}
    found = linear_stats(p.hidden, p.weight, p.target, p.bias, class_weight=v, softcap=cap, **how)
    wide_cap, wide_v = (None if t is None else leaf(t.double()) for t in (cap, v))
    expected = row_stats(dense(q, softcap=wide_cap), q.target.clamp_min(0), wide_v, **how)
    keep, totals = q.target >= 0, [torch.zeros((), dtype=torch.float64, device=p.hidden.device) for _ in range(2)]
    g = torch.Generator().manual_seed(1)
    asked = [pair for pair in zip(found, expected, strict=True) if pair[0] is not None]
    assert len(asked) == len(WANTED) + bool(betas)
    for mine, theirs in asked:
        theirs = torch.where(keep if theirs.ndim == 1 else keep[:, None], theirs, 0)
        near(mine, theirs, 2e-6)
        assert mine.dtype == torch.float32
        upstream = torch.randn(mine.shape, generator=g, dtype=torch.float64).to(mine.device)
        totals = [total + (upstream * value).sum() for total, value in zip(totals, (mine, theirs), strict=True)]
    extra = [t for t in (cap, v) if t is not None], [t for t in (wide_cap, wide_v) if t is not None]
    slopes = [gradients(total, (*at.inputs, *more)) for total, at, more in zip(totals, case, extra, strict=True)]
    for mine, theirs, like in zip(*slopes, (*p.inputs, *extra[0]), strict=True):
        assert mine.dtype == like.dtype
        near(mine, theirs, TOLERANCE[p.hidden.dtype])
