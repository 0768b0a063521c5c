"""What a row's statistics are: the plain definition, on logits that exist, which every back end is held to.

With :math:`u = h W^\\top + b`, the logits of a row are :math:`z = c \\tanh(u / c) / T` (:math:`z = u / T` without a softcap). A row's
statistics are functions of z and of its label alone, and every objective of the form ``log_prob`` is a function of them.

Infinite logits mean what they mean to ``log_softmax``: a class at -inf has probability 0 and takes no part; a label at -inf has
log-probability -inf; a row that holds +inf or NaN, or nothing but -inf, is NaN.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lossmith._typing import Float, Integer

WANTED = ("log_prob", "target_logit", "logsumexp", "entropy", "mean_logit")
"""The statistics there are, in the order in which the engine keeps its columns."""


class RowStats(NamedTuple):
    """Statistics of rows of logits, each of the shape of the rows, in nats; None where they were not asked for."""

    log_prob: Float[Tensor, "*rows"] | None = None
    """The label's log-probability."""
    target_logit: Float[Tensor, "*rows"] | None = None
    """The label's logit."""
    logsumexp: Float[Tensor, "*rows"] | None = None
    """log sum_k exp(z_k)."""
    entropy: Float[Tensor, "*rows"] | None = None
    """-sum_k p_k log p_k."""
    mean_logit: Float[Tensor, "*rows"] | None = None
    """The mean of z_k over the classes, or its weighted sum where weights were given."""
    logsumexp_at: Float[Tensor, "*rows m"] | None = None
    """log sum_k exp(z_k / t) for each further temperature t, along the last axis."""
    cross_entropy_to_teacher: Float[Tensor, "*rows"] | None = None
    """-sum_k q_k log p_k with a teacher's prediction q."""
    teacher_mean_logit: Float[Tensor, "*rows"] | None = None
    """The mean of the logits z_k under a teacher's prediction q."""
    top_k_mass: Float[Tensor, "*rows"] | None = None
    """The logarithm of the probability of the k most likely classes together."""
    logits_at: Float[Tensor, "*rows m"] | None = None
    """The logits of given classes, along the last axis."""


def softcapped(u: Float[Tensor, "*rows c"], cap: Float[Tensor, ""] | None) -> Float[Tensor, "*rows c"]:
    """The logits between -cap and cap: cap tanh(u / cap); the same as came without a cap."""
    return u if cap is None else cap * bounded(u, cap)


def bounded(u: Float[Tensor, "*rows c"], cap: Float[Tensor, ""]) -> Float[Tensor, "*rows c"]:
    """tanh(u / cap); a masked class, at -inf, stays at its end whatever the cap, which has no slope there and not inf * 0."""
    far = u.isinf()
    return torch.where(far, u.sign(), torch.tanh(torch.where(far, 0, u) / cap))


def logits(
    hidden: Float[Tensor, "*rows d"],
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    temperature: float | Tensor = 1.0,
    softcap: Tensor | None = None,
) -> Float[Tensor, "*rows c"]:
    """The logits themselves, all of them, in float32 at least."""
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    u = hidden.to(dtype) @ weight.to(dtype).mT
    if bias is not None:
        u = u + bias.to(dtype)
    return softcapped(u, softcap) / temperature


def row_stats(
    z: Float[Tensor, "*rows c"],
    label: Integer[Tensor, "*rows"] | None = None,
    class_weight: Float[Tensor, " c"] | None = None,
    *,
    want: tuple[str, ...] = ("log_prob",),
    temperatures: tuple[float, ...] = (),
) -> RowStats:
    r"""The statistics of rows of logits, by their definitions.

    .. math::
        \log p_y = -\log\Bigl(1 + \sum_{k \ne y} e^{z_k - z_y}\Bigr), \qquad
        H = -\sum_k p_k \log p_k, \qquad \bar z = \sum_k v_k z_k

    The log-probability is written as one minus its complement, so that a confident row keeps all its digits: at a loss of 1e-30,
    ``log_softmax`` gives 0.

    Args:
        z: logits `(*rows, c)`.
        label: class indices `(*rows)`; needed by "log_prob" and "target_logit".
        class_weight: the v of the mean logit `(c,)`; 1/c by default.
        want: which statistics, of `WANTED`.
        temperatures: further temperatures to take the logsumexp at.

    Returns:
        The statistics asked for, each `(*rows)`.
    """
    found: dict[str, Tensor] = {}
    sound = z.amax(-1).isfinite()
    lse = torch.where(sound, z.logsumexp(-1), torch.nan)
    if label is not None:
        chosen = z.gather(-1, label.unsqueeze(-1)).squeeze(-1)
        found["log_prob"] = torch.where(sound, -complement(z, label, chosen), torch.nan)
        found["target_logit"] = chosen
    log_p = z - lse.unsqueeze(-1)
    present = z > -torch.inf
    found["logsumexp"] = lse
    found["entropy"] = -(log_p.exp() * torch.where(present, log_p, 0)).sum(-1)
    found["mean_logit"] = z.mean(-1) if class_weight is None else (counted(z, class_weight) * class_weight).sum(-1)
    at = torch.stack([(z / t).logsumexp(-1) + 0 * lse.detach() for t in temperatures], -1) if temperatures else None
    return RowStats(**{name: found[name] for name in want}, logsumexp_at=at)


def counted(z: Float[Tensor, "*rows c"], weight: Float[Tensor, " c"]) -> Float[Tensor, "*rows c"]:
    """The logits, but 0 for a class at -inf of weight 0, which counts for nothing."""
    return torch.where((weight == 0) & (z == -torch.inf), 0, z)


def complement(z: Float[Tensor, "*rows c"], label: Integer[Tensor, "*rows"], chosen: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """-log p_y = log(1 + sum over the others of exp(z_k - z_y)), without loss of digits at either end."""
    is_label = label.unsqueeze(-1) == torch.arange(z.shape[-1], device=z.device)
    others = torch.where(is_label, -torch.inf, z)
    alone = (others == -torch.inf).all(-1)  # no other class has any mass
    impossible = chosen == -torch.inf
    lse = torch.where(alone.unsqueeze(-1), 0, others).logsumexp(-1)
    lead = torch.where(alone | impossible, 0, lse - chosen)
    value = torch.where(impossible, lse - chosen, torch.logaddexp(lead, torch.zeros_like(lead)))
    return torch.where(alone, 0, value)
