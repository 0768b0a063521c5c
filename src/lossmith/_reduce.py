"""From values and masks to what the caller asked for: options read, denominators counted, values reduced.

One denominator contract for the whole library. A mean divides by the total weight of what is kept; ``denominator=`` overrides it so
that any split into micro-batches or ranks sums to the full batch's value and gradient; nothing kept gives 0 with a zero gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith._checks import describe, holds
from lossmith._options import DEFAULTS
from lossmith._typing import Float, Hyper, Shaped
from lossmith.card import Card, Range


class Call(NamedTuple):
    """The options of one call, of any form, with their defaults filled in."""

    name: str
    card: Card
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    sample_weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    denominator: float | Tensor | None = None
    over: str = "sample"
    group: Any = None


def read(row: Callable[..., Any], options: Mapping[str, Any], hyper: Mapping[str, Any]) -> Call:
    """The options of one call, after the checks that need no data."""
    card: Card = row.card  # type: ignore[attr-defined]
    taken = DEFAULTS[card.form]
    card.check_names(options, [*card.hyper, *taken])
    opt = Call(card.name, card, **{**taken, **options})
    card.check(hyper)
    for name, value in hyper.items():
        _check_tensor_range(card, name, value)
    if opt.reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{card.name}: reduction must be 'none', 'mean' or 'sum'; got {opt.reduction!r}")
    if opt.denominator is not None and opt.reduction != "mean":
        raise ValueError(f"{card.name}: denominator goes with reduction='mean'; got reduction={opt.reduction!r}")
    return opt


def _check_tensor_range(card: Card, name: str, value: object) -> None:
    """The range of a tensor hyper-parameter: a question about values, asked under `validate(True)` alone."""
    allowed = card.ranges.get(name)
    if not isinstance(value, Tensor) or not isinstance(allowed, Range):
        return
    low = value > allowed.low if allowed.open_low else value >= allowed.low
    high = value < allowed.high if allowed.open_high else value <= allowed.high
    if not holds(lambda: (low & high).all(), value):
        raise ValueError(f"{card.name}: {name} must be in {allowed}; got {value.detach().tolist()}")


def working_dtype(x: Tensor) -> torch.dtype:
    """float32 inside for half precision; otherwise the input's own."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def scalar(value: Hyper, like: Tensor) -> Tensor:
    """A hyper-parameter as a tensor beside another. A number is filled in on the device, so that nothing waits for a copy."""
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)


def full_precision(x: Tensor) -> torch.autocast:
    """No autocast inside an objective: a matrix product within it would otherwise round to half precision."""
    return torch.autocast(x.device.type, enabled=False)


def check_floating(name: str, input: object) -> None:
    if not isinstance(input, Tensor) or not input.is_floating_point():
        raise TypeError(f"{name}: input must be a floating-point tensor of logits; got {describe(input)}")


