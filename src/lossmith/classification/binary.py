"""Single logits, each answered yes or no: cross-entropy, and its asymmetric form for many labels that are mostly absent."""

from typing import Unpack

import torch
import torch.nn.functional as F

from lossmith._binary import finite, of_binary
from lossmith._options import BinaryOptions
from lossmith._reduce import scalar
from lossmith._typing import Bool, Float, Hyper, Integer, Tensor
from lossmith.card import At, Claims, Instance, Proved, Range, objective
from lossmith.generators import kl, shannon


def _binary_log_loss(z: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    return -F.logsigmoid(z), -F.logsigmoid(-z)


@objective(
    row=_binary_log_loss,
    form="binary",
    source="Cox 1958, 'The Regression Analysis of Binary Sequences', J. R. Stat. Soc. B 20(2)",
    summary="the negative log-probability of the right answer to a yes-or-no question: the standard",
    use_when="each logit answers a question of its own, you want calibrated probabilities, and you trust the labels",
    formula=r"-t \log \sigma(z) - (1 - t) \log \sigma(-z)",
    instances=[
        Instance("divergence", of=lambda: kl),
        Instance("proper loss", of=lambda: shannon),
        Instance("fenchel-young", of=lambda: shannon),
    ],
    aliases=("bce", "bce_with_logits", "binary_cross_entropy_with_logits", "logistic_loss"),
    tags=("baseline", "proper scoring rule", "maximum likelihood", "binary", "multi-label"),
    claims=Claims(
        convex=Proved(True, "log-sum-exp is convex: Boyd & Vandenberghe 2004, section 3.1.5"),
        proper=Proved(True, "Gneiting & Raftery 2007, section 3.1: the logarithmic score"),
        calibrated=Proved(True, "Bartlett, Jordan & McAuliffe 2006, Theorem 2: convex, with a negative derivative at 0"),
        symmetric=False,
        shift_invariant=False,
        class_symmetric=True,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the definition; checked against torch.nn.functional.binary_cross_entropy_with_logits",
)
def binary_cross_entropy(
    input: Float[Tensor, "*n"],
    target: Float[Tensor, "*n"] | Integer[Tensor, "*n"] | Bool[Tensor, "*n"],
    **options: Unpack[BinaryOptions],
) -> Float[Tensor, "*reduced"]:
    r"""Cross-entropy of the sigmoid of a logit with its answer, in nats.

    .. math:: \ell(z, t) = -t \log \sigma(z) - (1 - t) \log \sigma(-z)

    It equals :func:`torch.nn.functional.binary_cross_entropy_with_logits` (`weight` a label, `pos_weight` included) to the rounding of
    that function, which takes a difference of numbers of the logit's size. It differs on purpose here:

    ==========================================  ===================================  ===============================
    case                                        torch                                lossmith
    ==========================================  ===================================  ===============================
    a confident right no (z = -20, t = 0)       0 in float32: the digits cancel      2.06e-9, right to the last place
    a mean with `weight`                        divides by the number of elements    divides by the total weight
    elements ignored                            `weight` 0: counted, NaN stays NaN   ``ignore_index``, or ``sample_weight=0``
    nothing kept, or no elements, mean          NaN                                  0, with a zero gradient
    half-precision input                        computed and returned in half        computed and returned in float32
    a logit at -inf with target 0               NaN                                  0, with a zero gradient
    integer and boolean targets                 an error                             taken as numbers
    targets outside [0, 1]                      taken                                an error (on the CPU, or when validating)
    `weight`, `pos_weight`                      any shape that broadcasts            0-d, or one a label (axis 1)
    ==========================================  ===================================  ===============================

    Args:
        input: logits of any shape; labels, if there are several, along axis 1.
        target: the answers, in the input's shape: yes is 1, no is 0, and a number between is the probability of yes.

    Returns:
        One loss an element (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.binary_cross_entropy(torch.tensor([0.0, 2.0]), torch.tensor([0, 1]))
        tensor(0.4100)
    """
    return of_binary(_binary_log_loss, input, target, options)


def _asymmetric(
    z: Float[Tensor, "*n"], gamma_negative: Hyper, gamma_positive: Hyper, shift: Hyper
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    z = finite(z)
    log_yes, log_no = F.logsigmoid(z), F.logsigmoid(-z)
    if_yes = torch.exp(gamma_positive * log_no) * -log_yes
    shifted = torch.sigmoid(z) - shift
    inside = shifted > torch.finfo(z.dtype).tiny  # below, the power's derivative need not be a number; the loss and its slope are 0
    shifted = torch.where(inside, shifted, 0.5)
    # 1 - p_m = m + sigma(-z), never 1 - sigma(z): by log1p where it is near 1, and without the sum where sigma(-z) is no float32
    small, far = shifted < 0.5, z > 80
    margin = scalar(shift, z)
    near_rest = torch.log(margin + torch.sigmoid(-torch.where(far, 0, z)))
    far_rest = torch.where(margin > 0, torch.log(torch.where(margin > 0, margin, 1.0)), log_no)
    log_rest = torch.where(small, torch.log1p(-torch.where(small, shifted, 0.5)), torch.where(far, far_rest, near_rest))
    return if_yes, torch.where(inside, shifted**gamma_negative * -log_rest, 0)


@objective(
    row=_asymmetric,
    form="multilabel",
    source="Ridnik et al. 2021, 'Asymmetric Loss For Multi-Label Classification', arXiv:2009.14119",
    summary="focal loss with its own focus for absent labels, and the easiest of those dropped altogether",
    use_when="many labels, few of them present, and some marked absent by mistake",
    formula=r"-t\,(1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m), \quad p_m = \max(p - m, 0)",
    ranges={"gamma_negative": Range(0), "gamma_positive": Range(0), "shift": Range(0, 1, open_high=True)},
    limits=[
        At(gamma_negative=0.0, gamma_positive=0.0, shift=0.0, equals="binary_cross_entropy"),
        At(gamma_negative=2.0, gamma_positive=2.0, shift=0.0, equals="binary_focal_loss"),
    ],
    settings=[{"gamma_positive": 0.0}, {"gamma_negative": 2.0, "shift": 0.2}, {"gamma_negative": 1.5, "gamma_positive": 0.5, "shift": 0.0}],
    aliases=("asl",),
    tags=("multi-label", "imbalance", "focal"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=False,
        symmetric=False,
        shift_invariant=False,
        class_symmetric=False,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    predicts="scores",
    provenance="written from the definition in the paper; checked against them in float64; read beside Alibaba-MIIL/ASL (8c9e0bd)",
)
def asymmetric_loss(
    input: Float[Tensor, "n l *d"],
    target: Float[Tensor, "n l *d"] | Integer[Tensor, "n l *d"] | Bool[Tensor, "n l *d"],
    *,
    gamma_negative: Hyper = 4.0,
    gamma_positive: Hyper = 1.0,
    shift: Hyper = 0.05,
    **options: Unpack[BinaryOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The asymmetric loss for multi-label classification.

    .. math::
        \ell(z, 1) = -(1 - p)^{\gamma_+} \log p, \qquad \ell(z, 0) = -p_m^{\gamma_-} \log(1 - p_m),
        \qquad p = \sigma(z),\ p_m = \max(p - m, 0)

    An absent label whose probability is below the shift costs nothing and moves nothing; one that the model is sure is present is cut
    off at :math:`-\log m`, as it may be missing by mistake. Presence is predicted well before its probability reaches one half: choose
    the threshold on validation data.

    This is the paper's formula with its full gradient. The authors' code differs: `AsymmetricLoss` takes the focusing factors
    :math:`(1 - p)^{\gamma_+}` and :math:`p_m^{\gamma_-}` as constants in the backward pass by default
    (`disable_torch_grad_focal_loss=True`; False in its `AsymmetricLossOptimized`), clamps logarithms at 1e-8, and sums over labels and
    batch where `reduction="mean"` here divides; its training script sets `gamma_positive=0`.

    Args:
        input: logits `(n, l)` or `(n, l, *d)`, one a label.
        target: presence of each label, in the input's shape: 1, 0, or a probability between.
        gamma_negative: how little absent labels count that the model already finds absent.
        gamma_positive: the same for present labels.
        shift: the probability below which an absent label costs nothing; the paper's margin m, `clip` in the authors' code.

    Returns:
        One loss a label (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, t = torch.tensor([[2.0, -4.0, 0.0]]), torch.tensor([[1, 0, 0]])
        >>> lossmith.asymmetric_loss(z, t, reduction="none")
        tensor([[0.0151, 0.0000, 0.0245]])
    """
    return of_binary(_asymmetric, input, target, options, gamma_negative=gamma_negative, gamma_positive=gamma_positive, shift=shift)
