"""The Dice loss, alone and with cross-entropy: overlap of whole masks, so that small structures count as much as large ones."""

from typing import Any, Literal, Unpack

import torch
import torch.nn.functional as F

from lossmith._batch import frame, weigh
from lossmith._options import SetOptions
from lossmith._reduce import Call, along_axis, check_weight, full_precision, in_dtype, scalar, times
from lossmith._rows import expected, log_probabilities
from lossmith._sets import channel_frame, mean_over, of_counts, read_set
from lossmith._typing import Float, Hyper, Integer, Over, Shaped, Tensor
from lossmith.card import At, Choice, Claims, Range, objective

_MILLETARI = "Milletari, Navab & Ahmadi 2016, 'V-Net', arXiv:1606.04797"
_CHECKED = "MONAI 1.6.1 and nnU-Net (0e49508) on frozen numbers, in two and three dimensions"
_ONE_CHANNEL = 'dice_loss(..., activation="sigmoid")'


def _overlap_lost(overlap: Tensor, predicted: Tensor, actual: Tensor, smooth: Hyper) -> Tensor:
    total = predicted + actual + smooth
    nothing = total == 0
    return torch.where(nothing, 0, 1 - (2 * overlap + smooth) / torch.where(nothing, 1, total))


def _dice(
    overlap: Float[Tensor, "*sets c"], predicted: Float[Tensor, "*sets c"], actual: Float[Tensor, "*sets c"], smooth: Hyper
) -> Float[Tensor, "*sets c"]:
    return _overlap_lost(overlap, predicted, actual, smooth)


