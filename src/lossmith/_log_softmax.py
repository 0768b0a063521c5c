"""log_softmax, in the same bits sooner where a row is shorter than the processor's vectors.

On the CPU torch goes along the last axis row by row. A row of ten classes fills ten of sixteen lanes and is then summed lane by lane; along
the first axis sixteen rows are sixteen lanes and nothing is left to do but add. Both add a row's terms one after the other, in their order,
as long as it is shorter than a vector, so that not one bit differs.
"""

from functools import cache

import torch
import torch.nn.functional as F

from lossmith._typing import Logits

WORTHWHILE = 1 << 13
"""Numbers from which on the transposed way gains more than its calls cost."""


def log_softmax(z: Logits, axis: int, dtype: torch.dtype) -> Logits:
    """``F.log_softmax(z, axis, dtype=dtype)``, to the bit, value and gradient."""
    n, c = z.shape if z.ndim == 2 else (0, 0)
    short = axis == 1 and n * c >= WORTHWHILE and z.device.type == "cpu" and z.dtype == dtype and c < _lanes(dtype)
    if not short or torch.compiler.is_compiling():  # what is compiled is laid out by the compiler
        return F.log_softmax(z, axis, dtype=dtype)
    # through one axis and back, so that the gradient comes row by row, as the values leave: laid out otherwise, what lies before
    # and after would be rounded otherwise
    columns = z.flatten().view(n, c).t()
    spare = -n % _lanes(dtype)  # a column in the last, part-filled vector would go through other arithmetic
    if spare:
        columns = F.pad(columns, (0, spare))
    return F.log_softmax(columns, 0)[:, :n].t().contiguous()


@cache
def _lanes(dtype: torch.dtype) -> int:
    """How many numbers of a kind a vector of this processor holds, as torch uses it; 0 where nobody has looked at the bits."""
    width = {"AVX512": 64, "AVX2": 32}.get(torch.backends.cpu.get_cpu_capability(), 0)
    return width // dtype.itemsize if dtype in (torch.float32, torch.float64) else 0
