"""Estimates from samples: unbiased, with honest errors, reproducible, and with unbiased gradients."""

import math

import pytest
import torch
from torch import distributions as D

from lossmith.divergences import divergence, estimate_divergence, estimate_divergence_at
from lossmith.generators import all_generators, kl

f64 = torch.float64


def t(*x):
    return torch.tensor(x if len(x) > 1 else x[0], dtype=f64)


P, Q = D.Normal(t(0.0), t(1.0)), D.Normal(t(1.0), t(2.0))
P2 = D.MultivariateNormal(t(0.0, 0.0), t([1.0, 0.5], [0.5, 2.0]))
Q2 = D.MultivariateNormal(t(1.0, -1.0), t([2.0, -0.3], [-0.3, 1.0]))
GENERATORS = all_generators()


def z(estimate, wanted):
    """How many standard errors the estimate is off."""
    return abs((estimate.value.item() - wanted) / estimate.standard_error.item())


@pytest.mark.parametrize(("pair", "wanted"), [((P, Q), 0.128174973054), ((P2, Q2), 0.208784178635)])
def test_jensen_shannon_of_gaussians(pair, wanted):
    """The number, the quadrature and the samples agree."""
    p, q = pair
    x = torch.linspace(-16, 16, 641, dtype=f64)
    points = x if p.event_shape == () else torch.cartesian_prod(x, x)
    log_p, log_q = p.log_prob(points), q.log_prob(points)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    terms = 0.5 * log_p.exp() * (log_p - log_m) + 0.5 * log_q.exp() * (log_q - log_m)
    quadrature = terms.sum().item() * (x[1] - x[0]).item() ** (1 if p.event_shape == () else 2)
    assert quadrature == pytest.approx(wanted, rel=1e-10)
    for drawn_from in ("mixture", "p", "q"):
        estimate = estimate_divergence(p, q, "jensen_shannon", samples=20_000, drawn_from=drawn_from, seed=0)
        assert z(estimate, wanted) < 4.5
        assert estimate.standard_error.item() < 0.02 * wanted or drawn_from != "mixture"
        assert (estimate.n, estimate.kind) == (20_000, "estimate")


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_against_the_sum_over_outcomes(name):
    """Each side has an outcome of its own: from the mixture that counts; the estimate of an infinite one is infinite."""
    g = GENERATORS[name]
    p, q = (D.Categorical(logits=x.log()) for x in (t(0.5, 0.3, 0.2, 0.0), t(0.2, 0.5, 0.0, 0.3)))
    wanted = divergence(p, q, g).item()
    estimate = estimate_divergence(p, q, g, samples=4000, seed=1)
    assert estimate.value.item() == wanted if math.isinf(wanted) else z(estimate, wanted) < 4.5
    near = D.Categorical(t(0.3, 0.4, 0.1, 0.2))
    for drawn_from in ("mixture", "p", "q"):
        a, b = (near, D.Categorical(t(0.25, 0.25, 0.25, 0.25)))
        estimate = estimate_divergence(a, b, g, samples=4000, seed=2, drawn_from=drawn_from)
        assert z(estimate, divergence(a, b, g).item()) < 4.5


def test_the_interval_covers_as_often_as_it_says():
    """Over a batch of 2000 independent estimates; the share that covers is 0.95 within 5 standard errors."""
    p, q = D.Normal(torch.zeros(2000, dtype=f64), 1.0), D.Normal(torch.ones(2000, dtype=f64), 2.0)
    for drawn_from in ("mixture", "p"):
        low, high = estimate_divergence(p, q, kl, samples=400, seed=3, drawn_from=drawn_from).interval()
        share = ((low < 0.44314718056) & (0.44314718056 < high)).double().mean().item()
        assert abs(share - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 2000)


def test_the_mixture_is_the_better_source():
    """Never negative, finite where q's samples alone have no variance, and warned of where they have none."""
    wide, narrow = D.Normal(t(0.0), t(1.0)), D.Normal(t(0.0), t(0.5))
    mixed = estimate_divergence(wide, narrow, kl, samples=2000, seed=4)
    alone = estimate_divergence(wide, narrow, kl, samples=2000, seed=4, drawn_from="q")
    assert mixed.standard_error < 0.5 * alone.standard_error
    assert mixed.warning is None
    assert alone.warning is not None
    assert float(alone.effective_n) < 500 < 1000 <= float(mixed.effective_n) <= 2000
    close = [estimate_divergence(P, D.Normal(t(1e-6), t(1.0)), kl, samples=100, seed=s).value.item() for s in range(20)]
    assert min(close) >= 0


