r"""What two distributions have to offer for their alpha, Renyi and Kullback-Leibler divergences to have closed forms.

All of them are functions of one integral and its ends,

.. math:: L(a) = \log \int p^a q^{1-a}, \qquad
    D_a = \frac{e^{L(a)} - 1}{a (a - 1)}, \qquad R_a = \frac{L(a)}{a - 1}, \qquad KL(P\|Q) = L'(1) = D_1 = R_1

so that a family of distributions has to say only what L and KL are. A :class:`Pair` holds two distributions of one family.
"""

import math
from abc import ABC, abstractmethod

import torch

from lossmith._typing import Float, Tensor


class Pair(ABC):
    """Two distributions P and Q, in this order, of a family in which :math:`\\int p^a q^{1-a}` has a closed form."""

    @abstractmethod
    def log_integral(self, order: float) -> Float[Tensor, "*batch"]:
        """L(order): +inf where the integral diverges, which it may for orders outside [0, 1] only."""

    @abstractmethod
    def kl(self) -> Float[Tensor, "*batch"]:
        """KL(P||Q)."""

    @abstractmethod
    def log_supremum(self) -> Float[Tensor, "*batch"]:
        """The logarithm of the largest p/q, Renyi's divergence of order infinity."""

    @abstractmethod
    def exchanged(self) -> "Pair":
        """The pair (Q, P)."""

    def total_variation(self) -> Float[Tensor, "*batch"] | None:
        """The total variation where it has a closed form, None elsewhere."""
        return None

    def mahalanobis(self) -> Float[Tensor, "*batch"] | None:
        """The squared distance of the means in units of the covariance that both have; None if they have none in common."""
        return None


class Independent(Pair):
    """Independent components, which the last `ndims` axes of a pair's batch hold: L and KL add up."""

    def __init__(self, components: Pair, ndims: int) -> None:
        self.components = components
        self.axes = tuple(range(-ndims, 0))

    def summed(self, terms: Float[Tensor, "*batch"]) -> Float[Tensor, "*fewer"]:
        """Over the components."""
        return terms.sum(self.axes) if self.axes else terms

    def log_integral(self, order: float) -> Float[Tensor, "*batch"]:
        return self.summed(self.components.log_integral(order))

    def kl(self) -> Float[Tensor, "*batch"]:
        return self.summed(self.components.kl())

    def log_supremum(self) -> Float[Tensor, "*batch"]:
        return self.summed(self.components.log_supremum())

    def exchanged(self) -> Pair:
        return Independent(self.components.exchanged(), len(self.axes))

    def mahalanobis(self) -> Float[Tensor, "*batch"] | None:
        squared = self.components.mahalanobis()
        return None if squared is None else self.summed(squared)

    def total_variation(self) -> Float[Tensor, "*batch"] | None:
        of_each = self.components.total_variation()
        if of_each is not None and all(of_each.shape[axis] == 1 for axis in self.axes):  # a single component
            return self.summed(of_each)
        squared = self.mahalanobis()
        return None if squared is None else of_equal_shapes(squared)


def alpha_divergence(pair: Pair, order: float) -> Float[Tensor, "*batch"]:
    """Cichocki's alpha divergence of that order, the one of `lossmith.generators.alpha_cichocki`."""
    if order == 1:
        return pair.kl()
    if order == 0:
        return pair.exchanged().kl()
    log_integral = pair.log_integral(order)
    # Beyond the largest float the value is +inf and has no gradient: a product of infinity and 0 would make it NaN.
    infinite = log_integral > math.log(torch.finfo(log_integral.dtype).max)
    value = torch.expm1(torch.where(infinite, 0, log_integral)) / (order * (order - 1))
    return torch.where(infinite, torch.inf, value)


def of_equal_shapes(squared: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Total variation of two Gaussians with one covariance, a squared Mahalanobis distance apart: :math:`2 \Phi(\delta/2) - 1`."""
    apart = squared > 0
    distance = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)  # at 0 a corner, where 0 is a subgradient
    return torch.erf(distance / math.sqrt(8))


def log_of_powers(log_p: Float[Tensor, "*#n"], log_q: Float[Tensor, "*#n"], order: float) -> Float[Tensor, "*n"]:
    """log p^a q^(1-a) of points that may have no mass: nothing where both vanish, else 0^a is 0, or +inf for a negative power."""
    p_off, q_off = log_p.isneginf(), log_q.isneginf()
    value = order * torch.where(p_off, 0, log_p) + (1 - order) * torch.where(q_off, 0, log_q)
    value = torch.where(p_off, -torch.inf if order >= 0 else torch.inf, value)
    value = torch.where(q_off, -torch.inf if order <= 1 else torch.inf, value)
    return torch.where(p_off & q_off, -torch.inf, value)
