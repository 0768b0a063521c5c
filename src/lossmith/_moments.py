"""The spherical family: objectives that see of a row of logits the label's, their mean and their variance, and nothing else.

Vincent, de Brébisson & Bouthillier 2015 (arXiv:1412.7091) write them as functions of the label's logit, the sum and the sum of squares.
Mean and variance say the same, and survive a large common offset, which the difference of two large sums does not. Under a linear head
both follow from d x d matrices alone, so a source that knows those (:class:`MomentSource`) never forms a logit.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lossmith._batch import finish, frame
from lossmith._reduce import full_precision, in_dtype, read, working_dtype
from lossmith._rows import expectation, pick
from lossmith._sources import Source
from lossmith._typing import Bool, Float, Integer, Logits, Target


class Moments(NamedTuple):
    """What a spherical loss is a function of; the pieces broadcast against each other."""

    lead: Float[Tensor, "*rows"]
    """The label's logit minus the mean; -inf where the label's class is not there."""
    mean: Float[Tensor, "*#rows"]
    variance: Float[Tensor, "*#rows"]
    """The mean square of the deviations, with the number of classes below it; never negative, and exactly 0 where all logits are alike."""
    classes: Float[Tensor, "*#rows"]
    """How many classes there are; one with a logit of -inf is not there."""


@runtime_checkable
class MomentSource(Source, Protocol):
    """What an objective of the spherical family asks of logits that need not exist as a tensor."""

    def target_moments(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Moments:
        """The moments of every kept row; rows that are not kept may have any finite ones."""
        ...


def of_moments(
    row: Callable[..., Tensor],
    input: Logits | MomentSource,
    target: Target,
    options: Mapping[str, Any],
    *,
    scale_free: bool = False,
    **hyper: Any,
) -> Tensor:
    """An objective ``row(moments)`` of the spherical family.

    `scale_free` says that a positive factor on the logits changes nothing: they are then brought to size 1, so that no square overflows.
    """
    opt = read(row, options, hyper)
    batch = frame(opt, input, target, sources="target_moments")
    if not isinstance(input, Tensor):
        assert batch.label is not None  # a source of logits takes class indices only
        seen = input.target_moments(batch.label, batch.keep)
        with full_precision(seen.lead):
            return finish(batch.like(seen.lead), row(seen, **in_dtype(hyper, seen.lead)))
    with full_precision(input):
        hyper = in_dtype(hyper, input)
        every = moments(batch.mask(input).to(working_dtype(input)).movedim(batch.axis, -1), scale_free)
        if batch.label is not None:
            at_label = Moments(pick(every.lead, batch.label), *(piece.squeeze(-1) for piece in every[1:]))
            return finish(batch, row(at_label, **hyper))
        each = row(every, **hyper).movedim(-1, batch.axis)
        return finish(batch, expectation(batch, lambda value: value, each))


def moments(z: Float[Tensor, "*rows c"], scale_free: bool = False) -> Moments:
    """The moments of rows of logits with every class in turn as the label: leads `(*rows, c)`, the others `(*rows, 1)`."""
    present = z > -torch.inf
    top = z.detach().amax(-1, keepdim=True)  # taken off first: rows that are all alike then have a variance of exactly 0
    below = torch.where(present, z - top, 0)
    below = torch.where(z.isfinite() | ~present, below, torch.nan)  # +inf and NaN: a row like that has no moments
    if scale_free:
        size = below.detach().abs().amax(-1, keepdim=True)
        below, top = below / torch.where(size == 0, 1, size), 0 * size
    classes = present.to(z.dtype).sum(-1, keepdim=True)
    mean = below.sum(-1, keepdim=True) / classes
    deviation = torch.where(present, below - mean, 0)
    variance = deviation.square().sum(-1, keepdim=True) / classes
    return Moments(torch.where(present, deviation, -torch.inf), top + mean, variance, classes)
