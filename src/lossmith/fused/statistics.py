"""Statistics of the rows of a linear head's logits, by name: what objectives beyond :class:`LinearLogits` are made of."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe, holds, nearest
from lossmith._reduce import not_ignored
from lossmith._typing import Float, Hyper, Integer
from lossmith.fused.functions import transformed
from lossmith.fused.linear import LinearLogits
from lossmith.fused.plan import asks
from lossmith.fused.reference import WANTED, RowStats


def linear_stats(
    hidden: Float[Tensor, "*rows d"],
    weight: Float[Tensor, "c d"],
    target: Integer[Tensor, "*rows"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    *,
    want: tuple[str, ...] = ("log_prob",),
    temperatures: tuple[float, ...] = (),
    at: Integer[Tensor, "*rows m"] | None = None,
    teacher: LinearLogits | None = None,
    top_k: int | None = None,
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
    once at most in the backward pass, however many of these there are. Further statistics take a pass, or a head, of their own: the
    cross-entropy :math:`-\sum_k q_k \log p_k` to a teacher's prediction q and the mean :math:`\sum_k q_k z_k` under it; the logarithm of
    the probability of the k most likely classes together; and the logits of given classes, which take no pass over the vocabulary.

    Args:
        hidden, weight, bias, temperature, softcap, group, shards: as for :class:`LinearLogits`.
        target: class indices `(*rows)`; needed by "log_prob" and "target_logit".
        want: which of "log_prob", "target_logit", "logsumexp", "entropy" and "mean_logit"; "cross_entropy_to_teacher" and
            "teacher_mean_logit", which need a teacher; "top_k_mass", which needs `top_k`.
        temperatures: further temperatures t, numbers, to take log sum exp(z/t) at, beside `temperature`.
        at: classes `(*rows, m)` whose logits are wanted, in `logits_at`; 0 where one is `ignore_index`.
        teacher: another head over the same rows and classes.
        top_k: the k of "top_k_mass".
        class_weight: the v of the mean logit `(c,)`, of all classes; 1/c by default.
        ignore_index: rows with this target are not computed; their statistics are 0.

    Returns:
        `RowStats`: each statistic asked for `(*rows)`, in nats, float32 at least; None for the others. `logsumexp_at` is
        `(*rows, m)` for m further temperatures, `logits_at` for m classes.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range, or a statistic needs a target.

    Example:
        >>> import torch
        >>> from lossmith.fused import linear_stats
        >>> found = linear_stats(torch.zeros(2, 4), torch.randn(8, 4), torch.tensor([3, -100]), want=("log_prob", "entropy"))
        >>> found.log_prob, found.entropy
        (tensor([-2.0794,  0.0000]), tensor([2.0794, 0.0000]))

        Distillation from what is stored of a teacher, its 4 most likely classes and their log-probabilities: the forward KL of these
        and of everything else as one class.

        >>> from lossmith.fused import linear_top_k
        >>> hidden, weight, teacher_hidden, teacher_weight = torch.randn(6, 8), torch.randn(50, 8), torch.randn(6, 8), torch.randn(50, 8)
        >>> classes, log_q = linear_top_k(teacher_hidden, teacher_weight, 4)
        >>> found = linear_stats(hidden, weight, want=("logsumexp",), at=classes)
        >>> log_p = found.logits_at - found.logsumexp.unsqueeze(-1)
        >>> rest = [torch.log1p(-x.exp().sum(-1, keepdim=True)) for x in (log_p, log_q)]
        >>> log_p, log_q = torch.cat([log_p, rest[0]], -1), torch.cat([log_q, rest[1]], -1)
        >>> (log_q.exp() * (log_q - log_p)).sum(-1).shape
        torch.Size([6])
    """
    known = (*WANTED, *_OF_TEACHER, "top_k_mass")
    if isinstance(want, str):
        raise TypeError(f"linear_stats: want must be a tuple of names, as ({want!r},); got {describe(want)}")
    if not isinstance(temperatures, Sequence):
        raise TypeError(f"linear_stats: temperatures must be a tuple of numbers; got {describe(temperatures)}")
    for name in want:
        if name not in known:
            raise ValueError(f"linear_stats: want must name statistics of {', '.join(known)}; got {name!r}{nearest(name, known)}")
    if not want and not temperatures and at is None:
        raise ValueError("linear_stats: want must name at least one statistic; got ()")
    for t in temperatures:
        if isinstance(t, Tensor) or not 0 < t < float("inf"):
            raise ValueError(f"linear_stats: temperatures must be numbers above 0; got {describe(t)}")
    source = LinearLogits(hidden, weight, bias, temperature=temperature, softcap=softcap, group=group, shards=shards)
    if class_weight is not None:
        if "mean_logit" not in want:
            raise ValueError(f"linear_stats: class_weight goes with 'mean_logit'; got want={want!r}")
        if not isinstance(class_weight, Tensor):
            raise TypeError(f"linear_stats: class_weight must be a tensor of shape ({source.classes},); got {describe(class_weight)}")
        if class_weight.shape != (source.classes,):
            raise ValueError(f"linear_stats: class_weight must have shape ({source.classes},); got {describe(class_weight)}")
    if target is None:
        if "log_prob" in want or "target_logit" in want:
            raise ValueError("linear_stats: target must be given for 'log_prob' and 'target_logit'; got None")
        label = torch.zeros(source.rows, dtype=torch.long, device=hidden.device)
    else:
        label = _label("linear_stats", target, source, ignore_index)
    _check_further(source, want, at, teacher, top_k, ignore_index)
    needed = {"logsumexp"} if "teacher_mean_logit" in want or "top_k_mass" in want else set()
    of_engine = tuple(name for name in WANTED if name in want or name in needed)
    found = source.row_stats(of_engine, label, class_weight, temperatures) if of_engine or temperatures else RowStats()
    further = _further(source, want, label >= 0, found.logsumexp, at, teacher, top_k, ignore_index)
    hidden_again = {} if "logsumexp" in want else {"logsumexp": None}
    return found._replace(**further, **hidden_again)


