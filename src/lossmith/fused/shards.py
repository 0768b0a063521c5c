"""Which classes each rank holds where a head is split over a process group, and the sums and maxima over its ranks.

Every rank holds consecutive classes of the head, in the order of the ranks, and the same hidden states and labels. A row's statistics are
sums over the classes, so that each rank sums over its own and the ranks add up. What follows from sums over all ranks is the same on
every rank, to the bit: whatever is decided by it is decided everywhere, and no rank waits for another in vain.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lossmith._checks import describe, validating

DIGITS, BITS = 4, 5
"""A checksum of labels as numbers below 32: sums of their squares over thousands of ranks are exact in float32."""

SKETCHES, APART = 4, 0.02
"""Sums of the hidden states under signs, and how far apart they may be, relative to the length of all hidden states. Those of one model
on several ranks differ by rounding; of other rows all four are as close once in millions of times."""


class Shards(NamedTuple):
    """A head whose classes are split over the ranks of a process group."""

    group: str
    """The name that the group is registered by, under which operators find it."""
    rank: int
    """This process in the group."""
    sizes: tuple[int, ...]
    """How many classes each rank holds."""

    @property
    def first(self) -> int:
        """The first class that this rank holds."""
        return sum(self.sizes[: self.rank])

    @property
    def classes(self) -> int:
        """The classes of all ranks."""
        return sum(self.sizes)

    @property
    def largest(self) -> int:
        """The classes of the rank that holds most: what all ranks have to decide alike is decided by it."""
        return max(self.sizes)

    @property
    def code(self) -> str:
        """The same as words: operators and transforms take no tuples that are not of tensors."""
        return f"{self.rank} {','.join(map(str, self.sizes))} {self.group}"

    @classmethod
    def read(cls, code: str) -> "Shards | None":
        if not code:
            return None
        rank, sizes, group = code.split(" ", 2)
        return cls(group, int(rank), tuple(map(int, sizes.split(","))))

    def words(self) -> str:
        """For people."""
        backend = torch.distributed.get_backend(_found(self.group))
        return f"vocabulary in {len(self.sizes)} shard{'s' if len(self.sizes) > 1 else ''} over {backend}"


def coded(shards: Shards | None) -> str:
    return "" if shards is None else shards.code


def _found(name: str) -> Any:
    from torch.distributed import distributed_c10d

    find: Any = distributed_c10d._resolve_process_group  # what functional collectives find a group by
    return find(name)


def total(part: Tensor, shards: Shards | None) -> Tensor:
    """The sum over the ranks, in the place of this rank's part where that is contiguous; the part itself where there is one process."""
    if shards is None:
        return part
    part = part.contiguous()
    torch.distributed.all_reduce(part, group=_found(shards.group))
    return part


def largest(part: Tensor, shards: Shards | None) -> Tensor:
    """The same with the maximum."""
    if shards is None:
        return part
    part = part.contiguous()
    torch.distributed.all_reduce(part, torch.distributed.ReduceOp.MAX, group=_found(shards.group))
    return part


def of_all(part: Tensor, shards: Shards) -> list[Tensor]:
    """This part of every rank, in their order; all have its shape."""
    each = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in shards.sizes]
    torch.distributed.all_gather(each, part.contiguous(), group=_found(shards.group))
    return each


def add_up(parts: Sequence[Tensor | None], shards: Shards | None) -> None:
    """Every tensor in the place of its own sum over the ranks, all in one message."""
    present = [part for part in parts if part is not None]
    if shards is None or not present:
        return
    if len(present) == 1 and present[0].is_contiguous():
        total(present[0], shards)
        return
    message = total(torch.cat([part.reshape(-1) for part in present]), shards)
    for part, sum_ in zip(present, message.split([part.numel() for part in present]), strict=True):
        part.copy_(sum_.view_as(part))


def _signs(position: Tensor) -> Tensor:
    """`(n, SKETCHES)`: 1 or -1, as if drawn, by the number of a row or column alone."""
    drawn = (position + 1).square() * 40503 % 65521
    return drawn.unsqueeze(1).bitwise_right_shift(3 * torch.arange(SKETCHES, device=position.device)) % 2 * 2 - 1


