"""log_softmax, in the same bits sooner where a row is shorter than the processor's vectors.

On the CPU torch goes along the last axis row by row. A row of ten classes fills ten of sixteen lanes and is then summed lane by lane; along
the first axis sixteen rows are sixteen lanes and nothing is left to do but add. Both add a row's terms one after the other, in their order,
as long as it is shorter than a vector, so that not one bit differs.
"""

from functools import cache

import torch
import torch.nn.functional as F

from lossmith._checks import tracing
from lossmith._typing import Logits

WORTHWHILE = 1 << 13
"""Numbers from which on the transposed way gains more than its calls cost."""


def log_softmax(z: Logits, axis: int, dtype: torch.dtype) -> Logits:
    """``F.log_softmax(z, axis, dtype=dtype)``, to the bit, value and gradient."""
    if tracing() or not _short(z, axis, dtype):  # what is traced is laid out by the compiler, and is for other sizes too
        return F.log_softmax(z, axis, dtype=dtype)
    n, c = z.shape
    # through one axis and back, so that the gradient comes row by row, as the values leave: laid out otherwise, what lies before
    # and after would be rounded otherwise
    columns = z.flatten().view(n, c).t()
    spare = -n % _lanes(dtype)  # a column in the last, part-filled vector would go through other arithmetic
    if spare:
        columns = F.pad(columns, (0, spare))
    return F.log_softmax(columns, 0)[:, :n].t().contiguous()


def _short(z: Logits, axis: int, dtype: torch.dtype) -> bool:
    """Whether rows are shorter than a vector, and many enough; of a plain tensor, whose layout is nobody else's concern."""
    usual = type(z) is torch.Tensor and z.ndim == 2 and axis == 1 and z.device.type == "cpu" and z.dtype == dtype
    return usual and z.numel() >= WORTHWHILE and z.shape[1] < _lanes(dtype)


@cache
def _lanes(dtype: torch.dtype) -> int:
    """How many numbers of a kind a vector of this processor holds, as torch uses it; 0 where nobody has looked at the bits."""
    width = {"AVX512": 64, "AVX2": 32}.get(torch.backends.cpu.get_cpu_capability(), 0)
    return width // dtype.itemsize if dtype in (torch.float32, torch.float64) else 0
