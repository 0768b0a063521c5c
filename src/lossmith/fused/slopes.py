"""The way back through a block of logits: the derivative of its statistics a tile at a time, and what is made of it by the head."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lossmith.fused.spec import Spec, doublings
from lossmith.fused.tiles import Given, Head, Labels, capped, exponentials, spans, working

NOTHING = -1e30
"""A logit whose exponential is 0, and 0 still when multiplied by it, which with -inf would be NaN."""


class Gradients(NamedTuple):
    """Gradients, in the working dtype; None where not wanted. `wanted` has a letter each, "y" or "n"."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    cap: Tensor | None
    class_weight: Tensor | None

    @classmethod
    def zeros(cls, x: Tensor, head: Head, class_weight: Tensor | None, wanted: str) -> "Gradients":
        """What is added to."""
        dtype = working(x, head.weight)
        sources = (x, head.weight, head.bias, head.cap, class_weight)
        return cls(
            *(
                torch.zeros(source.shape, dtype=dtype, device=x.device) if source is not None and want == "y" else None
                for source, want in zip(sources, wanted, strict=True)
            )
        )


class BlockSlope:
    """The derivative of a block's weighted statistics by its logits, a tile at a time."""

    def __init__(self, spec: Spec, stats: Tensor, upstream: Tensor, label: Tensor, head: Head | Given) -> None:
        zero = upstream.new_zeros(upstream.shape[0])

        def given(name: str) -> Tensor:
            column = spec.column(upstream, name)
            return zero if column is None else column

        lse = spec.column(stats, "logsumexp")
        assert lse is not None
        self.lse, self.classes = lse, head.all_classes
        on_log_prob, on_lse, on_h = given("log_prob"), given("logsumexp"), given("entropy")
        h = spec.column(stats, "entropy")
        on_p = on_lse - on_log_prob if h is None else on_lse - on_log_prob - on_h * h
        self.on_p, self.on_h = on_p.unsqueeze(1), None if h is None else on_h.unsqueeze(1)
        self.mean = given("mean_logit") if "mean_logit" in spec.want else None
        self.further = [
            (beta, -stats[:, i : i + 1], upstream[:, i : i + 1] * beta) for i, beta in enumerate(spec.betas, len(spec.want))
        ]  # (inverse temperature, minus its logsumexp, its weight)
        log_p = spec.column(stats, "log_prob")
        self.labels: Labels | None = None
        self._spare: Tensor | None = None
        if log_p is not None:  # 1 - p_y as it is, not as a difference of numbers near 1
            self.labels = self._located(label, head)
            p = log_p.exp()
            self.at_label = on_log_prob * -torch.expm1(log_p) + on_lse * p + given("target_logit")
            if h is not None:
                self.at_label = self.at_label - on_h * p * (log_p.clamp_min(NOTHING) + h)

    def _located(self, label: Tensor, head: Head | Given) -> Labels | None:
        """Where the labels are; a kernel compares for itself."""
        return Labels(head.local(label), head.classes, head.width)

    def tile(self, z: Tensor, beside: Tensor, class_weight: Tensor | None, start: int, stop: int) -> Tensor:
        """The slope, in place of the logits. `beside` is as large, overwritten, and not looked at where one will do."""
        z.sub_(self.lse.unsqueeze(1))
        hit = None if self.labels is None else self.labels.within(start)
        if self.further:
            self._of_every_p(z, beside, hit)
        else:
            self._of_p(z, beside)
            if hit is not None:
                z[hit] = self.at_label[hit[0]]
        if self.mean is not None:
            v = 1 / self.classes if class_weight is None else class_weight[start:stop].to(z.dtype)
            z += self.mean.unsqueeze(1) * v
        return z

    def _of_p(self, z: Tensor, beside: Tensor) -> None:
        """The slope at temperature 1 but for the labels, from log-probabilities."""
        factor = self.on_p
        if self.on_h is not None:
            torch.mul(z.clamp_min_(NOTHING), self.on_h, out=beside)
            factor = torch.sub(self.on_p, beside, out=beside)
        exponentials(z, z).mul_(factor)

    def _of_every_p(self, z: Tensor, beside: Tensor, hit: tuple[Tensor, Tensor] | None) -> None:
        """The slope at all temperatures: where one is half another, its exponentials are squared."""
        slope, sum_of = None, self._third(z)
        for beta, shift, weights in self.chains:
            e = exponentials(z, beside, beta) if shift is None else exponentials(torch.add(shift, z, alpha=beta, out=beside), beside)
            for k, weight in enumerate(weights):
                if k:
                    e.mul_(e)
                if weight is not None:
                    slope = torch.mul(e, weight, out=sum_of) if slope is None else slope.addcmul_(e, weight)
                    continue
                # temperature 1, last of all: z is free
                weight = self.on_p if self.on_h is None else torch.sub(self.on_p, z.clamp_min_(NOTHING).mul_(self.on_h), out=z)
                if hit is not None:
                    e[hit] = 0
                assert slope is not None
                torch.addcmul(slope, e, weight, out=z)
        if hit is not None:
            z[hit] += self.at_label[hit[0]]

    def _third(self, z: Tensor) -> Tensor:
        """Room for a tile, the same for every one of the block."""
        if self._spare is None:
            self._spare = torch.empty_like(z)  # the first tile is the widest
        return self._spare[:, : z.shape[1]]

    @cached_property
    def chains(self) -> list[tuple[float, Tensor | None, list[Tensor | None]]]:
        """Of the further temperatures and 1: the first inverse of a chain, what is added to it times log p, and a weight for each power.

        A chain that ends at 1 has powers of p itself, and None for its weight; any other has those of its first probability.
        """
        betas, lse, found = (1.0, *(beta for beta, _, _ in self.further)), self.lse.unsqueeze(1), []
        for chain in doublings(betas):
            first, to_one = betas[chain[0]], chain[-1] == 0
            relative_to = first * lse if to_one else -self.further[chain[0] - 1][1]
            shift = None if to_one else first * lse - relative_to
            weights: list[Tensor | None] = []
            for i in chain:
                _, minus_lse, weight = self.further[i - 1]
                weights.append(weight * torch.exp(betas[i] / first * relative_to + minus_lse) if i else None)
            found.append((first, shift, weights))
        return found

    @property
    def needs_two(self) -> bool:
        """Whether a second buffer is looked at."""
        return bool(self.further) or self.on_h is not None


