"""The f-divergence of two distributions, however they are given."""

import torch
from torch import distributions as D

from lossmith._checks import describe, holds
from lossmith._typing import Float, Tensor
from lossmith.divergences.categorical import of_rows
from lossmith.divergences.closed import of_distributions
from lossmith.generators import FGenerator, get


def divergence(
    p: Float[Tensor, "*#rows c"] | D.Distribution,
    q: Float[Tensor, "*#rows c"] | D.Distribution,
    generator: FGenerator | str,
    *,
    log: bool = False,
) -> Float[Tensor, "*rows"]:
    r"""The f-divergence of two distributions, in the order of mathematics: D_f(p || q).

    .. math:: D_f(p \| q) = \int q\, f(p / q) + f'(\infty)\, p(q = 0), \qquad
        \text{of rows: } \sum_{q_k > 0} q_k f(p_k / q_k) + f'(\infty) \sum_{q_k = 0} p_k, \quad 0 f(0/0) = 0

    In nats. Where one distribution has no mass the value is f(0) or f'(inf) times what the other has there: +inf for the
    Kullback-Leibler divergences on their wrong side, finite for the bounded ones, never NaN.

    *Rows of probabilities*, or of their logarithms. Each term is taken in whichever of p/q and q/p is at most 1, so that no ratio
    overflows; with logarithms, Kullback-Leibler divergences of probabilities far below the smallest float are finite and right.

    *Distributions of torch*, in closed form, with batches of them:

    ========================================================  ===================================================================
    both                                                      any generator of these
    ========================================================  ===================================================================
    ``Categorical``, ``OneHotCategorical``, ``Bernoulli``,    all
    ``Binomial``
    ``Normal``, ``MultivariateNormal`` and its kin,           those with `alphas`: both KL, Jeffreys, Hellinger, chi-squared,
    ``Gamma``, ``Beta``, ``Dirichlet``, ``Exponential``,      alpha and their sums; +inf where the integral diverges, as
    ``Chi2``, ``Poisson``, ``Geometric``                      Pearson's does between Gaussians unless 2 S_q - S_p is positive
                                                              definite
    two normals, or Gaussians of one covariance               also total variation
    ``Independent`` of the above                              those with `alphas`
    equal bijections of the above (``LogNormal`` ...)         the same
    any other pair that torch knows the KL of                 both KL and Jeffreys
    ========================================================  ===================================================================

    Everything else, such as Jensen-Shannon between Gaussians, has no closed form: `estimate_divergence` finds it from samples. Whether
    two covariances in several dimensions are equal, and the largest count of binomials, are read from the values: on a GPU that waits.

    For KL, ``torch.distributions.kl_divergence(p, q)`` has the same order as ours. ``F.kl_div`` takes the arguments in the other order
    and the second in logarithms: ``divergence(p, q, "kl")`` is ``F.kl_div(q.log(), p, reduction="none").sum(-1)``, and
    ``divergence(log_p, log_q, "kl", log=True)`` is ``F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)``.

    Under ``torch.compile(fullgraph=True)`` a generator that is no registered instance must have been asked for its ``reverse()``
    once before: a graph can use a generator but not make one.

    Args:
        p: probabilities `(*rows, c)`, summing to 1 over the last axis; or their logarithms with ``log=True``; or a distribution.
        q: the same; rows and batches of p and q broadcast against each other.
        generator: an `FGenerator`, or the name of one: "kl", "jensen_shannon", "total_variation" ...
        log: whether rows are log-probabilities; not for distributions.

    Returns:
        One divergence a row, `(*rows)`, or one a distribution of the batch, in float32 at least, with gradients in both arguments.

    Raises:
        ValueError, TypeError: p or q is not a floating-point tensor or a distribution, or their last axes or events differ; under
            ``lossmith.validate(True)``, a row does not sum to 1.
        NotImplementedError: there is no closed form.

    Source:
        The integrals of Gaussians: Gil, Alajaji & Linder 2013, "Renyi divergence measures for commonly used univariate continuous
        distributions"; of exponential families: Nielsen & Nock 2011, arXiv:1105.3259.

    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> from lossmith.divergences import divergence
        >>> p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
        >>> divergence(p, q, "kl")
        tensor(0.3466)
        >>> divergence(q, p, "kl"), divergence(q, p, "jensen_shannon")
        (tensor(inf), tensor(0.1079))
        >>> divergence(Normal(0.0, 1.0), Normal(1.0, 2.0), "kl"), divergence(Normal(0.0, 1.0), Normal(1.0, 2.0), "total_variation")
        (tensor(0.4431), tensor(0.3901))
    """
    g = get(generator) if isinstance(generator, str) else generator
    if not isinstance(g, FGenerator):
        raise TypeError(f"divergence: generator must be an FGenerator or the name of one; got {describe(generator)}")
    if isinstance(p, D.Distribution) and isinstance(q, D.Distribution):
        if log:
            raise ValueError("divergence: log is for rows of log-probabilities; distributions have no such form")
        return of_distributions(p, q, g)
    p, q = rows_of_tensors("divergence", p, q, log)
    return of_rows(p, q, g, log=log)


def rows_of_tensors(
    function: str, p: Float[Tensor, "*#rows c"] | D.Distribution, q: Float[Tensor, "*#rows c"] | D.Distribution, log: bool
) -> tuple[Float[Tensor, "*#rows c"], Float[Tensor, "*#rows c"]]:
    """Rows as they are computed with, or an error that names what is wrong with them."""
    p, q = _distribution(function, "p", p, log), _distribution(function, "q", q, log)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"{function}: p and q must have the same last axis; got {describe(p)} and {describe(q)}")
    return p, q


def _distribution(function: str, argument: str, x: Float[Tensor, "*rows c"] | D.Distribution, log: bool) -> Float[Tensor, "*rows c"]:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
        raise TypeError(
            f"{function}: {argument} must be a floating-point tensor of shape (*rows, c), or both p and q distributions; got {describe(x)}"
        )
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    total = x.exp().sum(-1) if log else x.sum(-1)
    if not holds(lambda: ((total - 1).abs() <= 1e-3).all(), x):
        wrong = total[(total - 1).abs() > 1e-3][0].item()
        kind = "log-probabilities" if log else "probabilities"
        raise ValueError(f"{function}: {argument} must be {kind} that sum to 1 over the last axis; got a row that sums to {wrong:.4g}")
    return x
