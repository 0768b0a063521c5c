"""The operators of two heads, and their derivatives.

As in :mod:`lossmith.fused.operators` and :mod:`lossmith.fused.functions`: opaque operators without a derivative of their own, and around
them two Functions, the values and their gradient, each with `jvp` and without. Second derivatives are in :mod:`lossmith.fused.pair_second`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lossmith._reduce import times
from lossmith.fused import operators, pairs
from lossmith.fused.functions import _letters, _moved, _save, _scaled, distinct, transformed
from lossmith.fused.operators import _as, _batched, _without_autocast
from lossmith.fused.pair_second import Both, _working, curvature, tangent
from lossmith.fused.pairs import COLUMNS, Side
from lossmith.fused.shards import Shards, coded
from lossmith.fused.terms import terms_of
from lossmith.fused.tiles import Head


def _sides(*at: Any, shards: str) -> tuple[Side, Side]:
    x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap = at
    split = Shards.read(shards)
    return Side(x, Head(weight, bias, cap, split)), Side(teacher_x, Head(teacher_weight, teacher_bias, teacher_cap, split))


@torch.library.custom_op("lossmith::pair_stats", mutates_args=())
def pair_stats(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: Tensor | None,
    teacher_x: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    teacher_cap: Tensor | None,
    class_weight: Tensor | None,
    keep: Tensor,
    code: str,
    rows: int,
    shards: str,
) -> Tensor:
    """`(n, COLUMNS)` of the kept rows: the value, and what its gradient has to know."""
    student, teacher = _sides(x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, shards=shards)
    with _without_autocast(x):
        return pairs.pair_stats(student, teacher, class_weight, keep, terms_of(code, pairs.both_working(student, teacher)), rows)


@pair_stats.register_fake
def _(x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight, keep, code, rows, shards):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], COLUMNS), dtype=_working(x, weight, teacher_x, teacher_weight))


@torch.library.custom_op("lossmith::pair_gradients", mutates_args=())
def pair_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: Tensor | None,
    teacher_x: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    teacher_cap: Tensor | None,
    class_weight: Tensor | None,
    keep: Tensor,
    stats: Tensor,
    upstream: Tensor,
    code: str,
    wanted: str,
    shards: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by everything in `Both`, in their dtypes; empty where not wanted."""
    at = (x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap)
    student, teacher = _sides(*at, shards=shards)
    terms = terms_of(code, pairs.both_working(student, teacher))
    with _without_autocast(x):
        found = pairs.pair_gradients(student, teacher, class_weight, keep, stats, upstream, terms, wanted)
    each = (*found.student[:4], *found.teacher[:4], found.class_weight)
    a, b, c, d, e, f, g, h, v = (_as(like, gradient, x) for gradient, like in zip(each, (*at, class_weight), strict=True))
    return a, b, c, d, e, f, g, h, v


@pair_gradients.register_fake
def _(  # type: ignore[no-untyped-def]
    x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight, keep, stats, upstream, code, wanted, shards
):
    at = (x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight)
    return tuple(
        x.new_empty(like.shape, dtype=like.dtype) if like is not None and asked == "y" else x.new_empty(0)
        for like, asked in zip(at, wanted, strict=True)
    )


