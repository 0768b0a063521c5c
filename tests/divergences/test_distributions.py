"""Divergences of torch's discrete distributions and exponential families, against their rows, sums and quadrature."""

import math

import mpmath
import pytest
import torch
from torch import distributions as D

from lossmith.divergences import cauchy_schwarz, divergence, renyi
from lossmith.generators import all_generators, alpha_cichocki

f64 = torch.float64
GENERATORS = all_generators()
P, Q = torch.tensor([0.5, 0.3, 0.2], dtype=f64), torch.tensor([0.2, 0.2, 0.6], dtype=f64)


def t(*x):
    return torch.tensor(x if len(x) > 1 else x[0], dtype=f64)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (divergence(P, Q, "kl"), 0.360062440636),
        (divergence(Q, P, "kl"), 0.394816205204),
        (divergence(P, Q, "jensen_shannon"), 0.0905658499553),
        (divergence(P, Q, "squared_hellinger"), 2 * 0.0924130981911),
        (divergence(P, Q, "total_variation"), 0.4),
        (divergence(P, Q, "pearson_chi2"), 0.766666666667),
        (renyi(P, Q, 2.0), 0.56909453189),
        (renyi(P, Q, 0.5), 0.193931915717),
        (renyi(P, Q, math.inf), 0.916290731874),
        (cauchy_schwarz(P, Q), 0.378683386647),
    ],
)
def test_known_numbers(value, wanted):
    assert value.item() == pytest.approx(wanted, rel=1e-11)  # the numbers have twelve digits


@pytest.mark.parametrize("name", GENERATORS)
def test_every_way_to_write_outcomes(name):
    g = GENERATORS[name]
    wanted = divergence(P, Q, g)
    for kind in (D.Categorical, D.OneHotCategorical, D.OneHotCategoricalStraightThrough):
        for a in (kind(P), kind(logits=P.log() + 3.0)):
            for b in (kind(Q), kind(logits=Q.log())):
                torch.testing.assert_close(divergence(a, b, g), wanted, rtol=1e-12, atol=0)
    two_p, two_q = t(0.3, 0.7), t(0.6, 0.4)
    wanted = divergence(two_p, two_q, g)
    for a in (D.Bernoulli(two_p[1]), D.Bernoulli(logits=(two_p[1] / two_p[0]).log())):
        for b in (D.Bernoulli(two_q[1]), D.Bernoulli(logits=(two_q[1] / two_q[0]).log())):
            torch.testing.assert_close(divergence(a, b, g), wanted, rtol=1e-12, atol=0)
    row_p, row_q = (torch.tensor([math.comb(5, k) * x**k * (1 - x) ** (5 - k) for k in range(6)], dtype=f64) for x in (0.7, 0.4))
    for a in (D.Binomial(5, t(0.7)), D.Binomial(5, logits=t(0.7).logit())):
        torch.testing.assert_close(divergence(a, D.Binomial(5, t(0.4)), g), divergence(row_p, row_q, g), rtol=1e-11, atol=0)


def test_off_the_support():
    """torch clamps the logits that it derives from probabilities of 0; what was given is what counts."""
    certain, even = D.Categorical(t(1.0, 0.0)), D.Categorical(t(0.5, 0.5))
    assert certain.logits[1].isfinite()  # now both are known, and the given one still counts
    assert divergence(certain, even, "kl").item() == pytest.approx(math.log(2), rel=1e-15)
    assert divergence(even, certain, "kl").item() == math.inf
    assert divergence(even, certain.expand((2,)), "kl").tolist() == [math.inf] * 2  # which no longer says which one was given
    for kind, half, sure in (
        (D.OneHotCategorical, t(0.5, 0.5), t(1.0, 0.0)),
        (D.Bernoulli, t(0.5), t(1.0)),
        (D.Bernoulli, t(0.5), t(0.0)),
        (lambda x: D.Binomial(3, x), t(0.5), t(1.0)),
    ):
        known = kind(sure)
        assert known.logits.isfinite().all()
        assert divergence(kind(half), known.expand((2,)), "kl").tolist() == [math.inf] * 2
        assert divergence(known.expand((2,)), kind(half), "kl").isfinite().all()
    far = D.Bernoulli(logits=t(50.0))
    assert far.probs == 1  # rounded, and known to be
    assert divergence(D.Bernoulli(t(0.0)), far, "kl").item() == divergence(D.Bernoulli(t(0.0)), far.expand((1,)), "kl").item() == 50
    assert divergence(even, D.Categorical(logits=t(0.0, -math.inf)), "kl").item() == math.inf
    assert divergence(even, D.Categorical(logits=t(0.0, -1e4)), "kl").item() == pytest.approx(5e3 - math.log(2), rel=1e-12)
    assert divergence(D.Bernoulli(t(0.5)), D.Bernoulli(t(1.0)), "kl").item() == math.inf
    assert divergence(D.Bernoulli(t(1.0)), D.Bernoulli(t(0.25)), "kl").item() == pytest.approx(math.log(4), rel=1e-15)
    assert divergence(D.Binomial(7, t(0.5)), D.Binomial(5, t(0.5)), "kl").item() == math.inf
    assert divergence(D.Binomial(3, t(1.0)), D.Binomial(3, t(0.5)), "kl").item() == pytest.approx(3 * math.log(2), rel=1e-12)
    counts = D.Binomial(torch.tensor([2.0, 4.0], dtype=f64), t(0.5))
    wanted = [divergence(D.Binomial(n, t(0.5)), D.Binomial(4, t(0.3)), "kl").item() for n in (2, 4)]
    assert divergence(counts, D.Binomial(4, t(0.3)), "kl").tolist() == pytest.approx(wanted, rel=1e-12)


