"""The Brier score: the squared distance between the predicted probabilities and what happened."""

from typing import Unpack

import torch

from lossmith._options import RowOptions
from lossmith._rows import of_log_probs
from lossmith._typing import Float, Logits, Target, Tensor
from lossmith.card import Claims, Instance, Proved, objective
from lossmith.generators import gini


def _brier(log_p_y: Float[Tensor, "*#rows"], log_p: Float[Tensor, "*#rows c"]) -> Float[Tensor, "*#rows"]:
    """(1 - p_y)^2 plus the squares of the others, to full relative precision however sure the row is."""
    p = torch.exp(log_p)
    below_top = log_p < log_p.amax(-1, keepdim=True)
    rest = torch.where(below_top, p, 0)
    # a label above 3/4 is the top class, and what it misses is what the others hold: no difference of nearly equal numbers
    sure = rest.sum(-1).square() + rest.square().sum(-1)
    unsure = torch.expm1(log_p_y).square() + p.square().sum(-1) - torch.exp(2 * log_p_y)
    return torch.where(torch.exp(log_p_y) > 0.75, sure, unsure)


@objective(
    row=_brier,
    form="log_probs",
    source="Brier 1950, 'Verification of Forecasts Expressed in Terms of Probability', Monthly Weather Review 78(1)",
    summary="the squared error of the probabilities: proper like cross-entropy, but bounded",
    use_when="you want calibrated probabilities and a few wrong labels must not dominate",
    formula=r"\sum_k (p_k - 1[k = y])^2",
    instances=[Instance("proper loss", of=lambda: gini, times=2.0)],
    aliases=("brier_score", "brier", "quadratic_score"),
    tags=("proper scoring rule", "calibration", "robust"),
    claims=Claims(
        convex=False,
        proper=Proved(True, "Brier 1950; Gneiting & Raftery 2007, section 3.1: the quadratic score"),
        calibrated=Proved(True, "strictly proper: the only minimiser of the conditional risk ranks the classes as the truth does"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=lambda: (0.0, 2.0),
    ),
    provenance="written from the paper's definition; checked against a loop over the classes and sklearn.metrics.brier_score_loss",
)
def brier_loss(
    input: Logits,
    target: Target,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The Brier score of the softmax of the logits, in Brier's own scale: from 0 to 2.

    .. math:: \ell(z, y) = \sum_k (p_k - 1[k = y])^2 = (1 - p_y)^2 + \sum_{k \ne y} p_k^2

    With two classes it is twice the squared error of one probability, which is often called by the same name. Under class probabilities
    it is the expectation over labels, :math:`\lVert p - t \rVert^2 + 1 - \lVert t \rVert^2`: the squared distance and the part of it that
    no prediction can avoid. It is not convex in the logits, and its gradient vanishes where the model is confidently wrong.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.brier_loss(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.7500)
    """
    return of_log_probs(_brier, input, target, options)
