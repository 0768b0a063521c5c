"""Sums over the ranks that can be differentiated, to any order and in every mode.

Two maps and no more, as Megatron-LM has them (Shoeybi et al. 2019, arXiv:1909.08053, section 3, f and g). A number that all ranks share is
*copied to* them when each goes on to use it for its own classes; what they make of it are parts, which are *reduced from* them into a
number that all share again. Each is the other's derivative, transposed, so that derivatives of derivatives need no third.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lossmith.fused.shards import Shards, largest, total


@torch.library.custom_op("lossmith::sum_over_ranks", mutates_args=())
def _sum_over_ranks(part: Tensor, shards: str) -> Tensor:
    return total(part.clone(memory_format=torch.contiguous_format), Shards.read(shards))


@torch.library.custom_op("lossmith::maximum_over_ranks", mutates_args=())
def _maximum_over_ranks(part: Tensor, shards: str) -> Tensor:
    return largest(part.clone(memory_format=torch.contiguous_format), Shards.read(shards))


@_sum_over_ranks.register_fake
@_maximum_over_ranks.register_fake
def _(part, shards):  # type: ignore[no-untyped-def]
    return torch.empty_like(part, memory_format=torch.contiguous_format)


for _operator in (_sum_over_ranks, _maximum_over_ranks):  # entry by entry: a batch axis is one more
    _operator.register_vmap(lambda info, in_dims, part, shards, op=_operator: (op(part, shards), in_dims[0]))


class _Reduce(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(part, shards):  # type: ignore[no-untyped-def]
        return _sum_over_ranks(part, shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shards = inputs[1]

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        return _copy(upstreams[0], ctx.shards), None


class _Copy(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(shared, shards):  # type: ignore[no-untyped-def]
        return shared.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shards = inputs[1]

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        return _reduce(upstreams[0], ctx.shards), None


class _ReduceForward(_Reduce):
    """With forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Tensor:
        return _reduce(directions[0], ctx.shards)


class _CopyForward(_Copy):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Tensor:
        return _copy(directions[0], ctx.shards)


def _reduce(part: Tensor, shards: str) -> Tensor:
    return (_Reduce if torch.compiler.is_compiling() else _ReduceForward).apply(part, shards)


def _copy(shared: Tensor, shards: str) -> Tensor:
    return (_Copy if torch.compiler.is_compiling() else _CopyForward).apply(shared, shards)


def reduce_from_ranks(part: Tensor, shards: Shards | None) -> Tensor:
    """The sum over the ranks of their parts; its gradient, the same on all, is the gradient of every part."""
    return part if shards is None else _reduce(part, shards.code)


def copy_to_ranks(shared: Tensor, shards: Shards | None) -> Tensor:
    """A tensor that all ranks share, as each is to use it for its own classes; its gradient is the sum of theirs."""
    return shared if shards is None else _copy(shared, shards.code)


def log_softmax(z: Tensor, shards: Shards | None) -> Tensor:
    """log p of this rank's classes, normalised over the classes of all."""
    if shards is None:
        return z.log_softmax(1)
    top = z.detach().amax(1) if z.shape[1] else z.detach().sum(1) - torch.inf
    top = _maximum_over_ranks(top, shards.code)
    z = z - top.unsqueeze(1)
    return z - copy_to_ranks(reduce_from_ranks(z.exp().sum(1), shards).log(), shards).unsqueeze(1)
