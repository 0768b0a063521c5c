"""How much is held at once. Needs no triton: a plan asks it, too."""

import torch
from torch import Tensor

from lossmith.fused.tiles import ROWS

WORKSPACE = 2**28
"""Bytes of slopes at a time, where the classes are enough: the products that read them are then long enough to be efficient."""
NARROWEST = 4096
"""Classes of slopes at a time, at least: each time the hidden states' gradient is read and written whole, in float32."""
ALIGNED = 128
"""What numbers of rows and classes at a time are multiples of, so that no tile is cut and every address is aligned."""


def operand(x: Tensor, weight: Tensor) -> torch.dtype:
    """What goes into the matrix products: half precision only where both are in the same."""
    return torch.promote_types(x.dtype, weight.dtype)


def allowance(weight: Tensor) -> int:
    """The bytes that stored exponentials may take unless said otherwise: half the head in float32, or 32 MiB."""
    return max(2**25, weight.numel() * 2)


def stored_rows(x: Tensor, weight: Tensor) -> int:
    """Rows whose exponentials are stored at a time, where gradients are formed in the forward pass.

    As many as are allowed: with every further block of rows the head's gradient is read and written once more, in float32.
    """
    fit = allowance(weight) // (weight.shape[0] * operand(x, weight).itemsize)
    return min(x.shape[0], max(ROWS, fit // ALIGNED * ALIGNED))


def slope_classes(rows: int, classes: int, itemsize: int) -> int:
    """Classes whose slopes are held at a time, for all rows: then the head's gradient is written once, in its own dtype."""
    fit = WORKSPACE // (max(rows, 1) * itemsize) // ALIGNED * ALIGNED
    return min(classes, max(NARROWEST, fit))
