"""Hinge losses of several classes: the support vector machines of Crammer & Singer and of Weston & Watkins."""

from typing import Unpack

import torch

from lossmith._options import RowOptions
from lossmith._rows import is_label, of_logits, pick
from lossmith._typing import Float, Hyper, Integer, Logits, Target, Tensor
from lossmith.card import Claims, Proved, Range, objective

_NOT_CALIBRATED = "Liu 2007, 'Fisher Consistency of Multicategory Support Vector Machines'; Tewari & Bartlett 2007"


def _crammer_singer(z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"], margin: Hyper) -> Float[Tensor, "*rows"]:
    rival = torch.where(is_label(z, y), -torch.inf, z).amax(-1)
    return torch.relu(margin + (rival - pick(z, y)))  # the difference first: added to a large logit, the margin would round away


@objective(
    row=_crammer_singer,
    form="logits",
    source="Crammer & Singer 2001, 'On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines', JMLR 2",
    summary="the hinge of the lead over the strongest rival: nothing to learn from a row that wins by the margin",
    use_when="classes are well separated and you want a large margin, not probabilities",
    formula=r"\max(0, \; m + \max_{k \ne y} z_k - z_y)",
    ranges={"margin": Range(0)},
    settings=[{"margin": 0.3}],
    tags=("support vector machine", "margin"),
    predicts="scores",
    claims=Claims(
        convex=Proved(True, "a maximum of affine functions"),
        proper=False,
        calibrated=Proved(False, _NOT_CALIBRATED),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda margin: (0.0, float("inf")),
    ),
    provenance="written from the definition; checked against a loop over the rivals and sklearn.metrics.hinge_loss",
)
def crammer_singer(
    input: Logits,
    target: Target,
    *,
    margin: Hyper = 1.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The multi-class hinge loss of Crammer & Singer.

    .. math:: \ell(z, y) = \max\big(0, \; m + \max_{k \ne y} z_k - z_y\big)

    The gradient pushes the label's logit up and the strongest rival's down (rivals at exactly the same height share it), until the
    label leads by the margin. With three classes or more and no class above one half, minimising the conditional risk does not find the
    most likely class. With two it is the binary hinge loss, which does.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        margin: the lead that is enough; a number or a 0-d tensor.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.crammer_singer(torch.tensor([[2.0, 1.5, -1.0]]), torch.tensor([0]))
        tensor(0.5000)
    """
    return of_logits(_crammer_singer, input, target, options, margin=margin)


def _weston_watkins(z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"], margin: Hyper) -> Float[Tensor, "*rows"]:
    lead = torch.relu(margin + (z - pick(z, y).unsqueeze(-1)))
    return torch.where(is_label(z, y), 0, lead).sum(-1)


@objective(
    row=_weston_watkins,
    form="logits",
    source="Weston & Watkins 1998, 'Multi-class Support Vector Machines', Royal Holloway CSD-TR-98-04",
    summary="the sum over the rivals of the hinge of the lead over each",
    use_when="you want a large margin over every rival, not only over the strongest",
    formula=r"\sum_{k \ne y} \max(0, \; m + z_k - z_y)",
    ranges={"margin": Range(0)},
    settings=[{"margin": 0.3}],
    tags=("support vector machine", "margin"),
    predicts="scores",
    claims=Claims(
        convex=Proved(True, "a sum of maxima of affine functions"),
        proper=False,
        calibrated=Proved(False, _NOT_CALIBRATED),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda margin: (0.0, float("inf")),
    ),
    provenance="written from the definition; checked against a loop over the rivals and c times torch's multi_margin_loss",
)
def weston_watkins(
    input: Logits,
    target: Target,
    *,
    margin: Hyper = 1.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The multi-class hinge loss of Weston & Watkins.

    .. math:: \ell(z, y) = \sum_{k \ne y} \max(0, \; m + z_k - z_y)

    It is the number of classes times :func:`torch.nn.functional.multi_margin_loss`, which divides by it; class weights multiply the loss
    and count in the denominator of a mean, which torch's do not. It is not calibrated with three classes or more.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        margin: the lead over each rival that is enough; a number or a 0-d tensor.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.weston_watkins(torch.tensor([[2.0, 1.5, 1.2]]), torch.tensor([0]))
        tensor(0.7000)
    """
    return of_logits(_weston_watkins, input, target, options, margin=margin)
