"""The divergence of a label's certainty from a row of probabilities, which needs that label's probability alone."""

import torch

from lossmith._typing import Float, Tensor
from lossmith.generators import FGenerator
from lossmith.generators.numerical import expm1


def from_certainty(log_p: Float[Tensor, "*rows"], generator: FGenerator) -> Float[Tensor, "*rows"]:
    r"""The f-divergence of the certainty of one class from a distribution, :math:`D_f(e_y \| p)`, by the log-probability of that class.

    .. math:: D_f(e_y \| p) = p_y f(1 / p_y) + (1 - p_y) f(0) = f^\circ(p_y) + (1 - p_y) f(0)

    :math:`f^\circ` is the generator's reverse, asked for its value at a log ratio, so that no probability has to be told from 0 or
    from 1. Where f(0) is infinite so is the divergence, unless the row is certain as well.

    Args:
        log_p: the log-probability of the class, of any shape.
        generator: f.

    Returns:
        The divergence, in nats, in the shape of `log_p`.

    Example:
        >>> import torch
        >>> from lossmith.divergences import divergence, from_certainty
        >>> from lossmith.generators import jensen_shannon
        >>> p = torch.tensor([0.2, 0.5, 0.3])
        >>> from_certainty(p[1].log(), jensen_shannon), divergence(torch.tensor([0.0, 1.0, 0.0]), p, jensen_shannon)
        (tensor(0.2158), tensor(0.2158))
    """
    others = doubt(log_p)
    elsewhere = others * generator.at_zero if generator.at_zero < torch.inf else torch.where(others > 0, torch.inf, 0.0)
    return generator.reverse().f_log(log_p) + elsewhere


def doubt(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """1 - p, exact where p is nearly 1, with a slope that is exact where p is small."""
    return -expm1(log_p)
