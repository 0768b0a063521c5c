"""Objectives for boosted trees: gradient and curvature of any of ours, or yours, by automatic differentiation.

XGBoost and LightGBM ask an objective for the first two derivatives of every row's loss by every score. A tree's leaf then takes a Newton
step, :math:`-\\sum_i g_i / (\\sum_i h_i + \\lambda)`, so that h has to be positive: where a loss is not convex, the absolute value of its
second derivative stands in (the saddle-free step of Dauphin et al. 2014, arXiv:1406.2572), and for a convex one the two are the same.
Derivatives are taken in float64.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lossmith._checks import describe
from lossmith._subject import Subject, subject
from lossmith._typing import Float
from lossmith.card import Card, get

Curvature = Literal["absolute", "exact", "one"]
CURVATURES = ("absolute", "exact", "one")
FORMS = ("log_prob", "log_probs", "logits", "binary", "multilabel")
"""The forms whose loss is one number a row of scores."""
ELEMENTWISE = ("binary", "multilabel")


class BoostingObjective:
    """What :func:`as_objective` returns: call it as either library asks, or :meth:`derivatives` with arrays of your own."""

    def __init__(self, subject: Subject, curvature: Curvature, factor: float) -> None:
        self.subject, self.curvature, self.factor = subject, curvature, factor
        self.__name__ = subject.name  # LightGBM writes it into the model

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Gradient and curvature, arrays in the shape of the scores.

        Two conventions are told apart by the second argument: ``(scores, data)`` of ``xgboost.train`` and ``lightgbm.train``, where the
        data know the labels and the weights, and ``(labels, scores, weight)`` of the scikit-learn interfaces of both.
        """
        if hasattr(second, "get_label"):
            return self.derivatives(first, second.get_label(), second.get_weight())
        return self.derivatives(second, first, sample_weight)

    def derivatives(self, scores: Any, target: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """The derivatives of every row's loss by every score, as arrays of float64 in the shape of the scores.

        Args:
            scores: raw scores, `(n, c)` for objectives of classes, `(n,)` or `(n, l)` for those of single logits.
            target: labels `(n,)`, or as the scores for objectives of single logits.
            sample_weight: `(n,)`, or None.
        """
        z, y = self._checked(scores, target)
        gradient, curvature = _derivatives(self.subject, z, y)
        if self.curvature == "one":
            curvature = torch.ones_like(gradient)
        elif gradient.any() and not curvature.any():
            raise ValueError(f"{self.subject.name}: its second derivative is 0, and a Newton step has no end; take curvature='one'")
        elif self.curvature == "absolute":
            curvature = curvature.abs()
        weight = _weights(sample_weight, len(z), self.subject.name)
        if weight is not None:
            each = weight.reshape(-1, *[1] * (z.ndim - 1))
            gradient, curvature = (torch.where(each != 0, part * each, 0) for part in (gradient, curvature))
        return gradient.numpy(), (self.factor * curvature).numpy()

    def _checked(self, scores: Any, target: Any) -> tuple[Tensor, Tensor]:
        name, form = self.subject.name, self.subject.form
        z, y = torch.as_tensor(scores).to(torch.float64), torch.as_tensor(target)
        if form in ELEMENTWISE:
            if y.shape != z.shape:
                raise ValueError(f"{name}: target must have the scores' shape {tuple(z.shape)}, a number in [0, 1] each; got {describe(y)}")
            return z, y.to(torch.float64)
        if z.ndim != 2 or z.shape[1] < 2:
            raise ValueError(
                f"{name}: scores must have shape (n, c), a score for each of at least 2 classes; got {describe(z)}. Ask the library for "
                "classes (num_class), or take an objective of one logit, such as binary_cross_entropy, for two"
            )
        if y.shape != z.shape[:1]:
            raise ValueError(f"{name}: target must have shape ({len(z)},), a class index a row; got {describe(y)}")
        label = y.long()
        if y.is_floating_point() and not bool((label == y).all()):
            raise ValueError(f"{name}: target must hold class indices; got {y[label != y][0].item():g}")
        return z, label

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.subject.fixed.items())
        return f"as_objective({self.subject.name!r}{given}, curvature={self.curvature!r}, factor={self.factor:g})"


