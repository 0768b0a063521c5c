"""Derivatives of a comparison of two heads in a direction: as :mod:`lossmith.fused.second`, by the definition on a block of rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from lossmith._reduce import full_precision
from lossmith.fused.collectives import copy_to_ranks, log_softmax, reduce_from_ranks
from lossmith.fused.second import logits_and_tangent
from lossmith.fused.shards import Shards
from lossmith.fused.terms import terms_of
from lossmith.fused.tiles import ROWS, working


class Both(NamedTuple):
    """What the value is differentiable in, or a direction in the space of these; None where absent."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    cap: Tensor | None
    teacher_x: Tensor | None
    teacher_weight: Tensor | None
    teacher_bias: Tensor | None
    teacher_cap: Tensor | None
    class_weight: Tensor | None = None

    def block(self, start: int) -> "Both":
        """The same for the block of rows that begins there."""
        part = slice(start, start + ROWS)
        return self._replace(x=None if self.x is None else self.x[part], teacher_x=None if self.teacher_x is None else self.teacher_x[part])


def _working(x: Tensor, weight: Tensor, teacher_x: Tensor, teacher_weight: Tensor) -> torch.dtype:
    return torch.promote_types(working(x, weight), working(teacher_x, teacher_weight))


def tangent(at: Both, direction: Both, keep: Tensor, code: str, shards: Shards | None = None) -> Tensor:
    """`(n)`: how the values move along a direction."""
    starts = range(0, max(keep.shape[0], 1), ROWS)
    with full_precision(keep):
        return torch.cat(
            [_block_tangent(at.block(start), direction.block(start), keep[start : start + ROWS], code, shards) for start in starts]
        )


_SHARED = ("x", "cap", "teacher_x", "teacher_cap")
"""What all ranks share, where the classes are split."""


def _block_tangent(at: Both, direction: Both, keep: Tensor, code: str, shards: Shards | None) -> Tensor:
    assert at.x is not None
    assert at.weight is not None
    assert at.teacher_x is not None
    assert at.teacher_weight is not None
    dtype = _working(at.x, at.weight, at.teacher_x, at.teacher_weight)
    to, along = (
        [
            None if part is None else copy_to_ranks(part.to(dtype), shards if name in _SHARED else None)
            for name, part in parts._asdict().items()
        ]
        for parts in (at, direction)
    )

    def centred(move: Tensor, log_p: Tensor) -> Tensor:
        mean = reduce_from_ranks((log_p.exp() * move).sum(1, keepdim=True), shards)
        return move - copy_to_ranks(mean, shards)

    z, dz = logits_and_tangent(to[:4], along[:4], keep)
    t, dt = logits_and_tangent(to[4:8], along[4:8], keep)
    b, a, v = log_softmax(z, shards), log_softmax(t, shards), to[8]
    terms = terms_of(code, dtype)
    _, share_a, share_b = terms.shares(a, b, v)
    moved = (share_a * centred(dz, b)).sum(1) + (share_b * centred(dt, a)).sum(1)
    if along[8] is not None:
        moved = moved - (a.exp() * torch.where(a.isneginf() | b.isneginf(), 0, b) * along[8]).sum(1)
    return torch.where(keep, reduce_from_ranks(moved, shards), 0)


def curvature(at: Both, direction: Both, upstream: Tensor, keep: Tensor, code: str, shards: Shards | None = None) -> tuple[Both, Tensor]:
    """The gradient of <upstream, tangent along the direction> by the arguments that there are, and that tangent."""
    present = [name for name, value in at._asdict().items() if value is not None]
    rowwise = [name in ("x", "teacher_x") for name in present]
    moved: list[Tensor] = []
    parts: list[list[Tensor]] = [[] for _ in present]
    for start in range(0, max(keep.shape[0], 1), ROWS):
        here, along, rows = at.block(start), direction.block(start), keep[start : start + ROWS]

        def block(*values: Tensor, here: Both = here, along: Both = along, rows: Tensor = rows) -> Tensor:
            return _block_tangent(here._replace(**dict(zip(present, values, strict=True))), along, rows, code, shards)

        with full_precision(keep):
            t, pull = torch.func.vjp(block, *(getattr(here, name) for name in present))[:2]
            found = pull(upstream[start : start + ROWS].to(t.dtype))
        moved.append(t)
        for so_far, by_rows, new in zip(parts, rowwise, found, strict=True):
            so_far[:] = [*so_far, new] if by_rows or not so_far else [so_far[0] + new]
    by = {name: torch.cat(part) if by_rows else part[0] for name, by_rows, part in zip(present, rowwise, parts, strict=True)}
    return Both(*(by.get(name) for name in Both._fields)), torch.cat(moved)
