"""Label-distributionally robust losses: the worst case over how the classes are weighted.

With the leads :math:`d_k = c\\,1[k \\ne y] + z_k - z_y` of every class over the label (margin c), a row costs the largest
:math:`\\sum_k p_k d_k - \\lambda\\,\\mathrm{KL}(p \\,\\|\\, 1/K)` over class weights p. The temperature :math:`\\lambda` says how far
p may go from uniform: towards 0 it is the hinge of the strongest rival, at 1 cross-entropy, towards infinity a linear loss that is robust
to symmetric label noise. :class:`AdaptiveLDR` gives every training row a temperature of its own.
"""

import math
from typing import Any, Unpack

import torch

from lossmith._batch import frame, weigh
from lossmith._checks import describe, holds
from lossmith._options import RowOptions
from lossmith._reduce import full_precision, read, reduce, scalar, working_dtype
from lossmith._rows import is_label, of_logits, pick
from lossmith._typing import Float, Hyper, Integer, Logits, Target, Tensor
from lossmith.card import At, Claims, Limit, Proved, Range, objective
from lossmith.divergences import divergence

_ZHU = "Zhu, Ying & Yang 2023, 'Label Distributionally Robust Losses for Multi-class Classification', arXiv:2112.14869"


def _worst_case(
    z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"], temperature: Float[Tensor, "*#rows"], margin: Hyper
) -> Float[Tensor, "*rows"]:
    """temperature * log mean_k exp(d_k / temperature), at temperatures from far below to far above the leads."""
    t = temperature.unsqueeze(-1)
    z = z - z.amax(-1, keepdim=True).detach()  # changes nothing, and keeps what follows accurate
    asked = torch.where(is_label(z, y), z, z + margin)
    far = temperature * (torch.logsumexp(asked / t, -1) - math.log(z.shape[-1])) - pick(z, y)
    # where every lead is below the temperature the logarithms would cancel: mean_k d_k is a small part of temperature * log c
    lead = asked - pick(z, y).unsqueeze(-1)
    near = lead.abs().amax(-1) < temperature
    lead = torch.where(near.unsqueeze(-1), lead, 0)
    return torch.where(near, temperature * torch.log1p(torch.expm1(lead / t).mean(-1)), far)


def _ldr_kl(z: Float[Tensor, "*rows c"], y: Integer[Tensor, "*rows"], temperature: Hyper, margin: Hyper) -> Float[Tensor, "*rows"]:
    return _worst_case(z, y, scalar(temperature, z), margin)


def _cross_entropy_less_log_c(input: Tensor, target: Tensor) -> Tensor:
    """cross-entropy less the log of the number of classes"""
    z = input.movedim(min(1, input.ndim - 1), -1)
    return -pick(torch.log_softmax(z, -1), target) - math.log(z.shape[-1])


def _largest_lead(input: Tensor, target: Tensor) -> Tensor:
    """Crammer-Singer, max_k d_k"""
    z = input.movedim(min(1, input.ndim - 1), -1)
    return torch.where(is_label(z, target), 0, 2 + z - pick(z, target).unsqueeze(-1)).amax(-1)


def _mean_lead(input: Tensor, target: Tensor) -> Tensor:
    """Weston-Watkins without its hinge, over the number of classes: mean_k d_k"""
    z = input.movedim(min(1, input.ndim - 1), -1)
    return torch.where(is_label(z, target), 0, 2 + z - pick(z, target).unsqueeze(-1)).mean(-1)


