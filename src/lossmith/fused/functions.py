"""The derivatives of the operators.

:func:`stats` is differentiable in every way torch knows. Its two Functions, the statistics and their gradient, exist twice each: with
`jvp`, for forward mode, and without, because Dynamo refuses a Function that defines one. :func:`weighted_log_prob` and
:func:`frozen_log_prob` form gradients in the forward pass; they are for plain eager or compiled code alone. Where their backward pass
is to be differentiated again, it leaves the stored gradients aside and takes the gradient of :func:`stats`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lossmith._reduce import times
from lossmith.fused import operators, reference
from lossmith.fused.engine import Spec
from lossmith.fused.room import Room
from lossmith.fused.second import Arguments, curvature, tangent
from lossmith.fused.shards import Shards, coded
from lossmith.fused.tiles import working

REFUSED = (
    "lossmith.fused: torch.compile of torch.func.grad, vjp or jvp leaves out the derivatives of an operator, without a word "
    "(pytorch/pytorch#193279): compile the loss and differentiate outside, or do not compile"
)

NESTED = (
    "lossmith.fused: forward mode within forward mode gives a second derivative of 0 for any torch.autograd.Function, without a word: "
    "use torch.func.hessian, or forward mode over torch.func.grad"
)


@torch.compiler.assume_constant_result
def _derived_while_compiling() -> bool:
    """Whether a derivative of ``torch.func`` is being traced; asked by Dynamo once, which guards on the transforms at work."""
    return _levels(torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp) > 0


def transformed() -> bool:
    """Whether a transform of ``torch.func``, or forward mode, looks on: then every derivative has to be there.

    Raises RuntimeError where torch would get derivatives silently wrong.
    """
    if torch.compiler.is_compiling():
        if _derived_while_compiling():
            raise RuntimeError(REFUSED)
        return False
    if _levels(torch._C._functorch.TransformType.Jvp) > 1:
        raise RuntimeError(NESTED)
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _levels(*kinds: object) -> int:
    """How many transforms of ``torch.func`` of those kinds are at work."""
    return sum(level.key() in kinds for level in torch._C._functorch.get_interpreter_stack() or ())


def distinct(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The same for a Function; while compiling, a view where a tensor is there twice, as a head that two share is: Dynamo refuses that."""
    found: list[Tensor | None] = []
    for tensor in tensors:
        twice = torch.compiler.is_compiling() and tensor is not None and any(tensor is other for other in found)
        found.append(tensor.view_as(tensor) if twice and tensor is not None else tensor)
    return found


def stats(at: Arguments, label: Tensor, spec: Spec, shards: Shards | None = None, *, keep: bool = False) -> Tensor:
    """`(n, columns)` of `spec`, differentiable in all of `at`; zeros where the label is negative.

    To `keep` logits in the room of the head's gradient is for plain eager code whose head asks for a gradient and is here whole.
    """
    kept = spec.whole
    transformed()
    if keep:
        assert at.x is not None
        assert at.weight is not None
        out = _Kept.apply(*at, label, kept.code, Room(at.weight, working(at.x, at.weight)))
    else:
        function = _Stats if torch.compiler.is_compiling() else _StatsForward
        out = function.apply(*distinct(at), label, kept.code, coded(shards))
    if kept == spec:
        return out
    columns = [kept.want.index(name) for name in spec.want]
    return torch.stack([out[:, i] for i in (*columns, *range(len(kept.want), out.shape[1]))], 1)


def gradients(
    at: Arguments, label: Tensor, found: Tensor, upstream: Tensor, spec: Spec, wanted: Sequence[bool], shards: Shards | None = None
) -> Arguments:
    """J^T upstream, differentiable in turn; None where not wanted."""
    function = _Gradients if torch.compiler.is_compiling() else _GradientsForward
    out = function.apply(*at, label, found, upstream, spec.code, _letters(wanted), coded(shards))
    return Arguments(*(gradient if asked else None for gradient, asked in zip(out, wanted, strict=True)))


