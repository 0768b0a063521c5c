"""Poly-1: cross-entropy with the first coefficient of its expansion in 1 - p set free."""

from typing import Unpack

import torch

from lossmith._options import RowOptions
from lossmith._rows import of_log_prob
from lossmith._sources import LogitSource
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import At, Claims, Instance, Limit, Range, objective
from lossmith.generators import FGenerator, kl, total_variation


def _poly(log_p: Float[Tensor, "*rows"], epsilon: Hyper) -> Float[Tensor, "*rows"]:
    return -log_p - epsilon * torch.expm1(log_p)


def _generator(epsilon: float) -> FGenerator | None:
    """The f of the loss: a sum of two; below 0 it is a difference, which need not be convex."""
    return kl if epsilon == 0 else kl + total_variation.scaled(epsilon) if epsilon > 0 else None


@objective(
    row=_poly,
    form="log_prob",
    source="Leng et al. 2022, 'PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions', arXiv:2204.12511",
    summary="cross-entropy plus a multiple of one minus the probability of the right class",
    use_when="one number to tune around cross-entropy: more confident probabilities above 0, less below",
    formula=r"-\log p_y + \epsilon (1 - p_y)",
    ranges={"epsilon": Range(-1)},
    limits=[Limit(epsilon=0.0, equals="cross_entropy"), At(epsilon=0.0, equals="cross_entropy")],
    instances=[Instance("divergence", of=_generator)],
    settings=[{"epsilon": -1.0}, {"epsilon": 2.0}],
    aliases=("poly1", "poly_cross_entropy"),
    tags=("confidence",),
    claims=Claims(
        convex=False,  # at epsilon above 1
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the definition in the paper; checked against the series sum_k (1 - p)^k / k + epsilon (1 - p) in float64",
)
def poly_loss(
    input: Logits | LogitSource,
    target: Target,
    *,
    epsilon: Hyper = 1.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The Poly-1 loss.

    .. math::
        \ell(z, y) = -\log p_y + \epsilon (1 - p_y) = (1 + \epsilon)(1 - p_y) + \textstyle\sum_{k \ge 2} (1 - p_y)^k / k

    It is convex in the logits exactly when :math:`|\epsilon| \le 1`. Its minimiser has :math:`p_k` proportional to
    :math:`q_k / (\lambda - \epsilon q_k)` for the true probabilities q: ranked rightly, sharper than q for positive epsilon, flatter for
    negative. Below -1 confident right answers would be pushed away, so that is the end of the range. The paper finds 2 best for image
    classification on ImageNet, and -1 for detection.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        epsilon: what is added to the first coefficient, 1, of cross-entropy's expansion.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.poly_loss(torch.zeros(1, 4), torch.tensor([2]), epsilon=2.0)
        tensor(2.8863)
    """
    return of_log_prob(_poly, input, target, options, epsilon=epsilon)
