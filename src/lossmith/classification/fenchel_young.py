r"""Fenchel-Young losses: cross-entropy with another entropy, and with sparse probabilities in the place of softmax's.

A convex function :math:`\Omega` on the simplex turns logits into probabilities, :math:`\hat p(z) = \arg\max_p \langle p, z \rangle -
\Omega(p)`, and into a loss of them, :math:`\Omega^*(z) + \Omega(e_y) - z_y`, whose gradient is :math:`\hat p(z) - e_y`. Shannon's gives
softmax and cross-entropy, the Gini entropy sparsemax and its loss. All that is convex is in `lossmith.generators`.
"""

from typing import Unpack

from lossmith._options import RowOptions
from lossmith._rows import of_log_probs
from lossmith._typing import Float, Logits, Target, Tensor
from lossmith.card import At, Claims, Instance, Limit, Proved, Range, objective
from lossmith.generators import Entropy, gini, tsallis
from lossmith.generators.entropy_registry import ANY_ENTROPY

_BLONDEL = "Blondel, Martins & Niculae 2020, 'Learning with Fenchel-Young Losses', JMLR 21, arXiv:1901.02324"
_CONVEX = Proved(True, f"{_BLONDEL}, Proposition 2: a convex conjugate less a linear function")


def _from_label(log_p_y: Float[Tensor, "*#rows"], log_p: Float[Tensor, "*#rows c"], entropy: Entropy) -> Float[Tensor, "*#rows"]:
    """The loss of a label, of whose certainty Omega is 0. It does not change when a constant is added to a row of logits, so that
    log-probabilities serve as well."""
    return entropy.conjugate(log_p) - log_p_y


def _fenchel_young(log_p_y: Float[Tensor, "*#rows"], log_p: Float[Tensor, "*#rows c"], entropy: Entropy) -> Float[Tensor, "*#rows"]:
    return _from_label(log_p_y, log_p, entropy)


@objective(
    row=_fenchel_young,
    form="log_probs",
    source=_BLONDEL,
    summary="cross-entropy with any entropy in the place of Shannon's, and its own probabilities in the place of softmax's",
    use_when="predictions should be sparse, or you want to choose the entropy that a confident prediction is measured by",
    formula=r"\Omega^*(z) + \Omega(e_y) - z_y",
    ranges={"entropy": ANY_ENTROPY},
    limits=[At(entropy="shannon", equals="cross_entropy"), At(entropy="gini", equals="sparsemax_loss")],
    instances=[Instance("fenchel-young", of=lambda entropy: ANY_ENTROPY(entropy))],
    settings=[{"entropy": "shannon"}, {"entropy": "tsallis(alpha=1.5)"}, {"entropy": "squared_norm_entropy(q=4.0)"}],
    tags=("sparse", "entropy", "convex function", "margin"),
    predicts="scores",
    claims=Claims(
        convex=_CONVEX,
        proper=False,
        calibrated=Proved(True, f"{_BLONDEL}, section 4: the gradient vanishes just where argmax(z) is the truth, ordered as z is"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="derived from the entropy; checked against a search over the simplex, cross-entropy and the entmax package",
)
def fenchel_young_loss(
    input: Logits,
    target: Target,
    *,
    entropy: Entropy | str = "gini",
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The Fenchel-Young loss of the logits and a label, for any entropy.

    .. math::
        \ell(z, y) = \Omega^*(z) + \Omega(e_y) - z_y = \max_p \big[\langle p, z \rangle - \Omega(p)\big] - z_y,
        \qquad \nabla_z \ell = \hat p(z) - e_y

    :math:`\Omega` is the negative entropy. The prediction that the loss is about is the entropy's own :math:`\hat p(z)`,
    ``entropy.argmax(z)``: softmax for Shannon's alone. At the minimum of the expected loss it is the true distribution, and softmax of the
    same logits is not. Where the label leads by the entropy's ``margin`` the loss is exactly 0.

    With class probabilities as the target this is the expectation of the above over the label. It differs from
    :math:`\Omega^*(z) + \Omega(t) - \langle z, t \rangle`, which is 0 at :math:`\hat p(z) = t`, by :math:`\Omega(t)`, and has the same
    gradient; for that value call ``entropy.fenchel_young(z, t)``.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        entropy: an `Entropy`, or the name of one, such as ``"gini"`` or ``"tsallis(alpha=1.5)"``.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.5, 0.0]]), torch.tensor([0, 0])
        >>> lossmith.fenchel_young_loss(z, y, reduction="none")
        tensor([0.0000, 0.0625])
        >>> lossmith.fenchel_young_loss(z, y, entropy="shannon"), lossmith.cross_entropy(z, y)
        (tensor(0.4813), tensor(0.4813))
    """
    _fenchel_young.card.check({"entropy": entropy})  # type: ignore[attr-defined]  # set by the decorator
    return of_log_probs(_fenchel_young, input, target, options, entropy=ANY_ENTROPY(entropy))


def _sparsemax(log_p_y: Float[Tensor, "*#rows"], log_p: Float[Tensor, "*#rows c"]) -> Float[Tensor, "*#rows"]:
    return _from_label(log_p_y, log_p, gini)


@objective(
    row=_sparsemax,
    form="log_probs",
    source="Martins & Astudillo 2016, 'From Softmax to Sparsemax', arXiv:1602.02068",
    summary="the loss of sparsemax, whose probabilities are often exactly 0: convex, smooth, and 0 beyond a margin of 1",
    use_when="predictions should name few classes, and what is right by a margin should be left alone",
    formula=r"\max_p \langle p, z \rangle - \tfrac12 (\|p\|^2 - 1) - z_y",
    instances=[Instance("fenchel-young", of=lambda: gini)],
    aliases=("sparsemax",),
    tags=("sparse", "entropy", "margin"),
    predicts="scores",
    claims=Claims(
        convex=_CONVEX,
        proper=False,
        calibrated=Proved(True, f"{_BLONDEL}, section 4"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="the Gini entropy's Fenchel-Young loss; checked against the paper's closed form and the entmax package",
)
def sparsemax_loss(
    input: Logits,
    target: Target,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The sparsemax loss: :func:`fenchel_young_loss` of the Gini entropy.

    .. math:: \ell(z, y) = \max_p \big[\langle p, z \rangle - \tfrac12 (\|p\|^2 - 1)\big] - z_y,
        \qquad \nabla_z \ell = \operatorname{sparsemax}(z) - e_y

    With two classes and the label's lead s it is 0 for :math:`s \ge 1`, :math:`-s` for :math:`s \le -1`, and
    :math:`(s - 1)^2 / 4` between: the modified Huber loss. The prediction it is about is `lossmith.generators.sparsemax`, not softmax.
    With class probabilities as the target this is the expectation of the loss over the label.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.sparsemax_loss(torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([0]))
        tensor(0.0625)
    """
    return of_log_probs(_sparsemax, input, target, options)