@torch.library.custom_op("lossmith::pair_and_gradients", mutates_args=())
def pair_and_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: Tensor | None,
    teacher_x: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    teacher_cap: Tensor | None,
    class_weight: Tensor | None,
    keep: Tensor,
    upstream: Tensor,
    code: str,
    rows: int,
    wanted: str,
    shards: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Values, and the gradients of their sum weighted by `upstream` by hidden states, weight and bias of both, in the working dtype."""
    student, teacher = _sides(x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, shards=shards)
    terms = terms_of(code, pairs.both_working(student, teacher))
    with _without_autocast(x):
        out, mine, theirs = pairs.pair_and_gradients(student, teacher, class_weight, keep, upstream, terms, rows, wanted)
    a, b, c, d, e, f = (x.new_empty(0) if gradient is None else gradient for gradient in (*mine[:3], *theirs[:3]))
    return out, a, b, c, d, e, f


@pair_and_gradients.register_fake
def _(  # type: ignore[no-untyped-def]
    x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight, keep, upstream, code, rows, wanted, shards
):
    dtype = _working(x, weight, teacher_x, teacher_weight)
    each = (x, weight, bias, teacher_x, teacher_weight, teacher_bias)
    return x.new_empty(x.shape[0], dtype=dtype), *(
        x.new_empty(like.shape if like is not None and asked == "y" else 0, dtype=dtype) for like, asked in zip(each, wanted, strict=True)
    )


_STATS = (*Both._fields, "keep", "code", "rows", "shards")
_GRADIENTS = (*Both._fields, "keep", "stats", "upstream", "code", "wanted", "shards")
pair_stats.register_vmap(_batched(pair_stats, _STATS, rowwise={"x", "teacher_x", "keep"}))
pair_gradients.register_vmap(_batched(pair_gradients, _GRADIENTS, rowwise=set()))


def values(at: Both, keep: Tensor, code: str, rows: int, shards: Shards | None = None) -> Tensor:
    """`(n)` values, differentiable in all of `at`; zeros where a row is not kept."""
    transformed()
    function = _Pair if torch.compiler.is_compiling() else _PairForward
    return function.apply(*distinct(at), keep, code, rows, coded(shards))[:, 0]


def _gradients(at: Both, keep: Tensor, found: Tensor, upstream: Tensor, code: str, wanted: Sequence[bool], shards: str) -> Both:
    """J^T upstream, differentiable in turn; None where not wanted."""
    function = _PairGradients if torch.compiler.is_compiling() else _PairGradientsForward
    out = function.apply(*at, keep, found, upstream, code, _letters(wanted), shards)
    return Both(*(gradient if asked else None for gradient, asked in zip(out, wanted, strict=True)))


class _Pair(Function):
    """All columns; those beyond the first are constants to whoever takes derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]  # by name: Dynamo counts them
        x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight, keep, code, rows, shards
    ):
        at = (x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight)
        return pair_stats(*at, keep, code, rows, shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.code, _, ctx.shards = inputs
        _save(ctx, *tensors, output)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, keep, found = ctx.saved_tensors
        needed = ctx.needs_input_grad[:9]
        by = _gradients(Both(*at), keep, found.detach(), upstreams[0][:, 0], ctx.code, needed, ctx.shards)
        return *by, None, None, None, None


class _PairForward(_Pair):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Tensor:
        *at, keep, found = ctx.saved_tensors
        moved = tangent(Both(*at), Both(*directions[:9]), keep, ctx.code, Shards.read(ctx.shards))
        return torch.cat([moved.unsqueeze(1).to(found.dtype), moved.new_zeros(moved.shape[0], COLUMNS - 1, dtype=found.dtype)], 1)


class _PairGradients(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        x,
        weight,
        bias,
        cap,
        teacher_x,
        teacher_weight,
        teacher_bias,
        teacher_cap,
        class_weight,
        keep,
        found,
        upstream,
        code,
        wanted,
        shards,
    ):
        at = (x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight)
        return pair_gradients(*at, keep, found, upstream, code, wanted, shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.code, ctx.wanted, ctx.shards = inputs
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> Any:
        *at, keep, _, upstream = ctx.saved_tensors
        along = Both(*(v if asked == "y" else None for v, asked in zip(directions, ctx.wanted, strict=True)))
        by, moved = curvature(Both(*at), along, upstream, keep, ctx.code, Shards.read(ctx.shards))
        return *by, None, None, moved.to(upstream.dtype), None, None, None


class _PairGradientsForward(_PairGradients):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> tuple[Tensor, ...]:
        *at, keep, found, upstream = ctx.saved_tensors
        arguments, moved_upstream = Both(*at), directions[11]
        out: list[Tensor | None] = [None] * 9
        if any(direction is not None for direction in directions[:9]):
            out = list(curvature(arguments, Both(*directions[:9]), upstream, keep, ctx.code, Shards.read(ctx.shards))[0])
        if moved_upstream is not None:
            wanted = [asked == "y" for asked in ctx.wanted]
            more = _gradients(arguments, keep, found, moved_upstream, ctx.code, wanted, ctx.shards)
            out = [b if a is None else a if b is None else a + b for a, b in zip(out, more, strict=True)]
        return tuple(_moved(o, source, asked == "y", at[0]) for o, source, asked in zip(out, at, ctx.wanted, strict=True))


def weighted_value(
    at: Both, keep: Tensor, weights: Tensor, code: str, rows: int, wanted: Sequence[bool], shards: Shards | None = None
) -> Tensor:
    """sum_i weights_i value_i, 0-d, with the gradients by hidden states, weight and bias of both formed on the way."""
    function = _WeightedCompiled if torch.compiler.is_compiling() else _Weighted
    return function.apply(*distinct(at), keep, weights, code, rows, _letters(wanted), coded(shards))[0]


def _learnt(at: Sequence[Any]) -> list[Any]:
    """Hidden states, weight and bias of both sides."""
    return [*at[:3], *at[4:7]]


class _WeightedCompiled(Function):
    """Where the compiler decides what is kept, and whether a buffer is used again."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight, keep, weights, code, rows, wanted, shards
    ):
        at = (x, weight, bias, cap, teacher_x, teacher_weight, teacher_bias, teacher_cap, class_weight)
        each, *found = pair_and_gradients(*at, keep, weights, code, rows, wanted, shards)
        return times(weights, each).sum(), each, *found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.code, ctx.rows, _, ctx.shards = inputs
        _, each, *found = output
        ctx.mark_non_differentiable(each, *found)
        ctx.set_materialize_grads(False)  # zeros of the head's size, for outputs that have no gradient
        ctx.save_for_backward(*tensors, each, *found)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        saved = ctx.saved_tensors
        at, each, found = saved[:9], saved[11], saved[12:]
        if (upstream := upstreams[0]) is None:
            return (None,) * 15
        of = [
            operators.scaled(gradient, upstream, source) if needed else None
            for gradient, source, needed in zip(found, _learnt(at), _learnt(ctx.needs_input_grad), strict=True)
        ]
        return _returned(of, upstream * each if ctx.needs_input_grad[10] else None)


def _returned(of: Sequence[Tensor | None], by_weights: Tensor | None) -> tuple[Tensor | None, ...]:
    return *of[:3], None, *of[3:], None, None, None, by_weights, None, None, None, None


class _Weighted(_WeightedCompiled):
    """The stored gradients are handed over in the first backward pass, without a copy; a second one computes them again."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.code, ctx.rows, _, ctx.shards = inputs
        _, each, *found = output
        ctx.mark_non_differentiable(each, *found)
        ctx.set_materialize_grads(False)  # zeros of the head's size, for outputs that have no gradient
        ctx.save_for_backward(*tensors, each)
        ctx.ready = found  # no cycle: what is not differentiable has no grad_fn to lead back here

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, keep, weights, each = ctx.saved_tensors
        if (upstream := upstreams[0]) is None:
            return (None,) * 15
        ready, ctx.ready = ctx.ready, None
        needed = _learnt(ctx.needs_input_grad)
        if ready is None or torch.is_grad_enabled():  # once more, or to be differentiated again
            function = _PairForward.apply(*at, keep, ctx.code, ctx.rows, ctx.shards)
            asked = [*needed[:3], False, *needed[3:], False, False]
            again = _gradients(Both(*at), keep, function.detach(), upstream * weights, ctx.code, asked, ctx.shards)
            of, each = _learnt(again), function[:, 0]
        else:
            of = [
                _scaled(g, upstream).to(source.dtype) if want else None for g, source, want in zip(ready, _learnt(at), needed, strict=True)
            ]
        return _returned(of, upstream * each if ctx.needs_input_grad[10] else None)
