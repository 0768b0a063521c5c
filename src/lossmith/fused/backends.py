"""What computes the operators: chunked torch on any device, or Triton kernels and cuBLAS on a GPU."""

from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from lossmith._checks import nearest
from lossmith.fused import engine
from lossmith.fused.tiles import Head, working

Backend = Literal["auto", "torch", "triton"]
BACKENDS = ("auto", "torch", "triton")

_asked: Backend = "auto"
_INSTALLED = find_spec("triton") is not None


class backend:
    """Choose what computes the fused head, for good or for a ``with`` block.

    "auto" (the default) takes the Triton kernels for tensors on an NVIDIA GPU and chunked torch for all others; "torch" and "triton" ask
    for one, and "triton" is an error where it cannot be had. It holds for the whole process, all threads, as torch's own switches do, and
    counts when something is computed: a backward pass outside the block takes what holds there. :func:`explain` says what computes a
    call, and why. There are kernels for the statistics of one head and their gradients; comparisons of two heads, the most likely classes,
    logits of given classes, second derivatives and the gradients of a :class:`GradientFilter` are chunked torch whatever is chosen.

    Raises:
        ValueError: no such back end.

    Example:
        >>> import torch
        >>> from lossmith.fused import LinearLogits, backend, explain
        >>> with backend("torch"):
        ...     explain(LinearLogits(torch.zeros(2, 4), torch.zeros(8, 4))).backend
        'chunked torch'
    """

    def __init__(self, name: Backend) -> None:
        global _asked
        if name not in BACKENDS:
            raise ValueError(f"backend: name must be one of {', '.join(map(repr, BACKENDS))}; got {name!r}{nearest(str(name), BACKENDS)}")
        self._before, _asked = _asked, name

    def __enter__(self) -> "backend":
        return self

    def __exit__(self, *_: object) -> None:
        global _asked
        _asked = self._before


def chosen(x: Tensor, weight: Tensor, *, split: bool = False) -> tuple[Literal["torch", "triton"], str]:
    """What computes a call with these, and why not the other where that is worth a word; `split`, with the classes over several ranks.

    Raises ValueError where Triton was asked for and cannot be had.
    """
    if _asked == "torch":
        return "torch", ""
    obstacle = "the classes are split over ranks" if split else _obstacle(x, weight)
    if obstacle is None:
        return "triton", ""
    if _asked == "triton":
        raise ValueError(f"lossmith.fused: backend 'triton' cannot be followed: {obstacle}")
    return "torch", obstacle if x.device.type != "cpu" else ""


def computing(x: Tensor, head: Head) -> ModuleType:
    """The module that computes a call with these: its three entrances have the names and arguments of :mod:`lossmith.fused.engine`."""
    if chosen(x, head.weight, split=head.shards is not None)[0] == "torch":
        return engine
    from lossmith.fused.triton import engine as kernels

    return kernels


def _obstacle(x: Tensor, weight: Tensor) -> str | None:
    """What stands in the way of the Triton kernels, or None."""
    if x.device.type != "cuda" and not (x.device.type == "cpu" and _interpreted()):
        return f"hidden states are on {x.device}, not on an NVIDIA GPU"
    if not _INSTALLED:
        return "triton is not installed"
    if working(x, weight) != torch.float32:
        return f"{working(x, weight)} is left to chunked torch"
    if x.device.type == "cuda":
        if torch.version.cuda is None:
            return "this PyTorch was not built for NVIDIA GPUs"
        if "dtype_out" not in torch.ops.aten.addmm.overloads():
            return f"PyTorch {torch.__version__} has no products of half precision with float32 results"
        if _capability(x.device.index or 0) < (8, 0):
            return "the GPU is older than compute capability 8.0"
    return None


@torch.compiler.assume_constant_result
def _capability(device: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@torch.compiler.assume_constant_result
def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: for tests, when asked for by name alone."""
    if _asked != "triton" or not _INSTALLED:
        return False
    from lossmith.fused.triton.launch import INTERPRETED

    return INTERPRETED