def _save(ctx: Any, *tensors: Tensor | None) -> None:
    """For both modes, and the same for both: the rules that vmap generates remember the batch axes of one list alone."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


class _Stats(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, cap, class_weight, label, spec, shards):  # type: ignore[no-untyped-def]
        return operators.row_stats(x, weight, bias, cap, class_weight, label, spec, shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, spec, shards = inputs
        _save(ctx, *tensors, output)
        ctx.spec, ctx.shards = Spec.read(spec), Shards.read(shards)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, label, found = ctx.saved_tensors
        needed = ctx.needs_input_grad[:5]
        return *gradients(Arguments(*at), label, found.detach(), upstreams[0], ctx.spec, needed, ctx.shards), None, None, None


class _StatsForward(_Stats):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Tensor:
        *at, label, _ = ctx.saved_tensors
        return tangent(Arguments(*at), Arguments(*directions[:5]), label, ctx.spec, ctx.shards)


class _Kept(Function):
    """The statistics, with logits kept for the first backward pass alone; a second one computes all of them again."""

    @staticmethod
    def forward(x, weight, bias, cap, class_weight, label, spec, room):  # type: ignore[no-untyped-def]
        return operators.row_stats_kept(x, weight, bias, cap, class_weight, label, room.tensor, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, spec, ctx.room = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.spec = Spec.read(spec)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, label, found = ctx.saved_tensors
        room, ctx.room = ctx.room, None
        needed, upstream = ctx.needs_input_grad[:5], upstreams[0]
        if room is None or torch.is_grad_enabled() or batched(upstream):  # once more, to be differentiated again, or for many at once
            return *gradients(Arguments(*at), label, found.detach(), upstream, ctx.spec, needed), None, None, None
        wanted = _letters(needed)
        gx, *further = operators.row_stats_kept_gradients(*at, label, found.detach(), upstream, room.tensor, ctx.spec.code, wanted)
        out = gx, room.tensor.to(at[1].dtype), *further
        return *(gradient if asked else None for gradient, asked in zip(out, needed, strict=True)), None, None, None


class _Gradients(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, cap, class_weight, label, found, upstream, spec, wanted, shards):  # type: ignore[no-untyped-def]
        return operators.row_stats_gradients(x, weight, bias, cap, class_weight, label, found, upstream, spec, wanted, shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, found, upstream, spec, wanted, shards = inputs
        _save(ctx, *tensors, found, upstream)
        ctx.spec, ctx.wanted, ctx.shards = Spec.read(spec), wanted, Shards.read(shards)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> Any:
        *at, label, _, upstream = ctx.saved_tensors
        along = Arguments(*(v if asked == "y" else None for v, asked in zip(directions, ctx.wanted, strict=True)))
        by, moved = curvature(Arguments(*at), along, upstream, label, ctx.spec, ctx.shards)
        return *by, None, None, moved.to(upstream.dtype), None, None, None


class _GradientsForward(_Gradients):
    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> tuple[Tensor, ...]:
        *at, label, found, upstream = ctx.saved_tensors
        arguments, moved_upstream = Arguments(*at), directions[7]
        out = [None] * 5
        if any(direction is not None for direction in directions[:5]):
            out = list(curvature(arguments, Arguments(*directions[:5]), upstream, label, ctx.spec, ctx.shards)[0])
        if moved_upstream is not None:
            more = gradients(arguments, label, found, moved_upstream, ctx.spec, [asked == "y" for asked in ctx.wanted], ctx.shards)
            out = [b if a is None else a if b is None else a + b for a, b in zip(out, more, strict=True)]
        return tuple(_moved(o, source, asked == "y", at[0]) for o, source, asked in zip(out, at, ctx.wanted, strict=True))


def _moved(tangent: Tensor | None, source: Tensor | None, asked: bool, x: Tensor) -> Tensor:
    """The tangent of a gradient; of the empty one in place of those that were not asked for."""
    if source is None or not asked:
        return x.new_empty(0)
    return torch.zeros_like(source) if tangent is None else tangent.to(source.dtype)


def _letters(wanted: Sequence[bool]) -> str:
    return "".join("y" if asked else "n" for asked in wanted)


LOG_PROB = Spec(("log_prob",), ())
"""What the two functions below compute."""


def weighted_log_prob(at: Arguments, label: Tensor, weights: Tensor, wanted: Sequence[bool], shards: Shards | None = None) -> Tensor:
    """sum_i weights_i log p_i, 0-d, with the gradients by hidden, weight and bias formed on the way: 3 matrix products in all."""
    function = _WeightedCompiled if torch.compiler.is_compiling() else _Weighted
    return function.apply(*distinct(at[:4]), label, weights, _letters(wanted), coded(shards))[0]


def frozen_log_prob(at: Arguments, label: Tensor, shards: Shards | None = None) -> Tensor:
    """`(n)` log-probabilities under a head without gradients: 2 matrix products, whatever comes after."""
    return _Frozen.apply(*distinct(at[:4]), label, coded(shards))[0]


def _again(at: Arguments, label: Tensor, upstream: Tensor, needed: Sequence[bool], shards: Shards | None) -> tuple[Arguments, Tensor]:
    """The gradient by recomputation, differentiable in turn, and the log-probabilities."""
    kept = LOG_PROB.whole
    found = stats(at, label, kept, shards)
    padded = torch.stack([upstream, torch.zeros_like(upstream)], 1)
    return gradients(at, label, found.detach(), padded, kept, (*needed, False, False), shards), found[:, 0]


class _WeightedCompiled(Function):
    """Where the compiler decides what is kept, and whether a buffer is used again."""

    @staticmethod
    def forward(x, weight, bias, cap, label, weights, wanted, shards):  # type: ignore[no-untyped-def]
        log_prob, *found = operators.log_prob_and_gradients(x, weight, bias, cap, label, weights, wanted, shards)
        return times(weights, log_prob).sum(), log_prob, *found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, _ = inputs
        _, log_prob, *found = output
        ctx.mark_non_differentiable(log_prob, *found)
        ctx.set_materialize_grads(False)  # zeros of the head's size, for outputs that have no gradient
        ctx.save_for_backward(*tensors, log_prob, *found)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, _, _, log_prob, gx, gw, gb = ctx.saved_tensors
        if (upstream := upstreams[0]) is None:
            return (None,) * 8
        found = [
            operators.scaled(gradient, upstream, source) if needed else None
            for gradient, source, needed in zip((gx, gw, gb), at[:3], ctx.needs_input_grad[:3], strict=True)
        ]
        return *found, None, None, upstream * log_prob if ctx.needs_input_grad[5] else None, None, None


class _Weighted(_WeightedCompiled):
    """The stored gradients are handed over in the first backward pass, without a copy; a second one computes them again."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, shards = inputs
        _, log_prob, *found = output
        ctx.mark_non_differentiable(log_prob, *found)
        ctx.set_materialize_grads(False)  # zeros of the head's size, for outputs that have no gradient
        ctx.save_for_backward(*tensors, log_prob)
        ctx.shards = Shards.read(shards)
        ctx.ready = found  # no cycle: what is not differentiable has no grad_fn to lead back here

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, label, weights, log_prob = ctx.saved_tensors
        if (upstream := upstreams[0]) is None:
            return (None,) * 8
        ready, ctx.ready = ctx.ready, None
        needed = ctx.needs_input_grad[:3]
        if ready is None or torch.is_grad_enabled():  # once more, or to be differentiated again
            again, log_prob = _again(Arguments(*at), label, upstream * weights, needed, ctx.shards)
            found: Sequence[Tensor | None] = again[:3]
        else:
            found = [_scaled(g, upstream).to(source.dtype) if n else None for g, source, n in zip(ready, at[:3], needed, strict=True)]
        return *found, None, None, upstream * log_prob if ctx.needs_input_grad[5] else None, None, None


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The gradient times a number, in place; on the CPU, where it costs nothing to look, not at all when that is 1.

    Times many numbers at once, as where autograd is asked for the gradients of a batch, it has no place.
    """
    if batched(upstream):
        return gradient * upstream
    return gradient if upstream.device.type == "cpu" and upstream == 1 else gradient.mul_(upstream)


def batched(upstream: Tensor) -> bool:
    """Whether a backward pass is run for many upstream gradients at once, by vmap or by `is_grads_batched`."""
    return torch._C._functorch.is_batchedtensor(upstream) or torch._C._functorch.is_legacy_batchedtensor(upstream)


class _Frozen(Function):
    @staticmethod
    def forward(x, weight, bias, cap, label, shards):  # type: ignore[no-untyped-def]
        ones = x.new_ones(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
        log_prob, slope, _, _ = operators.log_prob_and_gradients(x, weight, bias, cap, label, ones, "ynn", shards)
        return log_prob, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        *tensors, shards = inputs
        ctx.shards = Shards.read(shards)
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        *at, label, slope = ctx.saved_tensors
        if (upstream := upstreams[0]) is None:
            return (None,) * 6
        if torch.is_grad_enabled():
            return _again(Arguments(*at), label, upstream, (True, False, False), ctx.shards)[0].x, None, None, None, None, None
        return (upstream.unsqueeze(1) * slope).to(at[0].dtype), None, None, None, None, None


def given_stats(z: Tensor, class_weight: Tensor | None, label: Tensor, spec: Spec) -> Tensor:
    """`(n, m, columns)` of `spec` whole, from logits `(n, c, m)`; differentiable once, in z alone."""
    return _Given.apply(z, class_weight, label, spec.whole.code)


def given_densely(z: Tensor, class_weight: Tensor | None, label: Tensor, spec: Spec) -> Tensor:
    """The same by the definition, differentiable in every way, with the logits' copies that this takes."""
    keep = label >= 0
    rows = torch.where(keep.unsqueeze(1), z, 0).to(working(z, z)).movedim(1, -1)
    found = reference.row_stats(rows, label.clamp_min(0), class_weight, want=spec.whole.want)
    return torch.where(keep.unsqueeze(-1), torch.stack([getattr(found, name) for name in spec.whole.want], -1), 0)


class _Given(Function):
    @staticmethod
    def forward(z, class_weight, label, spec):  # type: ignore[no-untyped-def]
        return operators.given_stats(z, class_weight, label, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, spec = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.spec = Spec.read(spec)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        z, class_weight, label, found = ctx.saved_tensors
        upstream = upstreams[0]
        if torch.is_grad_enabled():
            again = given_densely(z, class_weight, label, ctx.spec)
            return torch.autograd.grad(again, z, upstream, create_graph=True)[0], None, None, None
        return operators.given_gradient(z, class_weight, label, found, upstream, ctx.spec.code), None, None, None
