"""The head, a tile at a time: what every loop over rows and classes has in common.

A block is `ROWS` rows, and a tile `CLASSES` classes of a block: 1 MiB in float32, which stays in the second-level cache while it is
exponentiated and summed. Fewer rows a block would starve the matrix product, which then reads the head from memory more often than it
computes with it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 256
CLASSES = 1024


class Head(NamedTuple):
    """What turns hidden states into logits: softcap(hidden @ weight.T + bias)."""

    weight: Tensor
    bias: Tensor | None
    cap: Tensor | None

    @property
    def classes(self) -> int:
        return self.weight.shape[0]


class Tile(NamedTuple):
    """Logits of a block for the classes from `start` to `stop`, and the slope of the softcap there."""

    start: int
    stop: int
    z: Tensor
    slope: Tensor | None


def working(x: Tensor, weight: Tensor) -> torch.dtype:
    """What is computed in: float32 at least."""
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


def spans(classes: int, width: int = CLASSES) -> Iterator[tuple[int, int]]:
    return ((start, min(start + width, classes)) for start in range(0, classes, width))


def blocks(rows: Tensor, size: int = ROWS) -> tuple[Tensor, ...]:
    """Row numbers, a block at a time; no block at all where there are no rows."""
    return rows.split(size) if rows.numel() else ()


def weight_tile(head: Head, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    return head.weight[start:stop].to(dtype)


def raw(x: Tensor, head: Head, start: int, stop: int, out: Tensor) -> Tensor:
    """hidden @ weight.T + bias for some classes, written into `out`."""
    w = weight_tile(head, start, stop, x.dtype)
    if head.bias is None:
        return torch.mm(x, w.mT, out=out)
    return torch.addmm(head.bias[start:stop].to(x.dtype), x, w.mT, out=out)


def capped(u: Tensor, cap: Tensor | None) -> Tensor:
    """The softcap, in place."""
    return u if cap is None else u.div_(cap).tanh_().mul_(cap)


def chosen_logit(x: Tensor, head: Head, label: Tensor) -> Tensor:
    """The label's logit of every row of a block."""
    u = (x * head.weight.index_select(0, label).to(x.dtype)).sum(1)
    if head.bias is not None:
        u = u + head.bias.index_select(0, label).to(x.dtype)
    return capped(u, head.cap)


class Labels:
    """Which rows of a block have their label in a tile, found by one sort a block."""

    def __init__(self, label: Tensor, classes: int) -> None:
        ordered, self.order = label.sort(stable=True)
        edges = torch.arange(0, classes + CLASSES, CLASSES, device=label.device)
        self.bounds = torch.searchsorted(ordered, edges).tolist()
        self.label = label

    def within(self, start: int) -> tuple[Tensor, Tensor] | None:
        """(rows, columns of the tile that starts there), or None where there is no label."""
        first, last = self.bounds[start // CLASSES], self.bounds[start // CLASSES + 1]
        if first == last:
            return None
        rows = self.order[first:last]
        return rows, self.label[rows] - start
