"""A call's rows: its arguments checked against each other, its masks and weights laid on, its losses reduced.

The class axis stays where it is, shapes are static, and nothing is indexed by a boolean: masked rows are replaced *before*
``log_softmax`` and again after the row function, because masking the output alone leaves NaN * 0 in the gradient.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith._checks import describe, holds, is_seen
from lossmith._reduce import Call, check_floating, check_weight, not_ignored, reduce, times, working_dtype
from lossmith._sources import Source, is_source
from lossmith._typing import Bool, Float, Integer, Logits


class Batch(NamedTuple):
    """A call's rows, checked and masked."""

    axis: int
    classes: int
    keep: Bool[Tensor, "*rows"]
    label: Integer[Tensor, "*rows"] | None
    soft: Logits | None
    class_weight: Float[Tensor, " c"] | None
    sample_weight: Float[Tensor, "*rows"] | None
    options: Call
    whole: bool = False
    """Whether every row is known to be kept, so that nothing needs masking."""

    def mask(self, input: Tensor) -> Tensor:
        """The input with every masked row replaced by zeros, so that what it held reaches neither value nor gradient."""
        return input if self.whole and _can_be_saved(input) else torch.where(self.keep.unsqueeze(self.axis), input, 0)

    def like(self, x: Tensor) -> "Batch":
        """The same with its weights in the dtype of x."""
        weights = {name: getattr(self, name) for name in ("class_weight", "sample_weight")}
        return self._replace(**{name: weight.to(x.dtype) for name, weight in weights.items() if weight is not None})

    def per_class(self, weight: Tensor) -> Tensor:
        """A vector over the classes, shaped to broadcast along the class axis where it is."""
        return weight.reshape(-1, *[1] * (self.keep.ndim - self.axis))


def frame(opt: Call, input: Logits | Source, target: Any, *, sources: str | None = None) -> Batch:
    """Check the arguments against each other, and find the class axis, the mask and the labels.

    `sources` is what the objective can do with in place of logits, and so the method of the sources that it takes.
    """
    if is_source(input) and sources is None:
        raise TypeError(f"{opt.name}: input must be a tensor, for it needs every logit of a row; got a {type(input).__name__}")
    if is_source(input) and sources is not None and not hasattr(input, sources):
        raise TypeError(f"{opt.name}: input must be logits or a source with {sources}; got a {type(input).__name__}, which has none")
    axis, rows, classes = _layout(opt, input)
    if not isinstance(target, Tensor) or target.dtype == torch.bool or target.is_complex():
        raise TypeError(f"{opt.name}: target must be integer class indices or class probabilities; got {describe(target)}")
    if isinstance(input, Tensor) and target.device != input.device:
        raise ValueError(f"{opt.name}: target must be on the input's device {input.device}; it is on {target.device}")
    soft = target.is_floating_point()
    if soft:
        _check_soft(opt, input, target, rows)
    elif target.shape != rows:
        raise ValueError(f"{opt.name}: target must have shape {tuple(rows)}, the input's without the classes; got {describe(target)}")
    weight, sample_weight = opt.weight, opt.sample_weight
    if weight is not None:
        weight = check_weight(opt.name, "weight", weight, (classes,), input)
    if sample_weight is not None:
        sample_weight = check_weight(opt.name, "sample_weight", sample_weight, tuple(rows), input)
    elif not soft and _all_labels(opt, target, classes):
        if weight is None and opt.reduction == "mean" and opt.denominator is None:
            opt = opt._replace(denominator=float(target.numel()))
        keep = torch.ones(rows, dtype=torch.bool, device=target.device)
        return Batch(axis, classes, keep, target, None, weight, None, opt, whole=True)
    keep = torch.ones(rows, dtype=torch.bool, device=target.device) if soft else not_ignored(target, opt.ignore_index)
    if sample_weight is not None:
        keep = keep & (sample_weight != 0)
    if soft:
        assert isinstance(input, Tensor)
        probabilities = torch.where(keep.unsqueeze(axis), target, 0).to(working_dtype(input))
        _check_probabilities(opt.name, probabilities, keep, axis)
        return Batch(axis, classes, keep, None, probabilities, weight, sample_weight, opt)
    label = torch.where(keep, target, 0).long()
    _check_indices(opt, label, classes)
    return Batch(axis, classes, keep, label, None, weight, sample_weight, opt)


