"""Conditional risks: the expected loss of a report when the truth is known, and a search for the report that makes it least.

With true probabilities p over the labels, a report z costs :math:`R(p, z) = \\sum_k p_k \\ell(z, k)`. Losses of R reports are computed
once for every label; the risks of R reports under T truths are then one matrix product. A single logit reports two answers, of which
yes comes first. Where the target is a teacher's whole prediction the truth is the teacher, and the risk is the loss itself.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from lossmith._subject import Subject
from lossmith._typing import Float

SINGLE = ("binary", "multilabel")
"""Forms whose report is a single logit."""

PAIRED = ("teacher",)
"""Forms whose target is a prediction."""


def label_losses(subject: Subject, reports: Float[Tensor, "r c"]) -> Float[Tensor, "r k"]:
    """The loss of every report under every label; of a single logit `(r, 1)` under yes and no."""
    r, c = reports.shape
    if subject.form in SINGLE:
        z = torch.cat([reports, reports])
        t = torch.cat([torch.ones_like(reports), torch.zeros_like(reports)])
        losses = subject.rows(z.squeeze(1), t.squeeze(1)) if subject.form == "binary" else subject.rows(z, t)
        return losses.reshape(2, r).T
    labels = torch.arange(c).repeat_interleave(r)
    target = torch.eye(c, dtype=reports.dtype).log()[labels] if subject.form in PAIRED else labels
    return subject.rows(reports.repeat(c, 1), target).reshape(c, r).T


def risk(subject: Subject, truths: Float[Tensor, "n k"], reports: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """What each report costs under the truth beside it. A label of probability 0 costs nothing, infinite loss or not."""
    if subject.form in PAIRED:
        return subject.rows(reports, truths.log())
    losses = label_losses(subject, reports)
    possible = truths > 0
    return (truths * torch.where(possible, losses, 0)).sum(1)


def risks(subject: Subject, truths: Float[Tensor, "t k"], reports: Float[Tensor, "r c"]) -> Float[Tensor, "t r"]:
    """What every report costs under every truth."""
    if subject.form not in PAIRED:
        return truths @ label_losses(subject, reports).T
    t, r = len(truths), len(reports)
    return risk(subject, truths.repeat_interleave(r, 0), reports.repeat(t, 1)).reshape(t, r)


def pattern_search(
    cost: Callable[[Float[Tensor, "n s c"]], Float[Tensor, "n s"]], at: Float[Tensor, "n c"], value: Float[Tensor, " n"], rounds: int
) -> tuple[Float[Tensor, "n c"], Float[Tensor, " n"]]:
    """Walk downhill from n points at once without slopes: to the best neighbour, or else with steps of half the length.

    Neighbours are a step away in every combination of coordinates, up to five coordinates; in more, along each of them and along each
    difference of two, which are the edges of losses made of differences of logits.
    """
    steps = _directions(at.shape[1]).to(at)
    radius = torch.ones(len(at), 1, 1, dtype=at.dtype)
    for _ in range(rounds):
        near = at.unsqueeze(1) + radius * steps
        least = cost(near).min(1)
        better = least.values < value
        at = torch.where(better.unsqueeze(1), near[torch.arange(len(at)), least.indices], at)
        value = torch.where(better, least.values, value)
        radius = torch.where(better.reshape(-1, 1, 1), radius, radius / 2)
    return at, value


def _directions(c: int) -> Tensor:
    if c <= 5:
        return torch.tensor([s for s in itertools.product((-1.0, 0.0, 1.0), repeat=c) if any(s)])
    along = torch.eye(c)
    between = (along.unsqueeze(1) - along).reshape(-1, c)
    return torch.cat([along, -along, between[between.any(1)]])
