"""Cross-entropy joined to a robust partner: symmetric cross-entropy, and the active-passive family."""

from typing import Literal, Unpack

import torch

from lossmith._options import RowOptions
from lossmith._reduce import times
from lossmith._rows import of_log_prob, of_log_probs
from lossmith._sources import LogitSource
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import At, Choice, Claims, Instance, Proved, Range, objective
from lossmith.classification.focal import focused
from lossmith.generators import FGenerator, kl, total_variation

_MA = "Ma et al. 2020, 'Normalized Loss Functions for Deep Learning with Noisy Labels', arXiv:2006.13554"


def _symmetric(log_p: Float[Tensor, "*rows"], alpha: Hyper, beta: Hyper, log_zero: Hyper) -> Float[Tensor, "*rows"]:
    return times(alpha, -log_p) + beta * log_zero * torch.expm1(log_p)


def _generator(alpha: float, beta: float, log_zero: float) -> FGenerator | None:
    """The f of the loss: the weighted sum of two."""
    parts = [f.scaled(weight) for f, weight in ((kl, alpha), (total_variation, -beta * log_zero)) if weight > 0]
    return parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else None


@objective(
    row=_symmetric,
    form="log_prob",
    source="Wang et al. 2019, 'Symmetric Cross Entropy for Robust Learning with Noisy Labels', arXiv:1908.06112",
    summary="cross-entropy plus its reverse, of the label given the prediction, which wrong labels cannot mislead",
    use_when="labels are noisy and mean absolute error alone learns too slowly",
    formula=r"-\alpha \log p_y - \beta A (1 - p_y), \quad A = \log 0 := -4",
    ranges={"alpha": Range(0), "beta": Range(0), "log_zero": Range(float("-inf"), 0, open_low=True)},
    limits=[
        At(alpha=1.0, beta=0.0, equals="cross_entropy"),
        At(alpha=0.0, beta=0.25, log_zero=-4.0, equals="classification_mae"),
        At(alpha=1.0, beta=0.5, log_zero=-2.0, equals="poly_loss"),
    ],
    instances=[Instance("divergence", of=_generator)],
    settings=[{"alpha": 1.0, "beta": 1.0}, {"alpha": 0.5, "log_zero": -6.0}],
    aliases=("sce", "symmetric_learning"),
    tags=("noisy labels", "robust"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance=(
        "written from the definition in the paper; checked in float64 against both cross-entropies summed class by class. alpha and beta "
        "are the authors' for CIFAR-10 (HanxunH/SCELoss-Reproduce, c81fb33), log_zero is the -4 of Ma et al. 2020; the authors' code clips "
        "the label at 1e-4, which is log_zero = -9.21"
    ),
)
def symmetric_cross_entropy(
    input: Logits | LogitSource,
    target: Target,
    *,
    alpha: Hyper = 0.1,
    beta: Hyper = 1.0,
    log_zero: Hyper = -4.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Symmetric cross-entropy: the weighted sum of cross-entropy and reverse cross-entropy.

    .. math::
        \ell(z, y) = -\alpha \log p_y - \beta \sum_k p_k \log 1_{k = y} = -\alpha \log p_y - \beta A (1 - p_y)

    with :math:`\log 0` replaced by A, a negative number. The reverse is mean absolute error times :math:`-A`, so the whole is alpha
    times :func:`poly_loss` at :math:`\epsilon = -A \beta / \alpha`, and A matters only through :math:`A \beta`. It is convex in the
    logits when :math:`-A \beta \le \alpha` and not otherwise, as at the defaults.

    With class probabilities as the target this is the expectation of the above over the label, and no logarithm of the target is taken.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        alpha: the weight of cross-entropy. The authors take 0.1 for CIFAR-10 and 6 for CIFAR-100.
        beta: the weight of reverse cross-entropy.
        log_zero: the A of the formula. The authors' code has -9.21, the logarithm of the 1e-4 it clips labels at.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.symmetric_cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # 0.1 * log 4 + 4 * 3/4
        tensor(3.1386)
    """
    return of_log_prob(_symmetric, input, target, options, alpha=alpha, beta=beta, log_zero=log_zero)


_SCALE = {"mae": 1.0, "reverse_cross_entropy": 4.0}
"""What a passive loss is in multiples of 1 - p_y."""


def _active_passive(
    log_p_y: Float[Tensor, "*#rows"],
    log_p: Float[Tensor, "*#rows c"],
    alpha: Hyper,
    beta: Hyper,
    gamma: Hyper,
    passive: str,
) -> Float[Tensor, "*#rows"]:
    possible = log_p_y > -torch.inf  # a label of probability 0 has all of the sum
    label = torch.where(possible, log_p_y, -1.0)
    share = torch.where(possible, focused(label, gamma) / focused(log_p, gamma).sum(-1), 1.0)
    return alpha * share - beta * _SCALE[passive] * torch.expm1(log_p_y)


@objective(
    row=_active_passive,
    form="log_probs",
    source=_MA,
    summary="two robust losses together: one that lifts the label's probability, one that lowers the others'",
    use_when="labels are very noisy, and a robust loss alone learns too little",
    formula=r"\alpha\, \frac{(1 - p_y)^\gamma \log p_y}{\sum_k (1 - p_k)^\gamma \log p_k} + \beta\, s\, (1 - p_y)",
    ranges={
        "alpha": Range(0),
        "beta": Range(0),
        "gamma": Range(0),
        "passive": Choice("mae", "reverse_cross_entropy"),
    },
    limits=[At(alpha=0.0, beta=1.0, equals="classification_mae")],
    settings=[
        {"alpha": 10.0, "beta": 0.1, "passive": "reverse_cross_entropy"},
        {"gamma": 0.5},
        {"gamma": 2.0, "passive": "reverse_cross_entropy"},
    ],
    aliases=("apl", "nce_mae"),
    tags=("noisy labels", "robust", "normalized"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=True,
        symmetric=Proved(True, f"{_MA}, section 3: a normalised loss sums to 1 over the labels, mean absolute error to c - 1"),
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=lambda alpha, beta, passive: (0.0, alpha + beta * _SCALE[passive]),
    ),
    provenance=(
        "written from the definition in the paper; checked against the sums over classes in float64 and read against "
        "HanxunH/Active-Passive-Losses (04bce53), whose alpha = beta = 1 on CIFAR-10 are the defaults"
    ),
)
def active_passive_loss(
    input: Logits,
    target: Target,
    *,
    alpha: Hyper = 1.0,
    beta: Hyper = 1.0,
    gamma: Hyper = 0.0,
    passive: Literal["mae", "reverse_cross_entropy"] = "mae",
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The active-passive loss: a normalised active loss plus a passive one.

    .. math::
        \ell(z, y) = \alpha \frac{a(p_y)}{\sum_k a(p_k)} + \beta\, s\, (1 - p_y), \qquad a(p) = -(1 - p)^\gamma \log p

    The active part is normalised cross-entropy (the paper's NCE) at :math:`\gamma = 0`, and normalised focal loss (NFL) above; the
    passive part is mean absolute error or reverse cross-entropy. So the paper's four are ``gamma=0.0`` or ``gamma=0.5``, with
    ``passive="mae"`` (s = 1) or ``passive="reverse_cross_entropy"`` (s = 4, the paper's :math:`\log 0 := -4`). Both parts sum over the
    labels to a constant, so that uniform label noise moves no minimum. A class masked by a logit of -inf has all of the sum: it leaves
    the active loss 0 for every other label.

    The authors' code differs in two places: it takes the factor :math:`(1 - p)^\gamma` as a constant in the backward pass, where the
    gradient here is the formula's, and it clips the label at 1e-4, which is s = 9.21 (say so by `beta`).

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        alpha: the weight of the active loss. The authors take 1 for CIFAR-10 and 10 for CIFAR-100.
        beta: the weight of the passive loss. The authors take 1 for CIFAR-10 and 0.1 for CIFAR-100.
        gamma: the focus of the active loss: 0 for normalised cross-entropy, 0.5 in the paper's normalised focal loss.
        passive: mean absolute error or reverse cross-entropy.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.active_passive_loss(torch.zeros(1, 4), torch.tensor([2]))  # 1/4 + 3/4
        tensor(1.)
    """
    return of_log_probs(_active_passive, input, target, options, alpha=alpha, beta=beta, gamma=gamma, passive=passive)
