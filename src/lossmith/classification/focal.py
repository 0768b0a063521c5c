"""Focal loss, for exclusive classes and for single logits: cross-entropy that looks away from what is already easy."""

from typing import Unpack

import torch
import torch.nn.functional as F

from lossmith._binary import finite, of_binary
from lossmith._options import BinaryOptions, RowOptions
from lossmith._rows import of_log_prob
from lossmith._sources import LogitSource
from lossmith._typing import Bool, Float, Hyper, Integer, Logits, Target, Tensor
from lossmith.card import At, Claims, Limit, Proved, Range, objective

_LIN = "Lin et al. 2017, 'Focal Loss for Dense Object Detection', arXiv:1708.02002"
_CHAROENPHAKDEE = "Charoenphakdee et al. 2021, 'On Focal Loss for Class-Posterior Probability Estimation', arXiv:2011.09172"


def focused(log_p: Float[Tensor, "*rows"], gamma: Hyper) -> Float[Tensor, "*rows"]:
    """-(1 - p)^gamma log p, with the slope it tends to at p = 1, where the power's own is infinite for gamma < 1, and at p = 0."""
    inside = (log_p < 0) & (log_p > -torch.inf)
    doubt = -torch.expm1(torch.where(inside, log_p, -1.0))
    at_ends = torch.where(log_p < 0, 1.0, torch.zeros_like(log_p) ** gamma)
    return torch.where(inside, doubt**gamma, at_ends) * -log_p


def _focal(log_p: Float[Tensor, "*rows"], gamma: Hyper) -> Float[Tensor, "*rows"]:
    return focused(log_p, gamma)


@objective(
    row=_focal,
    form="log_prob",
    source=_LIN,
    summary="cross-entropy that turns away from rows the model already gets right",
    use_when="easy rows are so many that they drown the hard ones, or the model is overconfident",
    formula=r"-(1 - p_y)^\gamma \log p_y",
    ranges={"gamma": Range(0)},
    limits=[Limit(gamma=0.0, equals="cross_entropy"), At(gamma=0.0, equals="cross_entropy")],
    settings=[{"gamma": 0.5}, {"gamma": 1.0}, {"gamma": 5.0}],
    aliases=("focal", "softmax_focal_loss"),
    tags=("imbalance", "hard examples", "overconfidence"),
    claims=Claims(
        convex=False,
        proper=Proved(False, f"{_CHAROENPHAKDEE}: not strictly proper"),
        calibrated=Proved(True, f"{_CHAROENPHAKDEE}: classification-calibrated"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the paper, equation 4; checked against the formula in float64 and against cross-entropy at gamma = 0",
)
def focal_loss(
    input: Logits | LogitSource,
    target: Target,
    *,
    gamma: Hyper = 2.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Focal loss over exclusive classes: cross-entropy times how far the model still is from certain.

    .. math:: \ell(z, y) = -(1 - p_y)^\gamma \log p_y

    The paper's balancing factor :math:`\alpha_y` is `weight`. Its minimiser ranks the classes rightly but is less confident than the
    truth: the probabilities are not to be taken at their word. For one logit an answer, as the paper has it, see
    :func:`binary_focal_loss`.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        gamma: the focus: 0 is cross-entropy; the larger, the less what is already right counts.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.focal_loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]), gamma=1.0)
        tensor(0.0510)
    """
    return of_log_prob(_focal, input, target, options, gamma=gamma)


def _binary_focal(z: Float[Tensor, "*n"], gamma: Hyper) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    z = finite(z)
    log_yes, log_no = F.logsigmoid(z), F.logsigmoid(-z)  # (1 - p)^gamma as exp(gamma log(1 - p)): no slope is ever infinite
    return torch.exp(gamma * log_no) * -log_yes, torch.exp(gamma * log_yes) * -log_no


@objective(
    row=_binary_focal,
    form="binary",
    source=_LIN,
    summary="binary cross-entropy that turns away from answers the model already gets right",
    use_when="one kind of answer is so common and so easy that it drowns the other, as background in object detection",
    formula=r"-t\,(1 - p)^\gamma \log p - (1 - t)\, p^\gamma \log(1 - p), \quad p = \sigma(z)",
    ranges={"gamma": Range(0)},
    limits=[Limit(gamma=0.0, equals="binary_cross_entropy"), At(gamma=0.0, equals="binary_cross_entropy")],
    settings=[{"gamma": 0.5}, {"gamma": 1.0}, {"gamma": 5.0}],
    aliases=("sigmoid_focal_loss",),
    tags=("imbalance", "hard examples", "detection", "binary", "multi-label"),
    claims=Claims(
        convex=False,
        proper=Proved(False, f"{_CHAROENPHAKDEE}: not strictly proper"),
        calibrated=Proved(True, f"{_CHAROENPHAKDEE}: classification-calibrated"),
        symmetric=False,
        shift_invariant=False,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the paper, equation 4; checked in float64 against torchvision.ops.sigmoid_focal_loss's formula",
)
def binary_focal_loss(
    input: Float[Tensor, "*n"],
    target: Float[Tensor, "*n"] | Integer[Tensor, "*n"] | Bool[Tensor, "*n"],
    *,
    gamma: Hyper = 2.0,
    **options: Unpack[BinaryOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Focal loss of a logit and its answer, yes or no.

    .. math:: \ell(z, t) = -t\,(1 - p)^\gamma \log p - (1 - t)\, p^\gamma \log(1 - p), \qquad p = \sigma(z)

    The paper's :math:`\alpha` weighs a yes by :math:`\alpha` and a no by :math:`1 - \alpha`. That is ``weight=torch.tensor(1 - alpha),
    pos_weight=torch.tensor(alpha / (1 - alpha))``, with which ``reduction="none"`` and ``"sum"`` equal
    `torchvision.ops.sigmoid_focal_loss(input, target, alpha, gamma)` for targets 0 and 1. A mean divides by the total weight, so
    torchvision's mean, which divides by the number of elements, is ``(1 - alpha)`` times ours; the paper divides by the number of
    anchors that hold an object, which is ``denominator=target.sum()`` with both weights and no further factor. torchvision's default
    ``alpha=0.25`` counts a yes a third of a no; `alpha=-1` there is no weights here. A target between 0 and 1 means the expectation over
    the answer here, and a probability in between inside the power there.

    Args:
        input: logits of any shape; labels, if there are several, along axis 1.
        target: the answers, in the input's shape: yes is 1, no is 0, and a number between is the probability of yes.
        gamma: the focus: 0 is binary cross-entropy; the larger, the less what is already right counts.

    Returns:
        One loss an element (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.binary_focal_loss(torch.tensor([0.0, 2.0]), torch.tensor([0, 1]), reduction="none")
        tensor([0.1733, 0.0018])
    """
    return of_binary(_binary_focal, input, target, options, gamma=gamma)
