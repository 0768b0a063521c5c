"""Margins: by how much the right class leads."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossmith._checks import describe


@torch.no_grad()
def logit_margins(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""By how much the label's logit leads the largest of the others; negative where the row is wrong.

    .. math:: m_i = z_{iy} - \max_{k \ne y} z_{ik}

    The share of rows with a margin below a threshold is the margin loss of generalisation bounds; the log-odds of the label are at most
    the margin, and less than log(c - 1) below it.

    Args:
        logits: `(n, c)`, at least 2 classes.
        target: class indices `(n)`.

    Returns:
        `(n)`, float64.

    Raises:
        ValueError: shapes do not fit, or an index is out of range.

    Source: Bartlett, Foster & Telgarsky 2017, 'Spectrally-normalized margin bounds for neural networks', arXiv:1706.08498.

    Example:
        >>> import torch
        >>> from lossmith.diagnostics import logit_margins
        >>> logit_margins(torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0]]), torch.tensor([0, 2]))
        tensor([ 2., -2.], dtype=torch.float64)
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logit_margins: logits must be a floating-point tensor (n, c) with at least 2 classes; got {describe(logits)}")
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != logits.shape[:1]:
        raise ValueError(f"logit_margins: target must be class indices ({len(logits)},); got {describe(target)}")
    if len(target) and not (0 <= int(target.min()) and int(target.max()) < logits.shape[1]):
        outside = target[(target < 0) | (target >= logits.shape[1])][0]
        raise ValueError(f"logit_margins: target must be in 0..{logits.shape[1] - 1}; got {int(outside)}")
    z, at = logits.double(), target.long().unsqueeze(1)
    return z.gather(1, at).squeeze(1) - z.scatter(1, at, -torch.inf).amax(1)
