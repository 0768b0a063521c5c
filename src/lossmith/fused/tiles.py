"""The head, a tile at a time: what every loop over rows and classes has in common.

A block is `ROWS` rows, and a tile `CLASSES` classes of a block: half a MiB in float32, which stays in the second-level cache beside
another of its size while it is exponentiated and summed. Fewer rows a block would starve the matrix product, which then reads the head
from memory more often than it computes with it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 256
CLASSES = 512


def working(x: Tensor, weight: Tensor) -> torch.dtype:
    """What is computed in: float32 at least."""
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


class Head(NamedTuple):
    """What turns a block of hidden states into tiles of logits: softcap(hidden @ weight.T + bias)."""

    weight: Tensor
    bias: Tensor | None
    cap: Tensor | None

    @property
    def classes(self) -> int:
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        """The classes of a tile."""
        return min(CLASSES, self.classes)

    def columns(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The weights of some classes."""
        return self.weight[start:stop].to(dtype)

    def raw(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """hidden @ weight.T + bias for some classes, written into `out`."""
        w = self.columns(start, stop, x.dtype)
        if self.bias is None:
            return torch.mm(x, w.mT, out=out)
        return torch.addmm(self.bias[start:stop].to(x.dtype), x, w.mT, out=out)

    def logits(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """The same with the softcap."""
        return capped(self.raw(x, start, stop, out), self.cap)

    def chosen(self, x: Tensor, label: Tensor) -> Tensor:
        """The label's logit of every row."""
        u = (x * self.weight.index_select(0, label).to(x.dtype)).sum(1)
        if self.bias is not None:
            u = u + self.bias.index_select(0, label).to(x.dtype)
        return capped(u, self.cap)


class Given(NamedTuple):
    """The same where the block of "hidden states" is the logits themselves."""

    classes: int

    @property
    def width(self) -> int:
        return self.classes

    def logits(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        return out.copy_(x[:, start:stop])

    def chosen(self, x: Tensor, label: Tensor) -> Tensor:
        return x.gather(1, label.unsqueeze(1)).squeeze(1)


def capped(u: Tensor, cap: Tensor | None) -> Tensor:
    """The softcap, in place."""
    return u if cap is None else u.div_(cap).tanh_().mul_(cap)


def spans(classes: int, width: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + width, classes)) for start in range(0, classes, width))


def blocks(rows: Tensor, size: int = ROWS) -> tuple[Tensor, ...]:
    """Row numbers, a block at a time; no block at all where there are no rows."""
    return rows.split(size) if rows.numel() else ()


class Labels:
    """Which rows of a block have their label in a tile, found by one sort a block."""

    def __init__(self, label: Tensor, classes: int, width: int) -> None:
        ordered, self.order = label.sort(stable=True)
        edges = torch.arange(0, classes + width, width, device=label.device)
        self.bounds = torch.searchsorted(ordered, edges).tolist()
        self.label, self.width = label, width

    def within(self, start: int) -> tuple[Tensor, Tensor] | None:
        """(rows, columns of the tile that starts there), or None where there is no label."""
        first, last = self.bounds[start // self.width], self.bounds[start // self.width + 1]
        if first == last:
            return None
        rows = self.order[first:last]
        return rows, self.label[rows] - start
