"""Checks that a masked row is a deleted row: whatever it holds, NaN included, in value, gradient and second derivative."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossmith._subject import Subject
from lossmith.conformance.problems import generator, gradient, leaf, problem
from lossmith.conformance.registry import FORMS, PAIRS, SETS, Failed, Skipped, differ, register

GARBAGE = (float("nan"), float("inf"), -float("inf"), 1e30)
IGNORED = (-100, 255)

Loss = Callable[[Tensor], Tensor]


def _cases(subject: Subject, seed: int, how: str) -> list[tuple[str, Tensor, Tensor, Tensor, Loss, Loss]]:
    """(what, input, gone, kept input, the loss of the whole input, the loss of the kept input alone) for each way to mask."""
    sets = subject.form in SETS
    z, y = problem(subject.form, seed, n=2 if sets else 7, extra=(7,) if sets else None)
    axis = z.ndim - 1 if sets else 0
    gone = torch.tensor([True, False, False, True, False, True, False])
    keep = (~gone).nonzero().squeeze(1)
    z_kept, y_kept = z.index_select(axis, keep), y.index_select(y.ndim - 1 if sets else 0, keep)
    spread = gone.reshape(*[1] * axis, -1, *[1] * (z.ndim - axis - 1)).expand(z.shape)
    spread_y = (gone if sets else gone.reshape(-1, *[1] * (y.ndim - 1))).expand(y.shape)
    reductions = ({"reduction": "mean"}, {"reduction": "sum"}) if subject.takes("reduction") else ({},)
    cases: list[tuple[str, Tensor, Tensor, Tensor, Loss, Loss]] = []

    def add(what: str, target: Tensor, options: dict[str, Any], kept_options: dict[str, Any]) -> None:
        for reduction in reductions:
            cases.append((
                f"{what}{', ' if reduction else ''}{reduction.get('reduction', '')}", z, spread, z_kept,
                lambda x, r=reduction: subject(x, target, **options, **r),
                lambda x, r=reduction: subject(x, y_kept, **kept_options, **r),
            ))  # fmt: skip

    if how == "ignore_index":
        for index in IGNORED:
            add(f"ignore_index={index}", torch.where(spread_y, torch.tensor(index, dtype=y.dtype), y), {"ignore_index": index}, {})
    else:
        kept = 1.0 + torch.arange(len(keep), dtype=torch.float64)
        weights = torch.zeros(7, dtype=torch.float64).index_copy(0, keep, kept)
        per = (lambda w: w.expand(y.shape[0], -1)) if sets else (lambda w: w)
        # the removed rows' labels are garbage too
        bad = torch.where(spread_y, torch.tensor(float("nan") if y.is_floating_point() else 999, dtype=y.dtype), y)
        add("sample_weight=0", bad, {"sample_weight": per(weights)}, {"sample_weight": per(kept)})
    return cases


def _deletes(subject: Subject, seed: int, how: str) -> str:
    if not subject.takes(how):
        raise Skipped(f"the function takes no `{how}`")
    cases = _cases(subject, seed, how)
    for what, z, gone, z_kept, loss, kept_loss in cases:
        clean = leaf(torch.where(gone, 0.0, z))
        value = loss(clean)
        slope = gradient(value, clean)
        alone = leaf(z_kept)
        if differ(value, kept_loss(alone), 1e-11):
            raise Failed(f"{what}: gives {value.item():.8g}, without those rows {kept_loss(alone).item():.8g}", input=clean.detach())
        if differ(slope[~gone].sort().values, gradient(kept_loss(alone), alone).flatten().sort().values, 1e-11):
            raise Failed(f"{what}: the gradient differs from that of the batch without those rows", input=clean.detach())
        for garbage in GARBAGE:
            dirty = leaf(torch.where(gone, garbage, z))
            got = loss(dirty)
            if not torch.equal(got, value):
                raise Failed(f"{what}: {garbage} in the removed rows changes the value from {value.item():.8g} to {got.item():.8g}")
            found = gradient(got, dirty)
            if not torch.equal(found, slope):
                worst = found[gone].flatten()[:1].item() if not found[gone].eq(0).all() else found[~gone].flatten()[:1].item()
                raise Failed(f"{what}: {garbage} in the removed rows changes the gradient, bit for bit; one entry is {worst}")
            if found[gone].count_nonzero():
                raise Failed(f"{what}: the removed rows have a gradient")
    if subject.form in PAIRS:
        _deletes_from_the_teacher(subject, seed)
    return f"{len(cases)} masks x NaN, inf, -inf, 1e30; value and gradient bit-identical, and equal to the batch without the rows"


def _deletes_from_the_teacher(subject: Subject, seed: int) -> None:
    """The teacher's logits may ask for a gradient too, and have none in rows that are removed."""
    z, y = problem(subject.form, seed, n=7)
    gone = torch.tensor([True, False, False, True, False, True, False])
    for garbage in GARBAGE:
        teacher = leaf(torch.where(gone.unsqueeze(1), garbage, y))
        slope = gradient(subject(z, teacher, sample_weight=(~gone).double()), teacher)
        if not slope.isfinite().all() or slope[gone].count_nonzero():
            raise Failed(f"sample_weight=0: {garbage} in the removed rows of the teacher reaches its gradient")


