"""The pointwise Bayes risk: what an objective costs at best, when nothing is known of a row but the probabilities of its labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._risk import SINGLE, pattern_search, risk
from lossmith._subject import Subject, subject
from lossmith._typing import Float

KEPT = 4
"""Starting points, the best of all that are tried, from which a row's risk is followed downhill."""
DESCENT_STEPS = 150
HALVINGS = 30
PATTERN_ROUNDS = 60
PATTERN_CLASSES = 16
"""Up to how many classes edges of the loss are searched along; the number of directions is quadratic."""
SETTLED = 1e-9
"""Slopes below this are zero: no edge is being walked along."""
SURE = 40.0
"""A lead at which all other probabilities together vanish beside float64's 1."""


class BayesRisk(NamedTuple):
    """The least conditional risk found, and where.

    Attributes:
        risk: one number a distribution, in the objective's own unit. It is what a report costs, so that the infimum is no higher.
        report: the logits of the best report, in the shape of the probabilities; of an objective of single logits one. Far out where the
            infimum is only approached.
    """

    risk: Tensor
    report: Tensor


def bayes_risk(
    objective: str | Callable[..., Any], probabilities: Float[Tensor, "*batch c"], *, form: str | None = None, **hyper: Any
) -> BayesRisk:
    r"""The infimum over logits of the expected loss, when labels are drawn from given probabilities, found numerically.

    .. math:: \underline L(p) = \inf_z \sum_k p_k\, \ell(z, k)

    For a proper loss it is the entropy that belongs to it: Shannon's for cross-entropy, the Gini entropy for half the Brier score. For
    any loss it is concave in p, and its shape says what the loss cares about: where it is flat, nothing is to be gained from telling
    distributions apart, and how fast it falls towards a certain label is how much being sure is worth.

    In float64, all rows at once: from the honest report, from bolder and shyer ones and from ties of the likeliest classes, the best few
    are followed downhill by quasi-Newton steps; where they stop at an edge, as of a hinge, and there are no more than 16 classes, steps of
    falling length along the edges go on. Smooth losses come out to about 1e-10, piecewise linear ones to about 1e-8; a loss with many
    local minima may come out too high, never too low.

    Args:
        objective: a registered name or alias, or any `(input, target) -> loss`, as `lossmith.conformance.check` takes it.
        probabilities: `(*batch, c)`, summing to 1 over the last axis. For an objective of single logits `(*batch, 2)`: of yes, then of no.
            Of one with a teacher, the teacher's.
        form: of a callable without a card: "logits", "binary", "multilabel" or "teacher"; guessed when left out.
        **hyper: hyper-parameters of the objective, what it needs of the data, such as `class_counts`, and weights of classes.

    Returns:
        A :class:`BayesRisk`: the risk and the report.

    Raises:
        TypeError: the objective is one of whole sets, has no value but only a gradient, or needs what is not given.
        ValueError: the probabilities are no probabilities.

    Example:
        >>> import torch
        >>> from lossmith.diagnostics import bayes_risk
        >>> p = torch.tensor([[0.7, 0.2, 0.1]])
        >>> bayes_risk("cross_entropy", p).risk, (-p * p.log()).sum(1)
        (tensor([0.8018], dtype=torch.float64), tensor([0.8018]))
        >>> bayes_risk("gce", p, q=0.7).report.softmax(1)  # its best report is bolder than the truth
        tensor([[0.9834, 0.0151, 0.0015]], dtype=torch.float64)
    """
    under = _examined(objective, form, hyper)
    p = _probabilities(probabilities, 2 if under.form in SINGLE else None)
    batch, flat = p.shape[:-1], p.reshape(-1, p.shape[-1])
    if not len(flat):
        return BayesRisk(p.new_zeros(batch), p.new_zeros(*batch, 1 if under.form in SINGLE else p.shape[-1]))
    starts = _starts(flat, single=under.form in SINGLE)
    truths = flat.repeat_interleave(starts.shape[1], 0)
    with torch.no_grad():
        cost = risk(under, truths, starts.flatten(0, 1)).reshape(starts.shape[:2]).nan_to_num(torch.inf)
    kept = cost.topk(min(KEPT, cost.shape[1]), 1, largest=False).indices
    z = starts.gather(1, kept.unsqueeze(-1).expand(-1, -1, starts.shape[-1])).flatten(0, 1)
    truths = flat.repeat_interleave(kept.shape[1], 0)
    z, value, slope = _descend(under, truths, z)
    value, best = value.reshape(kept.shape).min(1)
    at = torch.arange(len(flat)) * kept.shape[1] + best
    z, value = _along_edges(under, flat, z[at], value, slope[at].abs().amax(1) > SETTLED)
    return BayesRisk(value.reshape(batch), z.reshape(*batch, -1))


def _examined(objective: str | Callable[..., Any], form: str | None, hyper: dict[str, Any]) -> Subject:
    under = subject(objective, form=form).held()
    if under.form == "set":
        raise TypeError(f"bayes_risk: objective must have a loss a row; {under.name} is one of whole sets")
    if under.card is not None:
        if under.card.surrogate:
            raise TypeError(f"bayes_risk: objective must have a value that says something; of {under.name} only the gradient does")
        under.card.check_names(hyper, [*under.card.hyper, *(name for name in ("weight", "pos_weight") if name in under.card.options)])
        under.card.check(hyper)
        missing = [need for need in under.card.needs if need == "class_counts" and need not in hyper]
        if missing:
            raise TypeError(f"bayes_risk: {under.name} needs {', '.join(missing)}; give it as a keyword")
    return under.at(hyper)


