"""The convex function on the simplex behind a regularised argmax, with everything that is derived from it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from lossmith._checks import describe, holds
from lossmith._reduce import full_precision, working_dtype
from lossmith._typing import Float, Integer, Tensor

Rows: TypeAlias = Callable[[Tensor], Tensor]

DERIVED: Any = None
"""In place of a formula: derive it from the others."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Entropy:
    r"""A convex function Omega of probabilities, 0 at the vertices: a negative entropy, the twin of `FGenerator` on the simplex.

    The conventions, stated here once. Omega is the *negative* entropy, so that it is convex, and 0 where one class has all the mass;
    in between it is negative. Values are in nats (Shannon's) or have no unit. From it follow

    ==============================  ==========================================================================  =================
    member                          what it is                                                                  shape
    ==============================  ==========================================================================  =================
    ``omega(p)``                    :math:`\Omega(p)`                                                           `(*rows)`
    ``gradient(p)``                 :math:`\nabla \Omega(p)`, the link, up to a constant a row                  `(*rows, c)`
    ``argmax(theta)``               :math:`\arg\max_p \langle p, \theta \rangle - \Omega(p)`, softmax and kin   `(*rows, c)`
    ``conjugate(theta)``            :math:`\Omega^*(\theta)`, that maximum                                      `(*rows)`
    ``fenchel_young(theta, p)``     :math:`\Omega^*(\theta) + \Omega(p) - \langle \theta, p \rangle`, a loss    `(*rows)`
    ``bregman(p, q)``               :math:`\Omega(p) - \Omega(q) - \langle \nabla \Omega(q), p - q \rangle`     `(*rows)`
    ``proper_loss(p)``              the proper loss of every label, whose Bayes risk is :math:`-\Omega`         `(*rows, c)`
    ``bayes_risk(p)``               :math:`-\Omega(p)`, the entropy                                             `(*rows)`
    ``margin``                      the margin by which the label must win for the Fenchel-Young loss to be 0   a number
    ==============================  ==========================================================================  =================

    for Shannon's: sum p log p, log p, softmax, logsumexp, cross-entropy, Kullback-Leibler, the logarithmic loss, the entropy, infinity.

    Classes are the last axis, and there may be any number of axes before it. Members compute in float32 or float64 and return it (half
    precision is computed in float32), are differentiable as often as the mathematics is, on sparse supports too, and are good for
    ``vmap``, ``torch.func`` and ``torch.compile``. A logit of -inf means a class without mass: its probability is exactly 0. What
    has no mass receives no gradient where the slope there is infinite. Rows without a finite logit give NaN, as softmax does.

    Only `omega` and one of `argmax` and `conjugate` are required: each is found from the other, and `gradient` by autograd.

    Attributes:
        name: its name in the registry.
        formula: Omega in TeX.
        source: who proposed it, or where the form is taken from.

    Example:
        >>> import torch
        >>> from lossmith.generators import gini, shannon
        >>> logits = torch.tensor([[1.0, 0.5, -1.0]])
        >>> shannon.argmax(logits), gini.argmax(logits)
        (tensor([[0.5741, 0.3482, 0.0777]]), tensor([[0.7500, 0.2500, 0.0000]]))
        >>> shannon.fenchel_young(logits, torch.tensor([0])), torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
        (tensor([0.5550]), tensor(0.5550))
        >>> gini.margin
        1.0
    """

    name: str
    omega: Rows
    gradient: Rows = DERIVED
    argmax: Rows = DERIVED
    conjugate: Rows = DERIVED
    formula: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Derive what is missing, then put every formula behind the checks."""
        if self.argmax is DERIVED and self.conjugate is DERIVED:
            raise TypeError(f"{self.name}: an Entropy takes argmax, conjugate or both; got neither")
        omega, gradient = self.omega, self.gradient or slope_of(self.omega)
        argmax = self.argmax or slope_of(self.conjugate)
        conjugate = self.conjugate or _maximum(omega, gradient, argmax)
        members = {"omega": (omega, "p"), "gradient": (gradient, "p"), "argmax": (argmax, "theta"), "conjugate": (conjugate, "theta")}
        for member, (formula, argument) in members.items():
            object.__setattr__(self, member, self._on_rows(member, argument, formula))

    def _on_rows(self, member: str, argument: str, formula: Rows) -> Rows:
        def of_rows(x: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"] | Float[Tensor, "*rows"]:
            x = self._real(member, argument, x)
            if x.numel() == 0:  # no rows, or no classes: nothing is a distribution over none, and the maximum of nothing is -inf
                return x.clone() if member in ("gradient", "argmax") else x.sum(-1) - (math.inf if member == "conjugate" else 0)
            with full_precision(x):
                return formula(x)

        return of_rows

    def _real(self, member: str, argument: str, x: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
            raise TypeError(f"{self.name}.{member}: {argument} must be a floating-point tensor of shape (*rows, c); got {describe(x)}")
        x = x.to(working_dtype(x))
        if argument != "theta" and not holds(lambda: ((x.sum(-1) - 1).abs() <= 1e-3).all(), x):
            total = x.sum(-1)
            wrong = total[(total - 1).abs() > 1e-3][0].item()
            raise ValueError(
                f"{self.name}.{member}: {argument} must be probabilities that sum to 1 over the last axis; "
                f"got a row that sums to {wrong:.4g}"
            )
        return x

    def __repr__(self) -> str:
        return f"Entropy({self.name}: {self.formula})"

    @property
    def margin(self) -> float:
        """By how much the label's logit must exceed all others for the Fenchel-Young loss to be 0; infinite where it never is."""
        first, second = self.gradient(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        return first - second

    def fenchel_young(
        self, theta: Float[Tensor, "*rows c"], target: Integer[Tensor, "*rows"] | Float[Tensor, "*rows c"]
    ) -> Float[Tensor, "*rows"]:
        r"""The Fenchel-Young loss: convex in theta, at least 0, and 0 just where ``argmax(theta)`` is the target.

        .. math:: L_\Omega(\theta; p) = \Omega^*(\theta) + \Omega(p) - \langle \theta, p \rangle,
            \qquad \nabla_\theta L_\Omega = \operatorname{argmax}(\theta) - p

        Args:
            theta: logits `(*rows, c)`.
            target: class indices `(*rows)`, or probabilities `(*rows, c)`.

        Returns:
            One loss a row, +inf where a class that the target gives mass to has the logit -inf.

        Source:
            Blondel, Martins & Niculae 2020, "Learning with Fenchel-Young Losses", arXiv:1901.02324.

        Example:
            >>> import torch
            >>> from lossmith.generators import gini
            >>> theta = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.5, 0.0]])
            >>> gini.fenchel_young(theta, torch.tensor([0, 0])), gini.fenchel_young(theta, torch.tensor([1, 1]))
            (tensor([0.0000, 0.0625]), tensor([1.0000, 0.5625]))
        """
        theta = self._real("fenchel_young", "theta", theta)
        if theta.shape[-1] and theta.numel():
            theta = theta - theta.detach().amax(-1, keepdim=True)  # the loss is the same, and large logits cost no digits
        if not isinstance(target, Tensor) or target.dtype == torch.bool or target.is_complex():
            raise TypeError(f"{self.name}.fenchel_young: target must be class indices or probabilities; got {describe(target)}")
        if not target.is_floating_point():
            return self.conjugate(theta) - self._labelled(theta, target)
        p = self._real("fenchel_young", "target", target)
        if p.shape[-1] != theta.shape[-1]:
            raise ValueError(
                f"{self.name}.fenchel_young: target must have the last axis of theta; got {describe(target)} and {describe(theta)}"
            )
        absent = (p == 0) & theta.isneginf()
        return self.conjugate(theta) + self.omega(p) - (torch.where(absent, 0, theta) * p).sum(-1)

    def _labelled(self, theta: Float[Tensor, "*rows c"], label: Integer[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        if label.shape != theta.shape[:-1]:
            raise ValueError(
                f"{self.name}.fenchel_young: target must have shape {tuple(theta.shape[:-1])}, theta's without the classes; "
                f"got {describe(label)}"
            )
        classes = theta.shape[-1]
        if not holds(lambda: ((label >= 0) & (label < classes)).all(), label, always_on_cpu=True):
            wrong = label[(label < 0) | (label >= classes)][0].item()
            raise ValueError(f"{self.name}.fenchel_young: target must hold class indices in 0..{classes - 1}; got {wrong}")
        return theta.gather(-1, label.long().unsqueeze(-1)).squeeze(-1)

    def bregman(self, p: Float[Tensor, "*rows c"], q: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows"]:
        r"""The Bregman divergence of p from q: at least 0, and +inf where q lacks a class of p's and the slope there is infinite.

        .. math:: B_\Omega(p \| q) = \Omega(p) - \Omega(q) - \langle \nabla \Omega(q), p - q \rangle

        Args:
            p: probabilities `(*rows, c)`.
            q: the same; they broadcast against each other.

        Returns:
            One divergence a row.

        Source:
            Bregman 1967.

        Example:
            >>> import torch
            >>> from lossmith.generators import gini, shannon
            >>> p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
            >>> shannon.bregman(p, q), gini.bregman(p, q), shannon.bregman(q, p)
            (tensor(0.3466), tensor(0.0625), tensor(inf))
        """
        p, q = self._real("bregman", "p", p), self._real("bregman", "q", q)
        return self.omega(p) - self.omega(q) - _product(self.gradient(q), p - q)

    def proper_loss(self, p: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        r"""The proper loss of reporting p, for every label: minimised in expectation by the truth, where it is the Bayes risk.

        .. math:: \ell_k(p) = -\Omega(p) - \langle \nabla \Omega(p), e_k - p \rangle

        It is the Fenchel-Young loss of label k at the logits ``gradient(p)``, its canonical link.

        Args:
            p: probabilities `(*rows, c)`.

        Returns:
            The loss of every label, `(*rows, c)`; +inf for a label of probability 0 where the slope there is infinite.

        Source:
            Savage 1971; Gneiting & Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation".

        Example:
            >>> import torch
            >>> from lossmith.generators import gini, shannon
            >>> p = torch.tensor([0.5, 0.25, 0.25])
            >>> shannon.proper_loss(p), gini.proper_loss(p)
            (tensor([0.6931, 1.3863, 1.3863]), tensor([0.1875, 0.4375, 0.4375]))
        """
        p = self._real("proper_loss", "p", p)
        slope = self.gradient(p)
        steep = (
            slope.isposinf()
        )  # some entropies rise to a vertex without bound: there the label costs nothing, and any other infinitely much
        slope = torch.where(steep.any(-1, keepdim=True), torch.where(steep, 0, -torch.inf), slope)
        return (_product(slope, p) - self.omega(p)).unsqueeze(-1) - slope

    @staticmethod
    def from_function(
        omega: Rows,
        *,
        separable: bool = True,
        name: str | None = None,
        slope_at_zero: float | None = None,
        interval: tuple[float, float] = (1e-6, 1 - 1e-6),
        points: int = 2001,
    ) -> "Entropy":
        """An entropy from a convex function alone: the gradient by autograd, the argmax and the conjugate by root finding.

        Convexity is searched for counterexamples, not proved. The result is exact to rounding, and differentiable three times
        where omega is smooth enough.

        Args:
            omega: if separable, a convex function of one probability, elementwise, of differentiable torch operations, with
                omega(0) = omega(1) = 0; Omega is its sum over the classes. Parameters inside omega receive gradients.
            separable: whether omega is such a function.
            name: what to call it; the function's own name by default.
            slope_at_zero: omega'(0), or -inf; judged from values at powers of ten if not given.
            interval, points: where convexity is searched, and at how many points.

        Raises:
            ValueError: omega(0) or omega(1) is not 0, omega is not finite somewhere in the interval, or not convex there.

        Example:
            >>> import torch
            >>> from lossmith.generators import Entropy
            >>> pairwise = Entropy.from_function(lambda p: p * p.log() + torch.xlogy(1 - p, 1 - p), name="pairwise")
            >>> pairwise.argmax(torch.tensor([1.0, 0.0, -1.0]))
            tensor([0.5491, 0.3094, 0.1415])
            >>> Entropy.from_function(lambda p: p - p**2)
            Traceback (most recent call last):
            ...
            ValueError: from_function: f is not convex: f' falls from 0.999998 at u = 1e-06 to 0.999998 at u = 1.00693e-06 \
(searched 2001 points of [1e-06, 0.999999])
        """
        from lossmith.generators.separable import separable_entropy  # it makes an Entropy

        return separable_entropy(omega, name, slope_at_zero, interval, points)

    def bayes_risk(self, p: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows"]:
        """The least expected proper loss when labels are drawn from p: the entropy, -Omega(p).

        Example:
            >>> import torch
            >>> from lossmith.generators import shannon
            >>> shannon.bayes_risk(torch.tensor([0.5, 0.5]))
            tensor(0.6931)
        """
        return -self.omega(p)


def _product(slope: Float[Tensor, "*rows c"], by: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows"]:
    """The inner product in which an infinite slope times nothing is nothing."""
    nothing = slope.isinf() & (by == 0)
    return (torch.where(nothing, 0, slope) * by).sum(-1)


def slope_of(function: Rows) -> Rows:
    def slope(x: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        return torch.func.grad(lambda y: function(y).sum())(x)

    return slope


def _maximum(omega: Rows, gradient: Rows, argmax: Rows) -> Rows:
    def conjugate(theta: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows"]:
        p = argmax(theta)
        theta = torch.where((p == 0) & theta.isneginf(), 0, theta)
        # Its derivative in p is zero along the simplex, but in floats a rounding error that dp/dtheta may blow up: it is taken out.
        slope = torch.where(p > 0, theta - gradient(p), 0).detach()
        return ((theta * p).sum(-1) - omega(p)) - (slope * (p - p.detach())).sum(-1)

    return conjugate
