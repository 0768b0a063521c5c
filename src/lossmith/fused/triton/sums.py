"""Forward: sums over the classes in one kernel, and the statistics made of them.

Every program goes over a share of the classes with a block of rows, keeps a running maximum and sums relative to it, and writes them down
once; the shares are put together afterwards, in an order that depends on nothing but shapes. No lock, no atomic addition. The label's own
logit is taken out of the sums as it passes, and comes from the same product as all others: a confident row keeps its digits.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lossmith.fused.engine import Spec
from lossmith.fused.tiles import Head
from lossmith.fused.triton import kernels
from lossmith.fused.triton.launch import Kept, processors, reading, run, tiles
from lossmith.fused.triton.memory import operand


class Sums(NamedTuple):
    """Sums over all classes but the label's, relative to the largest of their logits; `(n)` each, further temperatures in rows."""

    largest: Tensor
    exponentials: Tensor
    moment: Tensor
    mean: Tensor
    at_betas: Tensor
    chosen: Tensor
    """The label's logit; -inf without labels, which is how a class that does not exist counts for nothing."""


def shares(blocks: int, tiles: int, device: torch.device) -> tuple[int, int]:
    """(in how many shares the tiles of a row go, tiles of a share): few, but such that no multiprocessor is without work at the end."""
    width = processors(device)

    def waves(splits: int) -> float:
        share = triton.cdiv(tiles, splits)
        return triton.cdiv(blocks * triton.cdiv(tiles, share), width) * share

    best = min(range(1, min(tiles, 2 * width) + 1), key=lambda splits: (waves(splits) + 0.02 * splits, splits))
    share = triton.cdiv(tiles, best)
    return triton.cdiv(tiles, share), share


class Stored(NamedTuple):
    """Where exponentials are kept."""

    exponentials: Tensor
    power: Tensor


def take(kept: Kept, head: Head, class_weight: Tensor | None, spec: Spec, stored: Stored | None = None) -> Sums:
    """Run the kernel, and put the shares together."""
    n, (classes, width), device = kept.x.shape[0], head.weight.shape, kept.x.device
    tile = tiles(operand(kept.x, head.weight), device, spec)
    blocks = triton.cdiv(n, tile.rows)
    splits, share = shares(blocks, triton.cdiv(classes, tile.classes), device)
    partial = torch.empty(4 + len(spec.betas), splits, n, dtype=torch.float32, device=device)
    chosen = torch.full((n,), -torch.inf, dtype=torch.float32, device=device)
    (x, weight, bias, cap), strides, known = reading(kept.x, head, tile)
    v = None if class_weight is None else class_weight.contiguous()
    exponentials, power = (None, None) if stored is None else stored
    run(
        kernels.sums, (blocks * splits,), x, weight, bias, cap, v, kept.label, kept.count, partial, chosen, exponentials, power,
        n, classes, width, splits, share, *strides, 0 if exponentials is None else exponentials.stride(0),
        LABELLED=spec.labelled, MOMENT="entropy" in spec.want, MEAN="mean_logit" in spec.want,
        BETAS=spec.betas, FURTHER=triton.next_power_of_2(max(1, len(spec.betas))), **known,
    )  # fmt: skip
    together = _together(partial.where(kept.takes_part, 0), spec)
    mean = together.mean if class_weight is not None else together.mean / classes
    return together._replace(mean=mean, chosen=chosen)


def _together(partial: Tensor, spec: Spec) -> Sums:
    """The shares of a row relative to the largest logit of all."""
    m, s, moment, mean, *at_betas = partial
    largest = m.amax(0)
    fall = torch.where(m == -torch.inf, 0, m - largest)  # a share without any class that counts has sums of 0
    scale = fall.exp()
    further = [(value * (beta * fall).exp()).sum(0) for beta, value in zip(spec.betas, at_betas, strict=True)]
    return Sums(
        largest,
        (scale * s).sum(0),
        (scale * (moment + fall * s)).sum(0) if "entropy" in spec.want else s[0],
        mean.sum(0) if "mean_logit" in spec.want else s[0],
        torch.stack(further) if further else s[:0],
        largest,
    )


def statistics(found: Sums, spec: Spec) -> Tensor:
    """`(n, columns)`: relative to the label's logit or the largest of the others, whichever is larger; so no term is above 1.

    With the lead d of the others' largest logit over the label's, -log p_y = log(1 + S e^d), and d + log(S + e^{-d}) where d is above 0.
    """
    lead, s = found.largest - found.chosen, found.exponentials
    ahead = lead < 0
    above, below = lead.clamp_min(0), lead.clamp_max(0)
    reference = torch.where(ahead, found.chosen, found.largest)
    sound = reference.isfinite()

    def log_total(sum_of_others: Tensor, beta: float) -> Tensor:
        others, own = sum_of_others * (beta * below).exp(), (-beta * above).exp()
        return torch.where(sound, torch.where(ahead, others.log1p(), (others + own).log()), torch.nan)

    logs = log_total(s, 1.0)
    columns = {"logsumexp": reference + logs, "mean_logit": found.mean, "target_logit": found.chosen}
    columns["log_prob"] = torch.where(ahead, -logs, -(lead + logs))
    others, own = below.exp(), (-above).exp()
    moment = others * (found.moment + torch.where(below > -torch.inf, below, 0) * s) - own * torch.where(above < torch.inf, above, 0)
    columns["entropy"] = logs - moment / (others * s + own)
    further = [beta * reference + log_total(value, beta) for beta, value in zip(spec.betas, found.at_betas, strict=True)]
    return torch.stack([*(columns[name] for name in spec.want), *further], 1)