def _probabilities(p: Float[Tensor, "*batch c"], labels: int | None) -> Float[Tensor, "*batch c"]:
    if not isinstance(p, Tensor) or not p.is_floating_point() or p.ndim == 0 or (labels or p.shape[-1]) != p.shape[-1] or p.shape[-1] < 2:
        last = labels or "c"
        raise ValueError(f"bayes_risk: probabilities must be a floating-point tensor of shape (*batch, {last}); got {describe(p)}")
    p = p.detach().to("cpu", torch.float64)
    total = p.sum(-1)
    wrong = (p < 0).any(-1) | ~((total - 1).abs() <= 1e-3)
    if wrong.any():
        raise ValueError(f"bayes_risk: probabilities must be >= 0 and sum to 1 over the last axis; got {p[wrong][0].tolist()}")
    return p


def _starts(p: Float[Tensor, "n c"], *, single: bool) -> Float[Tensor, "n s z"]:
    """The honest report, bolder and shyer ones, and ties of the likeliest classes, close and far ahead of the others."""
    honest = p.log().clamp_min(-SURE)
    order = p.argsort(dim=1, descending=True).argsort(dim=1)
    top = torch.stack([(order < k).to(p) for k in range(1, min(p.shape[1], 8))], 1)
    reports = [(c * honest).unsqueeze(1) for c in (1.0, 0.5, 2.0, 4.0, 0.0)] + [size * top for size in (1.0, 3.0, SURE)]
    found = torch.cat(reports, 1)
    return found[..., :1] - found[..., 1:] if single else found


def _descend(under: Subject, truths: Float[Tensor, "n k"], z: Float[Tensor, "n c"]) -> tuple[Tensor, Tensor, Tensor]:
    """Quasi-Newton steps (BFGS) of many rows at once, each halved until it pays: the points, what they cost and the slopes there."""
    value, slope = _with_slope(under, truths, z)
    z, curvature = z.clone(), torch.eye(z.shape[1], dtype=z.dtype).repeat(len(z), 1, 1)  # an estimate of the inverse Hessian
    fresh = torch.ones_like(value, dtype=torch.bool)  # no step has told anything of the curvature
    going = torch.arange(len(z))
    for _ in range(DESCENT_STEPS):
        p, at, was, g = truths[going], z[going], value[going], slope[going]
        step = -(curvature[going] @ g.unsqueeze(2)).squeeze(2)
        moved, paid = _shortened(under, p, at, was, step, (step * g).sum(1))
        now, new_slope = _with_slope(under, p, moved)
        curvature[going] = _updated(curvature[going], moved - at, new_slope - g, paid)
        z[going], value[going], slope[going] = moved, now, new_slope
        ended = (new_slope.abs().amax(1) == 0) | (~paid & fresh[going]) | (paid & (was - now <= 1e-15 * was.abs().clamp_min(1e-3)))
        fresh[going] = ~paid
        going = going[~ended]
        if not len(going):
            break
    return z, value, slope


def _updated(curvature: Tensor, s: Tensor, y: Tensor, paid: Tensor) -> Tensor:
    """The inverse Hessian after a step s along which the slope changed by y; the identity again where no step paid."""
    one = torch.eye(s.shape[1], dtype=s.dtype)
    sy = (s * y).sum(1)
    usable = sy > 1e-14 * s.norm(dim=1) * y.norm(dim=1)
    rho = torch.where(usable, 1 / torch.where(usable, sy, 1), 0)[:, None, None]
    left = one - rho * s.unsqueeze(2) * y.unsqueeze(1)
    new = left @ curvature @ left.mT + rho * s.unsqueeze(2) * s.unsqueeze(1)
    new = torch.where((usable & new.isfinite().flatten(1).all(1))[:, None, None], new, curvature)
    return torch.where(paid[:, None, None], new, one)


def _shortened(under: Subject, p: Tensor, z: Tensor, value: Tensor, step: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Where a step leads when it is halved until it pays (Armijo's rule), and whether it does; a row whose step never pays stays."""
    length = torch.ones_like(value)
    paid = torch.zeros_like(value, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(HALVINGS):
            trying = (~paid).nonzero().squeeze(1)
            there = risk(under, p[trying], z[trying] + length[trying].unsqueeze(1) * step[trying])
            good = (there <= value[trying] + 1e-4 * length[trying] * gain[trying]) & (there < value[trying])
            paid[trying] = good
            length[trying] = torch.where(good, length[trying], length[trying] / 2)
            if paid.all():
                break
    return torch.where(paid.unsqueeze(1), z + length.unsqueeze(1) * step, z), paid


def _with_slope(under: Subject, p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    value = risk(under, p, z)
    (slope,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
    return value.detach(), torch.zeros_like(z) if slope is None else slope.nan_to_num(0.0)


def _along_edges(under: Subject, p: Tensor, z: Tensor, value: Tensor, unsettled: Tensor) -> tuple[Tensor, Tensor]:
    """Go on where the slope is not zero at the end: at an edge it never is."""
    if not unsettled.any() or p.shape[1] > PATTERN_CLASSES:
        return z, value
    truths = p[unsettled]

    def cost(near: Float[Tensor, "n s c"]) -> Float[Tensor, "n s"]:
        n, s, c = near.shape
        return risk(under, truths.repeat_interleave(s, 0), near.reshape(-1, c)).reshape(n, s)

    with torch.no_grad():
        better_z, better_value = pattern_search(cost, z[unsettled], value[unsettled], PATTERN_ROUNDS)
    z, value = z.clone(), value.clone()
    z[unsettled], value[unsettled] = better_z, better_value
    return z, value
