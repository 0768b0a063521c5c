"""Divergences that have no closed form, estimated from samples."""

import contextlib
import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import distributions as D

from lossmith._checks import describe
from lossmith._typing import Float, Tensor
from lossmith.divergences.categorical import terms_of_logs
from lossmith.estimate import Estimate
from lossmith.generators import FGenerator, get

Source = Literal["mixture", "p", "q"]


def estimate_divergence(
    p: D.Distribution,
    q: D.Distribution,
    generator: FGenerator | str,
    *,
    samples: int = 10_000,
    drawn_from: Source = "mixture",
    seed: int | None = None,
) -> Estimate:
    r"""An unbiased estimate of the f-divergence D_f(p || q) of any two distributions with densities, from samples.

    .. math:: D_f(p \| q) = E_m\Big[\frac qm f\Big(\frac pq\Big)\Big], \qquad m = \tfrac12 p + \tfrac12 q, \text{ or } p, \text{ or } q

    **From the mixture** (the default) half of the samples come from p and half from q. Each term is at least 0, since the generator is
    centred first, and at most 2 (f(0) + f'(inf)) where that is finite; for the others it grows only as f does. What only one of the two
    supports counts as it should. The standard error is that of a stratified sample.

    **From p or q alone** terms may have heavy tails or no variance (the weights p/q have none when q's tails are lighter), and what the
    other one alone supports is never seen: the estimate then misses it without a sign. ``drawn_from="p"`` for KL is the mean of the log
    ratio.

    The value has gradients in the parameters of p and q: through the samples where ``rsample`` exists, and through the score elsewhere (a
    factor that is 1 and whose derivative is that of the sampling density), so they are unbiased too, as long as no support moves with the
    parameters. Densities are torch's own ``log_prob``, which makes no difference between a probability of 0 and one of 1e-7 when a
    ``Categorical`` is given by ``probs``.

    Args:
        p: a distribution with ``sample`` and ``log_prob``; batches broadcast.
        q: the same.
        generator: an `FGenerator`, or the name of one.
        samples: how many are drawn in all, for each of a batch.
        drawn_from: "mixture", "p" or "q".
        seed: makes the estimate reproducible: torch's generators are set to it and put back afterwards, since distributions take no
            generator of their own. None draws from torch's generators as they are.

    Returns:
        An `Estimate` in nats. Its effective n is that of the importance weights, p/m and q/m, of which it takes the worse.

    Raises:
        ValueError: fewer than 2 samples (4 from the mixture), different event shapes, or one is discrete and the other is not.

    Source:
        Owen & Zhou 2000, "Safe and effective importance sampling", for the mixture; Foerster et al. 2018, "DiCE", arXiv:1802.05098, for
        the factor.

    Example:
        >>> from torch.distributions import Laplace, Normal
        >>> from lossmith.divergences import estimate_divergence
        >>> estimate = estimate_divergence(Normal(0.0, 1.0), Laplace(0.0, 1.0), "jensen_shannon", samples=100_000, seed=0)
        >>> low, high = estimate.interval()
        >>> bool(low < 0.0219 < high)
        True
    """
    g = _generator("estimate_divergence", generator)
    for argument, distribution in (("p", p), ("q", q)):
        if not isinstance(distribution, D.Distribution):
            raise TypeError(f"estimate_divergence: {argument} must be a distribution of torch; got {describe(distribution)}")
    _check_source("estimate_divergence", drawn_from)
    fewest = 4 if drawn_from == "mixture" else 2
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < fewest:
        raise ValueError(f"estimate_divergence: samples must be an integer >= {fewest}; got {describe(samples)}")
    if p.event_shape != q.event_shape:
        raise ValueError(f"estimate_divergence: p and q must have the same event shape; got {tuple(p.event_shape)}, {tuple(q.event_shape)}")
    if _support(p).is_discrete != _support(q).is_discrete:
        raise ValueError("estimate_divergence: p and q must both be discrete, or neither of them")
    batch = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    p, q = (x if x.batch_shape == batch else x.expand(batch) for x in (p, q))
    if drawn_from == "mixture":
        g = g.centred()
    parts: list[tuple[Tensor, Tensor, Tensor | float]] = []
    with _seeded(seed):
        for source, other, n in {
            "mixture": [(p, q, samples - samples // 2), (q, p, samples // 2)],
            "p": [(p, q, samples)],
            "q": [(q, p, samples)],
        }[drawn_from]:
            log_source, log_other, one = _draw(source, other, n)
            log_p, log_q = (log_source, log_other) if source is p else (log_other, log_source)
            parts.append((log_p, log_q, one))
    terms = [one * terms_of_logs(*_over(log_p, log_q, drawn_from), g) / len(parts) for log_p, log_q, one in parts]
    log_p, log_q = torch.cat([part[0].detach() for part in parts]), torch.cat([part[1].detach() for part in parts])
    where = "p and q, half from each" if drawn_from == "mixture" else drawn_from
    return Estimate.of_means(*terms, assumption=f"independent samples from {where}", effective_n=_worth(log_p, log_q, drawn_from))


def estimate_divergence_at(
    log_p: Float[Tensor, "n *batch"], log_q: Float[Tensor, "n *batch"], generator: FGenerator | str, *, drawn_from: Source
) -> Estimate:
    r"""An unbiased estimate of D_f(p || q) from the two log-densities at given samples.

    The terms are :math:`\frac qm f(\frac pq)`, with m the density that the samples were drawn from. A centred generator adds a control
    variate without bias, wherever neither p nor q has mass that the samples cannot show: with samples from p,
    ``estimate_divergence_at(log_p, log_q, "kl", drawn_from="p")`` is the mean of the log ratio, negative terms and all, and
    ``kl.centred()`` in its place is the mean of :math:`\log u + 1/u - 1 \ge 0`, u = p/q. It helps where p and q are close, and ruins the
    estimate where 1/u has no variance, as between Gaussians when q is the wider by a factor of 1.4 or more.

    Args:
        log_p: log-densities or log-probabilities at the samples, `(n, *batch)`; -inf where there is none.
        log_q: the same.
        generator: an `FGenerator`, or the name of one.
        drawn_from: where the samples come from: "p", "q", or the "mixture" of equal parts.

    Returns:
        An `Estimate` in nats. Gradients are those of the terms alone: what the sampling density contributes is the caller's to add.

    Raises:
        TypeError, ValueError: log_p and log_q are not floating-point tensors of one shape.

    Source:
        Schulman 2020, "Approximating KL divergence", for the control variate.

    Example:
        >>> import torch
        >>> from lossmith.divergences import estimate_divergence_at
        >>> from lossmith.generators import kl
        >>> log_p, log_q = torch.tensor([0.4, 0.6]).log(), torch.tensor([0.5, 0.5]).log()
        >>> k = torch.tensor([0, 1, 1, 0, 1]).repeat(20)  # as often as p says
        >>> estimate_divergence_at(log_p[k], log_q[k], kl.centred(), drawn_from="p").value
        tensor(0.0201)
    """
    g = _generator("estimate_divergence_at", generator)
    _check_source("estimate_divergence_at", drawn_from)
    for argument, x in (("log_p", log_p), ("log_q", log_q)):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
            raise TypeError(f"estimate_divergence_at: {argument} must be a floating-point tensor of shape (n, *batch); got {describe(x)}")
    if log_p.shape != log_q.shape:
        raise ValueError(f"estimate_divergence_at: log_p and log_q must have the same shape; got {describe(log_p)} and {describe(log_q)}")
    log_p, log_q = (x if x.dtype in (torch.float32, torch.float64) else x.float() for x in (log_p, log_q))
    terms = terms_of_logs(*_over(log_p, log_q, drawn_from), g)
    where = "the mixture of p and q" if drawn_from == "mixture" else drawn_from
    worth = _worth(log_p.detach(), log_q.detach(), drawn_from)
    return Estimate.of_mean(terms, assumption=f"independent samples from {where}", effective_n=worth)


def _generator(function: str, generator: FGenerator | str) -> FGenerator:
    g = get(generator) if isinstance(generator, str) else generator
    if not isinstance(g, FGenerator):
        raise TypeError(f"{function}: generator must be an FGenerator or the name of one; got {describe(generator)}")
    return g


def _check_source(function: str, drawn_from: str) -> None:
    if drawn_from not in get_args(Source):
        raise ValueError(f"{function}: drawn_from must be one of {', '.join(map(repr, get_args(Source)))}; got {describe(drawn_from)}")


def _support(p: D.Distribution) -> D.constraints.Constraint:
    support = p.support
    if support is None:
        raise ValueError(f"estimate_divergence: {type(p).__name__} does not say what its support is")
    return support


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """torch's generators set to a seed, and afterwards as they were; those of CUDA too, if it is in use."""
    if seed is None:
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.random.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def _draw(
    source: D.Distribution, other: D.Distribution, n: int
) -> tuple[Float[Tensor, "n *batch"], Float[Tensor, "n *batch"], Float[Tensor, "n *batch"] | float]:
    """The log-densities of two distributions at n samples of the first, and a 1 that carries the samples' dependence on parameters.

    Where the other one has no density it is asked at a sample of its own, for torch refuses points off the support.
    """
    x = source.rsample((n,)) if source.has_rsample else source.sample((n,))
    inside = _support(other).check(x)
    beside = inside.reshape(inside.shape + (1,) * (x.ndim - inside.ndim))
    log_source, log_other = source.log_prob(x), other.log_prob(torch.where(beside, x, other.sample((n,))))
    one = 1.0 if source.has_rsample else (log_source - log_source.detach()).exp()
    return log_source, torch.where(inside, log_other, -torch.inf), one


def _over(
    log_p: Float[Tensor, "n *batch"], log_q: Float[Tensor, "n *batch"], drawn_from: Source
) -> tuple[Float[Tensor, "n *batch"], Float[Tensor, "n *batch"]]:
    """log p/m and log q/m, m being the density of the samples."""
    log_m = {"p": lambda: log_p, "q": lambda: log_q, "mixture": lambda: torch.logaddexp(log_p, log_q) - math.log(2)}[drawn_from]()
    return log_p - log_m, log_q - log_m


def _worth(log_p: Float[Tensor, "n *batch"], log_q: Float[Tensor, "n *batch"], drawn_from: Source) -> Float[Tensor, "*batch"]:
    """How many samples of p, and of q, the weighted ones are as good as: the smaller number."""
    sizes = [(2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp() for w in _over(log_p, log_q, drawn_from)]
    return torch.minimum(*sizes).nan_to_num(0.0)  # all weights 0: as good as no sample