def check_weight(name: str, argument: str, weight: Tensor, shape: tuple[int, ...], input: object) -> Tensor:
    """A weight in the input's working dtype (its own, for a source of logits) and on its device, or a clear error."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name}: {argument} must be a tensor of shape {shape}; got {describe(weight)}")
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name}: {argument} must have shape {shape}; got {describe(weight)}")
    like = input if isinstance(input, Tensor) else weight
    if weight.device != like.device and weight.ndim:
        raise ValueError(f"{name}: {argument} must be on the input's device {like.device}; it is on {weight.device}")
    if not holds(lambda: (weight >= 0).all(), weight):
        raise ValueError(f"{name}: {argument} must not be negative; its smallest entry is {weight.min().item():g}")
    return weight.to(working_dtype(like))


def reduce(value: Tensor, each: Tensor, opt: Call) -> Tensor:
    """Reduce weighted values as asked; `each` holds the weights a mean divides by, both 0 where masked."""
    if opt.reduction == "none":
        return value
    if opt.reduction == "sum":
        return value.sum()
    return value.sum() / (nonzero(each.sum()) if opt.denominator is None else opt.denominator)


def nonzero(total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """A total that can be divided by: nothing kept counts as one, so that the mean of nothing is 0 and not NaN."""
    return torch.where(total == 0, torch.ones_like(total), total)


def denominator(
    target: Shaped[Tensor, "..."],
    *,
    classes: int | None = None,
    weight: Float[Tensor, " c"] | None = None,
    sample_weight: Float[Tensor, "..."] | None = None,
    ignore_index: int = -100,
    elementwise: bool = False,
    group: Any = None,
) -> Float[Tensor, ""]:
    r"""What a mean over these targets divides by: the total weight of what is kept.

    Pass the full batch's, or the sum over all ranks (``group=``), as ``denominator=`` to every micro-batch or rank, and their losses
    and gradients sum to the full batch's. Under DistributedDataParallel, which averages gradients over ranks, divide it by the
    world size.

    .. math::
        \sum_{i\ \text{kept}} w_{y_i} s_i \quad\text{(class indices)},
        \qquad \sum_{i\ \text{kept}} s_i \quad\text{(class probabilities)}

    Args:
        target: class indices `(n, *d)`, or class probabilities `(n, c, *d)`, as given to the objective.
        classes: the number of classes; not needed, checked against the indices when given.
        weight: per class, as given to the objective.
        sample_weight: per row, as given to the objective.
        ignore_index: as given to the objective.
        elementwise: the target of a binary or multi-label objective, one number an element.
        group: a process group, or `torch.distributed.group.WORLD`, to sum over.

    Returns:
        A 0-d float tensor; 0 when nothing is kept (an objective then divides by 1).

    Example:
        >>> import torch, lossmith
        >>> logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, -100])
        >>> total = lossmith.denominator(target)
        >>> parts = [lossmith.cross_entropy(x, y, denominator=total) for x, y in zip(logits.split(2), target.split(2))]
        >>> torch.allclose(sum(parts), lossmith.cross_entropy(logits, target))
        True
    """
    dtype = torch.float32
    for given in (weight, sample_weight, target):
        dtype = torch.promote_types(dtype, given.dtype) if given is not None and given.is_floating_point() else dtype
    if elementwise:
        shape, keep = target.shape, target != ignore_index
    elif target.is_floating_point():
        if target.ndim == 0:
            raise ValueError(f"denominator: target must be class indices or class probabilities; got {describe(target)}")
        axis = min(1, target.ndim - 1)
        shape = target.shape[:axis] + target.shape[axis + 1 :]
        keep = torch.ones(shape, dtype=torch.bool, device=target.device)
    else:
        shape, keep = target.shape, target != ignore_index
    if classes is not None and weight is not None and weight.shape != (classes,):
        raise ValueError(f"denominator: weight must have shape ({classes},); got {describe(weight)}")
    each = torch.ones(shape, dtype=dtype, device=target.device)
    if weight is not None and elementwise:
        each = each * along_axis(weight.to(dtype), target.ndim)
    elif weight is not None and not target.is_floating_point():
        each = weight.to(dtype)[torch.where(keep, target, 0).long()]
    if sample_weight is not None:
        each = each * trailing(sample_weight.to(dtype), each.ndim)
    total = torch.where(keep, each, 0).sum()
    if group is not None:
        torch.distributed.all_reduce(total, group=group)
    return total


def along_axis(per_label: Tensor, ndim: int) -> Tensor:
    """A number, or one per label, shaped to broadcast along axis 1 of an input with that many axes (axis 0 of a vector)."""
    return per_label if per_label.ndim == 0 else per_label.reshape((-1,) + (1,) * max(ndim - 2, 0))


def trailing(per_row: Tensor, ndim: int) -> Tensor:
    """Leading axes only: the missing ones are appended, so that it broadcasts against all of them."""
    return per_row.reshape(per_row.shape + (1,) * (ndim - per_row.ndim))