def sketch(x: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """`(SKETCHES + 1)`: what is compared of some rows of the hidden states, and their squared length."""
    found = x.new_zeros(SKETCHES + 1, dtype=dtype)
    by_column = _signs(torch.arange(x.shape[1], device=x.device)).to(dtype)
    for some in rows.split(256):
        hidden = x[some].to(dtype)
        found[:-1] += (hidden @ by_column * _signs(some)).sum(0)
        found[-1] += hidden.square().sum()
    return found


_OTHERS_ROWS = "Where every rank has rows of its own (FSDP2 shards a head like this), give the whole weight, as by full_tensor()"


def _check_sketches(name: str, spread: Sequence[float], length: float) -> None:
    """The squared distances of the sketches of ranks against the mean squared length; what is no number is the same on all."""
    if any(each > APART**2 * length for each in spread):
        raise ValueError(f"LinearLogits: {name} must be the same on every rank of the group; it is not. {_OTHERS_ROWS}")


def largest_of_rows(part: Tensor, sketched: Tensor, shards: Shards | None) -> Tensor:
    """The maximum over the ranks of one number a row, which also finds out whether they hold the same hidden states."""
    if shards is None:
        return part
    message = largest(torch.cat([part, sketched, -sketched[:-1]]), shards)
    part, above, length, below = message.split([part.numel(), SKETCHES, 1, SKETCHES])
    _check_sketches("hidden", (above + below).square().tolist(), length.item())
    return part


def total_of_labels(part: Tensor, label: Tensor, shards: Shards | None, what: str = "target", **sketched: Tensor) -> Tensor:
    """The sum over the ranks of what is known of each row's label, which also finds out whether they hold the same labels and rows.

    They do not where each rank has a batch of its own: a head that FSDP2 has sharded looks the same as one split for this.
    """
    if shards is None:
        return part
    position = torch.arange(1, label.numel() + 1, device=label.device)
    checksum = ((label + 2) * (position * 40503 % 65521)).sum() % 2 ** (DIGITS * BITS)
    digits = (checksum >> BITS * torch.arange(DIGITS, device=label.device)) % 2**BITS
    sketches = torch.stack([torch.cat([each[:-1], each[:-1].square(), each[-1:]]) for each in sketched.values()])
    message = total(torch.cat([part, digits.to(part.dtype), (digits * digits).to(part.dtype), sketches.to(part.dtype).view(-1)]), shards)
    part, once, squared, rest = message.split([part.numel(), DIGITS, DIGITS, sketches.numel()])
    ranks = len(shards.sizes)
    if any(ranks * int(s) != int(d) ** 2 for d, s in zip(once.tolist(), squared.tolist(), strict=True)):
        raise ValueError(f"LinearLogits: {what} must be the same on every rank of the group, and hidden with it; it is not. {_OTHERS_ROWS}")
    for name, mean in zip(sketched, (rest / ranks).view_as(sketches).tolist(), strict=True):
        variance = [s - d * d for d, s in zip(mean[:SKETCHES], mean[SKETCHES:-1], strict=True)]
        _check_sketches(name, variance, mean[-1])
    return part


def split_head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, group: Any, sizes: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor | None, Shards | None]:
    """What this rank computes with, and how the classes are split; of DTensors, which say it themselves, their local part."""
    if any(_is_dtensor(tensor) for tensor in (hidden, weight, bias)):
        if group is not None or sizes is not None:
            raise ValueError("LinearLogits: group and shards go with plain tensors; a DTensor says itself how it is split")
        return _of_dtensors(hidden, weight, bias)
    if group is None:
        if sizes is not None:
            raise ValueError("LinearLogits: shards says how the classes are split over a group; got no group")
        return hidden, weight, bias, None
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise ValueError("LinearLogits: group needs torch.distributed.init_process_group; leave it out in one process")
    if not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"LinearLogits: group must be a process group that this process belongs to; got {describe(group)}")
    rank, world = group.rank(), group.size()
    if sizes is not None:
        sizes = tuple(sizes)
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in sizes):
            raise ValueError(f"LinearLogits: shards must be whole numbers of classes from 0; got {sizes}")
        if len(sizes) != world:
            raise ValueError(f"LinearLogits: shards must have one number for each of the group's {world} ranks; got {sizes}")
        if sizes[rank] != weight.shape[0]:
            raise ValueError(
                f"LinearLogits: shards must say how many classes each rank holds; rank {rank} has {weight.shape[0]}, not {sizes}"
            )
    if sizes is None or (validating() and not torch.compiler.is_compiling()):
        if torch.compiler.is_compiling():
            raise ValueError("LinearLogits: inside torch.compile shards must be given with group, for the ranks cannot be asked there")
        sizes = _agreed([(hidden, weight, bias)], group)
    if sum(sizes) == 0:
        raise ValueError(f"LinearLogits: weight must have at least one class on some rank; got {describe(weight)} on rank {rank}")
    return hidden, weight, bias, Shards(group.group_name, rank, sizes)