def test_different_supports():
    """A normal and an exponential distribution: the half line that only the normal has counts f'(inf) times 1/2, by quadrature."""
    p, q = D.Normal(t(0.0), t(1.0)), D.Exponential(t(1.0))
    x = torch.linspace(0, 40, 400_001, dtype=f64)[1:] - 5e-5  # the midpoint rule
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    overlap = (1e-4 * torch.minimum(log_p.exp(), log_q.exp())).sum().item()
    for a, b in ((p, q), (q, p)):
        estimate = estimate_divergence(a, b, "total_variation", samples=20_000, seed=5)
        assert z(estimate, 1 - overlap) < 4.5
    assert estimate_divergence(p, q, kl, samples=100, seed=6).value == math.inf
    assert estimate_divergence(q, p, kl, samples=100, seed=6).value.isfinite()
    assert "infinite" in repr(estimate_divergence(p, q, kl, samples=100, seed=6))


def test_mixtures_of_gaussians():
    """Which have no closed form and no gradient through their samples: KL by the midpoint rule, and its gradient in a mean."""
    x = torch.arange(-12, 12, 1e-3, dtype=f64)

    def pair(mean):
        weights = D.Categorical(t(0.3, 0.7))
        return D.MixtureSameFamily(weights, D.Normal(torch.stack([mean, t(2.0)]), t(0.5, 1.0))), D.Normal(t(0.5), t(2.0))

    mean = t(-1.0).requires_grad_()
    p, q = pair(mean)
    wanted = (1e-3 * p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))).sum()
    (slope,) = torch.autograd.grad(wanted, mean)
    assert z(estimate_divergence(p, q, kl, samples=4000, seed=0), wanted.item()) < 4.5
    got = torch.stack([torch.autograd.grad(estimate_divergence(*pair(mean), kl, samples=2000, seed=s).value, mean)[0] for s in range(30)])
    assert abs(got.mean() - slope) < 5 * got.std() / math.sqrt(30)


