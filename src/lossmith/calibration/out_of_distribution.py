"""Telling inputs like the training data from others, by a score of the logits: the scores, and how well a score tells.

Every score is high for inputs like the training data. They are instruments, not objectives: float64, without gradients.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lossmith._checks import describe, nearest
from lossmith.generators import shannon

SCORES = {
    "max_probability": "the largest softmax probability: Hendrycks & Gimpel 2017, arXiv:1610.02136",
    "max_logit": "the largest logit: Hendrycks et al. 2022, arXiv:1911.11132",
    "energy": "T times the logsumexp of the logits over T: Liu et al. 2020, arXiv:2010.03759",
    "negative_entropy": "minus the entropy of the softmax probabilities, in nats",
}
"""The scores there are, and where they come from."""


@torch.no_grad()
def ood_score(logits: Float[Tensor, "n c"], score: str = "energy", *, temperature: float = 1.0) -> Float[Tensor, " n"]:
    r"""How much a row of logits looks like one of the training data: the higher the more.

    .. math:: \max_k p_k, \qquad \max_k z_k, \qquad T \log \textstyle\sum_k e^{z_k / T}, \qquad \sum_k p_k \log p_k,
        \qquad p = \operatorname{softmax}(z / T)

    Args:
        logits: `(n, c)`.
        score: "max_probability", "max_logit", "energy" or "negative_entropy".
        temperature: T, above 0.

    Returns:
        `(n)`, float64.

    Raises:
        ValueError: there is no such score, the logits have another shape, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> from lossmith.calibration import ood_score
        >>> ood_score(torch.tensor([[4.0, 0.0], [0.0, 0.0]]), "max_probability")
        tensor([0.9820, 0.5000], dtype=torch.float64)
    """
    if score not in SCORES:
        raise ValueError(f"ood_score: score must be one of {', '.join(SCORES)}; got {score!r}{nearest(score, SCORES)}")
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"ood_score: logits must be a floating-point tensor (n, c); got {describe(logits)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"ood_score: temperature must be above 0 and finite; got {temperature!r}")
    z = logits.double() / temperature
    if score == "max_logit":
        return logits.double().amax(1)
    if score == "energy":
        return temperature * z.logsumexp(1)
    p = z.softmax(1)
    return p.amax(1) if score == "max_probability" else shannon.omega(p)


@torch.no_grad()
def ood_auroc(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    r"""The chance that a row of the training distribution outscores one from elsewhere; ties count half.

    .. math:: P(S_{in} > S_{out}) + \tfrac12 P(S_{in} = S_{out})

    Args:
        inside: scores of rows like the training data `(n)`, n at least 1.
        outside: scores of rows from elsewhere `(m)`, m at least 1.

    Returns:
        0-d float64, from 0 to 1: 1/2 where the score tells nothing.

    Raises:
        ValueError: no scores, or a score that is NaN.

    Example:
        >>> import torch
        >>> from lossmith.calibration import ood_auroc
        >>> ood_auroc(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0]))
        tensor(0.8750, dtype=torch.float64)
    """
    inside, outside = _checked("ood_auroc", inside, outside)
    ordered = outside.sort().values
    below, up_to = (torch.searchsorted(ordered, inside, right=right) for right in (False, True))
    return (below + up_to).double().mean() / (2 * len(ordered))


@torch.no_grad()
def false_positive_rate(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"], *, recall: float = 0.95) -> Float[Tensor, ""]:
    r"""The share of rows from elsewhere that are taken for the training distribution, where at least 95 % of the right ones are: FPR95.

    .. math:: P(S_{out} \ge t), \qquad t = \max \{ s : P(S_{in} \ge s) \ge 0.95 \}

    Args:
        inside: scores of rows like the training data `(n)`, n at least 1.
        outside: scores of rows from elsewhere `(m)`, m at least 1.
        recall: the share of rows like the training data that has to be let through, in (0, 1].

    Returns:
        0-d float64, from 0 (best) to 1.

    Raises:
        ValueError: no scores, a score that is NaN, or a recall out of range.

    Example:
        >>> import torch
        >>> from lossmith.calibration import false_positive_rate
        >>> false_positive_rate(torch.arange(100.0), torch.tensor([-1.0, 4.0, 5.0, 50.0]))
        tensor(0.5000, dtype=torch.float64)
    """
    inside, outside = _checked("false_positive_rate", inside, outside)
    if not 0 < recall <= 1:
        raise ValueError(f"false_positive_rate: recall must be in (0, 1]; got {recall!r}")
    kept = math.ceil(recall * len(inside) * (1 - 1e-12))  # 0.95 * 100 is a little above 95 in binary
    threshold = inside.sort(descending=True).values[kept - 1]
    return (outside >= threshold).double().mean()


def _checked(name: str, inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    for argument, scores in (("inside", inside), ("outside", outside)):
        if not isinstance(scores, Tensor) or scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name}: {argument} must be scores (n,), n at least 1; got {describe(scores)}")
        if scores.isnan().any():
            raise ValueError(f"{name}: {argument} must hold no NaN; got {int(scores.isnan().sum())} of {len(scores)}")
    return inside.double(), outside.double()
