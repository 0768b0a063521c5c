"""The head, a tile at a time: what every loop over rows and classes has in common.

A block is `ROWS` rows, and a tile `CLASSES` classes of a block: half a MiB in float32, which stays in the second-level cache beside
another of its size while it is exponentiated and summed. Fewer rows a block would starve the matrix product, which then reads the head
from memory more often than it computes with it.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lossmith.fused.shards import Shards

ROWS = 256
CLASSES = 512
PAGE = 4096
"""Bytes; rows whose starts are whole pages apart have their tiles in the same few sets of a cache, and push each other out."""


def working(x: Tensor, weight: Tensor) -> torch.dtype:
    """What is computed in: float32 at least."""
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


class Places(NamedTuple):
    """Where the logits of a block of rows are kept: in the room of the head's gradient, `(classes, d)`, tile of classes by tile."""

    room: Tensor
    rows: int
    """All that are kept."""
    first: int
    last: int
    """The block's among them."""

    def tile(self, start: int, stop: int) -> Tensor:
        """`(block's rows, stop - start)`; the rows of a tile lie where the gradient of its classes begins."""
        size = self.rows * (stop - start)
        return self.room[start:stop].view(-1)[:size].view(self.rows, -1)[self.first : self.last]


class Head(NamedTuple):
    """What turns a block of hidden states into tiles of logits: softcap(hidden @ weight.T + bias).

    Where the classes are split over ranks, weight and bias are those of this rank's, and so is every tile.
    """

    weight: Tensor
    bias: Tensor | None
    cap: Tensor | None
    shards: Shards | None = None
    places: Places | None = None
    """Where the logits are to be left, of the one block of rows that this is then the head of."""

    @property
    def classes(self) -> int:
        """The classes that are computed here."""
        return self.weight.shape[0]

    @property
    def all_classes(self) -> int:
        """Those of all ranks."""
        return self.classes if self.shards is None else self.shards.classes

    @property
    def width(self) -> int:
        """The classes of a tile."""
        return max(1, min(CLASSES, self.classes))  # a rank may hold none

    def working(self, x: Tensor) -> torch.dtype:
        """What is computed in."""
        return working(x, self.weight)

    def block(self, x: Tensor, rows: Tensor) -> Tensor:
        """Some of the hidden states, in what is computed in."""
        return x[rows].to(self.working(x))

    def local(self, label: Tensor) -> Tensor:
        """Labels as numbers of the classes here; below 0, or beyond them, where another rank holds the class."""
        return label if self.shards is None else label - self.shards.first

    def held(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """The rows whose label is among the classes here, and which of these it is."""
        label = self.local(label)
        rows = ((label >= 0) & (label < self.classes)).nonzero().squeeze(1)
        return rows, label[rows]

    def columns(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The weights of some classes."""
        return self.weight[start:stop].to(dtype)

    def raw(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """hidden @ weight.T + bias for some classes, written into `out`."""
        w, into = self.columns(start, stop, x.dtype), out if self.places is None else self.places.tile(start, stop)
        if self.bias is None:
            torch.mm(x, w.mT, out=into)
        else:
            torch.addmm(self.bias[start:stop].to(x.dtype), x, w.mT, out=into)
        return out if into is out else out.copy_(into)

    def logits(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """The same with the softcap."""
        return capped(self.raw(x, start, stop, out), self.cap)

    def chosen(self, x: Tensor, rows: Tensor, label: Tensor) -> Tensor:
        """The label's logit of some rows; 0 where another rank holds it."""
        some = self.block(x, rows)
        if self.shards is None:
            return self._chosen(some, label)
        held, at = self.held(label)
        return some.new_zeros(some.shape[0]).index_copy_(0, held, self._chosen(some[held], at))

    def _chosen(self, x: Tensor, label: Tensor) -> Tensor:
        u = (x * self.weight.index_select(0, label).to(x.dtype)).sum(1)
        if self.bias is not None:
            u = u + self.bias.index_select(0, label).to(x.dtype)
        return capped(u, self.cap)


class Given(NamedTuple):
    """The same where the "hidden states" are the logits themselves, `(n, m, c)`, and rows are pairs of indices into them."""

    classes: int

    @property
    def all_classes(self) -> int:
        return self.classes

    @property
    def shards(self) -> None:
        """Logits that exist are whole."""
        return None

    @property
    def width(self) -> int:
        return self.classes

    def logits(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        return out.copy_(x[:, start:stop])

    def working(self, x: Tensor) -> torch.dtype:
        return working(x, x)

    def block(self, x: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
        return x[rows].to(self.working(x))

    def local(self, label: Tensor) -> Tensor:
        return label

    def chosen(self, x: Tensor, rows: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        return x[(*rows, label)].to(self.working(x))


def rows_of_logits(rows: int, classes: int, like: Tensor) -> Tensor:
    """Room for a block of whole rows of logits, in which a tile stays in the cache: rows do not begin whole pages apart."""
    apart = 128 // like.itemsize if classes * like.itemsize % PAGE == 0 else 0
    return like.new_empty(rows, classes + apart)[:, :classes]


def unit(like: Tensor) -> float:
    """What exponents are multiplied by so that :func:`raised` gives their exponentials: on the CPU in float32 these are powers of 2.

    torch.exp is there a library's that takes two to three times as long as exp2 on processors that it was not tuned for, and thirty
    times as long wherever the result is subnormal, as those of unlikely classes are.
    """
    return 1 / math.log(2) if like.dtype == torch.float32 and like.device.type == "cpu" else 1.0


def raised(z: Tensor) -> Tensor:
    """e^(z / unit), in place."""
    return z.exp_() if unit(z) == 1 else z.exp2_()


def exponentials(z: Tensor, out: Tensor, times: float = 1.0) -> Tensor:
    """e^(times z), in `out`, which may be z. In powers of 2 the exponent is rounded once more: e^-69, 1e-30, is right to 4e-6."""
    times *= unit(z)
    return torch.exp(z, out=out) if times == 1 else raised(torch.mul(z, times, out=out))


def capped(u: Tensor, cap: Tensor | None) -> Tensor:
    """The softcap, in place."""
    return u if cap is None else u.div_(cap).tanh_().mul_(cap)


def spans(classes: int, width: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + width, classes)) for start in range(0, classes, width))


def blocks(rows: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
    """Row numbers, a block at a time; no block at all where there are no rows."""
    return rows.split(ROWS if size is None else size) if rows.numel() else ()


class Labels:
    """Which rows of a block have their label in a tile, found by one sort a block; labels that are no class here are in none."""

    def __init__(self, label: Tensor, classes: int, width: int) -> None:
        ordered, self.order = label.sort(stable=True)
        edges = torch.arange(0, classes + width, width, device=label.device).clamp_(max=classes)
        self.bounds = torch.searchsorted(ordered, edges).tolist()
        self.label, self.width = label, width

    def within(self, start: int) -> tuple[Tensor, Tensor] | None:
        """(rows, columns of the tile that starts there), or None where there is no label."""
        first, last = self.bounds[start // self.width], self.bounds[start // self.width + 1]
        if first == last:
            return None
        rows = self.order[first:last]
        return rows, self.label[rows] - start
