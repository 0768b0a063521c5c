"""The engine behind opaque operators, so that compilers and transforms see one node and not its loops.

They have no derivative of their own: torch's `register_autograd` does not go together with ``torch.func``. The derivatives are the
autograd Functions of :mod:`lossmith.fused.functions`, which call these.
"""

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor

from lossmith.fused import engine, given
from lossmith.fused.backends import computing
from lossmith.fused.engine import Spec
from lossmith.fused.shards import Shards
from lossmith.fused.tiles import Head, working


def _without_autocast(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


@torch.library.custom_op("lossmith::row_stats", mutates_args=())
def row_stats(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: Tensor | None,
    class_weight: Tensor | None,
    label: Tensor,
    spec: str,
    shards: str,
) -> Tensor:
    """`(n, columns)` statistics of the rows whose label is at least 0."""
    with _without_autocast(x):
        head = Head(weight, bias, cap, Shards.read(shards))
        return computing(x, head).row_stats(x, head, class_weight, label, Spec.read(spec))


@row_stats.register_fake
def _(x, weight, bias, cap, class_weight, label, spec, shards):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], Spec.read(spec).columns), dtype=working(x, weight))


@torch.library.custom_op("lossmith::row_stats_gradients", mutates_args=())
def row_stats_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: Tensor | None,
    class_weight: Tensor | None,
    label: Tensor,
    stats: Tensor,
    upstream: Tensor,
    spec: str,
    wanted: str,
    shards: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by hidden, weight, bias, cap and class weight, in their dtypes; empty where not wanted."""
    head = Head(weight, bias, cap, Shards.read(shards))
    with _without_autocast(x):
        found = computing(x, head).row_stats_gradients(x, head, class_weight, label, stats, upstream, Spec.read(spec), wanted)
    gx, gw, gb, gc, gv = (_as(like, gradient, x) for gradient, like in zip(found, (x, weight, bias, cap, class_weight), strict=True))
    return gx, gw, gb, gc, gv


def _as(like: Tensor | None, gradient: Tensor | None, x: Tensor) -> Tensor:
    """A gradient in the dtype of what it belongs to; the empty tensor in place of none."""
    return x.new_empty(0) if gradient is None or like is None else gradient.to(like.dtype)


@row_stats_gradients.register_fake
def _(x, weight, bias, cap, class_weight, label, stats, upstream, spec, wanted, shards):  # type: ignore[no-untyped-def]
    return tuple(
        x.new_empty(like.shape, dtype=like.dtype) if like is not None and asked == "y" else x.new_empty(0)
        for like, asked in zip((x, weight, bias, cap, class_weight), wanted, strict=True)
    )


@torch.library.custom_op("lossmith::row_stats_kept", mutates_args=("room",))
def row_stats_kept(
    x: Tensor, weight: Tensor, bias: Tensor | None, cap: Tensor | None, class_weight: Tensor | None, label: Tensor, room: Tensor, spec: str
) -> Tensor:
    """:func:`row_stats`, with logits left in the room of the head's gradient."""
    with _without_autocast(x):
        return engine.row_stats(x, Head(weight, bias, cap), class_weight, label, Spec.read(spec), room)


@row_stats_kept.register_fake
def _(x, weight, bias, cap, class_weight, label, room, spec):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], Spec.read(spec).columns), dtype=working(x, weight))


@torch.library.custom_op("lossmith::row_stats_kept_gradients", mutates_args=("room",))
def row_stats_kept_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: Tensor | None,
    class_weight: Tensor | None,
    label: Tensor,
    stats: Tensor,
    upstream: Tensor,
    room: Tensor,
    spec: str,
    wanted: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`row_stats_gradients` from the logits in a room, which becomes the head's gradient; the other four are returned."""
    with _without_autocast(x):
        head, of = Head(weight, bias, cap), wanted[0] + "n" + wanted[2:]
        found = engine.row_stats_gradients(x, head, class_weight, label, stats, upstream, Spec.read(spec), of, room)
    sources = ((found.x, x), (found.bias, bias), (found.cap, cap), (found.class_weight, class_weight))
    gx, gb, gc, gv = (_as(like, gradient, x) for gradient, like in sources)
    return gx, gb, gc, gv


@row_stats_kept_gradients.register_fake
def _(x, weight, bias, cap, class_weight, label, stats, upstream, room, spec, wanted):  # type: ignore[no-untyped-def]
    return tuple(
        x.new_empty(like.shape, dtype=like.dtype) if like is not None and asked == "y" else x.new_empty(0)
        for like, asked in zip((x, bias, cap, class_weight), wanted[0] + wanted[2:], strict=True)
    )


