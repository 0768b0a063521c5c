r"""Logits of a few classes of each row, by dot products with the rows of the head that they need, and which classes have the largest.

:func:`gathered` gives :math:`u_{ij} = h_i \cdot W_{k_{ij}} + b_{k_{ij}}` without a pass over the vocabulary. It is bilinear, and so are its
gradients: two Functions that are each other's derivatives make it differentiable any number of times. The gathered rows of the head,
which for all rows together may be larger than the head, exist for a few rows at a time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from lossmith.fused.collectives import copy_to_ranks, reduce_from_ranks
from lossmith.fused.functions import _moved, _save, transformed
from lossmith.fused.operators import _as, _batched, _without_autocast
from lossmith.fused.shards import Shards, largest_of_rows, of_all, sketch, total
from lossmith.fused.tiles import Head, blocks, spans, working

GATHERED = 2**20
"""Numbers that the rows gathered from the head may be at a time: 4 MiB in float32."""


def _chunks(at: Tensor, weight: Tensor) -> list[slice]:
    """Rows, some at a time; none where there is no class to look up, as on a rank that holds nothing."""
    if not weight.shape[0]:
        return []
    size = max(1, GATHERED // max(1, at.shape[1] * weight.shape[1]))
    return [slice(start, start + size) for start in range(0, at.shape[0], size)]


@torch.library.custom_op("lossmith::gathered", mutates_args=())
def _gathered(x: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor) -> Tensor:
    """`(n, m)` logits of the classes `at`; 0 where that is negative."""
    dtype = working(x, weight)
    out = torch.zeros(at.shape, dtype=dtype, device=x.device)
    with _without_autocast(x):
        for rows in _chunks(at, weight):
            k = at[rows].clamp_min(0)
            u = torch.einsum("nd,nmd->nm", x[rows].to(dtype), weight[k].to(dtype))
            if bias is not None:
                u = u + bias[k].to(dtype)
            out[rows] = torch.where(at[rows] < 0, 0, u)
    return out


@_gathered.register_fake
def _(x, weight, bias, at):  # type: ignore[no-untyped-def]
    return x.new_empty(at.shape, dtype=working(x, weight))


@torch.library.custom_op("lossmith::gathered_gradients", mutates_args=())
def _gathered_gradients(x: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `(gathered * upstream).sum()` by hidden states, head and bias (empty where there is none), in their dtypes."""
    dtype = working(x, weight)
    gx, gw = torch.zeros(x.shape, dtype=dtype, device=x.device), torch.zeros(weight.shape, dtype=dtype, device=x.device)
    gb = None if bias is None else torch.zeros(bias.shape, dtype=dtype, device=x.device)
    with _without_autocast(x):
        for rows in _chunks(at, weight):
            k, g = at[rows].clamp_min(0), torch.where(at[rows] < 0, 0, upstream[rows].to(dtype))
            gx[rows] = torch.einsum("nm,nmd->nd", g, weight[k].to(dtype))
            gw.index_add_(0, k.flatten(), (g.unsqueeze(2) * x[rows].to(dtype).unsqueeze(1)).flatten(0, 1))
            if gb is not None:
                gb.index_add_(0, k.flatten(), g.flatten())
    return _as(x, gx, x), _as(weight, gw, x), _as(bias, gb, x)


@_gathered_gradients.register_fake
def _(x, weight, bias, at, upstream):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight), x.new_empty(0) if bias is None else torch.empty_like(bias)


_gathered.register_vmap(_batched(_gathered, ("x", "weight", "bias", "at"), rowwise={"x", "at"}))
_gathered_gradients.register_vmap(_batched(_gathered_gradients, ("x", "weight", "bias", "at", "upstream"), rowwise=set()))


def logits_at(x: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor, shards: Shards | None) -> Tensor:
    """`(n, m)`: the logits before any softcap of the classes `at` `(n, m)`, 0 where that is negative; differentiable in all else.

    Over ranks, the one that holds a class contributes its logit.
    """
    if shards is None:
        return gathered(x, weight, bias, at)
    here = at - shards.first
    here = torch.where((at < 0) | (here < 0) | (here >= weight.shape[0]), -1, here)
    return reduce_from_ranks(gathered(copy_to_ranks(x, shards), weight, bias, here), shards)


def gathered(x: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor) -> Tensor:
    """The same in one process."""
    transformed()
    return (_Gathered if torch.compiler.is_compiling() else _GatheredForward).apply(x, weight, bias, at)


def _gradients(x: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    function = _GatheredGradients if torch.compiler.is_compiling() else _GatheredGradientsForward
    return function.apply(x, weight, bias, at, upstream)


class _Gathered(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, at):  # type: ignore[no-untyped-def]
        return _gathered(x, weight, bias, at)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        x, weight, bias, at = ctx.saved_tensors
        found = _gradients(x, weight, bias, at, upstreams[0])
        return *(g if needed else None for g, needed in zip(found, ctx.needs_input_grad[:3], strict=True)), None


class _GatheredForward(_Gathered):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Tensor:
        x, weight, _, at = ctx.saved_tensors
        return _along(x, weight, at, *directions[:3])


def _along(x: Tensor, weight: Tensor, at: Tensor, dx: Tensor | None, dweight: Tensor | None, dbias: Tensor | None) -> Tensor:
    """How the gathered logits move along a direction."""
    moved = x.new_zeros(at.shape, dtype=working(x, weight))
    if dx is not None:
        moved = moved + gathered(dx, weight, None, at)
    if dweight is not None:
        moved = moved + gathered(x, dweight, None, at)
    if dbias is not None and dbias.shape[0]:
        moved = moved + torch.where(at < 0, 0, dbias[at.clamp_min(0)])
    return moved


class _GatheredGradients(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, at, upstream):  # type: ignore[no-untyped-def]
        return _gathered_gradients(x, weight, bias, at, upstream)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, *directions: Any) -> Any:
        x, weight, bias, at, upstream = ctx.saved_tensors
        dx, dweight, dbias = (*directions[:2], directions[2] if bias is not None else None)
        by_upstream = _along(x, weight, at, dx, dweight, dbias).to(upstream.dtype)
        by_x = _gradients(x, dweight, None, at, upstream)[0]
        by_weight = _gradients(dx, weight, None, at, upstream)[1]
        return by_x, by_weight, None, None, by_upstream