_OF_TEACHER = ("cross_entropy_to_teacher", "teacher_mean_logit")


def _check_further(
    source: LinearLogits, want: tuple[str, ...], at: Tensor | None, teacher: LinearLogits | None, top_k: int | None, ignore_index: int
) -> None:
    asked = [name for name in _OF_TEACHER if name in want]
    if bool(asked) != (teacher is not None):
        got = "None" if teacher is None else f"one with want={want!r}"
        raise ValueError(f"linear_stats: teacher goes with {' and '.join(map(repr, _OF_TEACHER))}; got {got}")
    if ("top_k_mass" in want) != (top_k is not None):
        raise ValueError(f"linear_stats: top_k goes with 'top_k_mass'; got top_k={top_k!r} with want={want!r}")
    if top_k is not None:
        _check_k("linear_stats", "top_k", top_k, source)
    if at is None:
        return
    if not isinstance(at, Tensor) or at.is_floating_point() or at.is_complex() or at.dtype == torch.bool:
        raise TypeError(f"linear_stats: at must be integer class indices; got {describe(at)}")
    if at.ndim == 0 or at.shape[:-1] != source.rows:
        raise ValueError(f"linear_stats: at must have shape {(*source.rows, 'm')}; got {describe(at)}")
    if at.device != source.device:
        raise ValueError(f"linear_stats: at must be on the hidden states' device {source.device}; it is on {at.device}")
    outside = not_ignored(at, ignore_index) & ((at < 0) | (at >= source.classes))
    if not holds(lambda: ~outside.any(), at, always_on_cpu=True):
        raise ValueError(
            f"linear_stats: at must hold class indices in 0..{source.classes - 1} or ignore_index={ignore_index}; "
            f"got {at[outside][0].item()}"
        )


def _further(
    source: LinearLogits,
    want: tuple[str, ...],
    keep: Tensor,
    lse: Tensor | None,
    at: Tensor | None,
    teacher: LinearLogits | None,
    top_k: int | None,
    ignore_index: int,
) -> dict[str, Tensor]:
    """The statistics that the engine has no columns for."""
    found: dict[str, Tensor] = {}
    if teacher is not None:
        found["cross_entropy_to_teacher"] = source.cross_entropy_to(teacher, keep)
        if lse is not None and "teacher_mean_logit" in want:
            found["teacher_mean_logit"] = lse - found["cross_entropy_to_teacher"]
    if top_k is not None and lse is not None:
        inside = source.logits_at(source.top_k(top_k)[0], keep)
        found["top_k_mass"] = torch.where(keep, inside.logsumexp(-1) - lse, 0)
    if at is not None:
        found["logits_at"] = source.logits_at(torch.where(not_ignored(at, ignore_index), at.long(), -1), keep)
    return {name: value for name, value in found.items() if name in want or name == "logits_at"}


def _check_k(function: str, argument: str, k: object, source: LinearLogits) -> None:
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{function}: {argument} must be a whole number; got {describe(k)}")
    if not 1 <= k <= source.classes:
        raise ValueError(f"{function}: {argument} must be in 1..{source.classes}, the number of classes; got {k}")


def linear_top_k(
    hidden: Float[Tensor, "*rows d"],
    weight: Float[Tensor, "c d"],
    k: int,
    bias: Float[Tensor, " c"] | None = None,
    *,
    temperature: Hyper = 1.0,
    softcap: Hyper | None = None,
    group: Any = None,
    shards: Sequence[int] | None = None,
) -> tuple[Integer[Tensor, "*rows k"], Float[Tensor, "*rows k"]]:
    r"""The k most likely classes of every row and their log-probabilities, without the logits.

    .. math:: \log p_{(1)} \ge \dots \ge \log p_{(k)}, \qquad \log p_k = z_k - \log \textstyle\sum_j e^{z_j}

    One pass over the vocabulary a tile at a time finds both; where gradients are asked for, the log-probabilities of the classes
    that were found are computed again as differentiable ones, with a second pass. Among equal logits any may come first.

    Args:
        hidden, weight, bias, temperature, softcap, group, shards: as for :class:`LinearLogits`.
        k: how many, at most the number of classes.

    Returns:
        Class indices `(*rows, k)`, most likely first, and log-probabilities `(*rows, k)` in nats, float32 at least.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range.

    Example:
        >>> import torch
        >>> from lossmith.fused import linear_top_k
        >>> linear_top_k(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [1.0]]), 2)
        (tensor([[1, 2]]), tensor([[-0.4076, -1.4076]]))
    """
    source = LinearLogits(hidden, weight, bias, temperature=temperature, softcap=softcap, group=group, shards=shards)
    _check_k("linear_top_k", "k", k, source)
    classes, log_p = source.top_k(k)
    given = (hidden, weight, bias, temperature, softcap)
    if transformed() or (torch.is_grad_enabled() and any(asks(part) for part in given if isinstance(part, Tensor))):
        keep = torch.ones(source.rows, dtype=torch.bool, device=source.device)
        lse = source.row_stats(("logsumexp",), keep.long()).logsumexp
        assert lse is not None
        log_p = source.logits_at(classes, keep) - lse.unsqueeze(-1)
    return classes, log_p


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
