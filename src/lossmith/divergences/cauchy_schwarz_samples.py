r"""Cauchy-Schwarz divergences of samples: kernel density estimates put into the definition, where every integral is a mean of kernels.

All are plain differentiable tensors, in nats, made to be trained on. They follow the papers in doubling what :func:`cauchy_schwarz`
gives: :math:`D_{CS}(p, q) = \log \int p^2 + \log \int q^2 - 2 \log \int p q`. They estimate the divergence of the *smoothed* densities,
each convolved with a Gaussian of half the kernel's variance: for Gaussians of covariance :math:`\sigma^2 I` a distance
:math:`|\delta|` apart, :math:`|\delta|^2 / (2 \sigma^2 + h^2)` with bandwidth h. They come without an error, and are biased: each sample
is its own nearest neighbour.

Kernels are Gaussian, :math:`k(x, y) = e^{-|x - y|^2 / 2 h^2}`, and enter by their logarithms: distant samples lose nothing to underflow.
Constant factors of a kernel cancel. The logarithms cancel too where two samples are alike, so all of it is computed in float64 and
returned in the samples' precision. Memory grows with the square of the batch.
"""

import math
from typing import Literal, TypeAlias

import torch

from lossmith._checks import describe
from lossmith._typing import Float, Tensor

Samples: TypeAlias = Float[Tensor, "_ _"] | Float[Tensor, " _"]
"""`(n, d)`, or `(n,)` for numbers."""
Form = Literal["paper", "code"]


def cs_divergence(x: Samples, y: Samples, *, bandwidth: float | Float[Tensor, ""] = 1.0) -> Float[Tensor, ""]:
    r"""The Cauchy-Schwarz divergence of two samples.

    .. math:: D = \log \operatorname{mean} K_{xx} + \log \operatorname{mean} K_{yy} - 2 \log \operatorname{mean} K_{xy} \ge 0

    0 where the samples are equal. It is minus twice the logarithm of the cosine between the two mean embeddings whose distance is the
    maximum mean discrepancy.

    Args:
        x: `(n, d)`, or `(n,)` for numbers.
        y: `(m, d)`, or `(m,)`.
        bandwidth: h, in the unit of the samples.

    Returns:
        The divergence in nats, with gradients in both samples and the bandwidth.

    Raises:
        TypeError, ValueError: not floating-point samples of one dimension, or a bandwidth that is not positive.

    Source:
        Principe et al. 2000; Yu et al. 2024, "Cauchy-Schwarz divergence information bottleneck for regression", arXiv:2404.17951.

    Example:
        >>> import torch
        >>> from lossmith.divergences import cs_divergence
        >>> cs_divergence(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
        tensor(2.5713)
    """
    (x, y), precise = _samples("cs_divergence", x=x, y=y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"cs_divergence: x and y must have the same dimension; got {x.shape[-1]} and {y.shape[-1]}")
    _check_bandwidth("cs_divergence", "bandwidth", bandwidth)
    own = _log_mean(_log_kernel(x, x, bandwidth)) + _log_mean(_log_kernel(y, y, bandwidth))
    return (own - 2 * _log_mean(_log_kernel(x, y, bandwidth))).to(precise)


