"""Single logits, each answered yes or no: the binary and the multi-label form.

The row function takes the logit and gives **two** losses, if the answer is yes and if it is no: ``row(z) -> (if_yes, if_no)``. A target
in [0, 1] means the expectation over the answer, as class probabilities do for rows, and `pos_weight` weighs the first alone:

.. math:: w\\,[\\,w_+\\, t\\, \\ell_{yes}(z) + (1 - t)\\, \\ell_{no}(z)\\,]

Input and target have the same shape, whatever it is; labels lie along axis 1 (``(n, l)``, ``(n, l, *d)``).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe, holds
from lossmith._reduce import (
    Call,
    along_axis,
    check_floating,
    check_weight,
    full_precision,
    in_dtype,
    not_ignored,
    read,
    reduce,
    times,
    trailing,
    working_dtype,
)
from lossmith._typing import Bool, Float, Hyper, Integer


def of_binary(
    row: Callable[..., tuple[Tensor, Tensor]],
    input: Float[Tensor, "*n"],
    target: Float[Tensor, "*n"] | Integer[Tensor, "*n"] | Bool[Tensor, "*n"],
    options: Mapping[str, Any],
    **hyper: Hyper,
) -> Tensor:
    """An objective of one logit and its target in [0, 1], elementwise."""
    opt = read(row, options, hyper)
    t, keep, each = binary_frame(opt, input, target)
    with full_precision(input):
        if_yes, if_no = row(torch.where(keep, input, 0).to(t.dtype), **in_dtype(hyper, input))
        if opt.pos_weight is not None:
            if_yes = times(per_label(opt, "pos_weight", input), if_yes)
        # an answer of probability 0 is left out, value and gradient: its loss may be infinite
        value = torch.where(t != 0, if_yes, 0) * t + torch.where(t != 1, if_no, 0) * (1 - t)
        if opt.weight is not None:
            each = each * per_label(opt, "weight", input)
        return reduce(torch.where(keep, times(each, value), 0), torch.where(keep, each, 0), opt)


def binary_frame(opt: Call, input: Tensor, target: Tensor) -> tuple[Tensor, Bool[Tensor, "*n"], Float[Tensor, "*n"]]:
    """The targets as numbers, which elements are kept, and their sample weights, after the checks."""
    _check(opt, input, target)
    dtype = working_dtype(input)
    keep = not_ignored(target, opt.ignore_index)
    each = torch.ones((), dtype=dtype, device=input.device).expand(input.shape)
    if opt.sample_weight is not None:
        shape = opt.sample_weight.shape if isinstance(opt.sample_weight, Tensor) else input.shape
        if len(shape) == 0 or shape != input.shape[: len(shape)]:
            raise ValueError(
                f"{opt.name}: sample_weight must have the input's shape {tuple(input.shape)} or its leading axes; "
                f"got {describe(opt.sample_weight)}"
            )
        each = trailing(check_weight(opt.name, "sample_weight", opt.sample_weight, tuple(shape), input), input.ndim)
        each = each.expand(input.shape)
        keep = keep & (each != 0)
    t = torch.where(keep, target, 0).to(dtype)
    _check_target(opt, t)
    return t, keep, each


def _check(opt: Call, input: Tensor, target: Tensor) -> None:
    check_floating(opt.name, input)
    if not isinstance(target, Tensor) or target.is_complex():
        raise TypeError(f"{opt.name}: target must be a tensor of numbers in [0, 1]; got {describe(target)}")
    if target.shape != input.shape:
        raise ValueError(
            f"{opt.name}: target must have the input's shape {tuple(input.shape)}, one number in [0, 1] a logit; got {describe(target)}"
        )
    if opt.card.form == "multilabel" and input.ndim < 2:
        raise ValueError(f"{opt.name}: input must have shape (n, l) or (n, l, *d), a logit a label; got {describe(input)}")
    if target.device != input.device:
        raise ValueError(f"{opt.name}: target must be on the input's device {input.device}; it is on {target.device}")


def _check_target(opt: Call, t: Tensor) -> None:
    wrong = ~((t >= 0) & (t <= 1))  # NaN is no such number either
    if not holds(lambda: ~wrong.any(), t, always_on_cpu=True):
        raise ValueError(f"{opt.name}: target must hold numbers in [0, 1] or ignore_index={opt.ignore_index}; got {t[wrong][0].item():g}")


def finite(z: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Logits with the largest numbers in place of infinities, so that a factor of 0 takes a loss to 0 and not to NaN."""
    largest = torch.finfo(z.dtype).max
    return z.clamp(-largest, largest)


def per_label(opt: Call, argument: str, input: Tensor) -> Tensor:
    """A weight of shape () or (labels,), along axis 1."""
    weight = getattr(opt, argument)
    labels = input.shape[min(1, input.ndim - 1)] if input.ndim else 1
    shape = () if isinstance(weight, Tensor) and weight.ndim == 0 else (labels,)
    if isinstance(weight, Tensor) and weight.shape != shape:
        raise ValueError(f"{opt.name}: {argument} must have shape () or ({labels},), one a label; got {describe(weight)}")
    return along_axis(check_weight(opt.name, argument, weight, shape, input), input.ndim)
