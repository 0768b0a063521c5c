"""Proper losses from the entropy that is their least expected value."""

from typing import Unpack

import torch

from lossmith._options import RowOptions
from lossmith._rows import of_logits, pick
from lossmith._typing import Float, Integer, Logits, Target, Tensor
from lossmith.card import At, Claims, Instance, Proved, objective
from lossmith.generators import Entropy
from lossmith.generators.entropy_registry import ANY_ENTROPY

_GNEITING = "Gneiting & Raftery 2007, 'Strictly Proper Scoring Rules, Prediction, and Estimation', JASA 102"


def _savage(z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"], entropy: Entropy) -> Float[Tensor, "*rows"]:
    return pick(entropy.proper_loss(torch.softmax(z, -1)), y)


def _half_brier(input: Tensor, target: Tensor) -> Tensor:
    """half the Brier score"""
    p = input.softmax(min(1, input.ndim - 1)).movedim(min(1, input.ndim - 1), -1)
    return (p.square().sum(-1) + 1) / 2 - pick(p, target)


@objective(
    row=_savage,
    form="logits",
    source=f"Savage 1971, 'Elicitation of Personal Probabilities and Expectations', JASA 66; {_GNEITING}",
    summary="the proper loss whose least expected value is the entropy you choose",
    use_when="you want calibrated probabilities, and to choose how mistakes near certainty and near indifference compare",
    formula=r"-\Omega(p) - \langle \nabla \Omega(p), e_y - p \rangle",
    ranges={"entropy": ANY_ENTROPY},
    limits=[At(entropy="gini", equals=_half_brier)],
    instances=[Instance("proper loss", of=lambda entropy: ANY_ENTROPY(entropy))],
    settings=[{"entropy": "tsallis(alpha=1.5)"}, {"entropy": "norm_entropy(q=2.0)"}],
    aliases=("savage_loss",),
    tags=("proper scoring rule", "calibration", "entropy", "convex function"),
    claims=Claims(
        convex=False,
        proper=Proved(True, f"{_GNEITING}, Theorem 1: Omega is strictly convex"),
        calibrated=Proved(True, "strictly proper: the only minimiser of the conditional risk ranks the classes as the truth does"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth=None,  # the entropy's: bounded for gini, linear for shannon
        bounds=lambda entropy: (0.0, ANY_ENTROPY(entropy).margin),
    ),
    provenance="derived from the entropy; checked against the Brier, spherical and logarithmic scores, and a search for better reports",
)
def proper_loss_from_entropy(
    input: Logits,
    target: Target,
    *,
    entropy: Entropy | str = "gini",
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The proper loss of the softmax of the logits, made from an entropy.

    .. math:: \ell(z, y) = -\Omega(p) - \langle \nabla \Omega(p), e_y - p \rangle, \qquad p = \operatorname{softmax}(z)

    Every proper loss is of this form, with :math:`-\Omega(p)` what reporting the truth p costs on average, and :math:`\Omega` strictly
    convex where only the truth costs as little. Shannon's entropy gives cross-entropy, the Gini entropy half the Brier score, and
    ``norm_entropy(q=2.0)`` one less the spherical score. It is 0 for a certain, right answer, and at most the entropy's ``margin``.

    It is computed from probabilities: where the slope of the entropy at 0 is infinite, as Shannon's is, a label whose probability is
    below the smallest float costs +inf. :func:`cross_entropy` is Shannon's without that limit.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        entropy: an `Entropy`, or the name of one, such as ``"gini"`` or ``"tsallis(alpha=1.5)"``.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.zeros(1, 4), torch.tensor([2])
        >>> lossmith.proper_loss_from_entropy(z, y), lossmith.brier_loss(z, y) / 2
        (tensor(0.3750), tensor(0.3750))
        >>> lossmith.proper_loss_from_entropy(z, y, entropy="norm_entropy(q=2.0)")  # 1 - p_y / |p|
        tensor(0.5000)
    """
    _savage.card.check({"entropy": entropy})  # type: ignore[attr-defined]  # set by the decorator
    return of_logits(_savage, input, target, options, entropy=ANY_ENTROPY(entropy))
