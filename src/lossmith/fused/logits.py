"""Given logits as a source: any objective of the form ``log_prob`` in the memory of the logits and their gradient."""

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._reduce import times
from lossmith._typing import Bool, Float, Integer
from lossmith._typing import Logits as LogitTensor
from lossmith.fused.engine import Spec
from lossmith.fused.functions import LOG_PROB, given_densely, given_stats, transformed
from lossmith.fused.tiles import working


class Logits:
    r"""Logits that exist already, taken a block at a time: for when the head cannot be had, and memory is short.

    .. math:: \log p_y = -\log\Bigl(1 + \sum_{k \ne y} e^{z_k - z_y}\Bigr)

    ``lossmith.focal_loss(Logits(z), target)`` equals ``lossmith.focal_loss(z, target)`` and its gradient, but holds no softmax and
    no copy in float32 beside the logits: forward and backward need the gradient, and a block of 1 MiB. Where transforms of ``torch.func``
    or second derivatives are asked for, it is computed as for a tensor, with the memory that takes.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, as any objective takes.

    Raises:
        TypeError, ValueError: not a floating-point tensor, or without a class axis.

    Example:
        >>> import torch, lossmith
        >>> from lossmith.fused import Logits
        >>> z, target = torch.randn(6, 50), torch.randint(50, (6,))
        >>> torch.allclose(lossmith.cross_entropy(Logits(z), target), lossmith.cross_entropy(z, target))
        True
    """

    def __init__(self, input: LogitTensor) -> None:
        if not isinstance(input, Tensor) or not input.is_floating_point():
            raise TypeError(f"Logits: input must be a floating-point tensor of logits; got {describe(input)}")
        if input.ndim == 0:
            raise ValueError(f"Logits: input must have shape (c,), (n, c) or (n, c, *d); got {describe(input)}")
        self.input = input

    @property
    def rows(self) -> torch.Size:
        """The shape of a target."""
        axis = min(1, self.input.ndim - 1)
        return self.input.shape[:axis] + self.input.shape[axis + 1 :]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.input.shape[min(1, self.input.ndim - 1)]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its log-probabilities: float32 at least."""
        return working(self.input, self.input)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.input.device

    def _found(self, spec: Spec, label: Tensor, class_weight: Tensor | None = None) -> list[Tensor]:
        """The columns of the whole specification, each in the shape of the rows."""
        z = self.input if self.input.ndim > 1 else self.input.unsqueeze(0)
        n, c = z.shape[:2]
        z, label = z.reshape(n, c, z.shape[2:].numel()), label.reshape(n, -1 if n else label.numel())
        learnt = class_weight is not None and class_weight.requires_grad
        found = (given_densely if transformed() or learnt else given_stats)(z, class_weight, label, spec)
        return [found[..., i].reshape(self.rows) for i in range(found.shape[-1])]

    def target_log_prob(self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """log p_y of every kept row, 0 elsewhere."""
        return self._found(LOG_PROB, torch.where(keep, target, -1))[0]

    def weighted_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], weight: Float[Tensor, "*rows"]
    ) -> Float[Tensor, ""]:
        """The sum over the kept rows of weight_i log p_i."""
        return times(weight, self.target_log_prob(target, keep)).sum()

    def total_log_prob(
        self, target: Integer[Tensor, "*rows"], keep: Bool[Tensor, "*rows"], class_weight: Float[Tensor, " c"] | None
    ) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        """log p_y, and the sum over the classes of w_k log p_k (w = 1 where none is given); 0 in rows that are not kept."""
        spec = Spec(("log_prob", "logsumexp", "mean_logit"), ())
        log_p, lse, mean = self._found(spec, torch.where(keep, target, -1), class_weight)
        if class_weight is None:
            return log_p, self.classes * (mean - lse)
        return log_p, mean - class_weight.sum() * lse

    def __repr__(self) -> str:
        return f"Logits({describe(self.input)})"