def test_independent_outcomes():
    """Of two coordinates: the sum over all four pairs, for divergences that have an integral; an error for the others."""
    p, q = torch.stack([t(0.3, 0.7), t(0.5, 0.5)]), torch.stack([t(0.6, 0.4), t(0.1, 0.9)])
    a, b = (D.Independent(D.Categorical(x), 1) for x in (p, q))
    joint = [torch.outer(x[0], x[1]).flatten() for x in (p, q)]
    for name in ("kl", "jeffreys", "squared_hellinger", "pearson_chi2", "neyman_chi2"):
        torch.testing.assert_close(divergence(a, b, name), divergence(*joint, name), rtol=1e-12, atol=0)
    for order in (0.0, 0.3, 1.0, 2.5, math.inf):
        torch.testing.assert_close(renyi(a, b, order), renyi(*joint, order), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(cauchy_schwarz(a, b), cauchy_schwarz(*joint), rtol=1e-12, atol=0)
    with pytest.raises(NotImplementedError, match="jensen_shannon has no closed form here for Independent"):
        divergence(a, b, "jensen_shannon")


ORDERS = (0.0, 1e-9, 0.2, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 4.0, math.inf)


@pytest.mark.parametrize("order", ORDERS)
def test_renyi_of_rows(order):
    p, q = ((0.3 * torch.randn(6, 5, dtype=f64, generator=torch.Generator().manual_seed(s))).softmax(-1) for s in (0, 1))
    with mpmath.workdps(40):
        for k in range(6):
            x, y = ([mpmath.mpf(v) for v in row[k].tolist()] for row in (p, q))
            x, y = [v / sum(x) for v in x], [v / sum(y) for v in y]  # whose sums are off by 1e-16, which 1 / (order - 1) would show
            if order == 1:
                wanted = sum(v * mpmath.log(v / w) for v, w in zip(x, y, strict=True))
            elif math.isinf(order):
                wanted = mpmath.log(max(v / w for v, w in zip(x, y, strict=True)))
            else:
                wanted = mpmath.log(sum(a**order * b ** (1 - mpmath.mpf(order)) for a, b in zip(x, y, strict=True))) / (
                    mpmath.mpf(order) - 1
                )
            for got in (renyi(p, q, order)[k], renyi(p.log(), q.log(), order, log=True)[k]):
                assert got.item() == pytest.approx(float(wanted), rel=1e-10, abs=1e-15)


def test_renyi_off_the_support():
    p, q, apart = t(0.5, 0.5, 0.0), t(0.25, 0.25, 0.5), t(0.0, 0.0, 1.0)
    assert renyi(p, q, 0.0).item() == pytest.approx(math.log(2), rel=1e-12)
    assert [renyi(p, q, order).item() for order in (0.5, 1.0, 2.0, math.inf)] == pytest.approx([math.log(2)] * 4, rel=1e-12)
    assert [renyi(q, p, order).item() for order in (1.0, 2.0, math.inf)] == [math.inf] * 3
    assert renyi(q, p, 0.5).item() == pytest.approx(math.log(2), rel=1e-12)
    assert [renyi(p, apart, order).item() for order in (0.0, 0.5, 1.0, 2.0, math.inf)] == [math.inf] * 5
    assert cauchy_schwarz(p, apart).item() == math.inf
    for order in (0.0, 0.5, 1.0, 2.0, math.inf):
        for x, y in ((p, q), (q, p), (p, apart), (p, p)):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            for value in (renyi(a, b, order), cauchy_schwarz(a, b)):
                assert not any(g.isnan().any() for g in torch.autograd.grad(value, (a, b)))
            log_a, log_b = x.log().requires_grad_(), y.log().requires_grad_()
            for value in (renyi(log_a, log_b, order, log=True), cauchy_schwarz(log_a, log_b, log=True)):
                assert not any(g.isnan().any() for g in torch.autograd.grad(value, (log_a, log_b)))


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_renyi_of_extreme_logits(dtype):
    """Its integral overflows in either direction, and it does not."""
    log_p = torch.tensor([1e4, 0.0], dtype=dtype).log_softmax(0).requires_grad_()
    log_q = torch.tensor([0.0, 1e4], dtype=dtype).log_softmax(0).requires_grad_()
    for order, wanted in ((0.5, 1e4 - 2 * math.log(2)), (0.9, 1e4), (1.0, 1e4), (1.5, 1e4), (math.inf, 1e4), (0.25, 1e4 / 3)):
        value = renyi(log_p, log_q, order, log=True)
        assert value.item() == pytest.approx(wanted, rel=1e-5)
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (log_p, log_q)))
    close = log_p.detach()[:1] * 0 + torch.tensor([math.log(0.5)] * 2, dtype=dtype)
    off = torch.stack([close, close + torch.tensor([1e-3, -1e-3], dtype=dtype)])
    assert renyi(off[1].log_softmax(0), off[0], 2.0, log=True).item() == pytest.approx(1e-6, rel=1e-3)  # not a rounding error of log 1


