r"""Lower bounds of f-divergences from samples and a critic: Nguyen-Wainwright-Jordan's, f-GAN's, and the tightest over shifts.

For every function T of the samples,

.. math:: D_f(P \| Q) \ge E_P T - E_Q f^*(T) \qquad\text{with equality at}\qquad T = f'(dP/dQ),

and since adding a constant to T may raise the right side,

.. math:: D_f(P \| Q) \ge E_P T - \min_c \bigl(E_Q f^*(T + c) - c\bigr) \ge E_P T - E_Q f^*(T).

==========================  ==========================================  ===================================================
bound                       call                                        known as
==========================  ==========================================  ===================================================
of KL, T                    ``variational_bound(t_p, t_q, "kl")``       NWJ (with T = 1 + critic: MINE-f, f-GAN KL)
of KL, T up to a shift      ``tight_variational_bound(..., "kl")``      Donsker & Varadhan; MINE, without its bias correction
of JS, a log ratio          ``..., "gan", log_ratio=True``              the GAN discriminator's objective, plus 2 log 2
==========================  ==========================================  ===================================================
"""

import torch

from lossmith._checks import describe
from lossmith._typing import Float, Tensor
from lossmith.divergences.tilting import penalised
from lossmith.estimate import Estimate, Kind
from lossmith.generators import FGenerator
from lossmith.generators.registry import named

_SAMPLES = "independent samples from p and from q"


def variational_bound(
    t_p: Float[Tensor, "n *batch"],
    t_q: Float[Tensor, "m *batch"],
    generator: FGenerator | str,
    *,
    log_ratio: bool = False,
    weights_p: Float[Tensor, "n *batch"] | Float[Tensor, " n"] | None = None,
    weights_q: Float[Tensor, "m *batch"] | Float[Tensor, " m"] | None = None,
) -> Estimate:
    r"""The lower bound that a critic T gives of D_f(P || Q), from its values at samples of both.

    .. math:: \frac1n \sum_i T(x_i) - \frac1m \sum_j f^*(T(y_j)), \qquad x_i \sim P,\ y_j \sim Q

    An unbiased estimate of the bound, whatever T is, as long as T was not fitted to these samples. Maximise its value over the critic; a
    generator of samples y minimises it. At the best critic, `lossmith.generators.density_ratio` of T is the ratio of P to Q.

    T must lie in the domain of f*, which is bounded above for most divergences; beyond it the bound is -inf. Two ways to keep it there:
    ``output_activation`` of a network's output (f-GAN), or ``log_ratio=True``, where the critic's value r stands for
    :math:`T = f'(e^r)`. Then :math:`f^*(T) = -g'(e^{-r})` with g the reverse of f, and neither saturates: with ``"gan"`` that is the
    binary cross-entropy of a discriminator with logit r.

    In mutual information, P is the joint distribution and Q the product: with ``"kl"`` this is NWJ, often written for T - 1.

    Args:
        t_p: the critic at samples of P, `(n, *batch)`.
        t_q: the critic at samples of Q, `(m, *batch)`; n and m may differ.
        generator: an `FGenerator` or the name of one.
        log_ratio: whether the critic's values are log ratios r instead of T.
        weights_p, weights_q: importance weights of the samples, not negative; they need not sum to 1.

    Returns:
        An `Estimate` of kind "lower bound", in nats, with gradients in its value; its `n` and `effective_n` are of the smaller sample.

    Raises:
        ValueError, TypeError: the values are no floating-point tensors, have no samples, or different batches.

    Source:
        Nguyen, Wainwright & Jordan 2010, arXiv:0809.0853, lemma 1; Nowozin, Cseke & Tomioka 2016, "f-GAN", arXiv:1606.00709, equation 4.

    Example:
        An f-GAN's two losses. The critic ascends the bound, and so its loss is minus the bound; the generator of the samples y descends
        it, or, as Goodfellow et al. advise against vanishing gradients, ascends the critic's value at them:

        >>> import torch
        >>> from lossmith.divergences import variational_bound
        >>> from lossmith.generators import output_activation
        >>> v_x, v_y = torch.tensor([2.0, 1.0, -0.5]), torch.tensor([-1.0, 0.5, -2.0])  # a network at data x and at generated y
        >>> t_x, t_y = output_activation(v_x, "squared_hellinger"), output_activation(v_y, "squared_hellinger")
        >>> bound = variational_bound(t_x, t_y, "squared_hellinger")
        >>> critic_loss, generator_loss = -bound.value, bound.value
        >>> generator_loss_without_saturation = -t_y.mean()
        >>> bound.value
        tensor(0.5654)
        >>> discriminator = variational_bound(v_x, v_y, "gan", log_ratio=True)  # v is the discriminator's logit
        >>> cross_entropies = torch.nn.functional.softplus(-v_x).mean() + torch.nn.functional.softplus(v_y).mean()
        >>> torch.isclose(discriminator.value, 2 * torch.log(torch.tensor(2.0)) - cross_entropies)
        tensor(True)
    """
    g = named("variational_bound", generator)
    t_p, t_q = _critic("variational_bound", t_p, t_q, weights_p, weights_q)
    under_p, under_q = (g.df_log(t_p), -g.reverse().df_log(-t_q)) if log_ratio else (t_p, g.conjugate(t_q))
    of_p = Estimate.of_mean(under_p, weights_p, assumption=_SAMPLES)
    of_q = Estimate.of_mean(under_q, weights_q, assumption=_SAMPLES)
    nothing = of_p.value.isneginf() | of_q.value.isposinf()  # what is infinite on both sides bounds nothing
    return _difference(of_p, of_q, torch.where(nothing, -torch.inf, of_p.value - of_q.value), "lower bound")


