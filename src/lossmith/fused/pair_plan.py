"""Which way a call with two heads takes: decided in one place.

The rows of a block whose logits of both sides fit the memory that is allowed: at least `FEWEST`, since products of fewer rows cost
more than computing the logits twice does. By default that memory is seven eighths of the student's head in float32, or 56 MiB.
"""

import torch
from torch import Tensor

from lossmith._reduce import times
from lossmith.fused.functions import transformed
from lossmith.fused.pair_functions import Both, _learnt, _working, values, weighted_value
from lossmith.fused.pairs import _even
from lossmith.fused.plan import Path, Plan, Schedule, _recompute, _size, asks
from lossmith.fused.shards import Shards
from lossmith.fused.tiles import CLASSES, ROWS

FEWEST = 128


def compare(
    at: Both, keep: Tensor, code: str, weights: Tensor | None, schedule: Schedule, memory: int | None, shards: Shards | None = None
) -> Tensor:
    """Values of the rows `(n)`; or with weights their weighted sum, which may form its gradients in the forward pass."""
    path, _, rows = choose(at, known=weights is not None, schedule=schedule, memory=memory, shards=shards)
    if weights is not None and path == "forward":
        return weighted_value(at, keep, weights, code, rows, [asks(tensor) for tensor in _learnt(at)], shards)
    found = values(at, keep, code, rows, shards)
    return found if weights is None else times(weights, found).sum()


def choose(at: Both, *, known: bool, schedule: Schedule, memory: int | None, shards: Shards | None = None) -> tuple[Path, str, int]:
    """The path, the reason, and the rows of a block whose logits are kept, 0 where none are.

    Args:
        at: both sides.
        known: whether the loss is a weighted sum of the rows' values, so that the upstream gradient is known in the forward pass.
        schedule, memory: as given to the student's `LinearLogits`.
        shards: how the classes of both are split over ranks, all of which decide alike.
    """
    rows, limit = block_rows(at, memory, shards)
    if transformed():
        return *_recompute("a transform of torch.func or forward-mode differentiation is at work", schedule), rows
    if not (torch.is_grad_enabled() and any(asks(tensor) for tensor in at)):
        return "value", "neither side asks for a gradient", rows
    if schedule == "recompute":
        return *_recompute("schedule='recompute' asks for it", schedule), rows
    if asks(at.cap) or asks(at.teacher_cap) or asks(at.class_weight):
        return *_recompute("a softcap (or the temperature beside one) or the class weights ask for a gradient", schedule), rows
    if not known:
        return *_recompute("what follows the rows' values is not a sum with known weights", schedule), rows
    if not rows:
        return *_recompute(f"{FEWEST} rows of both logits do not fit into {_size(limit)}", schedule), rows
    return "forward", "the loss is a sum with known weights", rows


def block_rows(at: Both, memory: int | None, shards: Shards | None = None) -> tuple[int, int]:
    """How many rows' logits may be kept, and the bytes that are allowed."""
    assert at.x is not None
    assert at.weight is not None
    assert at.teacher_x is not None
    assert at.teacher_weight is not None
    each = _working(at.x, at.weight, at.teacher_x, at.teacher_weight).itemsize
    classes, width = at.weight.shape
    classes = classes if shards is None else shards.largest
    limit = memory if memory is not None else max(7 * 2**23, classes * width * each * 7 // 8)
    rows = min(ROWS, limit // (2 * classes * each))
    return (rows if rows >= FEWEST else 0), limit


def explain_pair(at: Both, known: bool, schedule: Schedule, memory: int | None, shards: Shards | None) -> Plan:
    """The plan in full, memory counted: on this rank, for its shards."""
    path, why, rows = choose(at, known=known, schedule=schedule, memory=memory, shards=shards)
    x, weight = at.x, at.weight
    assert x is not None
    assert weight is not None
    assert at.teacher_x is not None
    assert at.teacher_weight is not None
    each = _working(x, weight, at.teacher_x, at.teacher_weight).itemsize
    n, classes, width = x.shape[0], weight.shape[0], min(CLASSES, weight.shape[0])
    asked = [] if path == "value" else [tensor for tensor in at if tensor is not None and tensor.requires_grad]
    twice = 0 if rows else 2  # logits that are not kept are computed once more for the sums
    by_gradients = 0 if path == "value" else sum(asks(tensor) for tensor in (x, weight, at.teacher_x, at.teacher_weight))
    products = 2 + by_gradients if path == "forward" else 2 + twice + (2 + by_gradients if path == "recompute" else 0)
    block = _even(n, rows or ROWS)
    tiles = 8 * block * width  # shares, ratio and probabilities of both, and what they are made in
    sides = 1 + any(asks(tensor) for tensor in at[4:8])
    return Plan(
        path, why, products, block, width, gradients=sum(t.numel() for t in asked) * each,
        buffers=(2 * block * classes * bool(rows) + tiles + 2 * block * (x.shape[1] + at.teacher_x.shape[1])) * each,
        dense=(2 + sides * (path != "value")) * n * classes * each,
        backend="chunked torch" + (f", {shards.words()}," if shards is not None else ""),
    )  # fmt: skip