@objective(
    row=_ldr_kl,
    form="logits",
    source=_ZHU,
    summary="cross-entropy with a temperature and a margin: the worst case over class weights near the uniform",
    use_when="labels are noisy and you can tune one temperature: the noisier, the higher",
    formula=r"\lambda \log \frac{1}{K} \sum_k e^{(c\,1[k \ne y] + z_k - z_y) / \lambda}",
    ranges={"temperature": Range(0, open_low=True), "margin": Range(0)},
    limits=[
        At(temperature=1.0, margin=0.0, equals=_cross_entropy_less_log_c),
        Limit(temperature=0.0, margin=2.0, equals=_largest_lead),
        Limit(temperature=math.inf, margin=2.0, equals=_mean_lead),
    ],
    settings=[{"temperature": 0.5, "margin": 0.1}, {"temperature": 2.0, "margin": 0.0}],
    aliases=("ldr_kl", "label_dro"),
    tags=("noisy labels", "robust", "margin", "distributionally robust"),
    predicts="scores",
    claims=Claims(
        convex=Proved(True, "log-sum-exp of affine functions: Boyd & Vandenberghe 2004, section 3.1.5"),
        proper=False,
        calibrated=Proved(True, "at a minimum P(k|x) is proportional to p_k (m - (m - 1) p_k), which ranks as p does; see the docstring"),
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=lambda temperature, classes: (-temperature * math.log(classes), math.inf),
    ),
    provenance="written from the paper's definition; checked against the authors' published loss.py (without its normalisation of the "
    "scores), a search over class weights and the three limits",
)
def ldr_kl_loss(
    input: Logits,
    target: Target,
    *,
    temperature: Hyper = 1.0,
    margin: Hyper = 2.0,
    **options: Unpack[RowOptions],
) -> Float[Tensor, "*reduced"]:
    r"""The label-distributionally robust loss with a Kullback-Leibler penalty, LDR-KL.

    .. math::
        \ell(z, y) = \max_{p \in \Delta_K} \sum_k p_k d_k - \lambda\,\mathrm{KL}(p \,\|\, 1/K)
        = \lambda \log \frac{1}{K} \sum_k e^{d_k / \lambda}, \qquad d_k = c\,1[k \ne y] + z_k - z_y

    Its gradient in the leads is the worst-case weight :math:`p = \operatorname{softmax}(d / \lambda)`. It may be negative: a confident
    right answer costs :math:`-\lambda \log K`.

    With :math:`p = \operatorname{softmax}(z / \lambda)` and :math:`m = e^{c / \lambda}` it is
    :math:`\lambda \log(m / p_y - m + 1)` up to a constant, so the conditional risk is least where
    :math:`P(k \mid x) \propto p_k (m - (m - 1) p_k)`. Of two classes the one with the larger p has the larger probability: the ranking is
    right at every temperature and margin, the probabilities only at temperature 1 and margin 0.

    The authors' code normalises the scores first, ``z = softplus(z); z = z / z.mean(1, keepdim=True)``, and tries temperatures 0.1, 1
    and 10; apply the same to `input` to repeat their experiments. Their class has margin 2, their experiments 0.1.

    Args:
        input: logits `(c,)`, `(n, c)` or `(n, c, *d)`.
        target: class indices without the class axis, or class probabilities in the input's shape: the expectation over labels.
        temperature: lambda; a number or a 0-d tensor.
        margin: c, the lead that is asked of the label; a number or a 0-d tensor.

    Returns:
        One loss a row (`reduction="none"`), or their mean or sum; float32 at least.

    Example:
        >>> import torch, lossmith
        >>> lossmith.ldr_kl_loss(torch.zeros(1, 4), torch.tensor([2]), margin=0.0)
        tensor(0.)
    """
    return of_logits(_ldr_kl, input, target, options, temperature=temperature, margin=margin)


def _adaptive(
    z: Float[Tensor, "*rows c"],
    y: Integer[Tensor, "*rows"],
    temperature: Float[Tensor, "*#rows"],
    anchor: float,
    alpha: float,
    margin: float,
) -> Float[Tensor, "*rows"]:
    pull = alpha * math.log(z.shape[-1]) / (2 * anchor)
    return _worst_case(z, y, temperature, margin) - pull * (temperature - anchor).square()


def _refit(
    z: Float[Tensor, "*rows c"],
    y: Integer[Tensor, "*rows"],
    temperature: Float[Tensor, "*#rows"],
    anchor: float,
    alpha: float,
    margin: float,
) -> Float[Tensor, "*rows"]:
    """The best temperature for the class weights that are worst at the present one."""
    asked = torch.where(is_label(z, y), z, z + margin)
    worst = torch.log_softmax(asked / temperature.unsqueeze(-1), -1)
    log_c = math.log(z.shape[-1])
    from_uniform = divergence(worst, torch.full_like(worst, -log_c), "kl", log=True)
    return anchor - anchor / (alpha * log_c) * from_uniform


