r"""LegendreTron: a proper multi-class loss that is learnt together with the model.

A proper loss of probabilities is known; which function turns scores into probabilities is not, and softmax is only the usual guess.
:class:`LegendreLink` learns it: gradients of input-convex networks, which are monotone and invertible maps, one after the other, then
softmax with the last score held at 0.
"""

from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import nn

from lossmith._batch import frame, weigh
from lossmith._checks import describe
from lossmith._options import RowOptions
from lossmith._reduce import full_precision, read, reduce, working_dtype
from lossmith._rows import expected
from lossmith._typing import Float, Logits, Target, Tensor
from lossmith.card import Claims, Range, objective

_LAM = "Lam, Walder, Penev & Nock 2023, 'LegendreTron: Uprising Proper Multiclass Loss Learning', ICML 2023, arXiv:2301.11695"


def log_softmax_plus(z: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows c"]:
    """Log-probabilities of one class more than there are scores: softmax of the scores and a last one that is 0."""
    return torch.log_softmax(torch.cat([z, torch.zeros_like(z[..., :1])], -1), -1)


class _Affine(nn.Linear):
    """A linear layer that computes in the precision of what it is given."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype))


class _Positive(nn.Linear):
    """A linear layer with positive weights, divided by the number of its inputs: convex functions stay convex."""

    def forward(self, input: Tensor) -> Tensor:
        weight = F.softplus(self.weight).to(input.dtype)
        return F.linear(input, weight, None if self.bias is None else self.bias.to(input.dtype)) / self.in_features


class _Scale(nn.Module):
    """A shift and a positive scale a unit, from the identity on."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(units)), nn.Parameter(torch.zeros(units))

    def forward(self, input: Tensor) -> Tensor:
        return (input + self.shift.to(input.dtype)) * self.log_scale.exp().to(input.dtype)


class ConvexPotential(nn.Module):
    r"""A strictly convex function of a row of scores, and its gradient, which is a monotone and invertible map of rows.

    .. math:: G(z) = \operatorname{softplus}(w_1)\, N(z) + \operatorname{softplus}(w_0)\, \tfrac12 \|z\|^2

    N is an input-convex network: each layer sees the one before through positive weights, and the scores themselves through any.

    Args:
        size: the number of scores.
        hidden: units a layer; the larger half of them continues the layer before, the rest begins anew from the scores.
        depth: hidden layers.
    """

    def __init__(self, size: int, *, hidden: int, depth: int) -> None:
        super().__init__()
        new = hidden // 2
        on = hidden - new
        self.first = _Affine(size, hidden)
        self.onward = nn.ModuleList(_Positive(hidden, on) for _ in range(depth - 1))
        self.beside = nn.ModuleList(_Affine(size, on) for _ in range(depth - 1))
        self.scales = nn.ModuleList(_Scale(on) for _ in range(depth - 1))
        self.anew = nn.ModuleList(_Affine(size, new) for _ in range(depth - 1))
        self.last, self.straight = _Positive(hidden, 1, bias=False), _Affine(size, 1, bias=False)
        self.last_scale = nn.Parameter(torch.zeros(()))
        self.w0, self.w1 = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(()))

    def forward(self, z: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
        unit = F.softplus(self.first(z))
        for onward, beside, scale, anew in zip(self.onward, self.beside, self.scales, self.anew, strict=True):
            unit = torch.cat([F.softplus(scale(onward(unit) + beside(z))), F.softplus(anew(z))], -1)
        network = (self.last(unit) + self.straight(z)).squeeze(-1) * self.last_scale.exp().to(z.dtype)
        w0, w1 = F.softplus(self.w0).to(z.dtype), F.softplus(self.w1).to(z.dtype)
        return w1 * network + w0 * z.square().sum(-1) / 2

    def gradient(self, z: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows k"]:
        """The map of rows, differentiable in the scores and in the parameters."""
        return torch.func.grad(lambda at: self(at).sum())(z)


def _log_loss(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    return -log_p


@objective(
    row=_log_loss,
    form="stateful",
    source=_LAM,
    summary="cross-entropy behind a monotone map of the logits that is learnt with the model, and hence a proper loss that is learnt",
    use_when="there are many classes, and you would rather learn the link from logits to probabilities than take softmax for granted",
    formula=r"-\log \operatorname{softmax}_+(\nabla G_B \circ \dots \circ \nabla G_1(z))_y",
    ranges={"blocks": Range(1, whole=True), "hidden": Range(2, whole=True), "depth": Range(1, whole=True)},
    settings=[{"blocks": 1, "hidden": 4, "depth": 2}],
    aliases=("legendretron", "legendre_tron"),
    tags=("proper scoring rule", "learnable", "many classes"),
    needs=("classes", "learnable_parameters"),
    predicts="scores",
    claims=Claims(
        convex=False,
        proper=False,  # of its own probabilities it is; of softmax's it is not
        calibrated=False,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=False,
        growth="linear",
        bounds=lambda: (0.0, float("inf")),
    ),
    provenance="written from the paper and read beside the authors' code (khflam/legendretron, b313840); checked against cross-entropy "
    "with the network switched off, the potentials' Jacobians and a search for the best report",
)
class LegendreLink(nn.Module):
    r"""A link from logits to probabilities with parameters of its own, and the loss of the probabilities it gives.

    .. math::
        \ell(z, y) = -\log p_y, \qquad p = \operatorname{softmax}_+(\nabla G_B \circ \dots \circ \nabla G_1(u)), \qquad u_k = z_k - z_C

    where :math:`\operatorname{softmax}_+` has one class more than scores, the score of the last being 0, and
    :math:`G_b(u) = \operatorname{softplus}(w_1) N_b(u) + \operatorname{softplus}(w_0) \|u\|^2 / 2` with an input-convex network
    :math:`N_b`. Every map is monotone and invertible, so that every distribution is some row's prediction, and the least expected loss is
    that of predicting the true one: the loss is proper in **its own** probabilities, which :meth:`log_probabilities` gives. Softmax of the
    same logits is another prediction, and the largest logit need not be the likeliest class.

    Its parameters are to be trained with the model's: ``Adam([*model.parameters(), *loss.parameters()])``. The paper adds half a weight
    decay of 0.01 on all of them, trains with Adam at 0.01 in float64, and takes two blocks with four layers of two units. There the model
    has C - 1 outputs; here it has C like any other, and the last class's logit is subtracted, so that a constant added to a row changes
    nothing.

    Each block's Jacobian is symmetric and positive definite; the product of several is not symmetric in general, so that with more than
    one block the link is canonical in the paper's geometric sense alone. Properness does not need it.

    Differs from the authors' code in one place: the scale of a layer starts at 1, where theirs is set from the first batch it sees.

    Args:
        classes: how many there are.
        blocks: how many maps one after the other.
        hidden: units a layer of their networks.
        depth: hidden layers of their networks.

    Call it with `(input, target, **options)`, as any objective on rows. A class at -inf is not impossible here but only very unlikely,
    for the link sees all logits together.

    Example:
        >>> import torch, lossmith
        >>> _ = torch.manual_seed(0)
        >>> loss = lossmith.LegendreLink(classes=3)
        >>> z, y = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> torch.allclose(loss(z, y), -loss.log_probabilities(z)[0, 0])
        True
    """

    def __init__(self, *, classes: int, blocks: int = 2, hidden: int = 2, depth: int = 4) -> None:
        super().__init__()
        if isinstance(classes, bool) or not isinstance(classes, int):
            raise TypeError(f"LegendreLink: classes must be an integer; got {describe(classes)}")
        if classes < 2:
            raise ValueError(f"LegendreLink: classes must be at least 2; got {classes}")
        self.classes, self._sizes = classes, {"blocks": blocks, "hidden": hidden, "depth": depth}
        _log_loss.card.check(self._sizes)  # type: ignore[attr-defined]  # set by the decorator
        size = {"hidden": int(hidden), "depth": int(depth)}
        self.potentials = nn.ModuleList(ConvexPotential(classes - 1, **size) for _ in range(int(blocks)))

    def forward(self, input: Logits, target: Target, **options: Unpack[RowOptions]) -> Float[Tensor, "*reduced"]:
        opt = read(_log_loss, options, self._sizes)
        if not isinstance(input, Tensor):
            raise TypeError(f"LegendreLink: input must be a floating-point tensor of logits; got {describe(input)}")
        batch = frame(opt, input, target)
        if batch.classes != self.classes:
            raise ValueError(f"LegendreLink: input must have {self.classes} classes, as the module was made for; got {describe(input)}")
        with full_precision(input):
            rows = batch.mask(input).to(working_dtype(input)).movedim(batch.axis, -1)
            value, each = weigh(batch, expected(batch, self._link(rows).movedim(-1, batch.axis), _log_loss))
        return reduce(value, each, opt)

    def log_probabilities(self, input: Logits) -> Logits:
        """What the logits predict: log-probabilities in the input's shape, which are the ones the loss is proper in."""
        axis = 0 if input.ndim == 1 else 1
        with full_precision(input):
            return self._link(input.to(working_dtype(input)).movedim(axis, -1)).movedim(-1, axis)

    def _link(self, z: Float[Tensor, "*rows c"]) -> Float[Tensor, "*rows c"]:
        largest = torch.finfo(z.dtype).max ** 0.5  # infinities would be added to their contraries
        z = z.clamp(-largest, largest)
        scores = z[..., :-1] - z[..., -1:]
        for potential in self.potentials:
            assert isinstance(potential, ConvexPotential)
            scores = potential.gradient(scores)
        return log_softmax_plus(scores)

    def extra_repr(self) -> str:
        return ", ".join([f"classes={self.classes}", *(f"{name}={value}" for name, value in self._sizes.items())])

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes of the networks, by the names of the arguments."""
        return dict(self._sizes)
