"""Checks that an objective becomes what its card says it becomes, at a value of its hyper-parameters or on the way to it."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossmith._subject import Subject, subject
from lossmith.card import At, Limit, Range
from lossmith.conformance.problems import gradient, leaf, problem
from lossmith.conformance.registry import Failed, Skipped, differ, register

STEPS = range(1, 9)


@register(
    tests="at the stated hyper-parameters the objective equals the stated one; on the way there the difference falls steadily",
    why="a hyper-parameter that does not lead where the paper says is another hyper-parameter",
    cause="a missing factor or sign; cancellation close to the limit: use expm1, log1p or a series",
    seeded=True,
)
def limits(subject: Subject, seed: int) -> str:
    if subject.card is None or not subject.card.limits:
        raise Skipped("it states no limits" if subject.card else "the function has no card")
    parts = [problem(subject.form, seed + i, n=32, scale=scale) for i, scale in enumerate((0.1, 1.0, 4.0))]
    z, y = torch.cat([p.input for p in parts]), torch.cat([p.target for p in parts])
    for place in subject.card.limits:
        expected = _other(place, subject)
        if isinstance(place, At):
            _equal(subject, place, expected, z, y)
        else:
            _approaches(subject, place, expected, z, y)
    return "; ".join(map(str, subject.card.limits))


def _other(place: Limit | At, here: Subject) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(place.equals, str):
        return subject(place.equals).each
    function = place.equals

    def call(input: Tensor, target: Tensor) -> Tensor:
        return function(input, target)

    return call


def _pair(here: Subject, at: Mapping[str, Any], expected: Callable[..., Tensor], z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Ours and the other's losses; reduced, where the other gives but one number."""
    other, ours = expected(z, y), here.each(z, y, **at)
    return (ours, other) if other.shape == ours.shape else (ours.mean(), other.mean())


def _equal(here: Subject, place: At, expected: Callable[..., Tensor], z: Tensor, y: Tensor) -> None:
    input = leaf(z)
    ours, other = _pair(here, place.at, expected, input, y)
    if differ(ours, other, 1e-10):
        worst = int((ours - other).abs().flatten(1 if ours.ndim else 0).reshape(max(len(z), 1) if ours.ndim else 1, -1).amax(1).argmax())
        raise Failed(f"{place}: differs by {(ours - other).abs().max().item():.3g}", input=z[worst], target=y[worst])
    if differ(gradient(ours.sum(), input), gradient(expected(input, y).sum(), input), 1e-8) and ours.ndim:
        raise Failed(f"{place}: the values agree, the gradients do not")


def _approaches(here: Subject, place: Limit, expected: Callable[..., Tensor], z: Tensor, y: Tensor) -> None:
    name, end = next(iter(place.at.items()))
    rest = {k: v for k, v in place.at.items() if k != name}
    allowed = here.card.ranges.get(name) if here.card else None
    for side in (1.0,) if math.isinf(end) else (1.0, -1.0):
        path = [math.copysign(10.0**k, end) if math.isinf(end) else end + side * 10.0**-k for k in STEPS]
        if isinstance(allowed, Range) and any(value not in allowed for value in path):
            continue
        errors, scale = [], 1.0
        for value in path:
            ours, other = _pair(here, {**rest, name: value}, expected, z, y)
            scale = max(1.0, other.abs().max().item())
            errors.append((ours - other).abs().max().item() / scale)
        trail = ", ".join(f"{error:.1e}" for error in errors)
        if place.slowly:  # a difference in proportion to 1 / k at 10^-k is halved from k = 4 to k = 8; one that stays is not
            falls = all(later <= max(sooner, 1e-6) for sooner, later in itertools.pairwise(errors)) and errors[7] <= 0.75 * errors[3]
        else:
            falls = all(later <= max(0.7 * sooner, 1e-6) for sooner, later in itertools.pairwise(errors)) and errors[-1] <= 1e-3
        if not falls:
            raise Failed(f"{place}: on the way there ({name} = {path[0]:g} ... {path[-1]:g}) the difference goes {trail}")
