"""Gradients with the negligible left out: opt-in, in units of the gradient that is asked for, and counted.

Most probabilities of a row are far below what a gradient's rounding shows. :class:`GradientFilter` leaves them out of the two products
that form the gradients of hidden states and head; the value, the gradient of the bias and every label's own entry stay exact.

Published filters (Wijmans et al. 2024, arXiv:2411.09009) compare probabilities, before the loss is divided by the number of tokens or
multiplied by anything, with a number; here an entry is the derivative of the loss itself by a logit, upstream gradient included.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from lossmith._checks import describe
from lossmith._reduce import full_precision
from lossmith.fused import operators
from lossmith.fused.engine import Gradients, _exponentials
from lossmith.fused.functions import LOG_PROB, batched, transformed
from lossmith.fused.second import Arguments
from lossmith.fused.tiles import ROWS, Head, blocks, working


class GradientFilter:
    r"""Which entries of the derivative by the logits, :math:`s_{ik} = \partial L / \partial z_{ik}`, a backward pass leaves out.

    ===========  ====================================================================================================================
    mode         what becomes of the entries of a block of 256 rows
    ===========  ====================================================================================================================
    "columns"    a class k with :math:`\sum_i |s_{ik}|` below the threshold, and no row's label, is left out: biased, by a known mass
    "random"     an entry below the threshold t becomes :math:`t\, \mathrm{sign}\, s` with probability :math:`|s| / t`, else 0: unbiased
    ===========  ====================================================================================================================

    Given to :class:`LinearLogits`, to one or to several. `dropped` is the sum of :math:`|s|` over what was left out, and `kept` the share
    of the entries that were not, in all backward passes since the last `reset()`, as the gradients of these add up; both are tensors on
    the device, and looking at them is what waits for it. With "columns" the gradient of a hidden state is off by at most `dropped` times
    the longest row of the head, and that of the head by `dropped` times the longest hidden state.

    Whether it saves time is a matter of the device and of how peaked the predictions are; in plain torch on a CPU it saves little or
    nothing (`benchmarks/sparse.py`). The threshold has the units of the loss: under a mean over n tokens, 1e-3 of a token is 1e-3 / n.

    Args:
        threshold: from 0, which leaves nothing out.
        mode: "columns" or "random".
        generator: for "random", where the numbers come from; torch's own by default. It must be on the device of the head.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> import torch, lossmith
        >>> from lossmith.fused import GradientFilter, LinearLogits
        >>> hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(500, 8)
        >>> sparse = GradientFilter(1e-4)
        >>> lossmith.cross_entropy(LinearLogits(hidden, weight, gradient_filter=sparse), torch.randint(500, (6,))).backward()
        >>> bool(0 < sparse.dropped < 500 * 1e-4), bool(0 < sparse.kept < 1)
        (True, True)
    """

    def __init__(
        self, threshold: float, mode: Literal["columns", "random"] = "columns", *, generator: torch.Generator | None = None
    ) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise TypeError(f"GradientFilter: threshold must be a number from 0; got {describe(threshold)}")
        if not 0 <= threshold < float("inf"):
            raise ValueError(f"GradientFilter: threshold must be a number from 0; got {threshold!r}")
        if mode not in ("columns", "random"):
            raise ValueError(f"GradientFilter: mode must be 'columns' or 'random'; got {mode!r}")
        if generator is not None and mode != "random":
            raise ValueError("GradientFilter: generator goes with mode='random'; 'columns' draws nothing")
        self.threshold, self.mode, self.generator = threshold, mode, generator
        self.reset()

    def reset(self) -> None:
        """Count anew, as after a step of the optimizer."""
        self.dropped: Tensor | None = None
        self._kept: Tensor | None = None
        self._entries = 0

    @property
    def kept(self) -> Tensor | None:
        """The share of the entries that were not left out; None before a backward pass."""
        return None if self._kept is None else self._kept / max(1, self._entries)

    def _count(self, dropped: Tensor, kept: Tensor, entries: int) -> None:
        """What one more backward pass left out, kept, and looked at."""
        self.dropped = dropped if self.dropped is None else self.dropped + dropped.to(self.dropped)
        self._kept = kept if self._kept is None else self._kept + kept.to(self._kept)
        self._entries += entries

    def __repr__(self) -> str:
        return f"GradientFilter({self.threshold}, {self.mode!r})"


def filtered_log_prob(at: Arguments, label: Tensor, by: GradientFilter) -> Tensor:
    """`(n)` log-probabilities, whose backward pass leaves out what the filter says."""
    if transformed() or torch.compiler.is_compiling():
        raise RuntimeError("LinearLogits: gradient_filter does not go with torch.compile, torch.func or forward mode")
    if at.cap is not None and at.cap.requires_grad:
        raise ValueError("LinearLogits: gradient_filter does not go with a learnt softcap (or a learnt temperature beside one)")
    return _Filtered.apply(*at[:4], label, by)


class _Filtered(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, cap: Tensor | None, label: Tensor, by: GradientFilter) -> Tensor:
        ctx.save_for_backward(x, weight, bias, cap, label)
        ctx.by = by
        return operators.row_stats(x, weight, bias, cap, None, label, LOG_PROB.code, "")[:, 0]

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("LinearLogits: gradient_filter gives no second derivative; leave it out where create_graph=True")
        if batched(upstreams[0]):
            raise RuntimeError("LinearLogits: gradient_filter gives one gradient at a time; leave it out where many are asked for")
        x, weight, bias, cap, label = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        with full_precision(x):
            found = _gradients(x, Head(weight, bias, cap), label, upstreams[0], ctx.by, wanted)
        given = zip(found[:3], (x, weight, bias), strict=True)
        return *(None if g is None or like is None else g.to(like.dtype) for g, like in given), None, None, None


def _gradients(x: Tensor, head: Head, label: Tensor, upstream: Tensor, by: GradientFilter, wanted: Sequence[bool]) -> Gradients:
    """Gradients of `(log_prob * upstream).sum()`, a block of whole rows of logits at a time."""
    dtype = working(x, head.weight)
    found = Gradients.zeros(x, head, None, "".join("y" if asked else "n" for asked in wanted) + "nn")
    rows_kept = (label >= 0).nonzero().squeeze(1)
    buffer = torch.empty(min(ROWS, rows_kept.numel()), head.classes, dtype=dtype, device=x.device)
    dropped, entries = torch.zeros((), dtype=dtype, device=x.device), torch.zeros((), dtype=torch.long, device=x.device)
    for rows in blocks(rows_kept):
        some, slope = x[rows].to(dtype), buffer[: rows.numel()]
        _, scale = _exponentials(some, head, label[rows], head.chosen(x, rows, label[rows]), slope)
        slope *= (scale * -upstream[rows].to(dtype)).unsqueeze(1)
        if found.bias is not None:
            found.bias.add_(slope.sum(0))
        columns, lost = (_heavy if by.mode == "columns" else _drawn)(slope, label[rows], by)
        dropped += lost
        part = slope[:, columns]
        entries += part.count_nonzero() if by.mode == "random" else part.numel()
        left, right = (part.to_sparse(), part.mT.to_sparse()) if by.mode == "random" else (part, part.mT)
        if found.x is not None:
            found.x[rows] = left @ head.weight[columns].to(dtype)
        if found.weight is not None:
            found.weight.index_add_(0, columns, right @ some)
    by._count(dropped, entries, rows_kept.numel() * head.classes)
    return found


def _heavy(slope: Tensor, label: Tensor, by: GradientFilter) -> tuple[Tensor, Tensor]:
    """The classes that are kept, and the mass of the others."""
    mass = slope.abs().sum(0)
    heavy = ~(mass < by.threshold)  # NaN is not negligible
    heavy[label] = True
    return heavy.nonzero().squeeze(1), torch.where(heavy, 0, mass).sum()


def _drawn(slope: Tensor, label: Tensor, by: GradientFilter) -> tuple[Tensor, Tensor]:
    """Small entries become 0 or the threshold, in place; the classes that have any entry left, and the mass of what became 0."""
    size = slope.abs()
    small = (size < by.threshold).scatter_(1, label.unsqueeze(1), False)
    drawn = torch.rand(slope.shape, generator=by.generator, dtype=slope.dtype, device=slope.device) * by.threshold < size
    lost = torch.where(small & ~drawn, size, 0).sum()
    slope.copy_(torch.where(small, torch.where(drawn, by.threshold * slope.sign(), 0), slope))
    return (slope != 0).any(0).nonzero().squeeze(1), lost