def _entmax(log_p_y: Float[Tensor, "*#rows"], log_p: Float[Tensor, "*#rows c"], alpha: float) -> Float[Tensor, "*#rows"]:
    return _from_label(log_p_y, log_p, tsallis(alpha))


@objective(
    row=_entmax,
    form="log_probs",
    source="Peters, Niculae & Martins 2019, 'Sparse Sequence-to-Sequence Models', arXiv:1905.05702",
    summary="the loss of alpha-entmax: between cross-entropy, which names every class, and sparsemax's, which names few",
    use_when="predictions should be sparse and sparsemax is too sparse, as over a vocabulary",
    formula=r"\max_p \langle p, z \rangle - \frac{\sum_k p_k^\alpha - 1}{\alpha (\alpha - 1)} - z_y",
    ranges={"alpha": Range(0, open_low=True, plain=True)},
    limits=[
        At(alpha=1.0, equals="cross_entropy"),
        Limit(alpha=1.0, equals="cross_entropy"),
        At(alpha=2.0, equals="sparsemax_loss"),
    ],
    instances=[Instance("fenchel-young", of=lambda alpha: tsallis(alpha))],
    settings=[{"alpha": 1.0}, {"alpha": 1.2}, {"alpha": 3.0}],
    aliases=("entmax", "entmax15_loss"),
    tags=("sparse", "entropy", "margin"),
    predicts="scores",
    claims=Claims(
        convex=_CONVEX,
        proper=False,
        calibrated=Proved(True, f"{_BLONDEL}, section 4"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="Tsallis's entropy's Fenchel-Young loss; checked against the entmax package, cross-entropy and the sparsemax loss",
)
def entmax_loss(
    input: Logits,
    target: Target,
    *,
    alpha: float = 1.5,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The alpha-entmax loss: :func:`fenchel_young_loss` of Tsallis's entropy of order alpha.

    .. math:: \ell(z, y) = \max_p \Big[\langle p, z \rangle - \frac{\sum_k p_k^\alpha - 1}{\alpha (\alpha - 1)}\Big] - z_y,
        \qquad \nabla_z \ell = \operatorname{entmax}_\alpha(z) - e_y

    Above alpha = 1 it is exactly 0 where the label leads by :math:`1 / (\alpha - 1)`. The prediction it is about is
    `lossmith.generators.entmax`, not softmax. With class probabilities as the target this is the expectation of the loss over the label.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        alpha: a plain number: 1 is cross-entropy, 2 the sparsemax loss; below 1 the tails are heavier than softmax's.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.entmax_loss(torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([0]))
        tensor(0.1844)
    """
    return of_log_probs(_entmax, input, target, options, alpha=alpha)
