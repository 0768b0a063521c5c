"""Where torch's shapes, masks, weights and reductions become plain rows of classes, and back.

An objective's author writes a function on rows; the library adds torch's shapes ``(c,)``, ``(n, c)``, ``(n, c, *d)``, class indices
and class probabilities, weights, masks, reductions, dtype rules and checks. Three forms, by what the row function takes:

=============  =========================================================  ==================================================
form           row function                                               contract
=============  =========================================================  ==================================================
``log_prob``   ``row(log_p_y)``                                           elementwise in the target's log-probability
``log_probs``  ``row(log_p_y, log_p)``, ``log_p`` one trailing axis more  reduces ``log_p`` over its last axis, and no other use
``logits``     ``row(z, y)``, ``z`` `(*rows, c)`, ``y`` `(*rows)` indices  anything, along the last axis of ``z``
=============  =========================================================  ==================================================

Each gives one loss a row. Class probabilities mean one thing throughout: the expectation of the loss over labels drawn from them,
:math:`\\sum_k t_k w_k \\ell(z, k)`. The class axis stays where it is, shapes are static, and nothing is indexed by a boolean: masked
rows are replaced *before* ``log_softmax`` and again after the row function, because masking the output alone leaves NaN * 0 in the
gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith._checks import describe, holds
from lossmith._reduce import (
    Call,
    check_floating,
    check_weight,
    divisor,
    full_precision,
    in_dtype,
    not_ignored,
    read,
    reduce,
    times,
    working_dtype,
)
from lossmith._typing import Bool, Float, Hyper, Integer, Logits, Target


@runtime_checkable
class Source(Protocol):
    """Logits that need not exist as a tensor."""

    @property
    def rows(self) -> torch.Size:
        """The shape of an index target."""
        ...

    @property
    def classes(self) -> int: ...


@runtime_checkable
class LogitSource(Source, Protocol):
    """What an objective of the form ``log_prob`` asks of them."""

    def target_log_prob(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """log p_y of every kept row; rows that are not kept may hold any finite number."""
        ...


@runtime_checkable
class SummingSource(LogitSource, Protocol):
    """A source that can also sum: over the classes, which label smoothing asks for, and over the rows.

    Told the weights of the rows' sum in advance, it may form gradients while the logits are at hand.
    """

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its log-probabilities."""
        ...

    @property
    def device(self) -> torch.device: ...

    def total_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], class_weight: Float[Tensor, " c"] | None
    ) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        """log p_y, and the sum over the classes of w_k log p_k (w = 1 where none is given)."""
        ...

    def weighted_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], weight: Float[Tensor, "*rows"]
    ) -> Float[Tensor, ""]:
        """The sum over the kept rows of weight_i log p_i."""
        ...