def _block_gradients(x: Tensor, rows: Tensor, head: Head, class_weight: Tensor | None, block: BlockSlope, found: Gradients) -> None:
    buffer = x.new_empty(x.shape[0], head.width)
    beside = torch.empty_like(buffer) if block.needs_two else buffer
    dx = torch.zeros_like(x)
    for start, stop in spans(head.classes, head.width):
        u = head.raw(x, start, stop, buffer[:, : stop - start])
        slope = tile_slope(u, beside[:, : stop - start], head, class_weight, block, start, stop, found)
        _accumulate(slope, x, dx, head, start, stop, found)
    if found.x is not None:
        found.x[rows] = dx


def tile_slope(
    u: Tensor, beside: Tensor, head: Head, class_weight: Tensor | None, block: BlockSlope, start: int, stop: int, found: Gradients
) -> Tensor:
    """The slope by a tile's logits before the softcap, in place of these; with its parts in the gradients that no product makes."""
    ratio = None if head.cap is None else u / head.cap
    z = capped(u, head.cap)
    t = None if head.cap is None else z / head.cap
    if found.class_weight is not None and block.mean is not None:
        found.class_weight[start:stop] += block.mean @ z
    slope = block.tile(z, beside, class_weight, start, stop)
    if t is not None and ratio is not None:
        curb = 1 - t * t
        if found.cap is not None:
            found.cap.add_((slope * (t - _product(ratio, curb))).sum())
        slope *= curb
    return slope


def _product(ratio: Tensor, curb: Tensor) -> Tensor:
    """ratio * curb, 0 where the cap is saturated altogether and the ratio may be infinite."""
    return torch.where(curb == 0, 0, ratio) * curb


def _accumulate(slope: Tensor, x: Tensor, dx: Tensor, head: Head, start: int, stop: int, found: Gradients) -> None:
    through_head(slope, dx, head, start, stop, found)
    if found.weight is not None:
        found.weight[start:stop].addmm_(slope.mT, x)


def through_head(slope: Tensor, dx: Tensor, head: Head, start: int, stop: int, found: Gradients) -> None:
    """A tile's part in the gradients by hidden states and bias."""
    if found.x is not None:
        dx.addmm_(slope, head.columns(start, stop, dx.dtype))
    if found.bias is not None:
        found.bias[start:stop] += slope.sum(0)


def _curb(z: Tensor, cap: Tensor) -> Tensor:
    """The slope of the softcap at the capped logit: 1 - (z / cap)^2."""
    ratio = z / cap
    return 1 - ratio * ratio