def as_objective(
    name: str | Callable[..., Any],
    *,
    curvature: Curvature = "absolute",
    factor: float = 1.0,
    form: str | None = None,
    **hyper: Any,
) -> BoostingObjective:
    r"""An objective for XGBoost and LightGBM, by name: its gradient and curvature by automatic differentiation.

    .. math:: g_{ik} = \frac{\partial \ell_i}{\partial z_{ik}}, \qquad h_{ik} = f \Bigl| \frac{\partial^2 \ell_i}{\partial z_{ik}^2} \Bigr|

    The same object serves ``xgboost.train(obj=...)``, ``XGBClassifier(objective=...)``, ``lightgbm.train({"objective": ...})`` and
    ``LGBMClassifier(objective=...)``; weights of rows are applied. Say where scores start: ``base_score=0`` to ``xgboost.train``,
    ``base_score=0.5`` to ``XGBClassifier``, which takes it for a probability of two classes; LightGBM starts at 0. What comes back are raw
    scores (``output_margin=True``, ``raw_score=True``): probabilities are their softmax, or sigmoid.

    Of the second derivatives only those of a score by itself are used. For the softmax, twice these bound the whole matrix, because
    :math:`\sum_{j \ne k} p_k p_j = p_k (1 - p_k)`: ``factor=2`` is what XGBoost's own ``multi:softprob`` takes, and c/(c-1) is LightGBM's.

    Args:
        name: an objective of classes or of single logits, by name or alias; or a function `(input, target) -> loss` of your own.
        curvature: "absolute", the absolute second derivative; "exact", which may be negative for losses that are not convex; or "one",
            Friedman's steps along the gradient, which piecewise linear losses such as hinges need.
        factor: what the curvature is multiplied by, above 0.
        form: of a function of your own: "logits" (classes), "binary" or "multilabel"; guessed when left out.
        **hyper: hyper-parameters of the objective.

    Returns:
        A callable that both libraries take.

    Raises:
        lossmith.card.UnknownObjective: no objective has that name.
        ValueError: a hyper-parameter is unknown or out of range, or the objective is not a loss of rows of scores.

    Source: Friedman 2001, 'Greedy Function Approximation: A Gradient Boosting Machine', Ann. Statist. 29(5); Chen & Guestrin 2016,
    'XGBoost', arXiv:1603.02754, equation 2.

    Example:
        >>> import numpy as np
        >>> from lossmith.integrations import as_objective
        >>> gradient, curvature = as_objective("cross_entropy").derivatives(np.zeros((1, 2)), np.array([1]))
        >>> gradient, curvature
        (array([[ 0.5, -0.5]]), array([[0.25, 0.25]]))
    """
    if curvature not in CURVATURES:
        raise ValueError(f"as_objective: curvature must be one of {', '.join(map(repr, CURVATURES))}; got {curvature!r}")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise ValueError(f"as_objective: factor must be a number above 0; got {describe(factor)}")
    found = subject(name, form=form)
    if found.card is not None:
        _check_card(found.card, hyper)
    if found.form not in FORMS:
        raise ValueError(f"as_objective: {found.name} is a loss of the form {found.form!r}, not of rows of scores ({', '.join(FORMS)})")
    return BoostingObjective(found.at(hyper), curvature, float(factor))


def _check_card(card: Card, hyper: dict[str, Any]) -> None:
    if isinstance(card.function, type):
        raise ValueError(f"as_objective: {card.name} learns or remembers, and trees ask for every row anew; take a function")
    card = get(card.name)
    card.check_names(hyper, card.options)
    card.check(hyper)
    for needed in card.needs:
        if hyper.get(needed) is None:
            raise ValueError(f"as_objective: {card.name} needs {needed}=; got None")
    for option in ("reduction", "denominator", "sample_weight"):
        if option in hyper:
            raise ValueError(f"as_objective: {option} belongs to the library that grows the trees; leave it out")


def _derivatives(loss: Subject, z: Float[Tensor, "n *c"], y: Tensor) -> tuple[Float[Tensor, "n *c"], Float[Tensor, "n *c"]]:
    """The first and second derivative of every row's loss by each of its own scores.

    No row's loss depends on another row, so that the gradient of the sum holds all rows', and one more backward pass gives one class's
    second derivatives of all rows.
    """
    z = z.detach().requires_grad_()
    total = loss.rows(z, y).sum()
    (slope,) = torch.autograd.grad(total, z, create_graph=True)
    if not slope.requires_grad:  # piecewise linear
        return slope.detach(), torch.zeros_like(slope)
    if z.ndim == 1 or loss.form in ELEMENTWISE:
        (second,) = torch.autograd.grad(slope.sum(), z)
        return slope.detach(), second
    second = torch.empty_like(slope)
    for k in range(z.shape[1]):
        (by,) = torch.autograd.grad(slope[:, k].sum(), z, retain_graph=k + 1 < z.shape[1])
        second[:, k] = by[:, k]
    return slope.detach(), second.detach()


def _weights(given: Any, rows: int, name: str) -> Float[Tensor, " n"] | None:
    """Weights of the rows; XGBoost has an empty array in place of none."""
    if given is None or len(given) == 0:
        return None
    weight = torch.as_tensor(given).to(torch.float64)
    if weight.shape != (rows,):
        raise ValueError(f"{name}: sample_weight must have shape ({rows},); got {describe(weight)}")
    return weight