@runtime_checkable
class SoftSource(SummingSource, Protocol):
    """A source that can also be held to another source's prediction, as a tensor of logits to class probabilities."""

    def cross_entropy_to(
        self,
        teacher: Source,
        keep: Bool[Tensor, "*rows"],
        class_weight: Float[Tensor, " c"] | None,
        *,
        weight: Float[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"] | Float[Tensor, ""]:
        """-sum_k w_k q_k log p_k with the teacher's prediction q, a number a row; with weights, their weighted sum."""
        ...


def is_source(x: object) -> TypeGuard[Source]:
    """Whether it stands for logits, of whose rows it knows log-probabilities or moments. (Dynamo answers ``isinstance`` wrongly.)"""
    return not isinstance(x, Tensor) and (hasattr(x, "target_log_prob") or hasattr(x, "target_moments"))


def can_sum(x: LogitSource) -> TypeGuard[SummingSource]:
    return hasattr(x, "weighted_log_prob")


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

    def mask(self, input: Tensor) -> Tensor:
        """The input with every masked row replaced by zeros, so that what it held reaches neither value nor gradient."""
        return torch.where(self.keep.unsqueeze(self.axis), input, 0)

    def like(self, x: Tensor) -> "Batch":
        """The same with its weights in the dtype of x."""
        weights = {name: getattr(self, name) for name in ("class_weight", "sample_weight")}
        return self._replace(**{name: weight.to(x.dtype) for name, weight in weights.items() if weight is not None})

    def per_class(self, weight: Tensor) -> Tensor:
        """A vector over the classes, shaped to broadcast along the class axis where it is."""
        return weight.reshape(-1, *[1] * (self.keep.ndim - self.axis))


def of_log_prob(
    row: Callable[..., Tensor],
    input: Logits | LogitSource,
    target: Target | LogitSource,
    options: Mapping[str, Any],
    *,
    smoothing: Hyper = 0.0,
    slope: float | None = None,
    **hyper: Any,
) -> Tensor:
    """An objective of the target's log-probability alone; `smoothing` mixes the target with the uniform distribution.

    `slope` says that the row function is no more than `slope * log_p`, which spares a source of logits work.
    """
    opt = read(row, options, {**hyper, "label_smoothing": smoothing})
    if not isinstance(target, Tensor) and is_source(target):
        return _of_two_sources(opt, input, target, smoothing, slope)
    batch = frame(opt, input, target, sources="target_log_prob")
    smooth = isinstance(smoothing, Tensor) or smoothing != 0
    if not isinstance(input, Tensor):
        return _of_source(batch, row, input, hyper, smoothing if smooth else None, slope)
    with full_precision(input):
        log_p = log_probabilities(batch, input)
        hyper, smoothing = in_dtype(hyper, log_p), in_dtype({"by": smoothing}, log_p)["by"]
        if smooth:
            return finish(batch, _smoothed(batch, row, log_p, smoothing, hyper), weighted=True)
        return finish(batch, expected(batch, log_p, lambda lp: row(lp, **hyper)))


def _of_source(
    batch: Batch, row: Callable[..., Tensor], source: LogitSource, hyper: Mapping[str, Any], smoothing: Hyper | None, slope: float | None
) -> Tensor:
    """The same from a source of logits: by its log-probabilities, or by its own sums where the row function is linear in them."""
    label, opt = batch.label, batch.options
    assert label is not None  # a source of logits takes class indices only
    if slope is None or not can_sum(source):
        if smoothing is not None:
            raise TypeError(f"{opt.name}: a {type(source).__name__} takes no label smoothing; got {smoothing}")
        log_p = source.target_log_prob(label, batch.keep)
        with full_precision(log_p):
            return finish(batch.like(log_p), row(log_p, **in_dtype(hyper, log_p)))
    batch = batch.like(torch.empty(0, dtype=source.dtype, device=label.device))
    if smoothing is not None:
        log_p, total = source.total_log_prob(label, batch.keep, batch.class_weight)
        share = in_dtype({"of": smoothing}, log_p)["of"]
        hard = log_p if batch.class_weight is None else times(batch.class_weight[label], log_p)
        value = times(1 - share, hard) + times(share / batch.classes, total)
        return finish(batch, slope * value, weighted=True)
    if opt.reduction == "none":
        return finish(batch, slope * source.target_log_prob(label, batch.keep))
    _, each = weigh(batch, torch.ones(batch.keep.shape, dtype=source.dtype, device=label.device))
    return source.weighted_log_prob(label, batch.keep, slope * each / (divisor(each, opt) if opt.reduction == "mean" else 1.0))


def _of_two_sources(opt: Call, source: Logits | LogitSource, target: Source, smoothing: Hyper, slope: float | None) -> Tensor:
    """The same against class probabilities that are the prediction of another source."""
    if slope is None:
        raise TypeError(f"{opt.name}: target must be class indices for a {type(source).__name__}; got a {type(target).__name__}")
    if not (hasattr(source, "cross_entropy_to") and hasattr(target, "cross_entropy_to")):
        came = describe(source) if isinstance(source, Tensor) else f"a {type(source).__name__}"
        raise TypeError(
            f"{opt.name}: a target that is a source of logits goes with an input that is one too, both LinearLogits; got {came} and "
            f"a {type(target).__name__}"
        )
    student: SoftSource = source  # type: ignore[assignment]  # what hasattr has seen to; isinstance is refused by Dynamo
    if student.classes < 2:
        raise ValueError(f"{opt.name}: input must have at least 2 classes; got {source}")
    if student.rows != target.rows or student.classes != target.classes:
        raise ValueError(f"{opt.name}: target must have the input's rows and classes; got {target} for {source}")
    if opt.ignore_index != -100:
        raise ValueError(f"{opt.name}: ignore_index has no meaning with class probabilities; remove rows by sample_weight=0")
    if isinstance(smoothing, Tensor) or smoothing != 0:
        raise TypeError(f"{opt.name}: label_smoothing goes with class indices for a {type(source).__name__}; got {smoothing} beside a head")
    each = torch.ones(student.rows, dtype=student.dtype, device=student.device)
    if opt.sample_weight is not None:
        each = check_weight(opt.name, "sample_weight", opt.sample_weight, tuple(student.rows), each).to(student.dtype)
    v, keep = opt.weight, each != 0
    if v is not None:
        v = check_weight(opt.name, "weight", v, (student.classes,), each).to(student.dtype)
    if opt.reduction == "none":
        return -slope * times(each, student.cross_entropy_to(target, keep, v))
    weight = each / divisor(each, opt) if opt.reduction == "mean" else each
    return -slope * student.cross_entropy_to(target, keep, v, weight=weight)


def log_probabilities(batch: Batch, input: Logits) -> Logits:
    """log p of every class, in float32 at least, without what the masked rows held."""
    return F.log_softmax(batch.mask(input), batch.axis, dtype=working_dtype(input))


def expected(batch: Batch, log_p: Logits, row: Callable[[Tensor], Tensor]) -> Float[Tensor, "*rows"]:
    """A function of the target's log-probability: at the label, or in expectation over class probabilities."""
    if batch.label is None:
        return expectation(batch, row, log_p)
    return row(_pick(log_p, batch.label, batch.axis))


def of_log_probs(
    row: Callable[..., Tensor],
    input: Logits,
    target: Target,
    options: Mapping[str, Any],
    **hyper: Any,
) -> Tensor:
    """An objective of the target's log-probability and of sums over the row of all log-probabilities."""
    opt = read(row, options, hyper)
    batch = frame(opt, input, target)
    with full_precision(input):
        hyper = in_dtype(hyper, input)
        log_p = log_probabilities(batch, input).movedim(batch.axis, -1)
        if batch.label is not None:
            return finish(batch, row(_pick(log_p, batch.label, -1), log_p, **hyper))
        # every class in turn as the label: log_p of shape (*rows, 1, c) broadcasts, and nothing of size c x c is held
        each = row(log_p, log_p.unsqueeze(-2), **hyper).movedim(-1, batch.axis)
        return finish(batch, expectation(batch, lambda value: value, each))


def of_logits(
    row: Callable[..., Tensor],
    input: Logits,
    target: Target,
    options: Mapping[str, Any],
    **hyper: Any,
) -> Tensor:
    """An objective of the row of logits and the label. Class probabilities cost a factor c in memory here, not in the other forms."""
    opt = read(row, options, hyper)
    batch = frame(opt, input, target)
    with full_precision(input):
        hyper = in_dtype(hyper, input)
        z = batch.mask(input).to(working_dtype(input)).movedim(batch.axis, -1)
        if batch.label is not None:
            return finish(batch, row(z, batch.label, **hyper))
        every = torch.arange(batch.classes, device=z.device).expand(*z.shape[:-1], -1)
        each = row(z.unsqueeze(-2).expand(*z.shape, -1), every, **hyper).movedim(-1, batch.axis)
        return finish(batch, expectation(batch, lambda value: value, each))


def pick(z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """The label's entry of every row."""
    return _pick(z, y, -1)


def is_label(z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"]) -> Bool[Tensor, "*rows c"]:
    """Which entries are the label's. (``F.one_hot`` fails under ``vmap(grad)``.)"""
    return y.unsqueeze(-1) == torch.arange(z.shape[-1], device=z.device)


def _pick(x: Tensor, label: Tensor, axis: int) -> Tensor:
    return x.gather(axis, label.unsqueeze(axis)).squeeze(axis)


def expectation(batch: Batch, row: Callable[[Tensor], Tensor], x: Logits) -> Float[Tensor, "*rows"]:
    """sum_k t_k w_k row(x_k). A class of probability 0 is left out, value and gradient: its loss may be infinite."""
    assert batch.soft is not None
    named = batch.soft != 0
    value = torch.where(named, row(torch.where(named, x, 0)), 0) * batch.soft
    if batch.class_weight is not None:
        value = times(batch.per_class(batch.class_weight), value)
    return value.sum(batch.axis)


def _smoothed(
    batch: Batch, row: Callable[..., Tensor], log_p: Tensor, smoothing: Hyper, hyper: Mapping[str, Any]
) -> Float[Tensor, "*rows"]:
    """The loss against (1 - s) target + s / c, weighed by class as torch weighs it."""
    if batch.label is None:
        assert batch.soft is not None
        batch = batch._replace(soft=batch.soft * (1 - smoothing) + smoothing / batch.classes)
        return expectation(batch, lambda lp: row(lp, **hyper), log_p)
    every = row(log_p, **hyper)
    hard = row(_pick(log_p, batch.label, batch.axis), **hyper)
    if batch.class_weight is not None:
        every = times(batch.per_class(batch.class_weight), every)
        hard = times(batch.class_weight[batch.label], hard)
    return times(1 - smoothing, hard) + times(smoothing / batch.classes, every.sum(batch.axis))


def weigh(batch: Batch, value: Float[Tensor, "*rows"], *, weighted: bool = False) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
    """Losses times their weights (unless the class weights are in them already), and the weights a mean divides by; 0 where masked."""
    each = torch.ones_like(value)
    if batch.label is not None and batch.class_weight is not None:
        each = batch.class_weight[batch.label]
        value = value if weighted else times(each, value)
    if batch.sample_weight is not None:
        each, value = each * batch.sample_weight, value * batch.sample_weight
    return torch.where(batch.keep, value, 0), torch.where(batch.keep, each, 0)


def finish(batch: Batch, value: Float[Tensor, "*rows"], *, weighted: bool = False) -> Tensor:
    """Losses of rows, weighed, masked and reduced as the call asks."""
    value, each = weigh(batch, value, weighted=weighted)
    return reduce(value, each, batch.options)


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
    if target.is_floating_point():
        _check_soft(opt, input, target, rows)
        keep = torch.ones(rows, dtype=torch.bool, device=target.device)
    else:
        if target.shape != rows:
            raise ValueError(f"{opt.name}: target must have shape {tuple(rows)}, the input's without the classes; got {describe(target)}")
        keep = not_ignored(target, opt.ignore_index)
    weight, sample_weight = opt.weight, opt.sample_weight
    if weight is not None:
        weight = check_weight(opt.name, "weight", weight, (classes,), input)
    if sample_weight is not None:
        sample_weight = check_weight(opt.name, "sample_weight", sample_weight, tuple(rows), input)
        keep = keep & (sample_weight != 0)
    if target.is_floating_point():
        assert isinstance(input, Tensor)
        soft = torch.where(keep.unsqueeze(axis), target, 0).to(working_dtype(input))
        _check_probabilities(opt.name, soft, keep, axis)
        return Batch(axis, classes, keep, None, soft, weight, sample_weight, opt)
    label = torch.where(keep, target, 0).long()
    _check_indices(opt, label, classes)
    return Batch(axis, classes, keep, label, None, weight, sample_weight, opt)


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
