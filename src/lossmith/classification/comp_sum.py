"""The comp-sum family: compositions of a concave function with a sum of exponentials of score differences.

With :math:`u = \\sum_{k \\ne y} e^{z_k - z_y} = 1/p_y - 1`, every member is :math:`\\Phi_\\tau(u)` with
:math:`\\Phi_\\tau'(u) = (1 + u)^{-\\tau}`: sum-exponential at 0, cross-entropy at 1, generalised cross-entropy between 1 and 2, mean
absolute error at 2. One formula serves them all.
"""

from typing import Unpack

import torch

from lossmith._options import RowOptions
from lossmith._reduce import scalar
from lossmith._rows import of_log_prob
from lossmith._sources import LogitSource
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import At, Claims, Instance, Limit, Proved, Range, objective
from lossmith.generators import FGenerator, alpha_tsallis, pearson_chi2, total_variation

_MAO = "Mao, Mohri & Zhong 2023, 'Cross-Entropy Loss Functions: Theoretical Analysis and Applications', arXiv:2304.07288"


def _power(log_p: Float[Tensor, "*rows"], q: Hyper) -> Float[Tensor, "*rows"]:
    """(1 - p^q) / q, and -log p at q = 0, with the right derivative in q there too."""
    exponent = q * log_p.clamp_min(torch.finfo(log_p.dtype).min)  # 0 times -inf would be NaN
    near = exponent.abs() < 1e-2
    t, lp = torch.where(near, exponent, 0), torch.where(near, log_p, 0)
    series = lp * (1 + t / 2 * (1 + t / 3 * (1 + t / 4 * (1 + t / 5 * (1 + t / 6)))))  # expm1(t) / t to the last place
    divisor = torch.where(near, 1.0, scalar(q, log_p))
    return -torch.where(near, series, torch.expm1(exponent) / divisor)


def _generator(q: float) -> FGenerator | None:
    """The f with D_f(e_y || p) = (1 - p_y^q) / q; beyond q = 1 there is none."""
    return total_variation if q == 1 else alpha_tsallis(1 - q) if q < 1 else None


def _generalized(log_p: Float[Tensor, "*rows"], q: Hyper) -> Float[Tensor, "*rows"]:
    return _power(log_p, q)


@objective(
    row=_generalized,
    form="log_prob",
    source="Zhang & Sabuncu 2018, arXiv:1805.07836",
    summary="cross-entropy made robust to label noise by a power in place of the logarithm",
    use_when="labels are noisy",
    formula=r"(1 - p_y^q) / q",
    ranges={"q": Range(0, 1, open_low=True)},
    limits=[Limit(q=0.0, equals="cross_entropy"), At(q=1.0, equals="classification_mae")],
    instances=[Instance("divergence", of=_generator)],
    settings=[{"q": 0.3}, {"q": 1.0}],
    aliases=("gce", "lq_loss"),
    tags=("noisy labels", "robust"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=lambda q: (0.0, 1 / q),
    ),
    provenance="written from the paper, eq. 6; checked against its closed form and its two ends",
)
def generalized_cross_entropy(
    input: Logits | LogitSource,
    target: Target,
    *,
    q: Hyper = 0.7,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Generalised cross-entropy: from cross-entropy (q towards 0) to mean absolute error (q = 1).

    .. math:: \ell(z, y) = \frac{1 - p_y^q}{q}, \qquad \frac{\partial \ell}{\partial \log p_y} = -p_y^q

    The gradient is cross-entropy's times :math:`p_y^q`: rows whose label the model finds unlikely, as wrong labels are, count less.
    The price is slow learning of what is truly hard.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        q: the power; a number or a 0-d tensor.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), q=0.5)
        tensor(1.)
    """
    return of_log_prob(_generalized, input, target, options, q=q)


def _comp_sum(log_p: Float[Tensor, "*rows"], tau: Hyper) -> Float[Tensor, "*rows"]:
    return _power(log_p, tau - 1)


@objective(
    row=_comp_sum,
    form="log_prob",
    source=_MAO,
    summary="one parameter from sum-exponential through cross-entropy to mean absolute error",
    use_when="you want to tune between fast learning (small tau) and robustness to noisy labels (tau towards 2)",
    formula=r"((1 + u)^{1 - \tau} - 1) / (1 - \tau), \quad u = 1/p_y - 1",
    ranges={"tau": Range(0)},
    limits=[
        At(tau=0.0, equals="sum_exponential"),
        At(tau=1.0, equals="cross_entropy"),
        Limit(tau=1.0, equals="cross_entropy"),
        At(tau=1.7, equals="generalized_cross_entropy"),
        At(tau=2.0, equals="classification_mae"),
    ],
    instances=[Instance("divergence", of=lambda tau: _generator(tau - 1))],
    settings=[{"tau": 0.5}, {"tau": 1.0}, {"tau": 1.5}, {"tau": 2.0}],
    aliases=("comp_sum_loss",),
    tags=("noisy labels", "robust", "H-consistency"),
    claims=Claims(
        convex=False,  # only up to tau = 1
        proper=False,  # only at tau = 1
        calibrated=Proved(True, "Mao, Mohri & Zhong 2023, Theorem 3.1: H-consistency bounds"),
        symmetric=False,  # only at tau = 2
        shift_invariant=True,
        class_symmetric=True,
        growth="exponential",
        bounds=lambda tau: (0.0, 1 / (tau - 1) if tau > 1 else float("inf")),
    ),
    provenance="written from the paper, section 2; checked against its four named members",
)
def comp_sum(
    input: Logits | LogitSource,
    target: Target,
    *,
    tau: Hyper = 1.5,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The comp-sum loss of parameter tau.

    .. math:: \ell_\tau(z, y) = \Phi_\tau(1/p_y - 1) = \frac{p_y^{\tau - 1} - 1}{1 - \tau}, \qquad \ell_1 = -\log p_y

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        tau: 0 sum-exponential, 1 cross-entropy, in (1, 2) generalised cross-entropy with q = tau - 1, 2 mean absolute error.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([0])
        >>> torch.equal(lossmith.comp_sum(z, y, tau=1.0), lossmith.cross_entropy(z, y))
        True
    """
    return of_log_prob(_comp_sum, input, target, options, tau=tau)


