"""Logits kept where the head's gradient will be: for their rows three matrix products in place of four, in hardly more memory.

A backward pass writes a gradient of the head's size, classes times d numbers, for which nobody has any use before. Until then its room
can hold the logits of d rows, which need not be computed again: all of a batch, or its first blocks. The peak of memory is what it was
but for :data:`BESIDE` and a tile of all these rows, since the gradient takes the place of the logits, a tile of classes at a time.

The logits of a tile lie where the gradient of its classes will be. So the way back through these rows goes over the classes outside and
over the blocks of rows inside, where the engine otherwise does the reverse.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lossmith.fused.slopes import BlockSlope, Gradients, through_head, tile_slope
from lossmith.fused.tiles import ROWS, Head, Places, blocks, spans

BESIDE = 1 << 24
"""Bytes that the hidden states of these rows and their gradients may take beside, for both are held throughout."""


class Room:
    """The room of a head's gradient, in the working dtype, for as long as it is not taken."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.tensor = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        _rooms[_place(weight)] = self


_rooms: WeakValueDictionary[int, Room] = WeakValueDictionary()


def is_held(weight: Tensor) -> bool:
    """Whether a head's room holds the logits of a call whose backward pass is still to come: a second one would be more memory."""
    return _place(weight) in _rooms


def _place(weight: Tensor) -> int:
    return weight.untyped_storage()._cdata


def kept_rows(n: int, d: int, itemsize: int) -> int:
    """How many of n rows have their logits kept under a head of width d: all, or whole blocks of the first ones."""
    most = min(d, BESIDE // (2 * d * itemsize))
    return n if n <= most else most - most % ROWS


def parted(rows: Tensor, room: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Row numbers in blocks: those with logits in the room, and the others."""
    inside = 0 if room is None else kept_rows(rows.numel(), room.shape[1], room.itemsize)
    return blocks(rows[:inside]), blocks(rows[inside:])


def keeping(head: Head, inside: Sequence[Tensor], room: Tensor | None) -> list[Head]:
    """The head for every one of these blocks, which leaves its logits in the room."""
    if room is None:
        return []
    ends = [0, *accumulate(rows.numel() for rows in inside)]
    return [head._replace(places=Places(room, ends[-1], first, last)) for first, last in pairwise(ends)]


def gradients_from_room(
    x: Tensor,
    inside: Sequence[Tensor],
    head: Head,
    class_weight: Tensor | None,
    slopes: Sequence[BlockSlope],
    room: Tensor,
    found: Gradients,
) -> None:
    """The part that these blocks have in the gradients. The head's is the room itself, and begins with what is written here."""
    if not inside:
        room.zero_()
        return
    rows = torch.cat(list(inside))
    x = head.block(x, rows)
    dx, buffer = torch.zeros_like(x), x.new_empty(x.shape[0], head.width)
    beside = x.new_empty(ROWS, head.width) if any(block.needs_two for block in slopes) else buffer
    sizes = [some.numel() for some in inside]
    for start, stop in spans(head.classes, head.width):
        u = buffer[:, : stop - start].copy_(Places(room, len(x), 0, len(x)).tile(start, stop))
        for block, logits in zip(slopes, u.split(sizes), strict=True):
            tile_slope(logits, beside[: len(logits), : stop - start], head, class_weight, block, start, stop, found)
        through_head(u, dx, head, start, stop, found)
        torch.mm(u.mT, x, out=room[start:stop])
    if found.x is not None:
        found.x[rows] = dx
