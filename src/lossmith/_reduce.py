"""From values and masks to what the caller asked for: options read, denominators counted, values reduced.

One denominator contract for the whole library. A mean divides by the total weight of what is kept; ``denominator=`` overrides it so
that any split into micro-batches or ranks sums to the full batch's value and gradient; nothing kept gives 0 with a zero gradient.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith._checks import describe, holds
from lossmith._options import DEFAULTS
from lossmith._typing import Bool, Float, Hyper, Shaped
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
    card: Card = row.card  # type: ignore[attr-defined]  # set by the decorator
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
    _check_denominator(card.name, opt.denominator)
    _check_ignore_index(card.name, opt.ignore_index)
    return opt


def _check_denominator(name: str, given: object) -> None:
    if given is None:
        return
    if isinstance(given, Tensor):
        if given.ndim:
            raise ValueError(f"{name}: denominator must be a number or a 0-d tensor; got {describe(given)}")
        if not holds(lambda: given >= 0, given):
            raise ValueError(f"{name}: denominator must be at least 0; got {given.item():g}")
    elif isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"{name}: denominator must be a number or a 0-d tensor; got {describe(given)}")
    elif not given >= 0:
        raise ValueError(f"{name}: denominator must be at least 0; got {given!r}")


def _check_ignore_index(name: str, given: object) -> None:
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name}: ignore_index must be an integer; got {describe(given)}")


def not_ignored(target: Shaped[Tensor, "..."], ignore_index: int) -> Bool[Tensor, "..."]:
    """Where the target is not `ignore_index`.

    A dtype that cannot hold that number holds it nowhere; torch would compare with what is left of it, -100 being 156 in uint8.
    """
    if not target.is_floating_point() and target.dtype != torch.bool:
        held = torch.iinfo(target.dtype)
        if not held.min <= ignore_index <= held.max:
            return torch.ones_like(target, dtype=torch.bool)
    return target != ignore_index


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


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast inside an objective: a matrix product within it would otherwise round to half precision."""
    kind = x.device.type  # "meta" has no autocast to switch off
    if not torch.amp.is_autocast_available(kind) or not (torch.compiler.is_compiling() or torch.is_autocast_enabled(kind)):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def in_dtype(hyper: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
    """Hyper-parameters with the 0-d tensors in the input's working dtype: among 0-d losses a wider one would widen the result."""
    dtype = working_dtype(x)
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point() else value
        for name, value in hyper.items()
    }


def times(share: Hyper, loss: Tensor) -> Tensor:
    """share * loss, in which no share of an infinite loss is nothing, and not NaN."""
    return share * torch.where(loss.isinf() & (share == 0), 0, loss)


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
    return value.sum() / divisor(each, opt)


def divisor(each: Tensor, opt: Call) -> Tensor:
    """What a mean divides by: the total weight of what is kept, or the denominator given; never 0.

    A tensor, because forward mode widens the slope of a 0-d sum that is divided by a number.
    """
    if opt.denominator is None:
        return nonzero(each.sum())
    if isinstance(opt.denominator, Tensor):
        return nonzero(opt.denominator.to(each.dtype))
    return scalar(opt.denominator or 1.0, each)


def nonzero(total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """A total that can be divided by: nothing kept counts as one, so that the mean of nothing is 0 and not NaN."""
    return torch.where(total == 0, torch.ones_like(total), total)


def denominator(
    target: Shaped[Tensor, "..."],
    *,
    classes: int | None = None,
    weight: Float[Tensor, " c"] | Float[Tensor, ""] | None = None,
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
        classes: the number of classes; not needed, but what is given is checked against it.
        weight: per class (elementwise: per label, or 0-d), as given to the objective.
        sample_weight: per row (elementwise: per element, or for the leading axes), as given to the objective.
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
    _check_ignore_index("denominator", ignore_index)
    if target.is_floating_point() and not elementwise:
        if target.ndim == 0:
            raise ValueError(f"denominator: target must be class indices or class probabilities; got {describe(target)}")
        axis = min(1, target.ndim - 1)
        shape = target.shape[:axis] + target.shape[axis + 1 :]
        keep = torch.ones(shape, dtype=torch.bool, device=target.device)
        classes = target.shape[axis] if classes is None else classes
    else:
        shape, keep = target.shape, not_ignored(target, ignore_index)
    each = torch.ones(shape, dtype=dtype, device=target.device)
    if weight is not None and elementwise:
        labels = target.shape[min(1, target.ndim - 1)] if target.ndim else 1
        if weight.shape not in ((), (labels,)):
            raise ValueError(f"denominator: weight must have shape () or ({labels},); got {describe(weight)}")
        each = each * along_axis(weight.to(dtype), target.ndim)
    elif weight is not None:
        if weight.ndim != 1 or weight.shape[0] != (classes or weight.shape[0]):
            raise ValueError(f"denominator: weight must have shape ({classes or 'c'},); got {describe(weight)}")
        classes = weight.shape[0]
    if not elementwise and not target.is_floating_point():
        label = torch.where(keep, target, 0).long()
        if classes is not None and not holds(lambda: ((label >= 0) & (label < classes)).all(), label, always_on_cpu=True):
            wrong = label[(label < 0) | (label >= classes)][0].item()
            raise ValueError(f"denominator: target must hold class indices in 0..{classes - 1} or ignore_index={ignore_index}; got {wrong}")
        each = each if weight is None else weight.to(dtype)[label]
    if sample_weight is not None:
        given = sample_weight.shape
        if given != (shape[: len(given)] if elementwise else shape):
            raise ValueError(f"denominator: sample_weight must have shape {tuple(shape)}; got {describe(sample_weight)}")
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
