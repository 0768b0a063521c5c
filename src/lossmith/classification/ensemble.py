"""EnsLoss: training with another convex, calibrated loss in every batch, drawn at random."""

from typing import Any, Unpack

import torch

from lossmith._binary import binary_frame, per_label
from lossmith._checks import describe, holds
from lossmith._options import BinaryOptions
from lossmith._reduce import full_precision, read, reduce, working_dtype
from lossmith._typing import Bool, Float, Integer, Tensor
from lossmith.card import Claims, Range, objective

_DAI = "Dai 2025, 'EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in Classification', ICML 2025, arXiv:2409.00908"
_FLOOR = 1e-6
"""What is taken off every slope, so that none is 0."""


def calibrated_slopes(
    margin: Float[Tensor, " n"], keep: Bool[Tensor, " n"], draws: Float[Tensor, " n"], power: float
) -> Float[Tensor, " n"]:
    """The slopes at these margins of a convex, calibrated loss drawn at random: below 0, and rising with the margin.

    Normal draws become positive by the inverse of Box and Cox's transform (at power 0 the exponential), are cut off at 1, and sorted: the
    steepest goes to the smallest margin. Beyond a margin of 1 slopes fall with the margin, so that the loss has a finite pull there.
    """
    size = draws.exp() if power == 0 else (torch.log1p((power * draws).clamp_min(-1)) / power).exp()
    steep = torch.where(keep, -size.clamp_max(1), torch.inf).sort().values  # draws of rows that are kept come first
    order = torch.where(keep, margin, torch.inf).argsort(stable=True)
    slope = torch.zeros_like(steep).scatter(0, order, steep)
    slope = torch.where(keep, slope, 0)
    far = margin > 1
    return torch.where(keep, torch.where(far, slope / torch.where(far, margin, 1), slope) - _FLOOR, 0)


def _times_slope(margin: Float[Tensor, "*n"], slope: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return slope * margin


@objective(
    row=_times_slope,
    form="binary",
    source=_DAI,
    summary="the slopes of a fresh random convex loss in every batch, in place of one loss: an ensemble over losses, against overfitting",
    use_when="a yes-or-no classifier overfits, and you look at its accuracy and not at its loss",
    formula=r"\operatorname{sg}[g_i]\, s_i, \quad s_i = (2 t_i - 1) z_i, \quad g \text{ random, below 0 and rising with } s",
    ranges={"power": Range(float("-inf"), plain=True)},
    settings=[{"power": 0.5}, {"power": -0.7}],
    aliases=("ensloss", "random_calibrated_gradient_loss"),
    tags=("overfitting", "regularisation", "binary", "ensemble"),
    needs=("generator",),
    predicts="scores",
    surrogate=True,
    claims=Claims(),
    provenance="written from the paper, and read beside the authors' code (statmlben/ensLoss, fd37682); checked against the definition "
    "sample by sample, and with logistic slopes against binary cross-entropy's gradient",
)
class EnsLoss(torch.nn.Module):
    r"""Random calibrated gradients: each call draws a convex, classification-calibrated loss, of which only the slopes exist.

    With margins :math:`s_i = (2 t_i - 1) z_i`:

    .. math::
        r_i = \min(1, BC_\lambda^{-1}(e_i)),\ e_i \sim N(0, 1); \qquad g_{(k)} = -r_{(k)} \text{ at the k-th smallest margin}; \qquad
        g_i \leftarrow g_i / s_i \text{ where } s_i > 1; \qquad g_i \leftarrow g_i - 10^{-6}

    The inverse transform is :math:`BC_0^{-1}(e) = e^e` and :math:`BC_\lambda^{-1}(e) = \max(0, 1 + \lambda e)^{1/\lambda}`. Slopes that are
    below 0 and rise with the margin are those of some convex loss that falls at 0, which is what calibration asks for. What is returned
    is :math:`g_i s_i` with g held constant: its **gradient** is :math:`g_i (2 t_i - 1)`, and **its value means nothing**. It cannot be
    compared between batches, watched, or used for early stopping; look at the accuracy on validation data. Nor does it make sense to
    differentiate twice.

    Sorting couples the rows of a batch: splitting a batch, or masking rows, draws another loss. Rows that are ignored or have weight 0
    take no part in it. Random numbers come from `generator`, or torch's own of the input's device; the same generator in the same state
    draws the same losses. A generator of one's own cannot be part of a compiled graph.

    Args:
        power: Box and Cox's lambda; a plain number. The paper keeps 0, or calls :meth:`redraw` every few epochs.
        generator: a `torch.Generator` on the input's device.

    Call it with `(input, target, **options)`: logits of any shape and answers 0 and 1; the options are those of every objective of single
    logits.

    Example:
        >>> import torch, lossmith
        >>> loss = lossmith.EnsLoss(generator=torch.Generator().manual_seed(0))
        >>> z = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        >>> loss(z, torch.tensor([1, 1, 1]), reduction="sum").backward()
        >>> z.grad  # the smallest margin is pulled most
        tensor([-1.0000, -0.7457, -0.0566])
    """

    def __init__(self, *, power: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"EnsLoss: generator must be a torch.Generator or None; got {describe(generator)}")
        self.power, self.generator = power, generator
        _times_slope.card.check(self._hyper())  # type: ignore[attr-defined]  # set by the decorator

    def forward(
        self,
        input: Float[Tensor, "*n"],
        target: Float[Tensor, "*n"] | Integer[Tensor, "*n"] | Bool[Tensor, "*n"],
        **options: Unpack[BinaryOptions],
    ) -> Float[Tensor, "*reduced"]:
        opt = read(_times_slope, options, self._hyper())
        t, keep, each = binary_frame(opt, input, target)
        if not holds(lambda: ((t == 0) | (t == 1)).all(), t, always_on_cpu=True):
            wrong = t[(t != 0) & (t != 1)][0].item()
            raise ValueError(f"EnsLoss: target must hold the answers 0 and 1, for a margin has no expectation; got {wrong:g}")
        with full_precision(input):
            margin = (2 * t - 1) * torch.where(keep, input, 0).to(t.dtype)
            draws = torch.randn(input.numel(), generator=self.generator, dtype=working_dtype(input), device=input.device)
            slope = calibrated_slopes(margin.detach().flatten(), keep.flatten(), draws, float(self.power)).reshape(input.shape)
            value = _times_slope(margin, slope)
            if opt.pos_weight is not None:
                value = torch.where(t == 1, per_label(opt, "pos_weight", input) * value, value)
            if opt.weight is not None:
                each = each * per_label(opt, "weight", input)
            return reduce(torch.where(keep, each * value, 0), torch.where(keep, each, 0), opt)

    @torch.no_grad()
    def redraw(self) -> float:
        """Draw a new power, uniform in (-1, 1), as the paper does every few epochs; it is kept and returned."""
        self.power = float(
            2 * torch.rand((), generator=self.generator, device="cpu" if self.generator is None else self.generator.device) - 1
        )
        return self.power

    def extra_repr(self) -> str:
        return f"power={self.power}"

    def _hyper(self) -> dict[str, Any]:
        return {"power": self.power}
