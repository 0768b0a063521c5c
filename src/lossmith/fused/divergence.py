"""Divergences between the predictions of two linear heads, without the logits of either."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._typing import Bool, Float, Hyper
from lossmith.fused.linear import LinearLogits, check_head
from lossmith.fused.plan import Schedule
from lossmith.fused.shards import sizes_of_both
from lossmith.generators import FGenerator, get


def linear_divergence(
    hidden: Float[Tensor, "*rows d"],
    weight: Float[Tensor, "c d"],
    teacher_hidden: Float[Tensor, "*rows e"],
    teacher_weight: Float[Tensor, "c e"],
    bias: Float[Tensor, " c"] | None = None,
    teacher_bias: Float[Tensor, " c"] | None = None,
    *,
    generator: FGenerator | str = "kl",
    temperature: Hyper = 1.0,
    softcap: Hyper | None = None,
    teacher_softcap: Hyper | None = None,
    mask: Bool[Tensor, "*rows"] | None = None,
    schedule: Schedule = "auto",
    memory: int | None = None,
    group: Any = None,
    shards: Sequence[int] | None = None,
) -> Float[Tensor, "*rows"]:
    r"""The f-divergence of the teacher's prediction q from the student's prediction p, a number a row, without the logits of either.

    .. math:: D_f(q \| p) = \textstyle\sum_k p_k f(q_k / p_k), \qquad p = \operatorname{softmax}(z), \quad q = \operatorname{softmax}(t)

    with z and t the logits of :class:`LinearLogits`. The order is that of :func:`lossmith.distillation.divergence_distillation`, which is
    this with reductions and weights: the teacher's prediction comes first in the divergence, so that ``kl`` is the forward
    :math:`KL(q \| p)`.

    The sides may differ in width and have the same classes. Gradients flow wherever they are asked for, into the teacher too: detach a
    teacher that does not learn. Everything is differentiable twice, forwards, and under ``torch.func``. Rows that both sides are
    sure of keep their digits. A generator whose function holds parameters to be learnt is refused. Inside ``torch.compile`` a member of a
    family, such as ``"chi_p(p=3.0)"``, must have been asked for by its name once before, outside.

    Args:
        hidden, weight, bias, softcap: the student's head, as for :class:`LinearLogits`.
        teacher_hidden, teacher_weight, teacher_bias, teacher_softcap: the teacher's.
        generator: f: an `FGenerator`, or the name of one.
        temperature: by which the logits of both are divided, above 0; a number or a 0-d tensor, which may be learnt.
        mask: where False, a row is not computed, may hold anything, and is 0.
        schedule: "auto" or "recompute"; what "forward" asks for is possible only inside a sum with known weights.
        memory: bytes that the logits of a block of rows, of both sides, may take; where they would take more, the logits are computed
            twice. By default seven eighths of the student's head, or 56 MiB.
        group, shards: as for :class:`LinearLogits`; both heads are split alike.

    Returns:
        Divergences `(*rows)` in nats, float32 at least; +inf where a class is impossible to the wrong side.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or range.

    Example:
        >>> import torch
        >>> from lossmith.divergences import divergence
        >>> from lossmith.fused import linear_divergence
        >>> hidden, weight, teacher_hidden, teacher_weight = (torch.randn(*shape) for shape in ((6, 8), (50, 8), (6, 16), (50, 16)))
        >>> found = linear_divergence(hidden, weight, teacher_hidden, teacher_weight, generator="jensen_shannon")
        >>> p, q = (hidden @ weight.T).softmax(-1), (teacher_hidden @ teacher_weight.T).softmax(-1)
        >>> torch.allclose(found, divergence(q, p, "jensen_shannon"), rtol=1e-4, atol=1e-6)
        True
    """
    if not isinstance(generator, (str, FGenerator)):
        raise TypeError(f"linear_divergence: generator must be an FGenerator or the name of one; got {describe(generator)}")
    g = get(generator) if isinstance(generator, str) else generator
    if group is not None:
        sides = (hidden, weight, bias), (teacher_hidden, teacher_weight, teacher_bias)
        for side in sides:
            check_head(*side, split=True)
        shards = sizes_of_both(*sides, group, shards)
    split: dict[str, Any] = {"group": group, "shards": shards}
    student = LinearLogits(hidden, weight, bias, temperature=temperature, softcap=softcap, schedule=schedule, memory=memory, **split)
    teacher = LinearLogits(teacher_hidden, teacher_weight, teacher_bias, temperature=temperature, softcap=teacher_softcap, **split)
    keep = torch.ones(student.rows, dtype=torch.bool, device=hidden.device) if mask is None else mask
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != student.rows:
        raise ValueError(f"linear_divergence: mask must be a bool tensor of shape {tuple(student.rows)}; got {describe(mask)}")
    return student.divergence_from(teacher, g, keep)
