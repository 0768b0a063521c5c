"""Heads to test on, and the dense computation that the fused one is held to: everything in float64, from the definitions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Problem(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias

    def to(self, dtype: torch.dtype) -> Problem:
        return Problem(*(leaf(tensor.detach().to(dtype)) for tensor in self.inputs), self.target)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def problem(*rows: int, width: int = 5, classes: int = 11, scale: float = 1.0, ignored: bool = True, seed: int = 0) -> Problem:
    """Random hidden states, head, bias and labels; every fifth row ignored."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return leaf(scale * torch.randn(*shape, generator=g, dtype=torch.float64))

    hidden, weight, bias = normal(*rows, width), normal(classes, width), normal(classes)
    target = torch.randint(classes, rows, generator=g)
    if ignored and target.ndim:
        target.view(-1)[1::5] = -100
    return Problem(hidden, weight, bias, target)


def dense(p: Problem, temperature: float | Tensor = 1.0, softcap: float | Tensor | None = None) -> Tensor:
    """The logits, by their definition."""
    z = p.hidden @ p.weight.T + p.bias
    return (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature


def class_axis(z: Tensor) -> Tensor:
    """Logits of rows of any shape, where the objectives expect the classes."""
    return z if z.ndim < 2 else z.movedim(-1, 1)


def log_prob(z: Tensor, target: Tensor) -> Tensor:
    """log p_y by PyTorch, 0 where ignored."""
    return -F.cross_entropy(class_axis(z), target, reduction="none", ignore_index=-100)


def gradients(value: Tensor, inputs: tuple[Tensor, ...], **how: bool) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, **how)


def largest_allocation(call: Callable[[], object]) -> int:
    """The most bytes asked for at once, whoever asks: a mode of dispatch would not see inside the opaque operators."""
    return max(_allocations(call))


def most_held(call: Callable[[], object]) -> int:
    """The most bytes held at a time beyond those held before. What is resident depends on the system too, which takes pages away."""
    return max(accumulate(_allocations(call)))


def _allocations(call: Callable[[], object]) -> list[int]:
    """The bytes taken, and given back, in their order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def assert_close(found: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    """Equal, relative to the largest entry of each tensor: gradients sum over classes, and small entries are sums of large ones."""
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for a, b in pairs:
        largest = b.detach().abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(largest, 1e-300), check_dtype=False)
