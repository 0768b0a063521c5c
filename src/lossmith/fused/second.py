"""Derivatives of the statistics in a direction, in plain differentiable torch: forward mode, and everything of second order.

The tangent of the statistics, :math:`T = J v`, is linear in the direction v; with an upstream gradient g, the gradient of
:math:`\\langle g, T \\rangle` by the arguments is the second derivative in the direction v, which double backward and forward-over-reverse
both ask for. Logits exist for a block of rows at a time; where the classes are split over ranks, each has its own, and what is made of them
is added up in a form that can itself be differentiated (:mod:`lossmith.fused.collectives`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lossmith._reduce import full_precision
from lossmith.fused.collectives import copy_to_ranks, log_softmax, reduce_from_ranks
from lossmith.fused.engine import Spec
from lossmith.fused.reference import bounded, counted
from lossmith.fused.shards import Shards
from lossmith.fused.tiles import ROWS, working


class Arguments(NamedTuple):
    """What the statistics are differentiable in, or a direction in the space of these; None where absent."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    cap: Tensor | None
    class_weight: Tensor | None = None

    def block(self, start: int) -> "Arguments":
        """The same for the block of rows that begins there."""
        return self if self.x is None else self._replace(x=self.x[start : start + ROWS])


def tangent(at: Arguments, direction: Arguments, label: Tensor, spec: Spec, shards: Shards | None = None) -> Tensor:
    """`(n, columns)`: how the statistics move along a direction."""
    starts = range(0, max(label.shape[0], 1), ROWS)
    with full_precision(label):
        return torch.cat(
            [_block_tangent(at.block(start), direction.block(start), label[start : start + ROWS], spec, shards) for start in starts]
        )


def _block_tangent(at: Arguments, direction: Arguments, label: Tensor, spec: Spec, shards: Shards | None) -> Tensor:
    assert at.x is not None
    assert at.weight is not None
    dtype = working(at.x, at.weight)
    keep = label >= 0
    to = [None if part is None else part.to(dtype) for part in (*at, *direction)]
    x, weight, bias, cap, v, dx, dweight, dbias, dcap, dv = to
    x, cap, dx, dcap = (None if shared is None else copy_to_ranks(shared, shards) for shared in (x, cap, dx, dcap))
    z, dz = logits_and_tangent([x, weight, bias, cap], [dx, dweight, dbias, dcap], keep)
    return torch.where(keep.unsqueeze(1), _moved(z, dz, torch.where(keep, label, 0), v, dv, spec, shards), 0)


def logits_and_tangent(at: list[Tensor | None], along: list[Tensor | None], keep: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of a head, and how they move; zeros in place of a row that is not kept."""
    x, weight, bias, cap = at
    dx, dweight, dbias, dcap = along
    assert x is not None
    assert weight is not None
    x = torch.where(keep.unsqueeze(1), x, 0)
    u = x @ weight.mT if bias is None else x @ weight.mT + bias
    du = torch.zeros_like(u)
    if dx is not None:
        du = du + torch.where(keep.unsqueeze(1), dx, 0) @ weight.mT
    if dweight is not None:
        du = du + x @ dweight.mT
    if dbias is not None:
        du = du + dbias
    if cap is None:
        return u, du
    t, u = bounded(u, cap), torch.where(u.isinf(), 0, u)
    curb = 1 - t * t
    dz = curb * du
    if dcap is not None:
        dz = dz + dcap * (t - u / cap * curb)
    return cap * t, dz


def _moved(z: Tensor, dz: Tensor, label: Tensor, v: Tensor | None, dv: Tensor | None, spec: Spec, shards: Shards | None) -> Tensor:
    """The movement of every statistic when the logits z move by dz, and the weights of the mean v by dv."""

    def everywhere(part: Tensor) -> Tensor:
        return copy_to_ranks(reduce_from_ranks(part, shards), shards)

    first, classes = (0, z.shape[1]) if shards is None else (shards.first, shards.classes)
    log_p = log_softmax(z, shards)
    p = log_p.exp()
    columns = {"logsumexp": (p * dz).sum(1)}
    if spec.labelled:
        is_label = label.unsqueeze(1) == torch.arange(first, first + z.shape[1], device=z.device)
        columns["target_logit"] = torch.where(is_label, dz, 0).sum(1)
        columns["log_prob"] = (p * (everywhere(columns["target_logit"]).unsqueeze(1) - dz)).sum(
            1
        )  # the label's own term is 0: nothing is lost near p_y = 1
    if "entropy" in spec.want:
        log_p = torch.where(log_p > -torch.inf, log_p, 0)
        h = everywhere(-(p * log_p).sum(1, keepdim=True))
        columns["entropy"] = -(p * (log_p + h) * dz).sum(1)
    if "mean_logit" in spec.want:
        moved = dz.sum(1) / classes if v is None else (dz * v).sum(1)
        columns["mean_logit"] = moved if dv is None else moved + (counted(z, dv) * dv).sum(1)
    further = [beta * (log_softmax(z * beta, shards).exp() * dz).sum(1) for beta in spec.betas]
    return reduce_from_ranks(torch.stack([*(columns[name] for name in spec.want), *further], 1), shards)


def curvature(
    at: Arguments, direction: Arguments, upstream: Tensor, label: Tensor, spec: Spec, shards: Shards | None = None
) -> tuple[Arguments, Tensor]:
    """The gradient of <upstream, tangent along the direction> by the arguments that there are, and that tangent."""
    present = [name for name, value in at._asdict().items() if value is not None]
    moved, by_rows, by_rest = [], [], None
    for start in range(0, max(label.shape[0], 1), ROWS):
        here, along, rows = at.block(start), direction.block(start), label[start : start + ROWS]

        def block(*values: Tensor, here: Arguments = here, along: Arguments = along, rows: Tensor = rows) -> Tensor:
            return _block_tangent(here._replace(**dict(zip(present, values, strict=True))), along, rows, spec, shards)

        with full_precision(label):
            t, pull = torch.func.vjp(block, *(getattr(here, name) for name in present))[:2]
            of_rows, *rest = pull(upstream[start : start + ROWS].to(t.dtype))
        moved.append(t)
        by_rows.append(of_rows)
        by_rest = rest if by_rest is None else [a + b for a, b in zip(by_rest, rest, strict=True)]
    found = dict(zip(present, [torch.cat(by_rows), *(by_rest or [])], strict=True))
    return Arguments(*(found.get(name) for name in Arguments._fields)), torch.cat(moved)
