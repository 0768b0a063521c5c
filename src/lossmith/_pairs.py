"""Pairs of rows: a student's logits held to a teacher's, in the same shape.

The row function takes log-probabilities of both, ``row(log_p, log_q)`` with student and teacher `(*rows, c)`, and gives one loss a row.
A temperature divides both rows of logits before they are normalised. Log-probabilities are logits too: those of a teacher who was asked
yesterday may be given as they are. A class of logit -inf is impossible to that side.

The target is a function's argument like any other: **gradients flow into the teacher** where its logits ask for them. A teacher that
does not learn is asked under ``torch.no_grad()``, as one would anyway, or detached by the caller.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._reduce import (
    Call,
    check_floating,
    check_weight,
    divisor,
    full_precision,
    in_dtype,
    read,
    reduce,
    scalar,
    times,
    working_dtype,
)
from lossmith._sources import LogitSource, Source, is_source
from lossmith._typing import Bool, Float, Hyper, Logits


@runtime_checkable
class TeachableSource(LogitSource, Protocol):
    """Logits of a student that need not exist as a tensor, held to a teacher's that need not either."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its statistics."""
        ...

    @property
    def device(self) -> torch.device: ...

    def divergence_from(
        self,
        teacher: Source,
        generator: Any,
        keep: Bool[Tensor, "*rows"],
        *,
        temperature: Hyper = 1.0,
        weight: Float[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"] | Float[Tensor, ""]:
        """The f-divergence of the teacher's prediction from this one, a number a row; with weights, their weighted sum."""
        ...


class Pair(NamedTuple):
    """A call's rows, checked: where the classes are, which rows are kept, and what each counts."""

    axis: int
    keep: Bool[Tensor, "*rows"]
    sample_weight: Float[Tensor, "*rows"] | None
    options: Call

    def rows(self, logits: Logits, temperature: Hyper, dtype: torch.dtype) -> Float[Tensor, "*rows c"]:
        """Log-probabilities at a temperature, classes last, without what the masked rows held."""
        kept = torch.where(self.keep.unsqueeze(self.axis), logits, 0).to(dtype).movedim(self.axis, -1)
        return torch.log_softmax(kept / scalar(temperature, kept), -1)


def of_teacher(
    row: Callable[..., Tensor],
    input: Logits | LogitSource,
    target: Logits | LogitSource,
    options: Mapping[str, Any],
    *,
    temperature: Hyper = 1.0,
    divergence: tuple[Any, Hyper] | None = None,
    **hyper: Any,
) -> Tensor:
    """An objective of a student's and a teacher's log-probabilities.

    `divergence`, a generator and a factor, says that it is no more than a divergence times a factor: then it takes sources of logits.
    """
    opt = read(row, options, {**hyper, "temperature": temperature})
    if not isinstance(input, Tensor) or not isinstance(target, Tensor):
        return _of_sources(opt, input, target, temperature, divergence)
    pair = pair_frame(opt, input, target)
    dtype = torch.promote_types(working_dtype(input), working_dtype(target))
    with full_precision(input):
        hyper = in_dtype(hyper, input)
        value = row(pair.rows(input, temperature, dtype), pair.rows(target, temperature, dtype), **hyper)
        value = value.to(working_dtype(input))  # a float64 teacher of a float32 student makes no float64 loss
        each = torch.ones_like(value) if pair.sample_weight is None else pair.sample_weight
        return reduce(torch.where(pair.keep, each * value, 0), torch.where(pair.keep, each, 0), opt)


def _of_sources(
    opt: Call, input: Logits | LogitSource, target: Logits | LogitSource, temperature: Hyper, divergence: tuple[Any, Hyper] | None
) -> Tensor:
    """The same from sources of logits on both sides; anything else that is no tensor is refused here."""
    if not is_source(input) and not is_source(target):
        pair_frame(opt, input, target)  # which says what is wrong
    if divergence is None:
        raise TypeError(f"{opt.name}: input must be a tensor, for it needs every logit of a row; got a {type(input).__name__}")
    if not (hasattr(input, "divergence_from") and hasattr(target, "divergence_from")):
        came = " and ".join(describe(side) if isinstance(side, Tensor) else f"a {type(side).__name__}" for side in (input, target))
        raise TypeError(f"{opt.name}: input and target must both be tensors of logits, or both be LinearLogits; got {came}")
    student: TeachableSource = input  # type: ignore[assignment]  # what hasattr has seen to; isinstance is refused by Dynamo
    if student.classes < 2:
        raise ValueError(f"{opt.name}: input must have at least 2 classes; got a {type(input).__name__} of {student.classes}")
    assert is_source(target)
    if student.rows != target.rows or student.classes != target.classes:
        raise ValueError(f"{opt.name}: target must have the input's rows and classes; got {target} for {input}")
    each = torch.ones(student.rows, dtype=student.dtype, device=student.device)
    if opt.sample_weight is not None:
        each = check_weight(opt.name, "sample_weight", opt.sample_weight, tuple(student.rows), each).to(student.dtype)
    (generator, factor), keep = divergence, each != 0
    each = torch.where(keep, each, 0)  # a row that is left out has no part in the weights' gradient, as a tensor's has none
    if opt.reduction == "none":
        return times(factor, times(each, student.divergence_from(target, generator, keep, temperature=temperature)))
    weight = each / divisor(each, opt) if opt.reduction == "mean" else each
    return times(factor, student.divergence_from(target, generator, keep, temperature=temperature, weight=weight))


def pair_frame(opt: Call, input: Any, target: Any) -> Pair:
    """Check student and teacher against each other, and find the class axis and the mask."""
    check_floating(opt.name, input)
    if input.ndim == 0 or input.shape[min(1, input.ndim - 1)] < 2:
        shapes = "(c,), (n, c) or (n, c, *d) with at least 2 classes"
        raise ValueError(f"{opt.name}: input must be the student's logits, {shapes}; got {describe(input)}")
    if not isinstance(target, Tensor) or not target.is_floating_point():
        raise TypeError(f"{opt.name}: target must be the teacher's logits, a floating-point tensor; got {describe(target)}")
    if target.shape != input.shape:
        raise ValueError(f"{opt.name}: target must have the input's shape {tuple(input.shape)}, logits for logits; got {describe(target)}")
    if target.device != input.device:
        raise ValueError(f"{opt.name}: target must be on the input's device {input.device}; it is on {target.device}")
    axis = 0 if input.ndim == 1 else 1
    rows = input.shape[:axis] + input.shape[axis + 1 :]
    if opt.sample_weight is None:
        return Pair(axis, torch.ones(rows, dtype=torch.bool, device=input.device), None, opt)
    weight = check_weight(opt.name, "sample_weight", opt.sample_weight, tuple(rows), input)
    return Pair(axis, weight != 0, weight, opt)
