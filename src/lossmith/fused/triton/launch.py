"""What both kernels are launched with: sizes of tiles, the rows that take part, and how the tensors are read."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lossmith.fused.engine import Spec
from lossmith.fused.tiles import Head
from lossmith.fused.triton.memory import operand

INTERPRETED = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
"""Whether kernels are run by Triton's interpreter, on the CPU: read once, as Triton itself does where a kernel is defined."""


class Tiles(NamedTuple):
    """The tile of logits of a program, how much of the hidden width is multiplied at a time, warps, and stages of loading ahead.

    Fixed by dtype and not timed on the spot: the sums then come out the same from run to run, on a busy device too.
    """

    rows: int
    classes: int
    width: int
    warps: int
    stages: int
    group: int = 16


HALF = Tiles(128, 256, 64, 8, 3)
SMALL = Tiles(128, 128, 64, 8, 3)
SINGLE = Tiles(64, 128, 32, 4, 3)
TINY = Tiles(16, 32, 16, 1, 1, group=2)
"""Under the interpreter, so that small problems have many tiles."""


def tiles(dtype: torch.dtype, device: torch.device, spec: Spec) -> Tiles:
    """The tile for operands of a dtype. The largest needs 144 KiB of shared memory where others need 97, and more registers."""
    if INTERPRETED:
        return TINY
    if dtype == torch.float32:
        return SINGLE
    many = "entropy" in spec.want or bool(spec.betas)
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0) >= 160 * 1024
    return HALF if room and not many else SMALL


_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def operand_type(dtype: torch.dtype) -> tl.dtype:
    """What tiles are converted to before they are multiplied. The interpreter would multiply the bits of bfloat16 as integers."""
    return tl.float32 if INTERPRETED and dtype == torch.bfloat16 else _TYPES[dtype]


def precision() -> str:
    """How float32 operands are multiplied: by three TensorFloat-32 products, which carry float32's digits, or one where torch may.

    Plain float32 units have a seventh of a Hopper's TensorFloat-32 rate, and Triton's code for them spills registers.
    """
    allowed = torch.backends.cuda.matmul  # the older of two switches may not be read once the newer was set
    tf32 = allowed.fp32_precision == "tf32" if hasattr(allowed, "fp32_precision") else allowed.allow_tf32
    return "tf32" if tf32 else "tf32x3"


class Kept(NamedTuple):
    """The rows that take part, moved to the front of arrays of unchanged length: how many they are, the device alone knows."""

    x: Tensor
    """`(n, d)`, 0 in the rows beyond."""
    label: Tensor
    """`(n)` int32, -1 beyond."""
    order: Tensor
    """`(n)`: where each row came from."""
    count: Tensor
    """`(1)` int32."""

    @classmethod
    def of(cls, x: Tensor, label: Tensor, dtype: torch.dtype) -> "Kept":
        order = torch.sort((label < 0).to(torch.uint8), stable=True).indices
        first = label.index_select(0, order)
        moved = x.index_select(0, order).to(dtype).masked_fill_((first < 0).unsqueeze(1), 0)
        return cls(moved, first.clamp_min(-1).to(torch.int32), order, (label >= 0).sum(dtype=torch.int32).reshape(1))

    @property
    def takes_part(self) -> Tensor:
        return self.label >= 0

    def back(self, rows: Tensor) -> Tensor:
        """Rows in the order they came in."""
        return torch.empty_like(rows).index_copy_(0, self.order, rows)


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **known: Any) -> None:
    """Launch it; `known` are constants when it is compiled."""
    kernel[grid](*arguments, **known)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels are launched on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def processors(device: torch.device) -> int:
    """Multiprocessors, which the work is cut into enough pieces for."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def describable(tensor: Tensor) -> bool:
    """Whether the copy engine can read tiles of a matrix: it needs addresses in steps of 16 bytes."""
    if not INTERPRETED and (tensor.device.type != "cuda" or torch.cuda.get_device_capability(tensor.device) < (9, 0)):
        return False
    steps = (tensor.stride(0) * tensor.itemsize, tensor.data_ptr())
    return tensor.stride(1) == 1 and tensor.stride(0) > 0 and tensor.numel() > 0 and all(step % 16 == 0 for step in steps)


def reading(x: Tensor, head: Head, tile: Tiles) -> tuple[tuple[Any, ...], tuple[int, ...], dict[str, Any]]:
    """Arguments common to both kernels: (hidden states, head, bias, softcap), their strides, and what is known when they are compiled."""
    weight, bias = head.weight, None if head.bias is None else head.bias.contiguous()
    described = describable(x) and describable(weight)
    sources: tuple[Any, ...] = (x, weight)
    if described:
        from triton.tools.tensor_descriptor import TensorDescriptor

        sources = (
            TensorDescriptor.from_tensor(x, [tile.rows, tile.width]),
            TensorDescriptor.from_tensor(weight, [tile.classes, tile.width]),
        )
    strides = (x.stride(0), x.stride(1), weight.stride(0), weight.stride(1))
    known = {
        "ROWS": tile.rows, "CLASSES": tile.classes, "WIDTH": tile.width, "GROUP": tile.group,
        "OPERAND": operand_type(operand(x, weight)), "PRECISION": precision(), "DESCRIBED": described,
        "num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    return (*sources, bias, head.cap), strides, known
