"""Neural collapse: how far the last layer of a classifier has gone to the geometry that training to zero loss leads to.

Features of a class gather at their mean (NC1), the means become a simplex, equally long and equally far apart (NC2), the classifier's
weights become the means (NC3), and the classifier decides by the nearest mean (NC4). All four numbers fall to 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossmith._checks import describe


@dataclass(frozen=True)
class NeuralCollapse:
    """The four measures of Papyan, Han & Donoho, each 0 at collapse; 0-d tensors of float64, None where weights were not given.

    Attributes:
        within_class: NC1, the variation within classes over that between them.
        unequal_means: NC2, the coefficient of variation of the lengths of the centred class means.
        unequal_weights: the same of the classifier's weights.
        angle_means: NC2, the mean distance of the cosines between centred class means from -1/(c-1).
        angle_weights: the same of the classifier's weights.
        duality: NC3, the squared distance between weights and centred means, each divided by its Frobenius norm.
        nearest_mean: NC4, the share of rows that the classifier and the nearest class mean decide differently.
    """

    within_class: Tensor
    unequal_means: Tensor
    angle_means: Tensor
    unequal_weights: Tensor | None = None
    angle_weights: Tensor | None = None
    duality: Tensor | None = None
    nearest_mean: Tensor | None = None


@torch.no_grad()
def neural_collapse(
    features: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    weight: Float[Tensor, "c d"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
) -> NeuralCollapse:
    r"""The measures of neural collapse, of the features that go into a classifier's last linear layer.

    .. math::
        \mathrm{NC1} = \tfrac1c \operatorname{tr}(\Sigma_W \Sigma_B^+), \quad
        \mathrm{NC2} = \frac{\operatorname{std}_k \|m_k\|}{\operatorname{mean}_k \|m_k\|}, \;
        \operatorname{mean}_{k \ne l} \Bigl| \cos(m_k, m_l) + \tfrac{1}{c-1} \Bigr|, \quad
        \mathrm{NC3} = \Bigl\| \tfrac{W}{\|W\|} - \tfrac{M}{\|M\|} \Bigr\|^2

    with :math:`m_k = \mu_k - \mu` the class means less the mean of all features (the rows of M), :math:`\Sigma_W` the mean over the
    rows of the squared deviation from their class mean, and :math:`\Sigma_B = \frac1c \sum_k m_k m_k^\top`. NC4 is the share of rows with
    :math:`\arg\max_k (w_k \cdot h + b_k) \ne \arg\min_k \|h - \mu_k\|`.

    Args:
        features: h `(n, d)`, of the training rows.
        target: class indices `(n)`; at least two classes, numbered from 0, with a row each.
        weight: of the last layer `(c, d)`; without it NC3, NC4 and the weights' part of NC2 are None.
        bias: of the last layer `(c,)`.

    Returns:
        The measures, on the features' device.

    Raises:
        ValueError: shapes do not fit, a class has no row, or features are not finite.

    Note:
        The mean of all features is that of the rows, as in the paper's code; where classes are of unequal size, the centred class means do
        not sum to 0.

    Source: Papyan, Han & Donoho 2020, 'Prevalence of neural collapse during the terminal phase of deep learning training', PNAS 117(40).

    Example:
        >>> import torch
        >>> from lossmith.diagnostics import neural_collapse
        >>> corners = torch.eye(3)
        >>> found = neural_collapse(corners.repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2]), corners - 1 / 3)
        >>> [round(abs(value.item()), 6) for value in (found.within_class, found.angle_means, found.duality, found.nearest_mean)]
        [0.0, 0.0, 0.0, 0.0]
    """
    _check(features, target, weight, bias)
    h, n = features.double(), len(target)
    classes = int(target.max()) + 1 if weight is None else weight.shape[0]
    counts = torch.bincount(target, minlength=classes).double()
    if (counts == 0).any():
        raise ValueError(f"neural_collapse: every class needs a row; class {int((counts == 0).nonzero()[0])} of {classes} has none")
    means = torch.zeros(classes, h.shape[1], dtype=h.dtype, device=h.device).index_add_(0, target, h) / counts.unsqueeze(1)
    centred, deviation = means - h.mean(0), h - means[target]
    # tr(S_W S_B^+) in the space of the classes: with M = U diag(s) V', S_B = V diag(s^2 / c) V'
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    kept = s > s.max() * max(centred.shape) * torch.finfo(s.dtype).eps
    along = (deviation @ v[kept].mT / s[kept]).square().sum() / n  # times c, by which S_B was divided, and over c
    found = {"within_class": along, "unequal_means": _unequal(centred), "angle_means": _angle(centred)}
    if weight is not None:
        w = weight.double()
        found |= {"unequal_weights": _unequal(w), "angle_weights": _angle(w)}
        found["duality"] = (w / w.norm() - centred / centred.norm()).square().sum()
        logits = h @ w.mT if bias is None else h @ w.mT + bias.double()
        found["nearest_mean"] = (logits.argmax(1) != torch.cdist(h, means).argmin(1)).double().mean()
    return NeuralCollapse(**found)


def _unequal(rows: Tensor) -> Tensor:
    """Standard deviation of the lengths (over c) over their mean."""
    length = rows.norm(dim=1)
    return length.std(correction=0) / length.mean()


def _angle(rows: Tensor) -> Tensor:
    """Mean distance of the cosines of pairs from those of a simplex."""
    c = rows.shape[0]
    unit = rows / rows.norm(dim=1, keepdim=True)
    off = (unit @ unit.mT + 1 / (c - 1)).abs()
    return (off.sum() - off.diagonal().sum()) / (c * (c - 1))


def _check(features: Tensor, target: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point() or features.ndim != 2 or not features.numel():
        raise ValueError(f"neural_collapse: features must be a floating-point tensor (n, d); got {describe(features)}")
    if not features.isfinite().all():
        raise ValueError("neural_collapse: features must be finite")
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != features.shape[:1]:
        raise ValueError(f"neural_collapse: target must be class indices ({len(features)},); got {describe(target)}")
    top = int(target.max())
    if int(target.min()) < 0 or top < 1:
        raise ValueError(f"neural_collapse: target must number at least two classes from 0; it goes from {int(target.min())} to {top}")
    if weight is None:
        if bias is not None:
            raise ValueError("neural_collapse: bias goes with weight; got weight=None")
        return
    if weight.ndim != 2 or weight.shape[1] != features.shape[1] or weight.shape[0] <= top:
        raise ValueError(f"neural_collapse: weight must have shape (c, {features.shape[1]}) with c > {top}; got {describe(weight)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"neural_collapse: bias must have shape ({weight.shape[0]},); got {describe(bias)}")
