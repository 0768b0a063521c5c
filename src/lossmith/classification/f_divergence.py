r"""Losses that are the f-divergence of the label's certainty from the prediction, whatever the convex function.

:math:`D_f(e_y \| p) = p_y f(1/p_y) + (1 - p_y) f(0)` is cross-entropy for `kl`, mean absolute error for `total_variation`, generalised
cross-entropy for ``alpha_tsallis``, and between the two ends for the weighted Jensen-Shannon divergences. :func:`f_divergence_loss` takes
any generator, and :func:`generalized_jensen_shannon` is its best known member, scaled and extended to several predictions of one row. It
alone is written out, so that the weight may be a tensor.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import torch

from lossmith._batch import frame, weigh
from lossmith._checks import describe
from lossmith._options import RowOptions
from lossmith._reduce import full_precision, read, reduce
from lossmith._rows import expected, log_probabilities, of_log_prob
from lossmith._sources import LogitSource
from lossmith._typing import Float, Hyper, Logits, Target, Tensor
from lossmith.card import At, Claims, Instance, Limit, Range, objective
from lossmith.divergences import divergence, from_certainty
from lossmith.divergences.certainty import doubt
from lossmith.generators import FGenerator, jensen_shannon_skewed
from lossmith.generators.registry import ANY

_ENGLESSON = (
    "Englesson & Azizpour 2021, 'Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels', NeurIPS 2021, arXiv:2105.04522"
)


def _from_label(log_p: Float[Tensor, "*rows"], generator: FGenerator) -> Float[Tensor, "*rows"]:
    return from_certainty(log_p, generator)


@objective(
    row=_from_label,
    form="log_prob",
    source="Csiszar 1967, 'Information-type measures of difference of probability distributions'; Wei & Liu 2021, arXiv:2011.03687",
    summary="the f-divergence of the label's certainty from the prediction, for any convex function f",
    use_when="you want to try divergences in the place of Kullback-Leibler's, or your own: from cross-entropy to bounded, robust losses",
    formula=r"D_f(e_y \| p) = p_y f(1 / p_y) + (1 - p_y) f(0)",
    ranges={"generator": ANY},
    limits=[
        At(generator="kl", equals="cross_entropy"),
        At(generator="total_variation", equals="classification_mae"),
        At(generator="pearson_chi2", equals="sum_exponential"),
        At(generator="alpha_tsallis(alpha=0.3)", equals="generalized_cross_entropy"),
    ],
    instances=[Instance("divergence", of=lambda generator: ANY(generator))],
    settings=[
        {"generator": "kl"},
        {"generator": "squared_hellinger"},
        {"generator": "triangular"},
        {"generator": "skew_kl(skew=0.1)"},
        {"generator": "alpha_tsallis(alpha=0.3)"},
    ],
    aliases=("f_divergence",),
    tags=("f-divergence", "robust", "convex function"),
    claims=Claims(
        convex=False,  # for kl alone among the settings
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth=None,  # the generator's: bounded for jensen_shannon, linear for kl, exponential for pearson_chi2
        bounds=lambda generator: (0.0, ANY(generator).at_zero + ANY(generator).slope_at_infinity),
    ),
    provenance="derived from the generator; checked against the sum over the classes and the named losses it contains",
)
def f_divergence_loss(
    input: Logits | LogitSource,
    target: Target,
    *,
    generator: FGenerator | str = "jensen_shannon",
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The f-divergence of the label's certainty from the softmax of the logits, in nats.

    .. math:: \ell(z, y) = D_f(e_y \| p) = p_y f(1 / p_y) + (1 - p_y) f(0)

    The label comes first, as in :math:`KL(e_y \| p) = -\log p_y`. A generator with an infinite f(0), as :math:`KL(p \| e_y)` has, costs
    infinitely much wherever the prediction leaves any doubt; it is refused, and its reverse is the divergence that can be used. The
    loss is bounded by :math:`f(0) + f'(\infty)`, and what grows slower than `kl` is more robust to wrong labels.

    With class probabilities as the target this is the expectation of the above over the label, and not the divergence of the target
    from the prediction, which :func:`lossmith.distillation.divergence_distillation` is.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        generator: f: an `FGenerator`, or the name of one, such as ``"kl"`` or ``"alpha_tsallis(alpha=0.3)"``.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Raises:
        ValueError: no generator has that name, or its f(0) is infinite.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> lossmith.f_divergence_loss(z, y), lossmith.f_divergence_loss(z, y, generator="kl")
        (tensor(0.0802), tensor(0.2395))
        >>> lossmith.f_divergence_loss(z, y, generator="reverse_kl")
        Traceback (most recent call last):
        ...
        ValueError: f_divergence_loss: generator must have a finite f(0); that of 'reverse_kl' is inf: take its reverse, 'kl'
    """
    _from_label.card.check({"generator": generator})  # type: ignore[attr-defined]  # set by the decorator
    f = ANY(generator)
    if math.isinf(f.at_zero):
        raise ValueError(
            f"f_divergence_loss: generator must have a finite f(0); that of {f.name!r} is inf: take its reverse, {f.reverse().name!r}"
        )
    return of_log_prob(_from_label, input, target, options, generator=f)


