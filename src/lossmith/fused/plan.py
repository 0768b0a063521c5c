"""Which way a call takes, why, and what memory it needs: decided in one place, and said in words by :func:`explain`."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith.fused.backends import chosen
from lossmith.fused.functions import transformed
from lossmith.fused.room import is_held, kept_rows
from lossmith.fused.second import Arguments
from lossmith.fused.shards import Shards
from lossmith.fused.tiles import CLASSES, ROWS, working
from lossmith.fused.triton.memory import allowance, operand, slope_classes, stored_rows

Schedule = Literal["auto", "forward", "recompute"]
SCHEDULES = ("auto", "forward", "recompute")
Path = Literal["value", "frozen", "forward", "kept", "recompute"]

_PRODUCTS: dict[Path, int] = {"value": 1, "frozen": 2, "forward": 3, "kept": 3, "recompute": 4}
_WORDS: dict[Path, str] = {
    "value": "the value alone",
    "frozen": "log-probabilities and the gradient of the hidden states in one pass, under a head without gradients",
    "forward": "gradients formed in the forward pass",
    "kept": "logits kept where the head's gradient will be, and computed again in the backward pass where that has no room for them",
    "recompute": "logits computed again in the backward pass",
}


@dataclass(frozen=True)
class Plan:
    """How a call is computed; prints as a few lines of words."""

    path: Path
    """"value" (no gradient is asked for), "frozen" (of the hidden states alone), "forward" (gradients in the forward pass), "kept" (logits
    kept where the head's gradient will be, as far as that has room) or "recompute" (logits computed again in the backward pass)."""
    why: str
    """The reason, in words."""
    products: float
    """How many matrix products of the size of the logits forward and backward take together. Rows whose logits are kept take three, those
    of the same call that are computed again take four."""
    rows: int
    """The rows of a tile of logits."""
    classes: int
    """The classes of a tile of logits."""
    gradients: int
    """Bytes of the gradients, accumulated in float32 at least."""
    buffers: int
    """Bytes of everything else that is held at once."""
    dense: int
    """Bytes the logits and their gradient would need in float32, for comparison."""
    backend: str = "chunked torch"
    """What computes it."""

    def __str__(self) -> str:
        return (
            f"{_WORDS[self.path]}: {self.products:.3g} matrix product{'s' if self.products > 1 else ''} of the size of the logits\n"
            f"because {self.why}\n"
            f"memory: {_size(self.gradients)} of gradients and {_size(self.buffers)} of buffers; "
            f"the logits and their gradient would take {_size(self.dense)}\n"
            f"tiles of {self.rows} rows x {self.classes} classes, by {self.backend} on the tensors' own device"
        )


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def choose(
    at: Arguments, shards: Shards | None, *, known: bool, log_prob_alone: bool, schedule: Schedule, memory: int | None
) -> tuple[Path, str]:
    """The path and the reason, on all ranks the same.

    Args:
        at: hidden states `(n, d)`, head and softcap.
        shards: how the classes are split over ranks.
        known: whether the loss is a weighted sum of log-probabilities, so that the upstream gradient is known in the forward pass.
        log_prob_alone: whether no other statistic is asked for.
        schedule: as given to `LinearLogits`.
        memory: bytes that a block of rows may keep, or None for the default.
    """
    if transformed():
        return _recompute("a transform of torch.func or forward-mode differentiation is at work", schedule)
    if not (torch.is_grad_enabled() and any(asks(tensor) for tensor in at)):
        return "value", "neither hidden states nor head ask for a gradient"
    if schedule == "recompute":
        return _recompute("schedule='recompute' asks for it", schedule)
    frozen = not (asks(at.weight) or asks(at.bias))
    later = None
    if not log_prob_alone:
        later = "other statistics than the label's log-probability are asked for"
    elif asks(at.cap):
        later = "the softcap (or the temperature beside one) asks for a gradient"
    elif not (frozen or known):
        later = "what follows the log-probabilities is not a sum with known weights"
    if later is not None:
        return ("kept", later) if schedule == "auto" and _keeps(at, shards, memory) else _recompute(later, schedule)
    assert at.weight is not None
    classes = at.weight.shape[0] if shards is None else shards.largest
    by_triton = _by_triton(at, shards)
    if by_triton and _operand(at) == torch.float16:
        return _recompute("float16 has not the range that stored exponentials need", schedule)
    buffer = _stored_bytes(at) if by_triton else block_bytes(at, classes)
    limit = memory if memory is not None else allowance(at.weight) if by_triton else budget(at, classes)
    if buffer > limit:
        return _recompute(f"a block of logits takes {_size(buffer)}, and {_size(limit)} are allowed", schedule)
    if frozen:
        return "frozen", "the head asks for no gradient"
    return "forward", "the loss is a sum of log-probabilities with known weights"


def _keeps(at: Arguments, shards: Shards | None, memory: int | None) -> bool:
    """Whether logits of some rows are kept for the backward pass: in plain eager code, and where nobody asks for less memory."""
    x, weight = at.x, at.weight
    assert x is not None
    assert weight is not None
    if torch.compiler.is_compiling() or shards is not None or not asks(weight) or _by_triton(at, shards):
        return False
    if memory is not None and block_bytes(at, weight.shape[0]) > memory:
        return False
    return kept_rows(x.shape[0], weight.shape[1], working(x, weight).itemsize) > 0 and not is_held(weight)


def check_memory(memory: object) -> int | None:
    """What is given as `memory`, or one line of what is wrong with it."""
    if memory is None or (isinstance(memory, int) and not isinstance(memory, bool) and memory >= 0):
        return memory
    raise ValueError(f"LinearLogits: memory must be a whole number of bytes from 0, or None; got {describe(memory)}")


def asks(tensor: Tensor | None) -> bool:
    """Whether a gradient is wanted."""
    return tensor is not None and tensor.requires_grad


def _recompute(why: str, schedule: Schedule) -> tuple[Path, str]:
    if schedule == "forward":
        raise ValueError(f"LinearLogits: schedule='forward' cannot be followed: {why}")
    return "recompute", why


def _by_triton(at: Arguments, shards: Shards | None) -> bool:
    assert at.x is not None
    assert at.weight is not None
    return chosen(at.x, at.weight, split=shards is not None)[0] == "triton"


def _operand(at: Arguments) -> torch.dtype:
    """What a GPU multiplies."""
    assert at.x is not None
    assert at.weight is not None
    return operand(at.x, at.weight)


def _stored_bytes(at: Arguments) -> int:
    """The bytes of a block's exponentials on a GPU, in the dtype that is multiplied."""
    assert at.x is not None
    assert at.weight is not None
    return stored_rows(at.x, at.weight) * at.weight.shape[0] * _operand(at).itemsize


def block_bytes(at: Arguments, classes: int) -> int:
    """The bytes of a block's logits of so many classes."""
    assert at.x is not None
    assert at.weight is not None
    return min(ROWS, at.x.shape[0]) * classes * working(at.x, at.weight).itemsize


def budget(at: Arguments, classes: int) -> int:
    """The bytes that a block's logits may take: half the head, or 32 MiB, unless said otherwise."""
    assert at.weight is not None
    return max(2**25, classes * at.weight.shape[1] * working(at.weight, at.weight).itemsize // 2)


def describe_plan(at: Arguments, shards: Shards | None, path: Path, why: str) -> Plan:
    """The plan in full, memory counted: on this rank, for its shard."""
    x, weight = at.x, at.weight
    assert x is not None
    assert weight is not None
    by, obstacle = chosen(x, weight, split=shards is not None)
    if by == "triton":
        return _describe_kernels(at, path, why)
    each = working(x, weight).itemsize
    at_once = path in ("frozen", "forward")
    kept = kept_rows(x.shape[0], weight.shape[1], each) if path == "kept" else 0
    rows, classes = min(ROWS, x.shape[0]), min(CLASSES * (2 if at_once else 1), weight.shape[0])
    wanted = () if path == "value" else [t for t in at if t is not None and t.requires_grad]
    tiles = (2 if at.cap is None else 4) * rows * classes
    widened = classes * weight.shape[1] if weight.dtype.itemsize < each else 0
    width = max(rows, kept) * weight.shape[1]
    buffers = (block_bytes(at, weight.shape[0]) if at_once else 0) + (tiles + kept * classes + widened + 2 * width) * each
    return Plan(
        path, why, _PRODUCTS[path] + (1 - kept / x.shape[0] if kept else 0), rows, classes,
        gradients=sum(t.numel() for t in wanted) * each, buffers=buffers, dense=2 * x.shape[0] * weight.shape[0] * each,
        backend="chunked torch" + (f", {shards.words()}," if shards is not None else f" (since {obstacle})" if obstacle else ""),
    )  # fmt: skip


def _describe_kernels(at: Arguments, path: Path, why: str) -> Plan:
    """The same on a GPU: rows and classes are those whose exponentials or slopes are held at once."""
    x, weight = at.x, at.weight
    assert x is not None
    assert weight is not None
    n, (classes, width), item = x.shape[0], weight.shape, _operand(at).itemsize
    at_once = path in ("frozen", "forward")
    rows = stored_rows(x, weight) if at_once else n
    across = classes if at_once or path == "value" else slope_classes(n, classes, item)
    held = 0 if path == "value" else rows * across * item
    asked = () if path == "value" else [(t, asks(t)) for t in at if t is not None]
    # the head's gradient is float32 where it is summed over blocks of rows; else it is written once, in the head's dtype
    gradients = sum(t.numel() * (t.itemsize if t is weight and not at_once else 4) for t, wanted in asked if wanted)
    return Plan(
        path, why, _PRODUCTS[path], rows, across, gradients=gradients, buffers=held + 2 * n * width * item,
        dense=2 * n * classes * 4, backend="Triton kernels and cuBLAS",
    )  # fmt: skip
