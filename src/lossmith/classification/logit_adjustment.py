"""Logit adjustment: cross-entropy that asks for a larger lead where the label is rare."""

from typing import Unpack

import torch

from lossmith._checks import describe, holds
from lossmith._options import RowOptions
from lossmith._reduce import scalar
from lossmith._rows import of_logits, pick
from lossmith._typing import Float, Hyper, Integer, Logits, Shaped, Target, Tensor
from lossmith.card import At, Claims, Proved, Range, objective


def _adjusted(
    z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"], class_counts: Shaped[Tensor, " c"], tau: Hyper
) -> Float[Tensor, "*rows"]:
    # log counts in place of log frequencies: the log of their total is the same for all classes, and softmax does not see it
    tau = scalar(tau, z)
    absent = class_counts == 0
    shift = tau * torch.log(torch.where(absent, 1, class_counts.to(z.dtype)))
    shift = torch.where(absent, torch.where(tau > 0, -torch.inf, 0), shift)  # tau log 0, and 0 at tau = 0
    return -pick(torch.log_softmax(z + shift, -1), y)


@objective(
    row=_adjusted,
    form="logits",
    source="Menon et al. 2021, 'Long-tail Learning via Logit Adjustment', arXiv:2007.07314",
    summary="cross-entropy of logits shifted by the log class frequencies: learns the balanced problem from imbalanced data",
    use_when="some classes are rare and all count the same in the end (balanced accuracy)",
    formula=r"-\log \frac{\pi_y^\tau e^{z_y}}{\sum_k \pi_k^\tau e^{z_k}}",
    ranges={"tau": Range(0)},
    limits=[At(tau=0.0, equals="cross_entropy")],
    settings=[{"tau": 0.5}],
    aliases=("logit_adjustment", "balanced_softmax"),
    tags=("imbalance", "long tail", "cost-sensitive"),
    needs=("class_counts",),
    predicts="scores",
    claims=Claims(
        convex=Proved(True, "cross-entropy of shifted logits"),
        proper=Proved(False, "Menon et al. 2021: the minimiser is the posterior divided by the class frequencies"),
        calibrated=Proved(False, "Menon et al. 2021: consistent for the balanced error, not for the error rate"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda tau: (0.0, float("inf")),
    ),
    provenance="written from the paper's definition; checked against its pairwise form and against cross-entropy of shifted logits",
)
def logit_adjusted(
    input: Logits,
    target: Target,
    *,
    class_counts: Shaped[Tensor, " c"],
    tau: Hyper = 1.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Logit-adjusted cross-entropy.

    .. math::
        \ell(z, y) = -\log \frac{\pi_y^\tau e^{z_y}}{\sum_k \pi_k^\tau e^{z_k}}
        = \log \Big(1 + \sum_{k \ne y} \Big(\frac{\pi_k}{\pi_y}\Big)^{\!\tau} e^{z_k - z_y}\Big)

    with :math:`\pi` the class frequencies. Its minimiser is :math:`z_k = \log P(k \mid x) - \tau \log \pi_k` up to a constant: at tau = 1
    the softmax of the *unadjusted* logits is the posterior of the problem in which all classes are equally frequent, and its largest
    entry the choice of least balanced error. Of the data as they are it says neither the probabilities nor the most likely class, so
    the card speaks of scores and claims neither properness nor calibration; with equal frequencies it is cross-entropy.

    Predict with the logits as they are: adjusting them again undoes the training. A class of count 0 has frequency 0: for tau > 0 it takes
    no part in the sum, and a row labelled with it costs +inf. Where such rows can occur (in validation), add one to every count.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        class_counts: how often each class occurs in training, `(c,)`; counts or frequencies, only their ratios matter.
        tau: the strength of the adjustment: 0 none, 1 balanced; a number or a 0-d tensor.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.logit_adjusted(torch.zeros(1, 2), torch.tensor([1]), class_counts=torch.tensor([3, 1]))
        tensor(1.3863)
    """
    _check_counts(class_counts, input)
    return of_logits(_adjusted, input, target, options, class_counts=class_counts, tau=tau)


def _check_counts(class_counts: object, input: object) -> None:
    if not isinstance(class_counts, Tensor) or class_counts.dtype == torch.bool or class_counts.is_complex():
        raise TypeError(f"logit_adjusted: class_counts must be a tensor of one number a class; got {describe(class_counts)}")
    if not isinstance(input, Tensor) or input.ndim == 0:
        return  # the rows say what is wrong with it
    classes = input.shape[0 if input.ndim == 1 else 1]
    if class_counts.shape != (classes,):
        raise ValueError(f"logit_adjusted: class_counts must have shape ({classes},); got {describe(class_counts)}")
    if class_counts.device != input.device:
        raise ValueError(f"logit_adjusted: class_counts must be on the input's device {input.device}; it is on {class_counts.device}")
    if not holds(lambda: (class_counts >= 0).all() & (class_counts.sum() > 0), class_counts, always_on_cpu=True):
        raise ValueError(f"logit_adjusted: class_counts must be at least 0 and not all 0; got {class_counts.tolist()}")