def _sum_exponential(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    return torch.expm1(-log_p)


@objective(
    row=_sum_exponential,
    form="log_prob",
    source=f"Weston & Watkins 1998; Awasthi, Mao, Mohri & Zhong 2022, 'Multi-Class H-Consistency Bounds', NeurIPS 2022; {_MAO}",
    summary="the sum over the other classes of the exponential of their lead: the multi-class exponential loss",
    use_when="labels are clean and few hard rows should dominate, as in boosting",
    formula=r"\sum_{k \ne y} e^{z_k - z_y} = 1 / p_y - 1",
    instances=[Instance("divergence", of=lambda: pearson_chi2)],
    tags=("boosting", "H-consistency"),
    claims=Claims(
        convex=Proved(True, "a sum of exponentials of linear functions"),
        proper=False,
        calibrated=Proved(True, "Mao, Mohri & Zhong 2023, Theorem 3.1 with tau = 0"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="exponential",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the definition; checked against the sum over the other classes",
)
def sum_exponential(
    input: Logits | LogitSource,
    target: Target,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The sum-exponential loss; comp-sum at tau = 0.

    .. math:: \ell(z, y) = \sum_{k \ne y} e^{z_k - z_y} = \frac{1}{p_y} - 1

    Minimising its conditional risk gives :math:`p_k \propto \sqrt{P(k \mid x)}`: the right ranking, but not the right probabilities. It
    grows exponentially, and is +inf where float32 cannot hold it.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.sum_exponential(torch.zeros(1, 4), torch.tensor([2]))
        tensor(3.)
    """
    return of_log_prob(_sum_exponential, input, target, options)


def _mae(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    return -torch.expm1(log_p)


@objective(
    row=_mae,
    form="log_prob",
    source="Ghosh, Kumar & Sastry 2017, arXiv:1712.09482",
    summary="one minus the probability of the right class: robust to uniform label noise, and slow to learn",
    use_when="labels are very noisy and classes few",
    formula=r"1 - p_y",
    instances=[Instance("divergence", of=lambda: total_variation)],
    aliases=("unhinged_softmax",),
    tags=("noisy labels", "robust"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=True,
        symmetric=Proved(True, "Ghosh, Kumar & Sastry 2017, section 4: the sum over labels is c - 1"),
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=lambda: (0.0, 1.0),
    ),
    provenance="written from the paper; checked against half the L1 distance to the one-hot target",
)
def classification_mae(
    input: Logits | LogitSource,
    target: Target,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The mean absolute error of a classifier; comp-sum at tau = 2.

    .. math:: \ell(z, y) = 1 - p_y = \tfrac{1}{2} \lVert e_y - p \rVert_1

    Half the L1 distance of the paper, so that it is generalised cross-entropy at q = 1. Summed over all labels it is the constant
    ``c - 1``: minimising it under uniform label noise is minimising it under clean labels. Its gradient vanishes where the model is
    confidently wrong, and with many classes it may not learn at all.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.classification_mae(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.7500)
    """
    return of_log_prob(_mae, input, target, options)