def _all_labels(opt: Call, target: Integer[Tensor, "*rows"], classes: int) -> bool:
    """Whether the target is seen to be class indices throughout: on the CPU, where a look costs less than masks that mask nothing."""

    def within() -> bool:
        low, high = target.aminmax()
        return low.item() >= 0 and high.item() < classes

    usual = target.dtype == torch.int64 and target.numel() > 0 and not 0 <= opt.ignore_index < classes
    return usual and is_seen(within, target) and _can_be_saved(target)


def _can_be_saved(x: Tensor) -> bool:
    """Whether autograd may save it for a backward pass: not what was made in inference mode, of which a mask makes a tensor like any."""
    return not (x.is_inference() and torch.is_grad_enabled())


def _layout(opt: Call, input: Logits | Source) -> tuple[int, torch.Size, int]:
    """The class axis, the shape of the rows and the number of classes."""
    if is_source(input):
        if input.classes < 2:
            raise ValueError(f"{opt.name}: input must have at least 2 classes; got a {type(input).__name__} of {input.classes}")
        return len(input.rows), input.rows, input.classes
    check_floating(opt.name, input)
    assert isinstance(input, Tensor)  # for the type checker: the line above has seen to it
    if input.ndim == 0:
        raise ValueError(f"{opt.name}: input must have shape (c,), (n, c) or (n, c, *d); got {describe(input)}")
    axis = 0 if input.ndim == 1 else 1
    if input.shape[axis] < 2:
        raise ValueError(
            f"{opt.name}: input must have at least 2 classes along axis {axis}; got {describe(input)}. "
            f"For one logit an answer use lossmith.{opt.card.one_logit}"
        )
    return axis, input.shape[:axis] + input.shape[axis + 1 :], input.shape[axis]


def _check_soft(opt: Call, input: Logits | Source, target: Tensor, rows: torch.Size) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{opt.name}: a {type(input).__name__} takes class indices; got {describe(target)}")
    if target.shape != input.shape:
        raise ValueError(
            f"{opt.name}: target, as class probabilities, must have the input's shape {tuple(input.shape)}; got "
            f"{describe(target)} (class indices are integers of shape {tuple(rows)})"
        )
    if opt.ignore_index != -100:
        raise ValueError(f"{opt.name}: ignore_index has no meaning with class probabilities; remove rows by sample_weight=0")


def _check_indices(opt: Call, label: Integer[Tensor, "*rows"], classes: int) -> None:
    wrong = (label < 0) | (label >= classes)
    if not holds(lambda: ~wrong.any(), label, always_on_cpu=True):
        raise ValueError(
            f"{opt.name}: target must hold class indices in 0..{classes - 1} or ignore_index={opt.ignore_index}; "
            f"got {label[wrong][0].item()}"
        )


def _check_probabilities(name: str, soft: Logits, keep: Bool[Tensor, "*rows"], axis: int) -> None:
    total = soft.sum(axis)
    wrong = keep & ((total - 1).abs() > 1e-3)
    if not holds(lambda: ~wrong.any(), soft):
        got = f"a row that sums to {total[wrong][0].item():.4g}"
    elif not holds(lambda: (soft >= 0).all(), soft):
        got = f"an entry of {soft.min().item():.4g}"
    else:
        return
    raise ValueError(f"{name}: target, as class probabilities, must be >= 0 and sum to 1 over the classes; got {got}")


def weigh(batch: Batch, value: Float[Tensor, "*rows"], *, weighted: bool = False) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
    """Losses times their weights (unless the class weights are in them already), and the weights a mean divides by; 0 where masked."""
    each = torch.ones_like(value)
    if batch.label is not None and batch.class_weight is not None:
        each = batch.class_weight[batch.label]
        value = value if weighted else times(each, value)
    if batch.sample_weight is not None:
        each, value = each * batch.sample_weight, value * batch.sample_weight
    if batch.whole:
        return value, each
    return torch.where(batch.keep, value, 0), torch.where(batch.keep, each, 0)


def finish(batch: Batch, value: Float[Tensor, "*rows"], *, weighted: bool = False) -> Tensor:
    """Losses of rows, weighed, masked and reduced as the call asks."""
    value, each = weigh(batch, value, weighted=weighted)
    return reduce(value, each, batch.options)