def test_renyi_gradients_of_both_orders():
    x, y = (torch.randn(3, 4, dtype=f64, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    x[0], y[0] = 3 * x[0], -3 * x[0]  # far apart, and the others close
    x, y = x.requires_grad_(), y.requires_grad_()
    for order in (0.3, 1.0, 2.0):
        function = lambda a, b: renyi(a.log_softmax(-1), b.log_softmax(-1), order, log=True)  # noqa: B023, E731
        assert torch.autograd.gradcheck(function, (x, y))
        assert torch.autograd.gradgradcheck(function, (x, y))
        torch.testing.assert_close(torch.vmap(function)(x, y), function(x, y))


PAIRS = {
    "Gamma": (D.Gamma(t(2.5), t(3.0)), D.Gamma(t(1.5), t(2.0))),
    "Chi2": (D.Chi2(t(3.0)), D.Chi2(t(2.0))),
    "Exponential": (D.Exponential(t(2.0)), D.Exponential(t(1.2))),
    "Beta": (D.Beta(t(2.0), t(3.0)), D.Beta(t(1.5), t(1.2))),
    "LogNormal": (D.LogNormal(t(0.1), t(0.7)), D.LogNormal(t(0.0), t(0.9))),
    "HalfNormal": (D.HalfNormal(t(0.8)), D.HalfNormal(t(1.0))),
    "InverseGamma": (D.InverseGamma(t(3.0), t(2.0)), D.InverseGamma(t(2.5), t(1.5))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_densities_by_quadrature(name):
    """By tanh-sinh quadrature of torch's own densities, over (0, 1) and (1, inf)."""
    p, q = PAIRS[name]
    h = 2.0**-6
    s = torch.arange(-5, 5, h, dtype=f64)
    inner = math.pi / 2 * s.sinh()
    x = 1 / (1 + (-2 * inner).exp())  # on (0, 1)
    weight = h * math.pi / 2 * s.cosh() * 2 * x * (1 - x)
    if name != "Beta":
        x, weight = torch.cat([x, 1 / x]), torch.cat([weight, weight / x.square()])
    usable = (x > 1e-300) & (x < (1 - 1e-15 if name == "Beta" else 1e300)) & (weight > 0)
    x, weight = x[usable], weight[usable]
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    for order in (0.3, 0.5, 1.4):
        integral = (weight * (order * log_p + (1 - order) * log_q).exp()).sum().item()
        wanted = (integral - 1) / (order * (order - 1))
        assert divergence(p, q, alpha_cichocki(order)).item() == pytest.approx(wanted, rel=1e-9)  # the rule's own accuracy
    wanted = (weight * log_p.exp() * (log_p - log_q)).sum().item()
    assert divergence(p, q, "kl").item() == pytest.approx(wanted, rel=1e-9)
    assert divergence(q, p, "reverse_kl").item() == pytest.approx(wanted, rel=1e-9)
    supremum = (log_p - log_q).max().item() if name != "Chi2" else math.inf  # whose ratio is a power of x
    assert renyi(p, q, math.inf).item() == pytest.approx(supremum, rel=2e-3)  # between two points of the rule


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (D.Poisson(t(2.0)), D.Poisson(t(3.5))),
        (D.Poisson(t(0.0)), D.Poisson(t(3.5))),
        (D.Geometric(t(0.4)), D.Geometric(t(0.3))),
        (D.Geometric(t(1.0)), D.Geometric(t(0.3))),
    ],
)
def test_counts_by_their_sums(p, q):
    k = torch.arange(400, dtype=f64)
    log_p, log_q = (torch.special.xlogy(k, x.rate) - x.rate - torch.lgamma(k + 1) if isinstance(x, D.Poisson) else
                    torch.special.xlog1py(k, -x.probs) + x.probs.log() for x in (p, q))  # fmt: skip
    for name in ("kl", "squared_hellinger", "pearson_chi2", "alpha_cichocki(alpha=0.3)", "alpha_cichocki(alpha=3.0)"):
        wanted = divergence(log_p, log_q, GENERATORS[name], log=True)
        assert divergence(p, q, GENERATORS[name]).item() == pytest.approx(wanted.item(), rel=1e-10)
        assert divergence(p, p, GENERATORS[name]).item() == pytest.approx(0, abs=1e-15)
    for order in (0.0, 0.5, math.inf):
        assert renyi(p, q, order).item() == pytest.approx(renyi(log_p, log_q, order, log=True).item(), rel=1e-10, abs=1e-15)


def test_dirichlet_by_beta_and_batches():
    a, b = t(2.0, 3.0), t(1.5, 1.2)
    for order in (0.3, 0.5, 1.0, 1.4, math.inf):
        torch.testing.assert_close(renyi(D.Dirichlet(a), D.Dirichlet(b), order), renyi(D.Beta(*a), D.Beta(*b), order), rtol=1e-12, atol=0)
    p, q = D.Dirichlet(torch.rand(5, 1, 3, dtype=f64) + 1), D.Dirichlet(torch.rand(4, 3, dtype=f64) + 1)
    torch.testing.assert_close(divergence(p, q, "kl"), D.kl_divergence(p, q), rtol=1e-10, atol=1e-14)


def test_outside_the_natural_space_it_is_infinite():
    for p, q in (
        (D.Exponential(t(1.0)), D.Exponential(t(2.0))),  # 2 * 1 - 2 = 0
        (D.Gamma(t(1.0), t(5.0)), D.Gamma(t(3.0), t(1.0))),
        (D.Beta(t(0.4), t(1.0)), D.Beta(t(1.0), t(1.0))),
        (D.Geometric(t(0.1)), D.Geometric(t(0.5))),
    ):
        assert divergence(p, q, "pearson_chi2").item() == math.inf
        assert renyi(p, q, math.inf).item() == math.inf
        assert divergence(p, q, "kl").isfinite()
    rates = t(1.0, 3.0).requires_grad_()
    value = divergence(D.Exponential(rates), D.Exponential(t(2.0)), "pearson_chi2")
    assert value.isinf().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(value.sum(), rates)
    assert gradient[0] == 0
    assert gradient[1].isfinite()


def test_gradients_of_families():
    x = (t(2.5).requires_grad_(), t(3.0).requires_grad_(), t(1.9).requires_grad_(), t(2.0).requires_grad_())
    for kind in (D.Gamma, D.Beta):
        for name in ("kl", "squared_hellinger", "pearson_chi2"):
            function = lambda a, b, c, d: divergence(kind(a, b), kind(c, d), name)  # noqa: B023, E731
            assert torch.autograd.gradcheck(function, x)
            assert torch.autograd.gradgradcheck(function, x)
    each = torch.vmap(lambda a: divergence(D.Gamma(a, 1.0, validate_args=False), D.Gamma(2.0, 1.5), "kl"))(t(1.0, 2.0))
    torch.testing.assert_close(each, divergence(D.Gamma(t(1.0, 2.0), t(1.0)), D.Gamma(t(2.0), t(1.5)), "kl"), rtol=1e-6, atol=0)


def test_large_parameters_in_single_precision():
    """The normalisers are near 1e7 each; their difference is right all the same."""
    single = divergence(D.Gamma(torch.tensor(1e6), torch.tensor(10.0)), D.Gamma(torch.tensor(1.001e6), torch.tensor(10.0)), "kl")
    double = divergence(D.Gamma(t(1e6), t(10.0)), D.Gamma(t(1.001e6), t(10.0)), "kl")
    assert single.dtype is torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-5)
    assert double.item() == pytest.approx(0.5 * (1e3) ** 2 / 1e6, rel=1e-2)


@pytest.mark.parametrize("name", ["kl", "squared_hellinger", "pearson_chi2"])
def test_near_and_large_rates_in_single_precision(name):
    """Rates are floats of single precision, and their logarithms must not be: those are too close."""
    p, q = (torch.tensor(rate) for rate in (1e6, 1e6 + 10))
    wanted = divergence(D.Poisson(p.double()), D.Poisson(q.double()), name)
    torch.testing.assert_close(divergence(D.Poisson(p), D.Poisson(q), name).double(), wanted, rtol=1e-6, atol=0)


def test_what_torch_knows_besides():
    p, q = D.Laplace(t(0.0), t(1.0)), D.Laplace(t(0.5), t(2.0))
    torch.testing.assert_close(divergence(p, q, "kl"), D.kl_divergence(p, q))
    torch.testing.assert_close(divergence(p, q, "jeffreys"), D.kl_divergence(p, q) + D.kl_divergence(q, p))
    with pytest.raises(NotImplementedError, match=r"pearson_chi2 has no closed form here for Laplace .* estimate_divergence"):
        divergence(p, q, "pearson_chi2")
    with pytest.raises(NotImplementedError, match="estimate_divergence"):
        divergence(D.Gumbel(t(0.0), t(1.0)), D.StudentT(t(3.0)), "kl")
    with pytest.raises(NotImplementedError, match="renyi: it has no closed form here for Laplace"):
        renyi(p, q, 2.0)
    with pytest.raises(NotImplementedError, match="cauchy_schwarz: it has no closed form here for LogNormal"):
        cauchy_schwarz(*PAIRS["LogNormal"])
    with pytest.raises(NotImplementedError, match="cauchy_schwarz: it has no closed form here for Gamma"):
        cauchy_schwarz(*PAIRS["Gamma"])


def test_transforms_are_taken_off_where_they_stay_equal():
    """One bijection of both changes no divergence; two that are trained apart have a gradient, and no closed form."""
    p, q = D.Normal(t(0.1), t(0.7)), D.Normal(t(0.0), t(0.9))

    def moved(base, by):
        return D.TransformedDistribution(base, [D.AffineTransform(by, t(2.0)), D.SigmoidTransform()])

    shared = t(0.5).requires_grad_()
    transforms = moved(p, shared).transforms
    together = [D.TransformedDistribution(x, transforms) for x in (p, q)]
    for pair in ((moved(p, t(0.5)), moved(q, t(0.5))), together):
        for name in ("kl", "total_variation", "squared_hellinger"):
            assert divergence(*pair, name).item() == pytest.approx(divergence(p, q, name).item(), rel=1e-12)
    vectors = [D.TransformedDistribution(D.Normal(x.loc.expand(3), x.scale), D.StickBreakingTransform()) for x in (p, q)]
    assert divergence(*vectors, "kl").item() == pytest.approx(3 * divergence(p, q, "kl").item(), rel=1e-12)
    for pair in (
        (moved(p, shared), moved(q, t(0.5).requires_grad_())),
        (moved(p, t(0.5)), moved(q, t(0.6))),
        [D.TransformedDistribution(x, D.AbsTransform()) for x in (p, q)],  # no bijection
    ):
        with pytest.raises(NotImplementedError, match="has no closed form here for TransformedDistribution"):
            divergence(*pair, "pearson_chi2")


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(ValueError, match="p and q must have the same outcomes; got 3 and 2 of them"):
        divergence(D.Categorical(P), D.Categorical(P[:2]), "kl")
    with pytest.raises(TypeError, match=r"p must be a floating-point tensor .* or both p and q distributions; got Categorical"):
        divergence(D.Categorical(P), Q, "kl")
    for function in (lambda p, q: renyi(p, q, 2.0), cauchy_schwarz):
        with pytest.raises(ValueError, match=r"(renyi|cauchy_schwarz): p and q must have the same outcomes; got 3 and 2 of them"):
            function(D.Categorical(P), D.Categorical(P[:2]))
        with pytest.raises(ValueError, match=r"(renyi|cauchy_schwarz): p and q must have the same event shape; got MultivariateNormal"):
            function(*(D.MultivariateNormal(torch.zeros(d, dtype=f64), torch.eye(d, dtype=f64)) for d in (2, 3)))
    with pytest.raises(TypeError, match="renyi: q must be a floating-point tensor"):
        renyi(P, [0.5, 0.5], 2.0)