def _scale(label_weight: Hyper) -> Hyper:
    """The Z of the paper: with it the loss has cross-entropy's slope at certainty when the weight is small."""
    return -(1 - label_weight) * _log_rest(label_weight)


def _log_rest(label_weight: Hyper) -> Hyper:
    """log(1 - pi_1)."""
    return torch.log1p(-label_weight) if isinstance(label_weight, Tensor) else math.log1p(-label_weight)


def _scaled_jensen_shannon(log_p: Float[Tensor, "*rows"], label_weight: Hyper) -> Float[Tensor, "*rows"]:
    """The entropy of the mixture, of which the label has all that is not the other classes', less the mean entropy of what is mixed."""
    rest, p, others = 1 - label_weight, log_p.exp(), doubt(log_p)
    of_prediction = p * torch.where(p > 0, log_p, 0) - others * _log_rest(label_weight)
    return (rest * of_prediction - (1 - rest * others) * torch.log1p(-rest * others)) / _scale(label_weight)


def _highest(label_weight: float) -> float:
    f = jensen_shannon_skewed(label_weight)
    return (f.at_zero + f.slope_at_infinity) / float(_scale(label_weight))


@objective(
    row=_scaled_jensen_shannon,
    form="log_prob",
    source=_ENGLESSON,
    summary="the weighted Jensen-Shannon divergence between the label and one or more predictions: between cross-entropy and MAE",
    use_when="labels are noisy; with several augmented views of a row, also to make the predictions of them agree",
    formula=r"JS_\pi(e_y, p^{(1)}, ..., p^{(V)}) / Z, \quad Z = -(1 - \pi_1) \log(1 - \pi_1)",
    ranges={"label_weight": Range(0, 1, open_low=True, open_high=True)},
    limits=[
        Limit(label_weight=0.0, equals="cross_entropy", slowly=True),
        Limit(label_weight=1.0, equals="classification_mae", slowly=True),
    ],
    instances=[Instance("divergence", of=lambda label_weight: jensen_shannon_skewed(label_weight).scaled(1 / float(_scale(label_weight))))],
    settings=[{"label_weight": 0.1}, {"label_weight": 0.9}],
    aliases=("gjs", "jensen_shannon_loss", "js_loss"),
    tags=("noisy labels", "robust", "consistency", "f-divergence"),
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=True,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="bounded",
        bounds=lambda label_weight: (0.0, _highest(label_weight)),
    ),
    provenance="written from the paper's definition; read beside ErikEnglesson/GJS (1a3c9e0); checked against the definition as a sum of "
    "Kullback-Leibler divergences from the mixture, for one view and for three",
)
def generalized_jensen_shannon(
    input: Logits | LogitSource | list[Logits] | tuple[Logits, ...],
    target: Target,
    *,
    label_weight: Hyper = 0.5,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The generalised Jensen-Shannon loss, JS for one prediction of a row and GJS for several.

    .. math::
        \ell = \frac1Z \Big[ \pi_1 KL(e_y \| m) + \frac{1 - \pi_1}{V} \sum_{j=1}^{V} KL(p^{(j)} \| m) \Big], \qquad
        m = \pi_1 e_y + \frac{1 - \pi_1}{V} \sum_j p^{(j)}, \qquad Z = -(1 - \pi_1) \log(1 - \pi_1)

    With one prediction it tends to cross-entropy as :math:`\pi_1 \to 0` and to mean absolute error as :math:`\pi_1 \to 1`, very slowly.
    With several it is the same loss of their mean :math:`\bar p`, plus how far they are from it, which does not depend on the label:

    .. math:: \frac{1 - \pi_1}{V Z} \sum_j KL(p^{(j)} \| \bar p)

    The paper's weights of the predictions are equal, and its :math:`\pi_1` is tuned: for CIFAR-10 with 40 % symmetric noise 0.7 with
    one view and 0.9 with two, with 80 % 0.9 and 0.1, on clean labels 0.1 and 0.5. For WebVision the authors' code leaves Z out. It also
    raises every probability to 1e-7 at least before it takes a logarithm; there is no such floor here.

    The card's bounds are those of one prediction. With several the loss is at most :math:`H(\pi) / Z`, the entropy of all the weights,
    where the predictions contradict the label and one another.

    With class probabilities as the target this is the expectation of the above over the label, not the divergence between the target
    and the prediction.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`, or a source of them; or a sequence of logits, one tensor a view of the same rows.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        label_weight: the weight :math:`\pi_1` of the label in the mixture; a number or a 0-d tensor.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> z, y = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> lossmith.generalized_jensen_shannon(z, y)
        tensor(0.2314)
        >>> weakly, strongly = z, torch.tensor([[1.0, 0.0, 1.0]])  # two augmentations of a row
        >>> lossmith.generalized_jensen_shannon([weakly, strongly], y)
        tensor(0.5827)
    """
    if not isinstance(input, (list, tuple)):
        return of_log_prob(_scaled_jensen_shannon, input, target, options, label_weight=label_weight)
    opt = read(_scaled_jensen_shannon, options, {"label_weight": label_weight})
    first = _same_rows(opt.name, input)
    batch = frame(opt, first, target)
    with full_precision(first):
        views = torch.stack([log_probabilities(batch, view) for view in input])
        impossible = views.isneginf().all(0)  # in every view: logsumexp's slope is NaN there
        mean = torch.where(impossible, -torch.inf, torch.where(impossible, 0, views).logsumexp(0) - math.log(len(views)))
        each = views.movedim(batch.axis + 1, -1)
        apart = divergence(each, mean.movedim(batch.axis, -1).expand_as(each), "kl", log=True).mean(0)
        apart = apart * ((1 - label_weight) / _scale(label_weight))

        def of_label(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
            alike = apart if log_p.ndim == apart.ndim else apart.unsqueeze(batch.axis)  # of one label, or of every class in turn
            return _scaled_jensen_shannon(log_p, label_weight) + alike

        value, each = weigh(batch, expected(batch, mean, of_label))
    return reduce(value, each, opt)


def _same_rows(name: str, views: Sequence[Logits]) -> Logits:
    """The first of several views, after a check that the others are of the same rows."""
    if not views or not all(isinstance(view, Tensor) for view in views):
        raise TypeError(f"{name}: input must be a floating-point tensor of logits, or a sequence of them; got {describe(views)}")
    for view in views[1:]:
        if view.shape != views[0].shape or view.dtype != views[0].dtype or view.device != views[0].device:
            raise ValueError(f"{name}: input's views must have one shape, dtype and device; got {describe(views[0])} and {describe(view)}")
    return views[0]
