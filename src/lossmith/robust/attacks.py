"""Adversarial inputs: the worst change of an input within a ball, found by following the gradient of the loss.

An attack gives a lower bound on the loss in the ball, and so an upper bound on the accuracy there: a model that withstands it is not
proved robust. The model is called as it is, in training or evaluation mode; its parameters get no gradient.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith._checks import describe
from lossmith._typing import Float, Integer

Norm = Literal["inf", "2"]
NORMS = ("inf", "2")


def fgsm(
    model: Callable[[Tensor], Tensor],
    input: Float[Tensor, "n *x"],
    target: Integer[Tensor, " n"],
    *,
    radius: float,
    bounds: tuple[float, float] | None = None,
    targeted: bool = False,
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> Float[Tensor, "n *x"]:
    r"""The fast gradient sign method: one step of the full radius to where the loss grows fastest in the largest-change norm.

    .. math:: x' = x + \epsilon \operatorname{sign} \nabla_x \ell(f(x), y)

    Args:
        model: f, from a batch of inputs to logits `(n, c)`.
        input: x `(n, *x)`.
        target: y, class indices `(n)`: the right classes; with `targeted`, those that the model is to be led to.
        radius: the epsilon, at least 0, in the input's units.
        bounds: the least and the largest value an input may take, such as (0, 1); None for no bounds.
        targeted: whether to lower the loss of `target` instead of raising it.
        loss: what is followed: a function `(logits, target, reduction="none")`, of torch or of lossmith.

    Returns:
        The changed inputs, detached, in the input's shape and dtype.

    Raises:
        ValueError: `radius` or `bounds` is out of range, or the input lies outside the bounds.

    Source: Goodfellow, Shlens & Szegedy 2015, 'Explaining and Harnessing Adversarial Examples', arXiv:1412.6572.

    Example:
        >>> import torch
        >>> from lossmith.robust import fgsm
        >>> fgsm(lambda x: x, torch.tensor([[2.0, 0.0]]), torch.tensor([0]), radius=0.5)
        tensor([[1.5000, 0.5000]])
    """
    _check("fgsm", input, radius, "inf", 1, None, 1, bounds)
    at = input.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(model(at), target, reduction="none").sum(), at)
    return _within(input.detach() + (-radius if targeted else radius) * slope.sign(), bounds)


def pgd(
    model: Callable[[Tensor], Tensor],
    input: Float[Tensor, "n *x"],
    target: Integer[Tensor, " n"],
    *,
    radius: float,
    norm: Norm = "inf",
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    bounds: tuple[float, float] | None = None,
    targeted: bool = False,
    loss: Callable[..., Tensor] = F.cross_entropy,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *x"]:
    r"""Projected gradient descent: steps along the gradient, each brought back into the ball around the input.

    .. math:: x_{t+1} = \Pi_{B(x, \epsilon)} \bigl( x_t + \alpha\, d(\nabla_x \ell(f(x_t), y)) \bigr)

    with d the sign for the largest-change norm and the unit vector for the Euclidean one. Of all points visited, every row keeps
    the one with the largest loss (the smallest, if targeted), so that more steps and restarts never make an attack weaker.

    Args:
        model: f, from a batch of inputs to logits `(n, c)`.
        input: x `(n, *x)`.
        target: y, class indices `(n)`: the right classes; with `targeted`, those that the model is to be led to.
        radius: the epsilon, at least 0, in the input's units.
        norm: of the ball: "inf" (largest change of a component) or "2" (Euclidean, over all of a row).
        steps: how many, at least 1.
        step_size: alpha; 2.5 radius / steps when None.
        restarts: how many times to begin.
        random_start: whether to begin at a random point of the ball, or at the input itself.
        bounds: the least and the largest value an input may take, such as (0, 1); None for no bounds.
        targeted: whether to lower the loss of `target` instead of raising it.
        loss: what is followed: a function `(logits, target, reduction="none")`, of torch or of lossmith.
        generator: draws the random starts, on the input's device.

    Returns:
        The changed inputs, detached, in the input's shape and dtype.

    Raises:
        ValueError: an argument is out of range, or the input lies outside the bounds.

    Source: Madry et al. 2018, 'Towards Deep Learning Models Resistant to Adversarial Attacks', arXiv:1706.06083.

    Example:
        >>> import torch
        >>> from lossmith.robust import pgd
        >>> moved = pgd(lambda x: x, torch.tensor([[2.0, 0.0]]), torch.tensor([0]), radius=1.0, norm="2", random_start=False)
        >>> moved - torch.tensor([[2.0, 0.0]])
        tensor([[-0.7071,  0.7071]])
    """
    _check("pgd", input, radius, norm, steps, step_size, restarts, bounds)
    x, sign = input.detach(), -1.0 if targeted else 1.0
    alpha = 2.5 * radius / steps if step_size is None else step_size
    best, most = x.clone(), torch.full(x.shape[:1], -math.inf, dtype=torch.float64, device=x.device)
    for _ in range(restarts):
        at = _within(x + _start(x, radius, norm, generator), bounds) if random_start else x.clone()
        for step in range(steps + 1):
            at.requires_grad_()
            with torch.enable_grad():
                each = sign * loss(model(at), target, reduction="none")
                last = step == steps
                slope = None if last else torch.autograd.grad(each.sum(), at)[0]
            at = at.detach()
            better = each.detach() > most
            best = torch.where(_rows(better, x), at, best)
            most = torch.where(better, each.detach().to(most.dtype), most)
            if slope is not None:
                at = _within(x + _project(at + alpha * _direction(slope, norm) - x, radius, norm), bounds)
    return best


def _rows(of: Tensor, like: Tensor) -> Tensor:
    """One value a row, shaped to broadcast over the rest of the row."""
    return of.reshape(-1, *[1] * (like.ndim - 1))


def _length(x: Tensor) -> Tensor:
    return _rows(torch.linalg.vector_norm(x.flatten(1), dim=1), x)


def _direction(slope: Tensor, norm: Norm) -> Tensor:
    """Where the loss grows fastest for a step of length 1; nowhere if it is flat."""
    if norm == "inf":
        return slope.sign()
    length = _length(slope)
    return torch.where(length > 0, slope / torch.where(length > 0, length, 1), 0)


def _project(change: Tensor, radius: float, norm: Norm) -> Tensor:
    """The nearest change within the ball."""
    if norm == "inf":
        return change.clamp(-radius, radius)
    length = _length(change)
    return change * torch.where(length > radius, radius / torch.where(length > 0, length, 1), 1)


def _start(x: Tensor, radius: float, norm: Norm, generator: torch.Generator | None) -> Tensor:
    """A change drawn evenly from the ball."""
    if norm == "inf":
        return radius * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    size = torch.rand(x.shape[:1], generator=generator, dtype=x.dtype, device=x.device) ** (1 / max(1, x[0:1].numel()))
    return radius * _rows(size, x) * _direction(direction, norm)


def _within(x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return x if bounds is None else x.clamp(*bounds)


def _check(
    name: str,
    input: Tensor,
    radius: float,
    norm: Any,
    steps: int,
    step_size: float | None,
    restarts: int,
    bounds: tuple[float, float] | None,
) -> None:
    if not isinstance(input, Tensor) or not input.is_floating_point() or input.ndim < 2:
        raise ValueError(f"{name}: input must be a floating-point tensor (n, *x); got {describe(input)}")
    if not 0 <= radius < math.inf:
        raise ValueError(f"{name}: radius must be at least 0 and finite; got {radius!r}")
    if norm not in NORMS:
        raise ValueError(f"{name}: norm must be one of {', '.join(map(repr, NORMS))}; got {norm!r}")
    for argument, count in (("steps", steps), ("restarts", restarts)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}: {argument} must be a whole number >= 1; got {count!r}")
    if step_size is not None and not 0 <= step_size < math.inf:
        raise ValueError(f"{name}: step_size must be at least 0 and finite; got {step_size!r}")
    if bounds is not None:
        low, high = bounds
        if not low < high:
            raise ValueError(f"{name}: bounds must be (least, largest); got {bounds!r}")
        if input.numel() and not (low <= input.min().item() and input.max().item() <= high):
            raise ValueError(f"{name}: input must lie within bounds={bounds!r}; it goes from {input.min():g} to {input.max():g}")
