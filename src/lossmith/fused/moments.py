"""The moments of a linear head's logits without the logits: what a spherical objective asks of a head that an optimizer updates.

.. math:: \\bar z = \\bar w \\cdot h, \\qquad \\sigma^2 = h^\\top C h, \\qquad z_y - \\bar z = (w_y - \\bar w) \\cdot h

with the mean :math:`\\bar w` of the head's rows and their covariance C. It takes one product of the head with itself, c d^2, forward and
two backward, and d^2 a row, where logits take c d a row: fewer operations from d rows on. Plain differentiable torch throughout.
"""

import torch
from torch import Tensor

from lossmith._moments import Moments
from lossmith._reduce import full_precision
from lossmith.fused.second import Arguments
from lossmith.fused.tiles import working


def linear_moments(at: Arguments, label: Tensor, keep: Tensor) -> Moments:
    """The moments of every kept row. A class whose bias is -inf is not there.

    The head is copied once, without its mean: taken off the covariance afterwards, a mean that is large would leave rounding alone.
    """
    assert at.x is not None
    assert at.weight is not None
    dtype = working(at.x, at.weight)
    with full_precision(at.x):
        x, head = torch.where(keep.unsqueeze(1), at.x, 0).to(dtype), at.weight.to(dtype)
        present = None
        if at.bias is not None:  # one more column, for which every hidden state has a 1
            present = (at.bias > -torch.inf).unsqueeze(1)
            x = torch.cat([x, x.new_ones(x.shape[0], 1)], 1)
            head = torch.where(present, torch.cat([head, at.bias.to(dtype).unsqueeze(1)], 1), 0)
        classes = x.new_full((), head.shape[0]) if present is None else present.sum().to(dtype)
        mean = head.sum(0) / classes
        centred = head - mean if present is None else torch.where(present, head - mean, 0)
        covariance = centred.mT @ centred / classes
        lead = (x * centred.index_select(0, label)).sum(1)
        if present is not None:
            lead = torch.where(present.squeeze(1).index_select(0, label), lead, -torch.inf)
        variance = ((x @ covariance) * x).sum(1).clamp_min(0)  # a square, but for rounding
        return Moments(lead, x @ mean, variance, classes)
