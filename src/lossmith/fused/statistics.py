"""Statistics of the rows of a linear head's logits, by name: what objectives beyond :class:`LinearLogits` are made of."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe, holds, nearest
from lossmith._reduce import not_ignored
from lossmith._typing import Float, Hyper, Integer
from lossmith.fused.linear import LinearLogits
from lossmith.fused.reference import WANTED, RowStats


def linear_stats(
    hidden: Float[Tensor, "*rows d"],
    weight: Float[Tensor, "c d"],
    target: Integer[Tensor, "*rows"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    *,
    want: tuple[str, ...] = ("log_prob",),
    temperatures: tuple[float, ...] = (),
    class_weight: Float[Tensor, " c"] | None = None,
    temperature: Hyper = 1.0,
    softcap: Hyper | None = None,
    ignore_index: int = -100,
    group: Any = None,
    shards: Sequence[int] | None = None,
) -> RowStats:
    r"""Statistics of the rows of logits of a linear head, differentiable, without the logits.

    .. math::
        \log p_y, \quad z_y, \quad \log\textstyle\sum_k e^{z_k}, \quad H = -\sum_k p_k \log p_k, \quad \bar z = \sum_k v_k z_k

    of the logits of :class:`LinearLogits`. What is made of them afterwards is ordinary torch, and the logits are computed again
    once in the backward pass, however many statistics there are.

    Args:
        hidden, weight, bias, temperature, softcap, group, shards: as for :class:`LinearLogits`.
        target: class indices `(*rows)`; needed by "log_prob" and "target_logit".
        want: which of "log_prob", "target_logit", "logsumexp", "entropy" and "mean_logit".
        temperatures: further temperatures t, numbers, to take log sum exp(z/t) at, beside `temperature`.
        class_weight: the v of the mean logit `(c,)`, of all classes; 1/c by default.
        ignore_index: rows with this target are not computed; their statistics are 0.

    Returns:
        `RowStats`: each statistic asked for `(*rows)`, in nats, float32 at least; None for the others. `logsumexp_at` is
        `(*rows, m)` for m further temperatures.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range, or a statistic needs a target.

    Example:
        >>> import torch
        >>> from lossmith.fused import linear_stats
        >>> found = linear_stats(torch.zeros(2, 4), torch.randn(8, 4), torch.tensor([3, -100]), want=("log_prob", "entropy"))
        >>> found.log_prob, found.entropy
        (tensor([-2.0794,  0.0000]), tensor([2.0794, 0.0000]))
    """
    for name in want:
        if name not in WANTED:
            raise ValueError(f"linear_stats: want must name statistics of {', '.join(WANTED)}; got {name!r}{nearest(name, WANTED)}")
    if not want and not temperatures:
        raise ValueError("linear_stats: want must name at least one statistic; got ()")
    for t in temperatures:
        if isinstance(t, Tensor) or not 0 < t < float("inf"):
            raise ValueError(f"linear_stats: temperatures must be numbers above 0; got {describe(t)}")
    source = LinearLogits(hidden, weight, bias, temperature=temperature, softcap=softcap, group=group, shards=shards)
    if class_weight is not None:
        if "mean_logit" not in want:
            raise ValueError(f"linear_stats: class_weight goes with 'mean_logit'; got want={want!r}")
        if class_weight.shape != (source.classes,):
            raise ValueError(f"linear_stats: class_weight must have shape ({source.classes},); got {describe(class_weight)}")
    if target is None:
        if "log_prob" in want or "target_logit" in want:
            raise ValueError("linear_stats: target must be given for 'log_prob' and 'target_logit'; got None")
        label = torch.zeros(source.rows, dtype=torch.long, device=hidden.device)
    else:
        label = _label("linear_stats", target, source, ignore_index)
    return source.row_stats(want, label, class_weight, temperatures)


def linear_log_prob(
    hidden: Float[Tensor, "*rows d"],
    weight: Float[Tensor, "c d"],
    target: Integer[Tensor, "*rows"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    temperature: Hyper = 1.0,
    softcap: Hyper | None = None,
    ignore_index: int = -100,
    group: Any = None,
    shards: Sequence[int] | None = None,
) -> Float[Tensor, "*rows"]:
    r"""The target's log-probability under a linear head, a number a row, without the logits.

    .. math:: \log p_y = -\log\Bigl(1 + \sum_{k \ne y} e^{z_k - z_y}\Bigr)

    Args:
        hidden, weight, bias, temperature, softcap, group, shards: as for :class:`LinearLogits`.
        target: class indices `(*rows)`.
        ignore_index: rows with this target are not computed, and are 0.

    Returns:
        Log-probabilities `(*rows)` in nats, float32 at least, differentiable in everything but the target.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range.

    Example:
        >>> import torch
        >>> from lossmith.fused import linear_log_prob
        >>> linear_log_prob(torch.zeros(2, 4), torch.randn(8, 4), torch.tensor([3, -100]))
        tensor([-2.0794,  0.0000])
    """
    source = LinearLogits(hidden, weight, bias, temperature=temperature, softcap=softcap, group=group, shards=shards)
    label = _label("linear_log_prob", target, source, ignore_index)
    return source.target_log_prob(label, label >= 0)


def _label(name: str, target: Tensor, source: LinearLogits, ignore_index: int) -> Tensor:
    """Class indices, -1 where the row is ignored."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"{name}: target must be integer class indices; got {describe(target)}")
    if target.shape != source.rows:
        raise ValueError(f"{name}: target must have shape {tuple(source.rows)}, that of the rows; got {describe(target)}")
    if target.device != source.hidden.device:
        raise ValueError(f"{name}: target must be on the hidden states' device {source.hidden.device}; it is on {target.device}")
    label = torch.where(not_ignored(target, ignore_index), target.long(), -1)
    outside = not_ignored(target, ignore_index) & ((label < 0) | (label >= source.classes))
    if not holds(lambda: ~outside.any(), target, always_on_cpu=True):
        raise ValueError(
            f"{name}: target must hold class indices in 0..{source.classes - 1} or ignore_index={ignore_index}; "
            f"got {label[outside][0].item()}"
        )
    return label