def conditional_cs_divergence(
    x: Samples,
    y: Samples,
    y_hat: Samples,
    *,
    bandwidth_x: float | Float[Tensor, ""] = 1.0,
    bandwidth_y: float | Float[Tensor, ""] = 1.0,
    form: Form = "paper",
) -> Float[Tensor, ""]:
    r"""The Cauchy-Schwarz divergence of p(y | x) and q(yhat | x): what a regression's predictions miss of its targets.

    With K the kernels of x, L those of y and of the predictions, and L' those between a prediction and a target,

    .. math:: D = \log \sum_j \frac{\sum_i K_{ji} L^{y}_{ji}}{(\sum_i K_{ji})^2}
        + \log \sum_j \frac{\sum_i K_{ji} L^{\hat y}_{ji}}{(\sum_i K_{ji})^2}
        - 2 \log \sum_j \frac{\sum_i K_{ji} L'_{ji}}{(\sum_i K_{ji})^2}

    0 where the predictions are the targets. Where all x are equal it is `cs_divergence` of targets and predictions.

    Args:
        x: what is conditioned on, `(n, d)` or `(n,)`. Standardise it: the kernel is isotropic.
        y: targets, `(n, d)` or `(n,)`.
        y_hat: predictions, of y's shape.
        bandwidth_x: of the kernel of x.
        bandwidth_y: of the kernel of targets and predictions.
        form: "paper", or "code": the authors' released code divides by :math:`\sum_i K_{ji}^2`, no longer an estimate of the density
            of x, and takes logarithms to base 2; we take its denominator, in nats.

    Returns:
        The divergence in nats. It can be negative, since the three sums are no inner products of one space: with a kernel as wide as x
        itself, predictions that are drawn together score better than right ones. With a narrow ``bandwidth_x`` this vanishes.

    Raises:
        TypeError, ValueError: as `cs_divergence`, and unequal numbers of samples.

    Source:
        Yu et al. 2024, "Cauchy-Schwarz divergence information bottleneck for regression", arXiv:2404.17951, proposition 1; Yu et al. 2023,
        "The conditional Cauchy-Schwarz divergence", arXiv:2301.08970. Code: SJYuCNEL/Cauchy-Schwarz-Information-Bottleneck, loss_cs.py.

    Example:
        >>> import torch
        >>> from lossmith.divergences import conditional_cs_divergence
        >>> x, y = torch.linspace(0, 1, 5), torch.tensor([0.0, 1.0, 0.0, 2.0, 1.0])
        >>> conditional_cs_divergence(x, y, y), conditional_cs_divergence(x, y, y + 1)
        (tensor(0.), tensor(0.4484))
    """
    (x, y, y_hat), precise = _paired("conditional_cs_divergence", x=x, y=y, y_hat=y_hat)
    if y.shape != y_hat.shape:
        raise ValueError(f"conditional_cs_divergence: y and y_hat must have the same shape; got {describe(y)} and {describe(y_hat)}")
    for argument, bandwidth in (("bandwidth_x", bandwidth_x), ("bandwidth_y", bandwidth_y)):
        _check_bandwidth("conditional_cs_divergence", argument, bandwidth)
    if form not in ("paper", "code"):
        raise ValueError(f"conditional_cs_divergence: form must be 'paper' or 'code'; got {describe(form)}")
    log_k = _log_kernel(x, x, bandwidth_x)
    log_squared_density = 2 * log_k.logsumexp(-1, keepdim=True) if form == "paper" else (2 * log_k).logsumexp(-1, keepdim=True)
    log_weight = log_k - log_squared_density

    def log_sum(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        return (log_weight + _log_kernel(a, b, bandwidth_y)).flatten().logsumexp(0)

    return (log_sum(y, y) + log_sum(y_hat, y_hat) - 2 * log_sum(y_hat, y)).to(precise)


def cs_qmi(
    x: Samples,
    t: Samples,
    *,
    bandwidth_x: float | Float[Tensor, ""] = 1.0,
    bandwidth_t: float | Float[Tensor, ""] = 1.0,
    normalised: bool = False,
) -> Float[Tensor, ""]:
    r"""Cauchy-Schwarz quadratic mutual information: the divergence of a joint density from the product of its marginals.

    With K and Q the kernels of x and of t,

    .. math:: I(x; t) = \log \operatorname{mean}(K Q) + \log (\operatorname{mean} K \operatorname{mean} Q)
        - 2 \log \operatorname{mean}_i (\operatorname{mean}_j K_{ij} \operatorname{mean}_j Q_{ij}) \ge 0

    0 where t is constant; independent samples come near it as n grows. It is no Shannon information: it depends on the bandwidths.

    Args:
        x: `(n, d)` or `(n,)`.
        t: its representation, `(n, k)` or `(n,)`.
        bandwidth_x, bandwidth_t: of the two kernels. (The authors: 1 on standardised data.)
        normalised: whether to divide by :math:`\sqrt{I(x; x) I(t; t)}`, as the authors train; 0 where that is 0.

    Returns:
        The information in nats, or the ratio.

    Raises:
        TypeError, ValueError: as `cs_divergence`, and unequal numbers of samples.

    Source:
        Principe 2010, "Information theoretic learning"; Yu et al. 2024, arXiv:2404.17951, proposition 2.

    Example:
        >>> import torch
        >>> from lossmith.divergences import cs_qmi
        >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> cs_qmi(x, x), cs_qmi(x, torch.zeros(4)), cs_qmi(x, x, normalised=True)
        (tensor(0.3594), tensor(0.), tensor(1.))
    """
    (x, t), precise = _paired("cs_qmi", x=x, t=t)
    for argument, bandwidth in (("bandwidth_x", bandwidth_x), ("bandwidth_t", bandwidth_t)):
        _check_bandwidth("cs_qmi", argument, bandwidth)
    log_k, log_q = _log_kernel(x, x, bandwidth_x), _log_kernel(t, t, bandwidth_t)
    information = _information(log_k, log_q)
    if not normalised:
        return information.to(precise)
    squared = _information(log_k, log_k) * _information(log_q, log_q)
    dependent = squared > 0
    return torch.where(dependent, information / torch.where(dependent, squared, 1).sqrt(), 0).to(precise)


def cs_information_bottleneck(
    x: Samples,
    y: Samples,
    y_hat: Samples,
    t: Samples,
    *,
    beta: float | Float[Tensor, ""] = 0.01,
    bandwidth: float | Float[Tensor, ""] = 1.0,
    form: Form = "paper",
) -> Float[Tensor, ""]:
    r"""The Cauchy-Schwarz information bottleneck for regression: predict y, and keep little of x in the representation t.

    .. math:: D_{CS}(p(y | x); q(\hat y | x)) + \beta\, \frac{I_{CS}(x; t)}{\sqrt{I_{CS}(x; x) I_{CS}(t; t)}}

    `conditional_cs_divergence` plus beta times the normalised `cs_qmi`, as the authors train it. Their code takes the first logarithms
    to base 2: its loss at beta is 1 / log 2 times ours at beta log 2, with ``form="code"``.

    Args:
        x: inputs of the batch, `(n, d)` or `(n,)`, standardised.
        y: targets, `(n, k)` or `(n,)`.
        y_hat: predictions, of y's shape.
        t: the representation, `(n, m)` or `(n,)`: its mean, or a sample of it.
        beta: the price of information, 0 or more. (The authors: from 1e-4 to 1, and 0.01 in their code.)
        bandwidth: of all kernels.
        form: as for `conditional_cs_divergence`.

    Returns:
        The loss of the batch. It is a function of the whole batch, and does not split into micro-batches.

    Raises:
        TypeError, ValueError: as `cs_divergence`; beta is negative.

    Source:
        Yu et al. 2024, "Cauchy-Schwarz divergence information bottleneck for regression", arXiv:2404.17951.

    Example:
        >>> import torch
        >>> from lossmith.divergences import cs_information_bottleneck
        >>> x = torch.linspace(-1, 1, 8)
        >>> t = torch.tanh(x).requires_grad_()
        >>> cs_information_bottleneck(x, 2 * x, 1.5 * t, t, beta=0.1).backward()
        >>> t.grad.isfinite().all()
        tensor(True)
    """
    if not isinstance(beta, Tensor) and not beta >= 0:
        raise ValueError(f"cs_information_bottleneck: beta must be a number >= 0; got {describe(beta)}")
    prediction = conditional_cs_divergence(x, y, y_hat, bandwidth_x=bandwidth, bandwidth_y=bandwidth, form=form)
    return prediction + beta * cs_qmi(x, t, bandwidth_x=bandwidth, bandwidth_t=bandwidth, normalised=True)


def _log_kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], bandwidth: float | Float[Tensor, ""]) -> Float[Tensor, "n m"]:
    """The Gaussian kernel's logarithm. The square is expanded around the mean of x, since all differences at once would not fit."""
    centre = x.mean(0)
    x, y = (x - centre) / bandwidth, (y - centre) / bandwidth
    return x @ y.mT - 0.5 * x.square().sum(-1, keepdim=True) - 0.5 * y.square().sum(-1)


