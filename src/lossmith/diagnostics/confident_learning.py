"""Confident learning: which labels are probably wrong, from predictions that did not see them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lossmith._checks import describe


@dataclass(frozen=True)
class ConfidentLearning:
    """What confident learning says of labels.

    Attributes:
        joint: `(c, c)` estimated joint distribution of given labels (rows) and right ones (columns).
        suspect: `(n,)` whether a label is probably wrong.
        likely: `(n,)` the class a row is confidently of; the label itself where it is confidently of none.
        quality: `(n,)` the probability of the given label, by which suspects are ranked: the lower the worse.
    """

    joint: Float[Tensor, "c c"]
    suspect: Bool[Tensor, " n"]
    likely: Int[Tensor, " n"]
    quality: Float[Tensor, " n"]

    @property
    def noise_rate(self) -> float:
        """The estimated share of wrong labels."""
        return 1.0 - self.joint.diagonal().sum().item()

    def ranked(self) -> Int[Tensor, " k"]:
        """The positions of the suspects, the likeliest to be wrong first; the earlier of equals."""
        rows = self.suspect.nonzero().squeeze(1)
        return rows[self.quality[rows].argsort(stable=True)]


@torch.no_grad()
def confident_learning(probabilities: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> ConfidentLearning:
    r"""Find labels that are probably wrong.

    A row is confidently of a class when its probability of it is at least the mean probability that rows with that label have of it:

    .. math::
        t_j = \frac{1}{|\{i : y_i = j\}|} \sum_{i : y_i = j} p_{ij}, \qquad
        j_i = \operatorname*{argmax}_{j : p_{ij} \ge t_j} p_{ij}, \qquad
        C_{kj} = |\{i : y_i = k, \, j_i = j\}|

    A label is suspect when the row is confidently of another class, and the label is not the row's most probable one either. The joint
    distribution is C with each row scaled to the share of its label. Thresholds of their own keep a class that a model is timid about from
    losing all its rows, and one it is bold about from winning them.

    Args:
        probabilities: `(n, c)`, **from models that did not see the row's label**: by cross-validation, say. A model's probabilities for
            its own training rows repeat the wrong labels, and find nothing.
        target: the given labels `(n)`; every class of the c needs a row.

    Returns:
        A `ConfidentLearning`, float64.

    Raises:
        ValueError: shapes do not fit, probabilities do not sum to 1, or a class has no row.

    Note:
        Where several classes are confident the paper takes the most probable of them, as here; the cleanlab package takes the most probable
        of all classes, confident or not.

    Source: Northcutt, Jiang & Chuang 2021, 'Confident Learning: Estimating Uncertainty in Dataset Labels', J. Artif. Intell. Res. 70,
    arXiv:1911.00068, equation 1.

    Example:
        >>> import torch
        >>> from lossmith.diagnostics import confident_learning
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])
        >>> found = confident_learning(p, torch.tensor([0, 0, 1, 1, 1]))
        >>> found.ranked(), found.likely[2]
        (tensor([2]), tensor(0))
    """
    p, classes = _checked(probabilities, target), probabilities.shape[1]
    counts = torch.bincount(target, minlength=classes)
    own = p.gather(1, target.unsqueeze(1)).squeeze(1)
    thresholds = torch.zeros(classes, dtype=p.dtype, device=p.device).index_add_(0, target, own) / counts
    confident = p >= thresholds - 1e-9  # a mean of equal numbers may round above them
    likely = torch.where(confident, p, -1.0).argmax(1)
    some = confident.any(1)
    joint = torch.bincount(target[some] * classes + likely[some], minlength=classes * classes).reshape(classes, classes).double()
    joint.diagonal().clamp_(min=1.0)  # a label of which no row is confident is taken to be right
    joint = joint / joint.sum(1, keepdim=True) * (counts / len(target)).unsqueeze(1)
    likely = torch.where(some, likely, target)
    suspect = (likely != target) & (p.argmax(1) != target)
    return ConfidentLearning(joint, suspect, likely, own)


def _checked(probabilities: Tensor, target: Tensor) -> Tensor:
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point() or probabilities.ndim != 2:
        raise ValueError(f"confident_learning: probabilities must be a floating-point tensor (n, c); got {describe(probabilities)}")
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != probabilities.shape[:1]:
        raise ValueError(f"confident_learning: target must be class indices ({len(probabilities)},); got {describe(target)}")
    p, classes = probabilities.double(), probabilities.shape[1]
    off = ((p.sum(1) - 1).abs() > 1e-2) | (p < 0).any(1) | p.isnan().any(1)
    if off.any():
        row = int(off.nonzero()[0])
        raise ValueError(f"confident_learning: probabilities must be at least 0 and sum to 1; row {row} sums to {p[row].sum():g}")
    if len(target) and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise ValueError(f"confident_learning: target must be in 0..{classes - 1}; it goes from {int(target.min())} to {int(target.max())}")
    missing = (torch.bincount(target, minlength=classes) == 0).nonzero()
    if len(missing):
        raise ValueError(f"confident_learning: every class needs a row; class {int(missing[0])} of {classes} has none")
    return p