def tight_variational_bound(
    t_p: Float[Tensor, "n *batch"],
    t_q: Float[Tensor, "m *batch"],
    generator: FGenerator | str,
    *,
    weights_p: Float[Tensor, "n *batch"] | Float[Tensor, " n"] | None = None,
    weights_q: Float[Tensor, "m *batch"] | Float[Tensor, " m"] | None = None,
) -> Estimate:
    r"""The tightest bound that a critic known up to a constant gives of D_f(P || Q).

    .. math:: E_P T - \min_c \bigl(E_Q f^*(T + c) - c\bigr) = E_P T - \max_{Q'} \bigl(E_{Q'} T - D_f(Q' \| Q)\bigr)

    For ``"kl"`` it is Donsker & Varadhan's, :math:`E_P T - \log E_Q e^T`. Never below `variational_bound` of any shift of T, and in
    expectation a lower bound too; but from samples the minimum over c is too small on average, so that the value is neither an unbiased
    estimate nor a bound in expectation: its kind is "estimate". Any T will do, there is no domain to keep to.

    Args:
        t_p, t_q, weights_p, weights_q: as for `variational_bound`.
        generator: an `FGenerator` or the name of one.

    Returns:
        An `Estimate` of kind "estimate", in nats, with gradients in its value. Its standard error is that at the best c held fixed, right
        to first order in the sample size.

    Raises:
        ValueError, TypeError: as `variational_bound`.

    Source:
        Donsker & Varadhan 1983; Ruderman, Reid, Garcia-Garcia & Petterson 2012, "Tighter variational representations of f-divergences via
        restriction to probability measures", arXiv:1206.4664.

    Example:
        >>> import torch
        >>> from lossmith.divergences import tight_variational_bound
        >>> t_p, t_q = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([-1.0, 0.0, 0.5])
        >>> tight_variational_bound(t_p, t_q, "kl").value - (t_p.mean() - t_q.exp().mean().log())
        tensor(0.)
    """
    name = "tight_variational_bound"
    g = named(name, generator)
    t_p, t_q = _critic(name, t_p, t_q, weights_p, weights_q)
    values = t_q.movedim(0, -1)
    weights = torch.ones_like(values) if weights_q is None else _along_last(weights_q, values)
    share = weights / weights.sum(-1, keepdim=True)
    largest = penalised(values, share, g, values.new_ones(values.shape[:-1]))
    u = (largest.q / torch.where(share > 0, share, 1)).detach().movedim(-1, 0)
    conjugate = torch.where(u > 0, u * (t_q + largest.shift) - g.f(u), -g.at_zero)  # f*(T + c) at its maximiser u
    of_p = Estimate.of_mean(t_p, weights_p, assumption=_SAMPLES)
    of_q = Estimate.of_mean(conjugate - largest.shift, weights_q, assumption=_SAMPLES)
    return _difference(of_p, of_q, of_p.value - largest.value, "estimate")


def _critic(function: str, t_p: Tensor, t_q: Tensor, weights_p: Tensor | None, weights_q: Tensor | None) -> tuple[Tensor, Tensor]:
    """The critic's values in float32 at least, beside weights that fit."""
    for argument, t in (("t_p", t_p), ("t_q", t_q)):
        if not isinstance(t, Tensor) or not t.is_floating_point() or t.ndim == 0:
            raise TypeError(f"{function}: {argument} must be a floating-point tensor of shape (n, *batch); got {describe(t)}")
        if t.shape[0] == 0:
            raise ValueError(f"{function}: {argument} must have at least one sample; got {describe(t)}")
    if t_p.shape[1:] != t_q.shape[1:]:
        raise ValueError(f"{function}: t_p and t_q must have the same batch after their samples; got {describe(t_p)} and {describe(t_q)}")
    for argument, w, t in (("weights_p", weights_p, t_p), ("weights_q", weights_q, t_q)):
        if w is not None and (not isinstance(w, Tensor) or w.shape not in (t.shape, t.shape[:1])):
            raise ValueError(f"{function}: {argument} must have shape {tuple(t.shape)} or ({len(t)},); got {describe(w)}")
    p, q = (t if t.dtype in (torch.float32, torch.float64) else t.float() for t in (t_p, t_q))
    return p, q


def _along_last(weights: Tensor, values: Tensor) -> Tensor:
    """Weights of the samples in the first axis, or of shape (m,), beside values with the samples in the last."""
    return (weights.expand_as(values) if weights.ndim == 1 else weights.movedim(0, -1)).to(values.dtype)


def _difference(of_p: Estimate, of_q: Estimate, value: Tensor, kind: Kind) -> Estimate:
    """The difference of the means of two independent samples."""
    error = None
    if of_p.standard_error is not None and of_q.standard_error is not None:
        error = (of_p.standard_error.square() + of_q.standard_error.square()).sqrt()
        error = torch.where(value.isinf(), torch.inf, error)
    sizes = [torch.as_tensor(side.effective_n, dtype=value.dtype, device=value.device).expand_as(value) for side in (of_p, of_q)]
    effective = torch.minimum(*sizes)
    return Estimate(value, n=min(of_p.n, of_q.n), assumption=_SAMPLES, kind=kind, effective_n=effective, standard_error=error)
