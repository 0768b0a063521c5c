"""How far the fused head's losses and gradients are from the definition on logits in float64: `benchmarks/fused.py --errors`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.divergences import divergence


def row_weights(target: Tensor) -> Tensor:
    return 0.5 + (target % 7) / 7


def entropy_bonus(z: Tensor) -> Tensor:
    return 1e-4 * z.logsumexp(1) ** 2 + 0.01 * (z.softmax(1) * z.log_softmax(1)).sum(1)


def at_three_temperatures(z: Tensor, y: Tensor) -> Tensor:
    return sum((z / t).logsumexp(1) for t in (1.0, 2.0, 4.0)) - 1.75 * z.gather(1, y.unsqueeze(1)).squeeze(1)


def cross_entropy(z: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(z, y, reduction="none", label_smoothing=smoothing)


_DEFINITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "per-token weights": lambda z, y: row_weights(y) * cross_entropy(z, y),
    "focal_loss": lambda z, y: (1 - (-cross_entropy(z, y)).exp()) ** 2 * cross_entropy(z, y),
    "smoothing": lambda z, y: cross_entropy(z, y, 0.1),
    "z-loss and entropy": lambda z, y: cross_entropy(z, y) + entropy_bonus(z),
    "three temperatures": at_three_temperatures,
}
"""Losses of rows of logits."""


def definition(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Losses of rows by (student's logits, teacher's logits, targets)."""
    if "distillation" in name:
        return lambda z, t, y: divergence(t.log_softmax(1), z.log_softmax(1), name.split(", ", 1)[1], log=True)
    of_rows = _DEFINITIONS[name.removeprefix("lossmith ")]
    return lambda z, t, y: of_rows(z, y)


def what_is_computed(name: str) -> str:
    """The variant whose definition this one shares."""
    if "F.kl_div" in name:
        return "lossmith distillation, kl"
    return name.removesuffix(", recompute") if name.startswith("lossmith") else "lossmith cross_entropy"


def exact(name: str, p: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and both gradients in float64, some rows at a time."""
    h, w, t, v = (tensor.detach().double() for tensor in (p.hidden, p.weight, p.teacher_hidden, p.teacher_weight))
    loss, dh, dw, n = w.new_zeros(()), torch.zeros_like(h), torch.zeros_like(w), h.shape[0]
    of_rows = definition(name)
    for rows in torch.arange(n).split(128):
        z = (h[rows] @ w.T).requires_grad_()
        part = of_rows(z, t[rows] @ v.T if "distillation" in name else z, p.target[rows]).sum() / n
        (slope,) = torch.autograd.grad(part, z)
        loss += part.detach()
        dh[rows] = slope @ w
        dw += slope.T @ h[rows]
    return loss, dh, dw


def errors(found: dict[str, Callable[[Any], Tensor]], p: Any) -> None:
    """Print the errors of losses and gradients, and beside them those of the exact gradients when they are rounded to their dtype."""
    print(f"\n{'errors against float64':42}{'loss':>10}{'hidden':>10}{'(rounded)':>10}{'weight':>10}{'(rounded)':>10}")
    known: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, loss in sorted(found.items(), key=lambda pair: what_is_computed(pair[0])):
        what = what_is_computed(name)
        if what not in known:
            known = {what: exact(what, p)}  # the last alone: a head's gradient in float64 is large
        value, *gradients = known[what]
        p.hidden.grad = p.weight.grad = None
        mine = loss(p)
        mine.backward()
        columns = [abs(mine.detach().double() - value) / abs(value)]
        for tensor, gradient in zip((p.hidden, p.weight), gradients, strict=True):
            columns += [(each.double() - gradient).abs().max() / gradient.abs().max() for each in (tensor.grad, gradient.to(tensor.dtype))]
        print(f"{name:42}" + "".join(f"{float(column):10.1e}" for column in columns))
