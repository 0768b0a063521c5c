"""Large pages for large buffers.

Memory that a process has not touched before comes a page at a time. In pages of 4 KiB that takes 0.4 ms a MiB on the machine that
`benchmarks/fused.py` was run on, four times as long as filling them: with the head's gradient and a block of logits it is 4 % of a step at
32768 classes of 512 numbers. Linux gives pages of 2 MiB to who asks, where it is set to (`/sys/kernel/mm/transparent_hugepage/enabled` at
"madvise", which distributions have; at "always" it does so unasked). It is advice: what cannot be had is passed over.
"""

import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import Any

from torch import Tensor

LARGE = 2**23
"""Bytes from which it is worth a system call: a few large pages."""


def empty(*shape: int, like: Tensor) -> Tensor:
    """`like.new_empty`, in large pages where there are any."""
    out = like.new_empty(shape)
    if out.device.type == "cpu" and out.nbytes >= LARGE and (advise := _advise()) is not None:
        start, end = (at // mmap.PAGESIZE * mmap.PAGESIZE for at in (out.data_ptr() + mmap.PAGESIZE - 1, out.data_ptr() + out.nbytes))
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
    return out


def zeros(*shape: int, like: Tensor) -> Tensor:
    """`like.new_zeros`, the same way."""
    return empty(*shape, like=like).zero_()


@functools.cache
def _advise() -> Callable[..., Any] | None:
    """The system call, where there is one."""
    return getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