def _log_mean(log_k: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    return log_k.flatten().logsumexp(0) - math.log(log_k.numel())


def _information(log_k: Float[Tensor, "n n"], log_q: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    n = log_k.shape[0]
    crossed = (log_k.logsumexp(-1) + log_q.logsumexp(-1)).logsumexp(0) - 3 * math.log(n)
    return _log_mean(log_k + log_q) + _log_mean(log_k) + _log_mean(log_q) - 2 * crossed


def _samples(function: str, **given: Samples) -> tuple[list[Float[Tensor, "_ _"]], torch.dtype]:
    """Each as rows of float64 (float32 on Apple's GPUs, which have no other), and the precision of the result."""
    for argument, x in given.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim not in (1, 2) or x.shape[0] == 0:
            raise TypeError(f"{function}: {argument} must be a floating-point tensor of samples, (n, d) or (n,); got {describe(x)}")
    precise = torch.float64 if any(x.dtype == torch.float64 for x in given.values()) else torch.float32
    rows = [x.unsqueeze(-1) if x.ndim == 1 else x for x in given.values()]
    return [x.to(torch.float32 if x.device.type == "mps" else torch.float64) for x in rows], precise


def _paired(function: str, **given: Samples) -> tuple[list[Float[Tensor, "_ _"]], torch.dtype]:
    rows, precise = _samples(function, **given)
    if len({x.shape[0] for x in rows}) > 1:
        sizes = ", ".join(f"{argument} of {x.shape[0]}" for argument, x in zip(given, rows, strict=True))
        raise ValueError(f"{function}: all must have one row a sample, as many as each other; got {sizes}")
    return rows, precise


def _check_bandwidth(function: str, argument: str, bandwidth: float | Float[Tensor, ""]) -> None:
    if not isinstance(bandwidth, Tensor) and not 0 < bandwidth < math.inf:
        raise ValueError(f"{function}: {argument} must be a positive number; got {describe(bandwidth)}")
