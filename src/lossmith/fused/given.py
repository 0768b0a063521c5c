"""The engine where the logits are given: their statistics and gradient a block at a time, so that nothing of their size is held but these.

A block is as many whole rows as fit the second-level cache in float32. Called from behind an opaque operator, as
:mod:`lossmith.fused.engine`, whose sums and slopes these are.
"""

import torch
from torch import Tensor

from lossmith.fused.engine import BlockSlope, Spec, stats_of
from lossmith.fused.tiles import Given, blocks, working

BLOCK = 2**18
"""Logits a block: 1 MiB in float32."""


def _blocks(z: Tensor, label: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The kept rows of logits `(n, c, m)`, as indices along n and m, a block at a time."""
    kept = (label >= 0).reshape(-1).nonzero().squeeze(1)
    m = label.shape[1]
    return [(rows // m, rows % m) for rows in blocks(kept, max(1, BLOCK // z.shape[1]))]


def stats(z: Tensor, class_weight: Tensor | None, label: Tensor, spec: Spec) -> Tensor:
    """`(n, m, columns)`: the statistics of every row of logits `(n, c, m)` with a label of at least 0, zeros elsewhere."""
    dtype, rows = working(z, z), z.movedim(1, -1)
    out = torch.zeros(*label.shape, spec.columns, dtype=dtype, device=z.device)
    parts = _blocks(z, label)
    found = stats_of(rows, parts, Given(z.shape[1]), class_weight, label, spec)
    for at, some in zip(parts, found.split([at[0].numel() for at in parts]), strict=True):
        out[at] = some
    return out


def gradient(z: Tensor, class_weight: Tensor | None, label: Tensor, found: Tensor, upstream: Tensor, spec: Spec) -> Tensor:
    """The gradient of `(found * upstream).sum()`."""
    dtype, rows, head = working(z, z), z.movedim(1, -1), Given(z.shape[1])
    out = torch.zeros(z.shape, dtype=z.dtype, device=z.device)
    by_rows = out.movedim(1, -1)
    for at in _blocks(z, label):
        block = BlockSlope(spec, found[at].to(dtype), upstream[at].to(dtype), label[at], head)
        some = head.block(rows, at)  # a copy, which the slope may overwrite
        beside = torch.empty_like(some) if block.needs_two else some
        by_rows[at] = block.tile(some, beside, class_weight, 0, head.classes).to(z.dtype)
    return out