class _GatheredGradientsForward(_GatheredGradients):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> tuple[Tensor, ...]:
        x, weight, bias, at, upstream = ctx.saved_tensors
        dx, dweight, _, _, moved_upstream = directions
        out: list[Tensor | None] = [None, None, None]
        if moved_upstream is not None:
            out = list(_gradients(x, weight, bias, at, moved_upstream))
        if dweight is not None:
            more = _gradients(x, dweight, None, at, upstream)[0]
            out[0] = more if out[0] is None else out[0] + more
        if dx is not None:
            more = _gradients(dx, weight, None, at, upstream)[1]
            out[1] = more if out[1] is None else out[1] + more
        return tuple(_moved(o, source, source is not None, x) for o, source in zip(out, (x, weight, bias), strict=True))


@torch.library.custom_op("lossmith::top_k", mutates_args=())
def top_k(x: Tensor, weight: Tensor, bias: Tensor | None, cap: Tensor | None, k: int, shards: str) -> tuple[Tensor, Tensor]:
    """The classes with the k largest logits of every row, largest first, and the log-probabilities of these; one pass of tiles."""
    head, dtype = Head(weight, bias, cap, Shards.read(shards)), working(x, weight)
    here = min(k, head.classes)
    at = torch.empty(x.shape[0], here, dtype=torch.long, device=x.device)
    best = torch.empty(x.shape[0], here, dtype=dtype, device=x.device)
    top, sums = torch.empty(2, x.shape[0], dtype=dtype, device=x.device)
    with _without_autocast(x):
        for rows in blocks(torch.arange(x.shape[0], device=x.device)):
            at[rows], best[rows], top[rows], sums[rows] = _block_top_k(x[rows].to(dtype), head, here)
    if head.shards is not None:
        at, best = _merged(at, best, k, head.shards)
        highest = largest_of_rows(top, sketch(x, torch.arange(x.shape[0], device=x.device), dtype), head.shards)
        top, sums = highest, total(sums * (top - _finite(highest)).exp(), head.shards)
    return at, best - (top + sums.log()).unsqueeze(1)


def _merged(at: Tensor, best: Tensor, k: int, shards: Shards) -> tuple[Tensor, Tensor]:
    """The k largest of all ranks, from those of each, and their numbers among the classes of all."""
    widest = min(k, shards.largest)
    beyond = (0, widest - at.shape[1])  # a rank may hold fewer; what fills its message is cut off again
    classes, values = of_all(F.pad(at + shards.first, beyond), shards), of_all(F.pad(best, beyond), shards)
    held = [min(k, size) for size in shards.sizes]
    found, where = torch.cat([v[:, :n] for v, n in zip(values, held, strict=True)], 1).topk(k, 1)
    return torch.cat([c[:, :n] for c, n in zip(classes, held, strict=True)], 1).gather(1, where), found


def _finite(top: Tensor) -> Tensor:
    """A reference for the exponentials of a row: 0 where there is nothing but -inf so far."""
    return torch.where(top == -torch.inf, 0, top)


def _block_top_k(x: Tensor, head: Head, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(classes, their logits, the largest logit, sum of the exponentials relative to it) of a block of rows, of the classes here."""
    buffer = x.new_empty(x.shape[0], head.width)
    best = x.new_full((x.shape[0], k), -torch.inf)
    at = torch.arange(k, device=x.device).expand(x.shape[0], k).clone()
    top, sums = x.new_full((x.shape[0],), -torch.inf), x.new_zeros(x.shape[0])
    for start, stop in spans(head.classes, head.width):
        z = head.logits(x, start, stop, buffer[:, : stop - start])
        highest = z.amax(1)
        before, top = top, torch.maximum(top, highest)
        finite = _finite(top)
        sums = sums * (before - finite).exp() + (z - finite.unsqueeze(1)).exp().sum(1)
        some = ((highest > best[:, -1]) | (start < k)).nonzero().squeeze(1)
        if some.numel():
            seen = min(start, k)
            values = torch.cat([best[some, :seen], z[some]], 1)
            classes = torch.cat([at[some, :seen], torch.arange(start, stop, device=x.device).expand(some.numel(), -1)], 1)
            found, where = values.topk(min(k, values.shape[1]), 1)
            best[some, : found.shape[1]], at[some, : found.shape[1]] = found, classes.gather(1, where)
    return at, best, top, sums


@top_k.register_fake
def _(x, weight, bias, cap, k, shards):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], k), dtype=torch.long), x.new_empty((x.shape[0], k), dtype=working(x, weight))


top_k.register_vmap(_batched(top_k, ("x", "weight", "bias", "cap", "k", "shards"), rowwise=set()))
