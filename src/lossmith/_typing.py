"""The shared shape vocabulary of every signature.

Axes are named as the papers name them: ``n`` items, ``c`` classes, ``*d`` further axes (pixels, tokens), ``*rows`` everything but
the class axis. The annotations are read by people and, in the tests, checked at run time; nothing is decorated, because the
decorators break ``torch.compile(fullgraph=True)``.
"""

from typing import Literal, TypeAlias

from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

Hyper: TypeAlias = float | int | Tensor
"""A hyper-parameter: a number or a 0-d tensor (which may be learnable)."""

Logits: TypeAlias = Float[Tensor, " c"] | Float[Tensor, "n c *d"]
"""Rows of class logits, or of class probabilities: one row, or a batch of them in torch's layout."""
Target: TypeAlias = Integer[Tensor, ""] | Integer[Tensor, "n *d"] | Logits
"""What rows are held to: class indices without the class axis, or class probabilities."""

Reduction: TypeAlias = Literal["none", "mean", "sum"]
Over: TypeAlias = Literal["sample", "batch", "ranks"]

__all__ = ["Bool", "Float", "Hyper", "Integer", "Logits", "Over", "Reduction", "Shaped", "Target", "Tensor"]
