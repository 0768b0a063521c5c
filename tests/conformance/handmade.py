"""Correct objectives built from parts that can be exchanged: each planted bug is one of these with one part broken."""

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from lossmith._batch import frame, weigh
from lossmith._binary import binary_frame
from lossmith._pairs import pair_frame
from lossmith._reduce import along_axis, full_precision, read, reduce, working_dtype
from lossmith._rows import expected, log_probabilities
from lossmith._sets import of_counts
from lossmith.card import Card, Claims, Range, aside, objective

LOG_LOSS = Claims(
    convex=True, proper=True, calibrated=True, symmetric=False, shift_invariant=True, class_symmetric=True, growth="linear",
    bounds=lambda: (0.0, float("inf")),
)  # fmt: skip
ABSOLUTE = Claims(
    convex=False, proper=False, calibrated=True, symmetric=True, shift_invariant=True, class_symmetric=True, growth="bounded",
    bounds=lambda: (0.0, 1.0),
)  # fmt: skip
FOCAL = Claims(
    proper=False, symmetric=False, shift_invariant=True, class_symmetric=True, growth="linear", bounds=lambda: (0.0, float("inf"))
)
BINARY = Claims(convex=True, proper=True, calibrated=True, symmetric=False, shift_invariant=False, class_symmetric=True, growth="linear")
PAIR = Claims(
    convex=True, proper=True, calibrated=True, symmetric=False, shift_invariant=True, class_symmetric=True, growth="linear",
    bounds=lambda: (0.0, float("inf")),
)  # fmt: skip
DICE = Claims(convex=False, shift_invariant=True, class_symmetric=True, growth="bounded")


def log_loss(log_p):
    return -log_p


def absolute(log_p):
    return -torch.expm1(log_p)


def focal(log_p, gamma):
    return -((-torch.expm1(log_p)) ** gamma) * log_p


def card(name: str, form: str, call: Callable[..., Any], row: Callable[..., Any], claims: Claims, hyper: Mapping[str, float], **facts: Any):
    """Give `call(input, target, hyper, options)` a card, without registering it."""

    def function(input, target, **options):
        return call(input, target, {key: options.pop(key, default) for key, default in hyper.items()}, options)

    kinds = inspect.Parameter
    function.__name__ = name
    function.__signature__ = inspect.Signature(
        [kinds(key, kinds.POSITIONAL_OR_KEYWORD) for key in ("input", "target")]
        + [kinds(key, kinds.KEYWORD_ONLY, default=default) for key, default in hyper.items()]
        + [kinds("options", kinds.VAR_KEYWORD)]
    )
    with aside():
        objective(
            row=row, form=form, source="made by hand", summary="-", use_when="testing", formula="-", claims=claims,
            ranges={key: Range(0, 10) for key in hyper}, **facts,
        )(function)  # fmt: skip
    return row.card


def rows(name: str, mathematics=log_loss, claims: Claims = LOG_LOSS, *, hyper: Mapping[str, float] | None = None, **parts: Any) -> Card:
    """An objective of the target's log-probability. Its parts: guard, batch, log_p, value, weigh, finish, and whatever `card` takes."""
    part = SimpleNamespace(
        **{
            "read": read,
            "guard": full_precision,
            "batch": frame,
            "log_p": log_probabilities,
            "value": expected,
            "weigh": weigh,
            "finish": lambda value, each, batch: reduce(value, each, batch.options),
        }
        | {key: parts.pop(key) for key in ("read", "guard", "batch", "log_p", "value", "weigh", "finish") if key in parts}
    )

    def row(*values, **hyper):
        return mathematics(*values, **hyper)

    def call(input, target, hyper, options):
        opt = part.read(row, options, hyper)
        batch = part.batch(opt, input, target)
        with part.guard(input):
            log_p = part.log_p(batch, input)
            value = part.value(batch, log_p, lambda lp: mathematics(lp, **hyper))
            return part.finish(*part.weigh(batch, value), batch)

    return card(name, "log_prob", call, row, claims, hyper or {}, **parts)