@objective(
    row=_dice,
    form="set",
    source=f"{_MILLETARI}; Sudre et al. 2017, arXiv:1707.03237",
    summary="one minus the soft Dice coefficient of each mask",
    use_when="you segment structures much smaller than the image, and are judged by overlap",
    formula=r"1 - \frac{2 \sum p t + s}{\sum p + \sum t + s}",
    ranges={
        "smooth": Range(0),
        "activation": Choice("softmax", "sigmoid"),
        "squared": Choice(False, True),
        "include_background": Choice(True, False),
    },
    settings=[{"squared": True}, {"include_background": False}, {"smooth": 0.0}, {"activation": "sigmoid"}],
    aliases=("dice", "soft_dice_loss"),
    tags=("segmentation", "imbalance", "overlap"),
    # False where some setting breaks it: shifting logits with "sigmoid", permuting classes without the background
    claims=Claims(convex=False, shift_invariant=False, class_symmetric=False, growth="bounded", bounds=lambda: (0.0, 1.0)),
    one_logit=_ONE_CHANNEL,
    provenance=f"written from the definition; checked against a loop in float64, and against {_CHECKED}",
)
def dice_loss(
    input: Float[Tensor, "n c *d"],
    target: Integer[Tensor, "n *d"] | Shaped[Tensor, "n c *d"],
    *,
    smooth: Hyper = 1e-5,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    squared: bool = False,
    include_background: bool = True,
    **options: Unpack[SetOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The soft Dice loss of every class in every set.

    .. math::
        \ell_c = 1 - \frac{2 \sum_i p_{ic} t_{ic} + s}{\sum_i p_{ic} + \sum_i t_{ic} + s}

    The sums run over the elements of a set (pixels or voxels of one image; of the batch or of all ranks with `over`) that are kept: what
    is ignored leaves numerator and denominator alike. A class that is neither there nor predicted costs 0, with a zero gradient: with
    ``smooth=0``, and in a set of which nothing is kept, too. A mean divides by the number of (set, class) pairs, empty ones included.

    It equals MONAI's `DiceLoss(softmax=True)` (`sigmoid=True`, `squared_pred`, `include_background`, ``batch=True`` is ``over="batch"``),
    and one plus nnU-Net's `MemoryEfficientSoftDiceLoss` (`batch_dice`, `do_bg`; `ddp` is ``over="ranks"``). On purpose different: with
    class weights a mean divides by the total weight, where MONAI divides by the number of classes; `weight` has an entry for the
    background even where it is left out; and nothing there and nothing predicted with ``smooth=0`` is 0, where MONAI gives NaN and
    nnU-Net 1.

    Args:
        input: logits `(n, c, *d)`.
        target: class indices `(n, *d)`, or probabilities in the input's shape: with "softmax" they sum to 1 over the classes, with
            "sigmoid" each channel has its own.
        smooth: added to numerator and denominator.
        activation: "softmax" over exclusive classes, or "sigmoid" for channels that each answer yes or no (one channel included).
        squared: square probabilities and targets in the denominator, as V-Net does.
        include_background: whether class 0 counts.

    Returns:
        One loss a set and class (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 1]]])
        >>> lossmith.dice_loss(z, y, smooth=0, reduction="none")  # 1 - 2 * 0.5 / (2 + 1) and 1 - 2 * 1.5 / (2 + 3)
        tensor([[0.6667, 0.4000]])
    """
    return of_counts(
        _dice, input, target, options, activation=activation, squared=squared, include_background=include_background, smooth=smooth
    )


def _dice_part(
    overlap: Float[Tensor, "*sets c"], predicted: Float[Tensor, "*sets c"], actual: Float[Tensor, "*sets c"], smooth: Hyper
) -> Float[Tensor, "*sets c"]:
    return _overlap_lost(overlap, predicted, actual, smooth)


@objective(
    row=_dice_part,
    form="set",
    source=f"Isensee et al. 2021, 'nnU-Net', doi:10.1038/s41592-020-01008-z; Dice loss: {_MILLETARI}",
    summary="the Dice loss plus cross-entropy: overlap of whole masks and every single element",
    use_when="you segment anything: the usual first choice, smoother to train than Dice alone",
    formula=r"w_D \left(1 - \frac{2 \sum p t + s}{\sum p + \sum t + s}\right) - w_C\, \overline{\log p_y}",
    ranges={
        "dice_weight": Range(0),
        "cross_entropy_weight": Range(0),
        "smooth": Range(0),
        "activation": Choice("softmax", "sigmoid"),
        "squared": Choice(False, True),
        "include_background": Choice(True, False),
    },
    limits=[At(cross_entropy_weight=0.0, equals="dice_loss")],
    settings=[{"dice_weight": 0.5, "cross_entropy_weight": 2.0}, {"include_background": False}, {"activation": "sigmoid"}],
    aliases=("dice_ce", "dice_ce_loss"),
    tags=("segmentation", "imbalance", "overlap", "compound"),
    # False where some setting breaks it, as for Dice alone
    claims=Claims(convex=False, shift_invariant=False, class_symmetric=False, growth="linear", bounds=lambda: (0.0, float("inf"))),
    one_logit=_ONE_CHANNEL.replace("dice_loss", "dice_cross_entropy"),
    provenance=f"the sum of two losses checked on their own; against {_CHECKED}",
)
def dice_cross_entropy(
    input: Float[Tensor, "n c *d"],
    target: Integer[Tensor, "n *d"] | Shaped[Tensor, "n c *d"],
    *,
    dice_weight: Hyper = 1.0,
    cross_entropy_weight: Hyper = 1.0,
    smooth: Hyper = 1e-5,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    squared: bool = False,
    include_background: bool = True,
    weight: Float[Tensor, " c"] | None = None,
    sample_weight: Float[Tensor, "n *d"] | None = None,
    ignore_index: int = -100,
    over: Over = "sample",
    group: Any = None,
) -> Float[Tensor, ""]:
    r"""The weighted sum of the Dice loss and cross-entropy.

    .. math:: w_D \cdot \text{mean}_{sets, c}\, \ell_c + w_C \cdot \text{mean}_{i\ \text{kept}} (-\log p_{i, y_i})

    Dice is the mean over sets and classes, as in :func:`dice_loss`; cross-entropy the mean over all kept elements of the batch, whatever
    `over`, and of all ranks together with ``over="ranks"``. What is ignored is in neither numerator nor denominator of either. There is
    no `reduction`: the parts have no elements in common.

    It equals MONAI's `DiceCELoss(softmax=True)`, and one (times `dice_weight`) plus nnU-Net's `DC_and_CE_loss`, `ignore_label` included.
    With "sigmoid", cross-entropy is binary, an element being one channel's answer, as in nnU-Net's `DC_and_BCE_loss`; MONAI keeps
    softmax there.

    Args:
        input: logits `(n, c, *d)`.
        target: class indices `(n, *d)`, or probabilities in the input's shape: with "softmax" they sum to 1 over the classes, with
            "sigmoid" each channel has its own.
        dice_weight: the weight of the Dice loss.
        cross_entropy_weight: the weight of cross-entropy.
        smooth: added to Dice's numerator and denominator.
        activation: "softmax" over exclusive classes, or "sigmoid" for channels that each answer yes or no (one channel included).
        squared: square probabilities and targets in Dice's denominator.
        include_background: whether class 0 counts in Dice; in cross-entropy it always does.
        weight: per class `(c,)`, in both parts; each mean divides by the total weight.
        sample_weight: per element, in the shape of an index target; 0 removes the element, as deleting it would.
        ignore_index: elements with this class index are removed from numerators and denominators alike. Index targets only.
        over: what one set of Dice is: each "sample", the whole "batch", or the batches of all "ranks" together.
        group: the process group of over="ranks".

    Returns:
        The sum, a 0-d tensor; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 1]]])
        >>> lossmith.dice_cross_entropy(z, y, smooth=0)  # (0.6667 + 0.4) / 2 + log 2
        tensor(1.2265)
    """
    options: SetOptions = {
        "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index, "over": over, "group": group,
    }  # fmt: skip
    structure = {"activation": activation, "squared": squared, "include_background": include_background}
    weights = {"dice_weight": dice_weight, "cross_entropy_weight": cross_entropy_weight}
    opt = read_set(_dice_part, input, options, {**weights, **structure, "smooth": smooth})
    dice = of_counts(_dice_part, input, target, options, smooth=smooth, **structure)
    with full_precision(input):
        value, each = (_channel_log_losses if activation == "sigmoid" else _class_log_losses)(opt, input, target)
        scale = in_dtype(weights, input)
        log_loss = mean_over(value, each, opt)
        return scalar(scale["dice_weight"], dice) * dice + times(scalar(scale["cross_entropy_weight"], log_loss), log_loss)


def _class_log_losses(opt: Call, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    batch = frame(opt, input, target)
    return weigh(batch, expected(batch, log_probabilities(batch, input), torch.neg))


def _channel_log_losses(opt: Call, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    t, keep, each = channel_frame(opt, input, target)
    z = torch.where(keep, input, 0).to(t.dtype)
    if opt.weight is not None:
        each = each * along_axis(check_weight(opt.name, "weight", opt.weight, (input.shape[1],), input), input.ndim)
    value = times(t, -F.logsigmoid(z)) + times(1 - t, -F.logsigmoid(-z))
    return times(each, value), each
