"""The student's side of a comparison or the teacher's, and the normalisation of its rows, found tile by tile."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossmith.fused.shards import Shards, largest, total
from lossmith.fused.slopes import NOTHING, Gradients
from lossmith.fused.tiles import Head, capped, raised, unit, working


class Side(NamedTuple):
    """Student or teacher."""

    x: Tensor
    head: Head

    def rows(self, at: Tensor, dtype: torch.dtype) -> "Side":
        return Side(self.x[at].to(dtype), self.head)

    def scaled(self, by: float) -> "Side":
        """The same with every logit multiplied by a number."""
        if by == 1:
            return self
        bias, cap = (None if part is None else part.to(self.x.dtype) * by for part in (self.head.bias, self.head.cap))
        return Side(self.x * by, self.head._replace(bias=bias, cap=cap))

    def zeros(self, wanted: str, dtype: torch.dtype) -> Gradients:
        """Room for this side's gradients, in what both are computed in."""
        found = Gradients.zeros(self.x, self.head, None, wanted)
        return Gradients(*(None if gradient is None else gradient.to(dtype) for gradient in found))

    def raw(self, start: int, stop: int, out: Tensor) -> Tensor:
        """Some logits before the softcap."""
        return self.head.raw(self.x, start, stop, out)

    def logits(self, start: int, stop: int, out: Tensor) -> Tensor:
        """Some logits; a class at -inf at a number that no probability survives."""
        return self.settled(self.raw(start, stop, out))

    def settled(self, u: Tensor) -> Tensor:
        z = capped(u, self.head.cap)
        return z if self.head.bias is None else z.clamp_min_(NOTHING)

    def dense(self) -> Tensor:
        """All logits of the rows."""
        return self.head.logits(self.x, 0, self.head.classes, self.x.new_empty(self.x.shape[0], self.head.classes))


def both_working(student: Side, teacher: Side) -> torch.dtype:
    """What is computed in: float32 at least, float64 where either side is."""
    return torch.promote_types(working(student.x, student.head.weight), working(teacher.x, teacher.head.weight))


class Normaliser:
    """The largest logit of every row, and the sum of the other exponentials relative to it, from tiles that are seen one by one."""

    def __init__(self, x: Tensor) -> None:
        self.top, self.others = x.new_full((x.shape[0],), -torch.inf), x.new_zeros(x.shape[0])

    def see(self, z: Tensor, beside: Tensor) -> None:
        top = z.amax(1)
        rises = top > self.top
        rise = rises.nonzero().squeeze(1)
        if rise.numel():
            before, self.top = self.top, torch.where(rises, top, self.top)
            self.others = torch.where(rises, (self.others + 1) * raised(before - self.top), self.others)
        e = raised(torch.sub(z, self.top.unsqueeze(1), out=beside))
        if rise.numel():
            e[rise, z[rise].argmax(1)] = 0
        self.others += e.sum(1)

    def found(self) -> tuple[Tensor, Tensor]:
        """The reference and log(1 + S) as columns, times the unit."""
        return self.top.unsqueeze(1), torch.log1p(self.others).mul_(unit(self.others)).unsqueeze(1)


def over_ranks(of: Sequence[Normaliser], shards: Shards | None) -> None:
    """The same of all ranks' classes: the largest exponential, 1, is left out where it is, and counted where it is found once more."""
    if shards is None:
        return
    tops = torch.stack([each.top for each in of])
    highest = largest(tops.clone(), shards)
    at_top = tops == highest
    mine = torch.stack([each.others for each in of])
    mine = torch.where(at_top, mine, torch.where(tops == -torch.inf, 0, (mine + 1) * raised(tops - highest)))
    others, found = total(torch.stack([mine, at_top.to(mine.dtype)]), shards)
    for each, top, sum_ in zip(of, highest, others + (found - 1), strict=True):
        each.top, each.others = top, sum_