@objective(
    row=_adaptive,
    form="stateful",
    source=_ZHU,
    summary="LDR-KL with a temperature for every training row, lower the more certain the model is about it",
    use_when="labels are noisy, rows differ in how noisy, and each has a number",
    formula=r"\max_{\lambda, p} \sum_k p_k d_k - \lambda\,\mathrm{KL}(p \| 1/K) - \alpha \log K (\lambda - \lambda_0)^2 / (2 \lambda_0)",
    ranges={"anchor": Range(0, open_low=True), "alpha": Range(1, open_low=True), "margin": Range(0)},
    settings=[{"anchor": 0.5, "margin": 0.1}],
    aliases=("aldr_kl_loss", "aldr_kl", "adaptive_ldr"),
    tags=("noisy labels", "robust", "margin", "distributionally robust"),
    needs=("sample_index",),
    predicts="scores",
    claims=Claims(
        convex=False,
        proper=False,
        calibrated=None,
        symmetric=False,
        shift_invariant=True,
        class_symmetric=True,
        growth="linear",
        bounds=None,
    ),
    provenance="written from the paper's definition; checked against the authors' published loss.py at margin 0 (without its "
    "normalisation of the scores) and a search over temperatures",
)
class AdaptiveLDR(torch.nn.Module):
    r"""The adaptive label-distributionally robust loss, ALDR-KL: one temperature for each training row.

    .. math::
        \ell(z, y) = \max_{\lambda \ge 0} \max_{p \in \Delta_K} \sum_k p_k d_k - \lambda\,\mathrm{KL}(p \,\|\, 1/K)
        - \frac{\alpha \log K}{2 \lambda_0} (\lambda - \lambda_0)^2, \qquad d_k = c\,1[k \ne y] + z_k - z_y

    Each call in training mode takes one step of the maximisation for the rows it is given, then evaluates the loss there:

    .. math::
        p = \operatorname{softmax}(d / \lambda_i), \qquad
        \lambda_i \leftarrow \lambda_0 - \frac{\lambda_0}{\alpha \log K}\,\mathrm{KL}(p \,\|\, 1/K), \qquad
        \ell_i = \lambda_i \log \frac{1}{K} \sum_k e^{d_k / \lambda_i} - \frac{\alpha \log K}{2 \lambda_0} (\lambda_i - \lambda_0)^2

    No gradient flows through the temperature, which stays between :math:`\lambda_0 (1 - 1/\alpha)` (certain) and :math:`\lambda_0`
    (undecided, hence robust). Repeated on the same scores the steps never lower the loss and end where the derivative in
    :math:`\lambda` vanishes. In evaluation mode the temperatures are used as they are and do not change; the loss is then convex in the
    logits, which a call that takes a step is not.

    A row that is ignored or has weight 0 keeps its temperature; rows with the same index share one, set by their mean, and so do the
    pixels of an image with one index. With several processes each keeps the temperatures of the rows it sees; where the loss is part of
    a model in DistributedDataParallel, say ``broadcast_buffers=False``, or the first process's temperatures replace them.

    The authors' code differs in three ways: it divides the scores by the mean of their absolute values first (apply that to `input`
    to repeat their experiments), leaves the margin out of p, and adds 1e-5 to it.

    Args:
        num_samples: the number of training rows; indices run from 0.
        anchor: lambda_0, the temperature of a row about which nothing is known, and the highest.
        alpha: how strongly temperatures are pulled to the anchor; above 1, so that they stay positive.
        margin: c, the lead that is asked of the label.

    Call it with `(input, target, index, **options)`: logits `(c,)`, `(n, c)` or `(n, c, *d)`, class indices, and the rows' numbers in
    the training set, in the target's shape or one for each of its first axis. The options are those of every objective on rows:
    `weight`, `sample_weight`, `ignore_index`, `reduction`, `denominator`.

    Example:
        >>> import torch, lossmith
        >>> loss = lossmith.AdaptiveLDR(num_samples=100)
        >>> z, y, index = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([7, 42])
        >>> value = loss(z, y, index)
        >>> loss.temperatures[index]
        tensor([0.5027, 0.9630])
    """

    temperatures: Tensor

    def __init__(self, *, num_samples: int, anchor: float = 1.0, alpha: float = 2.0, margin: float = 1.0) -> None:
        super().__init__()
        if isinstance(num_samples, bool) or not isinstance(num_samples, int):
            raise TypeError(f"AdaptiveLDR: num_samples must be an integer; got {describe(num_samples)}")
        if num_samples < 1:
            raise ValueError(f"AdaptiveLDR: num_samples must be at least 1; got {num_samples}")
        self.num_samples, self.anchor, self.alpha, self.margin = num_samples, anchor, alpha, margin
        _adaptive.card.check(self._hyper())  # type: ignore[attr-defined]  # set by the decorator
        self.register_buffer("temperatures", torch.full((num_samples,), float(anchor)))

    def forward(
        self,
        input: Logits,
        target: Integer[Tensor, ""] | Integer[Tensor, "n *d"],
        index: Integer[Tensor, "*some"],
        **options: Unpack[RowOptions],
    ) -> Float[Tensor, "*reduced"]:
        hyper = self._hyper()
        opt = read(_adaptive, options, hyper)
        if not isinstance(input, Tensor):
            raise TypeError(f"AdaptiveLDR: input must be a floating-point tensor of logits; got {describe(input)}")
        if isinstance(target, Tensor) and target.is_floating_point():
            raise TypeError(f"AdaptiveLDR: target must be class indices, for a temperature belongs to one label; got {describe(target)}")
        batch = frame(opt, input, target)
        assert batch.label is not None
        index = self._index(index, batch.keep)
        with full_precision(input):
            z = batch.mask(input).to(working_dtype(input)).movedim(batch.axis, -1)
            if self.training:
                self._update(z.detach(), batch.label, index, batch.keep, hyper)
            # a copy: later calls change the buffer in place, and this call's backward needs it as it was
            temperature = self.temperatures[index].to(z.dtype)
            value, each = weigh(batch, _adaptive(z, batch.label, temperature, **hyper))
        return reduce(value, each, opt)

    def extra_repr(self) -> str:
        return f"num_samples={self.num_samples}, anchor={self.anchor}, alpha={self.alpha}, margin={self.margin}"

    def _hyper(self) -> dict[str, Any]:
        return {"anchor": self.anchor, "alpha": self.alpha, "margin": self.margin}

    @torch.no_grad()
    def _update(self, z: Tensor, label: Tensor, index: Tensor, keep: Tensor, hyper: dict[str, Any]) -> None:
        """One step of the maximisation over the temperatures of these rows; of rows with the same index, the mean."""
        fitted = _refit(z, label, self.temperatures[index].to(z.dtype), **hyper).to(self.temperatures.dtype)
        keep = keep & fitted.isfinite()  # a batch of NaN spoils one step, not the temperatures of its rows for good
        where, nothing = index.flatten(), torch.zeros_like(self.temperatures)
        total = nothing.index_add(0, where, torch.where(keep, fitted, 0).flatten())
        count = nothing.index_add(0, where, keep.to(nothing.dtype).flatten())
        self.temperatures.copy_(torch.where(count > 0, total / count.clamp(min=1), self.temperatures))

    def _index(self, index: object, keep: Tensor) -> Tensor:
        """The number of every row, in the shape of the rows, 0 where they are masked; or a clear error."""
        if not isinstance(index, Tensor) or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise TypeError(f"AdaptiveLDR: index must be an integer tensor, the rows' numbers in the training set; got {describe(index)}")
        if index.shape not in (keep.shape, keep.shape[:1]):
            raise ValueError(f"AdaptiveLDR: index must have the target's shape {tuple(keep.shape)}; got {describe(index)}")
        if index.device != keep.device or self.temperatures.device != keep.device:
            found = f"index is on {index.device}, the temperatures on {self.temperatures.device}"
            raise ValueError(f"AdaptiveLDR: index and the module must be on the input's device {keep.device}; {found}")
        index = torch.where(keep, index.reshape(index.shape + (1,) * (keep.ndim - index.ndim)), 0).long()
        wrong = (index < 0) | (index >= self.num_samples)
        if not holds(lambda: ~wrong.any(), index, always_on_cpu=True):
            raise ValueError(f"AdaptiveLDR: index must be in 0..{self.num_samples - 1}; got {index[wrong][0].item()}")
        return index
