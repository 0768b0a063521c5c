"""Whole sets: objectives of soft counts over an image, a batch, or the batches of all ranks together.

The row function takes one set's counts a class and gives one loss a class:
``row(overlap, predicted, actual) -> (*sets, c)``, with overlap :math:`\\sum p\\,t`, predicted :math:`\\sum p` and actual
:math:`\\sum t` over the set's elements that are kept. Counts are sums, so removing an element is exactly deleting it, and summing
them over ranks is exactly one process with the whole batch. A set's loss is no mean over its elements: there is no denominator
contract, and no `denominator=`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith._batch import Batch, frame
from lossmith._binary import binary_frame
from lossmith._checks import describe
from lossmith._reduce import Call, check_floating, check_weight, full_precision, in_dtype, nonzero, read, working_dtype
from lossmith._typing import Float, Hyper, Integer, Shaped


class Counts(NamedTuple):
    """Soft counts a set and class: what was right, what was predicted, what is there."""

    overlap: Float[Tensor, "*sets c"]
    predicted: Float[Tensor, "*sets c"]
    actual: Float[Tensor, "*sets c"]


def of_counts(
    row: Callable[..., Tensor],
    input: Float[Tensor, "n c *d"],
    target: Integer[Tensor, "n *d"] | Shaped[Tensor, "n c *d"],
    options: Mapping[str, Any],
    *,
    activation: str = "softmax",
    squared: bool = False,
    include_background: bool = True,
    **hyper: Hyper,
) -> Tensor:
    """An objective of the soft counts of a set, a class at a time.

    Args:
        activation: "softmax" over exclusive classes, or "sigmoid" for channels that each answer yes or no.
        squared: count squared probabilities in `predicted` and `actual`.
        include_background: whether class 0 counts.
    """
    opt = read_set(row, input, options, {**hyper, "activation": activation, "squared": squared, "include_background": include_background})
    with full_precision(input):
        p, t, share = (_sigmoid_channels if activation == "sigmoid" else _softmax_classes)(opt, input, target)
        counts = _count(p, t, share, squared=squared, over=opt.over, group=opt.group)
        loss = row(*counts, **in_dtype(hyper, input))
        weight = torch.ones(loss.shape[-1], dtype=loss.dtype, device=loss.device)
        if opt.weight is not None:
            weight = check_weight(opt.name, "weight", opt.weight, (loss.shape[-1],), input)
        first = 0 if include_background else 1
        loss, weight = loss[..., first:] * weight[first:], weight[first:].expand(loss[..., first:].shape)
        if opt.reduction == "none":
            return loss
        return loss.sum() if opt.reduction == "sum" else loss.sum() / nonzero(weight.sum())


def read_set(row: Callable[..., Tensor], input: Tensor, options: Mapping[str, Any], hyper: Mapping[str, Any]) -> Call:
    """The options of one call, after the checks that are the same for every objective on sets."""
    opt = read(row, options, hyper)
    if opt.over not in ("sample", "batch", "ranks"):
        raise ValueError(f"{opt.name}: over must be 'sample', 'batch' or 'ranks'; got {opt.over!r}")
    if opt.group is not None and opt.over != "ranks":
        raise ValueError(f"{opt.name}: group goes with over='ranks'; got over={opt.over!r}")
    check_floating(opt.name, input)
    if input.ndim < 2:
        raise ValueError(f"{opt.name}: input must have shape (n, c, *d); got {describe(input)}")
    return opt


def _softmax_classes(opt: Call, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class probabilities, targets, and each element's share in the counts (0 where it is removed)."""
    batch = frame(opt, input, target)
    p = torch.softmax(batch.mask(input), batch.axis, dtype=working_dtype(input))
    return p, _indicators(batch, p.dtype), _shares(batch, p.dtype)


def _sigmoid_channels(opt: Call, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t, keep, share = channel_frame(opt, input, target)
    return torch.sigmoid(torch.where(keep, input, 0).to(t.dtype)), t, share


def channel_frame(opt: Call, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each channel's answers as numbers, which are kept, and their shares: of a target a channel, or of class indices."""
    if input.ndim == target.ndim + 1 and input.shape[1] > 1 and not target.is_floating_point():
        batch = frame(opt, input, target)
        t = _indicators(batch, working_dtype(input))
        return t, batch.keep.unsqueeze(1).expand(t.shape), _shares(batch, t.dtype).expand(t.shape)
    if opt.sample_weight is not None:  # one number an element of a set, the same for every channel
        each = check_weight(opt.name, "sample_weight", opt.sample_weight, (input.shape[0], *input.shape[2:]), input)
        opt = opt._replace(sample_weight=each.unsqueeze(1).expand(input.shape))
    t, keep, each = binary_frame(opt, input, target)
    return t, keep, torch.where(keep, each, 0)


def _indicators(batch: Batch, dtype: torch.dtype) -> Float[Tensor, "n c *d"]:
    """The target as numbers in [0, 1] a class."""
    if batch.label is None:
        assert batch.soft is not None
        return batch.soft
    return (batch.label.unsqueeze(1) == batch.per_class(torch.arange(batch.classes, device=batch.keep.device))).to(dtype)


def _shares(batch: Batch, dtype: torch.dtype) -> Float[Tensor, "n 1 *d"]:
    return torch.where(batch.keep, 1.0 if batch.sample_weight is None else batch.sample_weight, 0.0).to(dtype).unsqueeze(1)


def _count(p: Tensor, t: Tensor, share: Tensor, *, squared: bool, over: str, group: Any) -> Counts:
    axes = [*range(2, p.ndim)] if over == "sample" else [0, *range(2, p.ndim)]
    power = 2 if squared else 1
    sums = [(share * x).sum(axes) if axes else share * x for x in (p * t, p**power, t**power)]
    return Counts(*(over_ranks(total, group) for total in sums)) if over == "ranks" else Counts(*sums)


def mean_over(value: Tensor, each: Tensor, opt: Call) -> Tensor:
    """The mean of a rowwise part of a set objective: over the batch, or over the batches of all ranks together."""
    total, weight = value.sum(), each.sum()
    if opt.over == "ranks":
        total, weight = over_ranks(total, opt.group), over_ranks(weight, opt.group)
    return total / nonzero(weight)


def over_ranks(total: Tensor, group: Any = None) -> Tensor:
    """The sum over all ranks, differentiable.

    Every rank then computes the same loss of the same sums, and the gradient of its own part is taken world-size-fold:
    DistributedDataParallel's average of the ranks' gradients is exactly the whole set's gradient. Backward communicates nothing.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise ValueError("over='ranks' needs torch.distributed.init_process_group; use over='batch' in one process")
    everywhere = total.detach().clone()
    torch.distributed.all_reduce(everywhere, group=group)
    return everywhere + torch.distributed.get_world_size(group) * (total - total.detach())
