"""The spherical family: losses that see the label's logit beside the mean and variance of all, so that a linear head need not form them."""

import math
from typing import Unpack

import torch
import torch.nn.functional as F

from lossmith._moments import Moments, MomentSource, of_moments
from lossmith._options import RowOptions
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import Claims, Limit, Proved, Range, objective

_FAMILY = (
    "Vincent, de Brébisson & Bouthillier 2015, 'Efficient Exact Gradient Update for training Deep Networks with Very Large Sparse "
    "Targets', arXiv:1412.7091"
)


def _score(at: Moments) -> Float[Tensor, "*rows"]:
    """The label's z-score among the logits of its row; 0 in a row of equal logits, where it has no limit.

    A label at -inf is no class that the moments are of: with it there would be one more, and its score would be the lowest there is.
    """
    alike, absent = at.variance == 0, at.lead == -torch.inf
    score = torch.where(absent, 0, at.lead) / torch.where(alike, 1, at.variance).sqrt()
    return torch.where(absent, -at.classes.sqrt(), torch.where(alike, 0, score))


def _zscore(at: Moments, a: Hyper, b: Hyper) -> Float[Tensor, "*rows"]:
    return -F.logsigmoid(-a * (b - _score(at))) / a  # torch's softplus is cut off at 20


def _bounds(a: float, b: float, classes: int) -> tuple[float, float]:
    """A z-score lies between -sqrt(c - 1) and sqrt(c - 1): one logit apart from all others, which are alike."""
    most = math.sqrt(classes - 1)
    low, high = (float(F.softplus(torch.tensor(a * (b - s), dtype=torch.float64))) / a for s in (most, -most))
    return low, high


def _hinge(input: Tensor, target: Tensor) -> Tensor:
    """max(0, b - the label's z-score) at b = 0"""
    deviation = input - input.mean(1, keepdim=True)
    score = deviation / deviation.square().mean(1, keepdim=True).sqrt()
    return torch.relu(-score.gather(1, target.unsqueeze(1)).squeeze(1))