def binary(name: str, *, pos_weight: bool = True, counts_pos_weight: bool = False, guarded: bool = True) -> Card:
    """Binary cross-entropy; without `pos_weight` it takes the option and does nothing with it."""

    def row(z):
        return torch.nn.functional.softplus(-z), torch.nn.functional.softplus(z)

    def call(input, target, hyper, options):
        opt = read(row, options, hyper)
        t, keep, each = binary_frame(opt, input, target)
        yes, no = row(torch.where(keep, input, 0).to(t.dtype))
        if opt.pos_weight is not None and pos_weight:
            yes = yes * along_axis(_checked(opt, "pos_weight", input), input.ndim)
        if guarded:
            yes, no = torch.where(t != 0, yes, 0), torch.where(t != 1, no, 0)
        value = yes * t + no * (1 - t)
        if opt.weight is not None:
            each = each * along_axis(_checked(opt, "weight", input), input.ndim)
        if opt.pos_weight is not None:
            _checked(opt, "pos_weight", input)
        value = value * each
        if counts_pos_weight and opt.pos_weight is not None:
            each = each * torch.where(t > 0, along_axis(_checked(opt, "pos_weight", input), input.ndim), 1.0)
        return reduce(torch.where(keep, value, 0), torch.where(keep, each, 0), opt)

    return card(name, "binary", call, row, BINARY, {})


def _checked(opt, argument, input):
    weight = getattr(opt, argument)
    if weight.ndim and weight.shape != (input.shape[min(1, input.ndim - 1)],):
        raise ValueError(f"{opt.name}: {argument} must have one entry a label; got {tuple(weight.shape)}")
    return weight.to(working_dtype(input))


def dice(name: str, *, ignores: bool = True, position: bool = False) -> Card:
    """Soft Dice, once by the library's own counts, once with masked elements in its denominator, once with weights by position."""

    def row(overlap, predicted, actual):
        return 1 - (2 * overlap + 1e-5) / (predicted + actual + 1e-5)

    def call(input, target, hyper, options):
        if ignores and not position:
            return of_counts(row, input, target, options)
        opt = read(row, options, hyper)
        batch = frame(opt, input, target)
        p = torch.softmax(batch.mask(input), 1, dtype=working_dtype(input))
        named = batch.label.unsqueeze(1) == batch.per_class(torch.arange(batch.classes))
        keep = batch.keep.unsqueeze(1)
        axes = list(range(2, input.ndim))
        if position:
            p = p * torch.linspace(0.9, 1.0, p.shape[-1], dtype=p.dtype)
        counted = torch.where(keep, p, 0) if ignores else p
        loss = row((torch.where(keep, p, 0) * named).sum(axes), counted.sum(axes), (keep & named).sum(axes))
        return loss if opt.reduction == "none" else loss.sum() if opt.reduction == "sum" else loss.mean()

    return card(name, "set", call, row, DICE, {})


def pair(name: str, mathematics=None, *, masks_teacher: bool = True, teacher_temperature: float = 1.0) -> Card:
    """The forward divergence of a teacher from a student; without `masks_teacher` its removed rows are masked in the value alone."""

    def row(log_p, log_q):
        if mathematics is not None:
            return mathematics(log_p, log_q)
        both = log_p.isneginf() & log_q.isneginf()
        log_p, log_q = torch.where(both, 0, log_p), torch.where(both, 0, log_q)
        impossible = log_q.isneginf()
        return torch.where(both | impossible, 0, log_q.exp() * (torch.where(impossible, 0, log_q) - log_p)).sum(-1)

    def call(input, target, hyper, options):
        opt = read(row, options, hyper)
        frame_of = pair_frame(opt, input, target)
        dtype = working_dtype(input)
        log_p = frame_of.rows(input, 1.0, dtype)
        kept = frame_of if masks_teacher else frame_of._replace(keep=torch.ones_like(frame_of.keep))
        value = row(log_p, kept.rows(target, teacher_temperature, dtype))
        each = torch.ones_like(value) if frame_of.sample_weight is None else frame_of.sample_weight
        return reduce(torch.where(frame_of.keep, each * value, 0), torch.where(frame_of.keep, each, 0), opt)

    return card(name, "teacher", call, row, PAIR, {})
