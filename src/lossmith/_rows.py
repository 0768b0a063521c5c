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

Each gives one loss a row, and writes in none of its arguments, which may be the caller's own. Class probabilities mean one thing
throughout: the expectation of the loss over labels drawn from them, :math:`\\sum_k t_k w_k \\ell(z, k)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossmith._batch import Batch, finish, frame, weigh
from lossmith._checks import describe
from lossmith._log_softmax import log_softmax
from lossmith._reduce import Call, check_weight, divisor, full_precision, in_dtype, read, times, working_dtype
from lossmith._sources import LogitSource, SoftSource, Source, can_sum, is_source
from lossmith._typing import Bool, Float, Hyper, Integer, Logits, Target


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
    return log_softmax(batch.mask(input), batch.axis, working_dtype(input))


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
