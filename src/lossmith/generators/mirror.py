r"""Mirror maps: strictly convex functions whose gradient carries points to slopes and back, for descent in another geometry.

Mirror descent takes its step among slopes, where a step of gradient descent would take it among points:

.. math:: x_{t+1} = (\nabla\psi)^{-1}\left(\nabla\psi(x_t) - \eta\, g_t\right)
    = \arg\min_x\ \eta \langle g_t, x \rangle + D_\psi(x \| x_t)

With ``p_norm_map(2)`` that is gradient descent. A p just above 1 suits sparse problems in many dimensions (p = 1 + 1 / log d loses
a factor log d where p = 2 loses d). With ``entropic_map()`` it is the exponentiated gradient on the simplex.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lossmith._checks import describe
from lossmith._reduce import full_precision, working_dtype
from lossmith._typing import Float, Hyper, Tensor
from lossmith.card import Range
from lossmith.generators._names import inside
from lossmith.generators.entropies import shannon
from lossmith.generators.entropy import Entropy
from lossmith.generators.threshold import power


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MirrorMap:
    r"""A convex function psi of vectors (the last axis), with the gradient that carries points to slopes, and its inverse.

    Attributes:
        name: what it is called.
        formula: psi in TeX.
        source: where it is taken from.
        potential: :math:`\psi(x)`, `(*rows)`.
        gradient: :math:`\nabla\psi(x)`, a slope for a point, `(*rows, d)`.
        inverse: :math:`(\nabla\psi)^{-1}(y) = \nabla\psi^*(y)`, the point for a slope, `(*rows, d)`.
        conjugate: :math:`\psi^*(y)`, `(*rows)`.
    """

    name: str
    potential: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]
    formula: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return f"MirrorMap({self.name}: {self.formula})"

    def bregman(self, x: Float[Tensor, "*rows d"], y: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        r"""The Bregman divergence :math:`D_\psi(x \| y) = \psi(x) - \psi(y) - \langle \nabla\psi(y), x - y \rangle`.

        Example:
            >>> import torch
            >>> from lossmith.generators import p_norm_map
            >>> x, y = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0])
            >>> p_norm_map(2).bregman(x, y)
            tensor(12.5000)
        """
        x, y = x.to(working_dtype(x)), y.to(working_dtype(y))  # their difference is small beside what half precision rounds
        slope = self.gradient(y)
        nothing = slope.isinf() & (x == y)
        return self.potential(x) - self.potential(y) - (torch.where(nothing, 0, slope) * (x - y)).sum(-1)

    def step(self, x: Float[Tensor, "*rows d"], gradient: Float[Tensor, "*rows d"], rate: Hyper) -> Float[Tensor, "*rows d"]:
        """One step of mirror descent from x, against a gradient.

        Args:
            x: where to start, `(*rows, d)`.
            gradient: of what is to be minimised, at x.
            rate: the step's length.

        Example:
            >>> import torch
            >>> from lossmith.generators import entropic_map, p_norm_map
            >>> entropic_map().step(torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.0, 1.0, 1.0]), 1.0)
            tensor([0.4754, 0.1749, 0.3498])
            >>> p_norm_map(2).step(torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.0, 1.0, 1.0]), 1.0)
            tensor([ 0.2500, -0.7500, -0.5000])
        """
        return self.inverse(self.gradient(x) - rate * gradient.to(working_dtype(gradient)))


def p_norm_map(p: float) -> MirrorMap:
    r"""Half the squared p-norm, whose inverse map is that of the conjugate exponent.

    .. math:: \psi(x) = \tfrac12 \|x\|_p^2, \qquad
        \nabla\psi(x)_k = \|x\|_p^{2-p}\, |x_k|^{p-1} \operatorname{sign} x_k, \qquad
        (\nabla\psi)^{-1} = \nabla\psi_q, \quad \tfrac1p + \tfrac1q = 1

    Any x will do, however large or small: norms are taken relative to the largest entry. The gradient at 0 is 0. Where a derivative of the
    map is infinite (p < 2, where an entry is 0 and another is not) or does not exist (at x = 0), autograd gives 0.

    Args:
        p: above 1; 2 is the Euclidean norm.

    Source:
        Grove, Littlestone & Schuurmans 2001, "General Convergence Results for Linear Discriminant Updates"; Gentile 2003, "The
        Robustness of the p-Norm Algorithms".

    Example:
        >>> import torch
        >>> from lossmith.generators import p_norm_map
        >>> psi = p_norm_map(3)
        >>> psi.gradient(torch.tensor([1.0, -2.0, 0.0]))
        tensor([ 0.4807, -1.9230,  0.0000])
        >>> psi.inverse(psi.gradient(torch.tensor([1.0, -2.0, 0.0])))
        tensor([ 1., -2.,  0.])
    """
    p = inside("p_norm_map", "p", p, Range(1.0, open_low=True))
    q = p / (p - 1)
    name = f"p_norm_map(p={p})"

    def of_vectors(member: str, formula: Callable[[Tensor, float], Tensor], exponent: float) -> Callable[[Tensor], Tensor]:
        def checked(x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"] | Float[Tensor, "*rows"]:
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
                raise TypeError(f"{name}.{member}: needs a floating-point tensor of shape (*rows, d); got {describe(x)}")
            with full_precision(x):
                return formula(x.to(working_dtype(x)), exponent)

        return checked

    return MirrorMap(
        name=name, formula=rf"\tfrac12 \|x\|_p^2, p = {p:g}", source="Grove, Littlestone & Schuurmans 2001; Gentile 2003",
        potential=of_vectors("potential", _half_squared_norm, p),
        gradient=of_vectors("gradient", _slope, p),
        inverse=of_vectors("inverse", _slope, q),
        conjugate=of_vectors("conjugate", _half_squared_norm, q),
    )  # fmt: skip


def _half_squared_norm(x: Float[Tensor, "*rows d"], p: float) -> Float[Tensor, "*rows"]:
    size, magnitude, _ = _relative(x)
    some = (magnitude != 0).any(-1)
    total = power(magnitude, p).sum(-1)
    return torch.where(some, torch.where(some, total, 1).pow(2 / p) / 2, 0) * size.squeeze(-1).square()


def _slope(x: Float[Tensor, "*rows d"], p: float) -> Float[Tensor, "*rows d"]:
    size, magnitude, sign = _relative(x)
    total = power(magnitude, p).sum(-1, keepdim=True)
    norm = torch.where(total == 0, 1, total).pow((2 - p) / p)
    return size * norm * sign * power(magnitude, p - 1)


def _relative(x: Float[Tensor, "*rows d"]) -> tuple[Float[Tensor, "*rows 1"], Float[Tensor, "*rows d"], Float[Tensor, "*rows d"]]:
    """The largest magnitude as a constant (1 for a row of zeros), and the magnitudes relative to it with their signs.

    Both maps are homogeneous, so the constant needs no derivative.
    """
    size = x.detach().abs().amax(-1, keepdim=True)
    size = torch.where(size > 0, size, 1)
    return size, (x / size).abs(), x.detach().sign()


def entropic_map(entropy: Entropy = shannon) -> MirrorMap:
    r"""An entropy as the mirror map of the simplex: a step is followed by the regularised argmax, which stays on the simplex.

    With Shannon's, :math:`x_{t+1} \propto x_t\, e^{-\eta g_t}`, the exponentiated gradient. With `gini`, projected gradient descent.

    Args:
        entropy: the convex function, by default Shannon's.

    Source:
        Nemirovski & Yudin 1983; Beck & Teboulle 2003, "Mirror descent and nonlinear projected subgradient methods"; Kivinen & Warmuth
        1997 for the exponentiated gradient.

    Example:
        >>> import torch
        >>> from lossmith.generators import entropic_map, gini
        >>> entropic_map(gini).step(torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.0, 1.0, 1.0]), 1.0)
        tensor([0.8750, 0.0000, 0.1250])
    """
    if not isinstance(entropy, Entropy):
        raise TypeError(f"entropic_map: entropy must be an Entropy; got {describe(entropy)}")
    return MirrorMap(
        name=f"entropic_map({entropy.name})",
        formula=entropy.formula,
        source="Nemirovski & Yudin 1983; Beck & Teboulle 2003",
        potential=entropy.omega,
        gradient=entropy.gradient,
        inverse=entropy.argmax,
        conjugate=entropy.conjugate,
    )