@objective(
    row=_zscore,
    form="logits",
    source=(
        "de Brébisson & Vincent 2016, 'The Z-loss: a shift and scale invariant classification loss belonging to the Spherical Family', "
        "arXiv:1604.08859"
    ),
    summary="the softplus of the label's z-score among the logits: blind to their offset and scale, free of the vocabulary's size",
    use_when="there are very many classes, and the ranking of the answers matters more than their probabilities",
    formula=r"\frac{1}{a} \log\bigl(1 + e^{a (b - s_y)}\bigr), \quad s_y = (z_y - \bar z) / \sigma",
    ranges={"a": Range(0, open_low=True), "b": Range(-math.inf)},
    limits=[Limit(a=math.inf, equals=_hinge)],
    settings=[{"a": 0.5, "b": 3.0}, {"a": 4.0, "b": -0.5}],
    aliases=("brebisson_z_loss", "zscore_softplus_loss", "spherical_z_loss"),
    tags=("spherical", "large vocabulary", "scale invariant", "ranking"),
    predicts="scores",
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=False,  # where no class is much likelier than the others, a row of equal logits costs less than any decision
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=_bounds,
    ),
    provenance=(
        "written from the definition in the paper; checked in float64 against loops over the classes and its gradient's closed form, and "
        "read against pascal20100/factored_output_layer (5fbe04e), whose example has a = 1, b = 0 and adds 1e-12 to the deviation"
    ),
)
def zscore_loss(
    input: Logits | MomentSource,
    target: Target,
    *,
    a: Hyper = 1.0,
    b: Hyper = 0.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The Z-loss of de Brébisson & Vincent: the softplus of how far the label's z-score falls short.

    .. math::
        \ell(z, y) = \frac{1}{a} \log\Bigl(1 + e^{a (b - s_y)}\Bigr), \qquad s_k = \frac{z_k - \bar z}{\sigma}, \qquad
        \frac{\partial \ell}{\partial z_k} = -\frac{\mathrm{sigmoid}(a (b - s_y))}{\sigma}
        \Bigl(1_{k = y} - \frac{1 + s_y s_k}{c}\Bigr)

    with the mean and the standard deviation over the c classes. It is not what is called z-loss in language models, the square of the
    log-partition. Adding to the logits, or multiplying them by a positive number, changes nothing: it is a loss of ranks, its outputs
    are no probabilities, and the temperature of a softmax over them is free. Its gradient shrinks as the logits grow, so that their scale
    never comes back down by itself. A class with a logit of -inf is left out of mean and deviation; as the label it has the lowest score.

    At rows of equal logits it jumps: such a row costs :math:`\log(1 + e^{ab}) / a` and has a gradient of 0, for there is none (begin
    with weights that differ). Among all other rows those of least conditional risk rank the classes as the truth does; but where no
    class is much likelier than the rest, the row of equal logits, which decides nothing, costs less still.

    It is for many classes. Of two, the scores are 1 and -1 whatever the logits are, so that the gradient is 0 and nothing is learnt.

    With :class:`lossmith.fused.LinearLogits` in place of the logits it takes two products of d x d with the head, and no logit; with
    :class:`lossmith.fused.SphericalHead` neither value nor update depends on the number of classes.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of their moments.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        a: the softness of the corner: the hinge :math:`\max(0, b - s_y)` as it grows.
        b: the z-score that is enough. :math:`s_y` reaches :math:`\sqrt{c - 1}` at most. The authors tune a and b to the k of a
            top-k error.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> logits = torch.tensor([[3.0, 0.0, 1.0, 0.0]])
        >>> lossmith.zscore_loss(logits, torch.tensor([0]))
        tensor(0.1784)
        >>> lossmith.zscore_loss(10 * logits - 5, torch.tensor([0]))
        tensor(0.1784)
    """
    return of_moments(_zscore, input, target, options, scale_free=True, a=a, b=b)


def _squared(at: Moments) -> Float[Tensor, "*rows"]:
    """By class: deviations from the mean, the mean's own distance from that of the one-hot label, and their product."""
    share = 1 / at.classes
    about = at.classes * (at.mean - share).square()
    return at.classes * at.variance - 2 * at.lead + 1 - share + about


@objective(
    row=_squared,
    form="logits",
    source=_FAMILY,
    summary="the squared distance of the logits themselves, not of probabilities, to the one-hot label",
    use_when="there are very many classes and least squares will do, or as the simplest of the spherical family",
    formula=r"\sum_k (z_k - 1[k = y])^2",
    aliases=("square_loss", "mse_to_one_hot", "one_hot_mse"),
    tags=("spherical", "large vocabulary", "least squares"),
    predicts="scores",
    claims=Claims(
        convex=Proved(True, "a sum of squares of affine functions"),
        proper=False,
        calibrated=Proved(True, "the conditional risk is minimised by the class probabilities themselves, as logits"),
        symmetric=False,
        shift_invariant=False,
        class_symmetric=True,
        growth="quadratic",
        bounds=None,  # (0, inf), but 0 is where the logits are the one-hot label, not where they are confident
    ),
    provenance="written from the definition; checked against torch.nn.functional.mse_loss of the one-hot label",
)
def one_hot_squared_loss(
    input: Logits | MomentSource,
    target: Target,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The squared distance between the logits and the one-hot label.

    .. math:: \ell(z, y) = \sum_k (z_k - 1[k = y])^2 = c \sigma^2 + c \bar z^2 - 2 z_y + 1

    The minimiser of its expectation is :math:`z_k = p_k`: the logits are the probabilities themselves, unlike in :func:`brier_loss`,
    which takes the softmax first, and no softmax should be taken of them. It is 0 where the logits are the one-hot label, not where they
    are largest. A class with a logit of -inf is left out, and costs inf as the label.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of their moments (:class:`lossmith.fused.LinearLogits`,
            :class:`lossmith.fused.SphericalHead`).
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.one_hot_squared_loss(torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([0]))
        tensor(1.2500)
    """
    return of_moments(_squared, input, target, options)