def test_a_seed_makes_it_reproducible_and_leaves_nothing_behind():
    before = torch.random.get_rng_state()
    first, again, other = (estimate_divergence(P, Q, kl, samples=100, seed=s).value for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == again != other
    torch.manual_seed(7)
    free = estimate_divergence(P, Q, kl, samples=100).value
    torch.manual_seed(7)
    assert estimate_divergence(P, Q, kl, samples=100).value == free
    assert not torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("drawn_from", ["mixture", "p", "q"])
def test_gradients_through_samples(drawn_from):
    """Within five standard errors of the closed form's, over 40 estimates."""
    parameters = [t(0.3), t(1.0), t(0.0), t(1.3)]

    def gradient(value_of):
        x = [parameter.clone().requires_grad_() for parameter in parameters]
        return torch.stack(torch.autograd.grad(value_of(D.Normal(x[0], x[1]), D.Normal(x[2], x[3])), x))

    wanted = gradient(lambda p, q: divergence(p, q, kl))
    got = torch.stack([
        gradient(lambda p, q, s=s: estimate_divergence(p, q, kl, samples=500, seed=s, drawn_from=drawn_from).value) for s in range(40)
    ])  # fmt: skip
    assert ((got.mean(0) - wanted).abs() < 5 * got.std(0) / math.sqrt(40)).all()
    assert (got.std(0) / math.sqrt(40) < 0.05).all()


@pytest.mark.parametrize("drawn_from", ["mixture", "p", "q"])
def test_gradients_through_the_score(drawn_from):
    """Of distributions whose samples have no gradient: against the sum over outcomes."""
    logits = [t(0.2, -0.3, 0.1), t(0.0, 0.4, -0.2)]

    def gradient(value_of):
        x = [z.clone().requires_grad_() for z in logits]
        return torch.stack(torch.autograd.grad(value_of(*(D.Categorical(logits=z) for z in x)), x))

    wanted = gradient(lambda p, q: divergence(p, q, "jeffreys"))
    got = torch.stack([
        gradient(lambda p, q, s=s: estimate_divergence(p, q, "jeffreys", samples=400, seed=s, drawn_from=drawn_from).value)
        for s in range(60)
    ])  # fmt: skip
    assert ((got.mean(0) - wanted).abs() < 5 * got.std(0) / math.sqrt(60) + 1e-12).all()
    assert (got.std(0) / math.sqrt(60) < 0.05).all()


def test_batches_and_events():
    p, q = D.Normal(torch.zeros(3, 1, dtype=f64), 1.0), D.Normal(torch.ones(4, dtype=f64), 2.0)
    estimate = estimate_divergence(p, q, kl, samples=2000, seed=8)
    assert estimate.value.shape == estimate.standard_error.shape == (3, 4)
    assert ((estimate.value - 0.44314718056).abs() < 4.5 * estimate.standard_error).all()
    together = [D.Independent(D.Normal(torch.full((5,), m, dtype=f64), s), 1) for m, s in ((0.0, 1.0), (1.0, 2.0))]
    assert z(estimate_divergence(*together, kl, samples=2000, seed=9), 5 * 0.44314718056) < 4.5
    one_hot = D.OneHotCategorical(t(0.5, 0.3, 0.2)), D.OneHotCategorical(t(0.2, 0.2, 0.6))
    assert z(estimate_divergence(*one_hot, kl, samples=2000, seed=10), 0.360062440636) < 4.5
    single = estimate_divergence(D.Normal(0.0, 1.0), D.Normal(1.0, 2.0), kl, samples=5, seed=0)  # an odd number in two parts
    assert (single.n, single.value.dtype) == (5, torch.float32)


def test_at_given_samples():
    """The two estimators of KL from the first's samples by their formulas, and every source against the closed form."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y = P.sample((4000,)), Q.sample((4000,))
    log_p, log_q = Q.log_prob(y), P.log_prob(y)  # of KL(Q||P): with q the wider one, p/q has a variance
    plain = estimate_divergence_at(log_p, log_q, kl, drawn_from="p")
    ratio = log_p - log_q
    assert plain.value.item() == pytest.approx(ratio.mean().item(), rel=1e-12)
    centred = estimate_divergence_at(log_p, log_q, kl.centred(), drawn_from="p")
    assert centred.value.item() == pytest.approx((ratio + torch.expm1(-ratio)).mean().item(), rel=1e-12)
    assert max(z(plain, 1.30685281944), z(centred, 1.30685281944)) < 4.5
    for estimate in (
        estimate_divergence_at(P.log_prob(x), Q.log_prob(x), kl, drawn_from="p"),
        estimate_divergence_at(P.log_prob(y), Q.log_prob(y), kl, drawn_from="q"),
    ):
        assert z(estimate, 0.44314718056) < 4.5
    both = torch.cat([x, y])
    mixed = estimate_divergence_at(P.log_prob(both), Q.log_prob(both), kl, drawn_from="mixture")
    assert z(mixed, 0.44314718056) < 4.5
    weights = (P.log_prob(y) - Q.log_prob(y)).exp()
    kish = (weights.sum() ** 2 / weights.square().sum()).item()
    assert float(estimate_divergence_at(P.log_prob(y), Q.log_prob(y), kl, drawn_from="q").effective_n) == pytest.approx(kish, rel=1e-10)


def test_given_log_densities_have_the_gradient_of_the_terms():
    log_p, log_q = (x.log_softmax(0).requires_grad_() for x in (t(0.1, 0.2, 0.5), t(0.3, 0.2, -0.5)))
    gradients = torch.autograd.grad(estimate_divergence_at(log_p, log_q, "jensen_shannon", drawn_from="mixture").value, (log_p, log_q))
    assert all(g.isfinite().all() for g in gradients)
    function = lambda a, b: estimate_divergence_at(a, b, "jensen_shannon", drawn_from="mixture").value  # noqa: E731
    assert torch.autograd.gradcheck(function, (log_p, log_q))
    off = torch.tensor([0.0, -math.inf], dtype=f64)
    assert estimate_divergence_at(off, torch.zeros(2, dtype=f64), kl, drawn_from="q").value.item() == 0
    unseen = estimate_divergence_at(torch.full((9,), -math.inf), torch.zeros(9), kl, drawn_from="q")
    assert float(unseen.effective_n) == 0
    assert "a few samples carry it: the 9 are as good as 0" in str(unseen.warning)
    assert estimate_divergence_at(torch.zeros(2, dtype=f64), off, kl, drawn_from="mixture").value.item() == math.inf


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"samples must be an integer >= 4; got int 3"):
        estimate_divergence(P, Q, kl, samples=3)
    with pytest.raises(ValueError, match="drawn_from must be one of 'mixture', 'p', 'q'; got str 'r'"):
        estimate_divergence(P, Q, kl, drawn_from="r")
    with pytest.raises(ValueError, match=r"same event shape; got \(\), \(2,\)"):
        estimate_divergence(P, P2, kl)
    with pytest.raises(ValueError, match="must both be discrete, or neither of them"):
        estimate_divergence(P, D.Poisson(t(1.0)), kl)
    with pytest.raises(TypeError, match=r"q must be a distribution of torch; got float 1\.0"):
        estimate_divergence(P, 1.0, kl)
    with pytest.raises(ValueError, match=r"same shape; got float64 \(3,\) and float64 \(2,\)"):
        estimate_divergence_at(t(1.0, 2.0, 3.0), t(1.0, 2.0), kl, drawn_from="p")
    with pytest.raises(KeyError, match="did you mean 'kl'"):
        estimate_divergence(P, Q, "kll")
    with pytest.raises(TypeError, match="generator must be an FGenerator or the name of one; got int 3"):
        estimate_divergence(P, Q, 3)