@torch.library.custom_op("lossmith::log_prob_and_gradients", mutates_args=())
def log_prob_and_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, cap: Tensor | None, label: Tensor, upstream: Tensor, wanted: str, shards: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The log-probability, and the gradients of its sum weighted by `upstream` by hidden, weight and bias, in the working dtype."""
    with _without_autocast(x):
        head = Head(weight, bias, cap, Shards.read(shards))
        out, found = computing(x, head).log_prob_and_gradients(x, head, label, upstream, wanted + "nn")
    gx, gw, gb = (x.new_empty(0) if gradient is None else gradient for gradient in found[:3])
    return out, gx, gw, gb


@log_prob_and_gradients.register_fake
def _(x, weight, bias, cap, label, upstream, wanted, shards):  # type: ignore[no-untyped-def]
    dtype = working(x, weight)
    return x.new_empty(x.shape[0], dtype=dtype), *(
        x.new_empty(like.shape if asked == "y" else 0, dtype=dtype) for like, asked in zip((x, weight, bias), wanted, strict=True)
    )


@torch.library.custom_op("lossmith::scaled", mutates_args=())
def scaled(gradient: Tensor, upstream: Tensor, source: Tensor) -> Tensor:
    """gradient * upstream in the dtype of the source.

    An operator, so that compiled code keeps the source for its backward pass: a second derivative is then refused, as it is for any
    compiled code, where a gradient that came from nowhere would be taken for a constant.
    """
    return (gradient * upstream).to(source.dtype)


@scaled.register_fake
def _(gradient, upstream, source):  # type: ignore[no-untyped-def]
    return torch.empty_like(gradient, dtype=source.dtype)


@torch.library.custom_op("lossmith::given_stats", mutates_args=())
def given_stats(z: Tensor, class_weight: Tensor | None, label: Tensor, spec: str) -> Tensor:
    """`(n, m, columns)` statistics of logits `(n, c, m)` where the label, `(n, m)`, is at least 0."""
    with _without_autocast(z):
        return given.stats(z, class_weight, label, Spec.read(spec))


@given_stats.register_fake
def _(z, class_weight, label, spec):  # type: ignore[no-untyped-def]
    return z.new_empty((*label.shape, Spec.read(spec).columns), dtype=working(z, z))


@torch.library.custom_op("lossmith::given_gradient", mutates_args=())
def given_gradient(z: Tensor, class_weight: Tensor | None, label: Tensor, stats: Tensor, upstream: Tensor, spec: str) -> Tensor:
    """The gradient of `(stats * upstream).sum()`, in the logits' shape and dtype."""
    with _without_autocast(z):
        return given.gradient(z, class_weight, label, stats, upstream, Spec.read(spec))


@given_gradient.register_fake
def _(z, class_weight, label, stats, upstream, spec):  # type: ignore[no-untyped-def]
    return torch.empty_like(z, memory_format=torch.contiguous_format)


ROWWISE = frozenset({"x", "label", "stats", "upstream"})
"""Arguments with one entry a row: a batch of them is more rows."""


def _batched(operator: Callable[..., Any], names: tuple[str, ...], rowwise: Set[str] = ROWWISE) -> Callable[..., Any]:
    """A vmap rule: a batch of rows under one head is one call with more rows; a batch of heads, or of their gradients, is a call each."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        given = dict(zip(names, args, strict=True))
        mapped = {name: dim for name, dim in zip(names, in_dims, strict=True) if isinstance(dim, int)}
        front = {name: given[name].movedim(dim, 0) for name, dim in mapped.items()}
        if not info.batch_size:
            return _nothing(operator(**{**given, **{name: value.new_zeros(value.shape[1:]) for name, value in front.items()}}))
        if set(mapped) <= rowwise and "y" not in given.get("wanted", "")[1:]:
            front |= {name: given[name].expand(info.batch_size, *given[name].shape) for name in rowwise & (given.keys() - mapped.keys())}
            return _unfolded(operator(**{**given, **{name: value.flatten(0, 1) for name, value in front.items()}}), info.batch_size)
        each = [operator(**{**given, **{name: value[i] for name, value in front.items()}}) for i in range(info.batch_size)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(torch.stack(pieces) for pieces in zip(*each, strict=True)), (0,) * len(each[0])

    return rule


def _unfolded(out: Tensor | tuple[Tensor, ...], batch: int) -> tuple[Any, Any]:
    """Rows taken apart again; gradients that were not wanted are empty, and belong to no batch."""
    if isinstance(out, Tensor):
        return out.unflatten(0, (batch, out.shape[0] // batch)), 0
    first, *rest = out
    return (first.unflatten(0, (batch, first.shape[0] // batch)), *rest), (0, *(None for _ in rest))


def _nothing(out: Tensor | tuple[Tensor, ...]) -> tuple[Any, Any]:
    """A batch of nothing, in the shape that one would have."""
    if isinstance(out, Tensor):
        return out.new_empty((0, *out.shape)), 0
    return tuple(piece.new_empty((0, *piece.shape)) for piece in out), (0,) * len(out)


_STATS = ("x", "weight", "bias", "cap", "class_weight", "label", "spec", "shards")
_GRADIENTS = ("x", "weight", "bias", "cap", "class_weight", "label", "stats", "upstream", "spec", "wanted", "shards")
row_stats.register_vmap(_batched(row_stats, _STATS))
row_stats_gradients.register_vmap(_batched(row_stats_gradients, _GRADIENTS))
