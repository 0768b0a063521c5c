"""Seeded inputs for every form: small ones for the laws of the calling convention, large batches for the searches."""

from typing import NamedTuple

import torch
from torch import Tensor

from lossmith.conformance.registry import ELEMENTS, PAIRS, SETS

SCALES = (0.1, 1.0, 4.0, 12.0)
"""Standard deviations of random logits: near the origin, where networks live, and far out, where they saturate."""


class Problem(NamedTuple):
    """Logits and their target."""

    input: Tensor
    target: Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(20_000 + seed)


def problem(
    form: str,
    seed: int = 0,
    *,
    n: int = 6,
    classes: int = 4,
    extra: tuple[int, ...] | None = None,
    scale: float = 1.0,
    soft: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """A batch of n for a form; `extra` are the axes after the classes (sets have one by default), `soft` gives probabilities.

    A teacher's logits are of scale 1 whatever those of the student are.
    """
    g = generator(seed)
    extra = ((5,) if form in SETS else ()) if extra is None else extra
    shape = (n, *extra) if form == "binary" else (n, classes, *extra)
    input = (scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)
    if form in ELEMENTS:
        t = torch.rand(shape, generator=g, dtype=torch.float64)
        return Problem(input, (t if soft else (t > 0.5).double()).to(dtype))
    if form in PAIRS:
        return Problem(input, torch.randn(shape, generator=g, dtype=torch.float64).to(dtype))
    if soft:
        return Problem(input, torch.softmax(torch.randn(shape, generator=g, dtype=torch.float64), 1).to(dtype))
    # every class is there, in an order that changes with the seed
    labels = torch.arange(n * _volume(extra)) % classes
    return Problem(input, labels[torch.randperm(labels.numel(), generator=g)].reshape(n, *extra))


def _volume(extra: tuple[int, ...]) -> int:
    total = 1
    for size in extra:
        total *= size
    return total


def confident(form: str, target: Tensor, classes: int, size: float, *, right: bool = True) -> Tensor:
    """Logits of the given size that give the target, or its contrary, with all confidence."""
    if form in ELEMENTS:
        sign = 2 * target - 1
        return (size if right else -size) * sign
    if form in PAIRS:  # what the teacher gives most
        target = target.argmax(1)
    axis = 0 if target.ndim == 0 else 1
    label = target if right else (target + 1) % classes
    shape = [1] * (target.ndim + 1)
    shape[axis] = classes
    named = label.unsqueeze(axis) == torch.arange(classes).reshape(shape)
    return size * (2.0 * named.double() - 1.0)


def row_of(form: str, target: Tensor) -> Tensor:
    """Something in the shape of the target's rows: of a teacher, its first class."""
    return target.select(min(1, target.ndim - 1), 0) if form in PAIRS else target


def gradient(loss: Tensor, input: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient, zeros where the loss does not depend on the input."""
    (found,) = torch.autograd.grad(loss, input, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(input) if found is None else found


def leaf(input: Tensor) -> Tensor:
    return input.detach().clone().requires_grad_()