def _is_dtensor(tensor: object) -> bool:
    """Without importing what defines it."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def _of_dtensors(hidden: Any, weight: Any, bias: Any) -> tuple[Tensor, Tensor, Tensor | None, Shards | None]:
    for tensor in (hidden, weight, bias):
        if _is_dtensor(tensor) and tensor.device_mesh.ndim != 1:
            raise ValueError(f"LinearLogits: a DTensor must be on a mesh of one axis; got {tensor.device_mesh.ndim}")
    if _is_dtensor(hidden):
        if not hidden.placements[0].is_replicate():
            raise ValueError(f"LinearLogits: hidden must be the same on every rank; as a DTensor it is {hidden.placements[0]}")
        hidden = hidden.to_local()
    if not _is_dtensor(weight) or weight.placements[0].is_replicate():
        if _is_dtensor(bias) and not bias.placements[0].is_replicate():
            raise ValueError(f"LinearLogits: bias must be split as the weight is, which is whole; it is {bias.placements[0]}")
        weight, bias = (tensor.to_local() if _is_dtensor(tensor) else tensor for tensor in (weight, bias))
        return hidden, weight, bias, None
    if not weight.placements[0].is_shard(0):
        raise ValueError(f"LinearLogits: weight, as a DTensor, must be Shard(dim=0) or Replicate(); got {weight.placements[0]}")
    if bias is not None and not (_is_dtensor(bias) and bias.placements[0].is_shard(0) and bias.device_mesh == weight.device_mesh):
        raise ValueError("LinearLogits: bias must be a DTensor split as the weight is, Shard(dim=0) on its mesh")
    mesh, classes = weight.device_mesh, weight.shape[0]
    each = -(-classes // mesh.size())  # as torch.chunk splits: the last ranks may hold fewer, or none
    sizes = tuple(max(0, min(each, classes - each * rank)) for rank in range(mesh.size()))
    rank = mesh.get_local_rank()
    local = weight.to_local()
    if local.shape[0] != sizes[rank]:
        raise ValueError(
            f"LinearLogits: weight, as a DTensor, must be split evenly, as {sizes}; rank {rank} holds {local.shape[0]} classes"
        )
    return hidden, local, None if bias is None else bias.to_local(), Shards(mesh.get_group().group_name, rank, sizes)


_ALIKE = (
    "hidden must have as many rows",
    "weight must have as many columns",
    "bias must be there, or not,",
    "hidden must ask for a gradient, or not,",
    "weight must ask for a gradient, or not,",
    "bias must ask for a gradient, or not,",
)


SPLIT_ALIKE = "the teacher's classes must be split as the student's are, over the same ranks"

HeadOf: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states, weight and bias."""


def sizes_of_both(student: HeadOf, teacher: HeadOf, group: Any, sizes: Sequence[int] | None) -> Sequence[int] | None:
    """How many classes each rank holds, of two heads that are split alike; asked of the ranks in one message where it is not given."""
    if sizes is not None or torch.compiler.is_compiling() or any(map(_is_dtensor, (*student, *teacher))):
        return sizes  # what is amiss with these is said of each head
    return _agreed((student, teacher), group) if _is_group(group) else None


def _is_group(group: Any) -> bool:
    return torch.distributed.is_available() and isinstance(group, torch.distributed.ProcessGroup)


def _agreed(heads: Sequence[HeadOf], group: Any) -> tuple[int, ...]:
    """How many classes each rank holds, by asking all; and whether what has to be alike is."""
    answers: list[int] = []
    for hidden, weight, bias in heads:
        asks = [tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
        answers += [weight.shape[0], hidden.shape[:-1].numel(), weight.shape[1], bias is not None, *asks]
    mine = torch.tensor(answers, dtype=torch.long, device=heads[0][1].device)
    each = [torch.empty_like(mine) for _ in range(group.size())]
    torch.distributed.all_gather(each, mine, group=group)
    found = torch.stack(each, 1).view(len(heads), -1, len(each)).tolist()
    for whose, (_, *rest) in zip(("", "teacher_"), found, strict=False):
        for what, of_ranks in zip(_ALIKE, rest, strict=True):
            if len(set(of_ranks)) > 1:
                raise ValueError(f"LinearLogits: {whose}{what} on every rank of the group; got {of_ranks}")
    if any(classes != found[0][0] for classes, *_ in found):
        raise ValueError(f"LinearLogits: {SPLIT_ALIKE}; ranks hold {found[0][0]} and {found[1][0]} classes")
    return tuple(found[0][0])


def check_alike(name: str, tensor: Tensor, shards: Shards) -> None:
    """Under :func:`lossmith.validate`: a tensor that every rank has to hold is the same on all, but for rounding."""
    if not tensor.numel():
        return
    held = torch.nan_to_num(tensor.detach().double())
    high, low = largest(held.clone(), shards), -largest(-held, shards)
    apart, size = (high - low).max().item(), max(high.max().item(), -low.min().item())
    if apart > (torch.finfo(tensor.dtype).eps ** 0.5 * size if tensor.is_floating_point() else 0):
        raise ValueError(f"LinearLogits: {name} must be the same on every rank of the group; entries differ by up to {apart:.3g}")