@register(
    tests="rows with `ignore_index` are as if deleted, in value and gradient bit for bit, whatever they hold",
    why="padding holds anything; where it leaks NaN into the gradient a run dies, where it leaks numbers nobody notices",
    cause="masking the loss by multiplication, or after log_softmax: NaN * 0 is NaN in the backward pass",
    forms=FORMS,
)
def ignore_index_deletes(subject: Subject, seed: int) -> str:
    return _deletes(subject, seed, "ignore_index")


@register(
    tests="rows with `sample_weight` 0 are as if deleted, in value and gradient bit for bit, whatever they and their labels hold",
    why="a zero weight is how a row is removed; with soft targets there is no other way",
    cause="multiplying by the weight: 0 * NaN is NaN",
    forms=FORMS,
)
def sample_weight_deletes(subject: Subject, seed: int) -> str:
    return _deletes(subject, seed, "sample_weight")


@register(
    tests="masked rows reach no second derivative: it is finite, 0 in the masked rows, and that of the batch without them",
    why="gradient penalties, meta-learning and influence functions differentiate twice",
    cause="a mask after the function instead of before it, or a custom backward that forgets the mask",
    forms=FORMS,
)
def masked_double_backward(subject: Subject, seed: int) -> str:
    ways = [how for how in ("ignore_index", "sample_weight") if subject.takes(how)]
    if not ways:
        raise Skipped("the function takes neither `ignore_index` nor `sample_weight`")
    tried = 0
    for how in ways:
        for what, z, gone, z_kept, loss, kept_loss in _cases(subject, seed, how)[:1]:
            direction = torch.randn(z.shape, generator=generator(seed), dtype=torch.float64)
            dirty, alone = leaf(torch.where(gone, float("nan"), z)), leaf(z_kept)
            first = gradient(loss(dirty), dirty, create_graph=True)
            if not first.requires_grad:
                continue
            second = gradient((torch.where(gone, 0.0, first) * direction).sum(), dirty)
            kept_first = gradient(kept_loss(alone), alone, create_graph=True)
            expected = gradient((kept_first * direction[~gone].reshape(alone.shape)).sum(), alone)
            if not second.isfinite().all():
                raise Failed(f"{what}: the second derivative holds {second[~second.isfinite()][0].item()}")
            if second[gone].count_nonzero():
                raise Failed(f"{what}: the removed rows have a second derivative")
            if differ(second[~gone].reshape(alone.shape), expected, 1e-10):
                raise Failed(f"{what}: the second derivative differs from that of the batch without those rows")
            tried += 1
    if not tried:
        raise Skipped("piecewise linear: there is no second derivative to follow")
    return "NaN in the masked rows; the Hessian times a random direction"
