"""Divergences of Gaussians: known numbers, quadrature, and where they are infinite."""

import itertools
import math

import mpmath
import pytest
import torch
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from lossmith.divergences import cauchy_schwarz, divergence, renyi
from lossmith.generators import all_generators, alpha_cichocki, chi_p, jeffreys, kl, neyman_chi2, pearson_chi2, total_variation

f64 = torch.float64


def t(*x):
    return torch.tensor(x if len(x) > 1 else x[0], dtype=f64)


P, Q = Normal(t(0.0), t(1.0)), Normal(t(1.0), t(2.0))
P2 = MultivariateNormal(t(0.0, 0.0), t([1.0, 0.5], [0.5, 2.0]))
Q2 = MultivariateNormal(t(1.0, -1.0), t([2.0, -0.3], [-0.3, 1.0]))


def draw(seed, *shape):
    return torch.randn(*shape, dtype=f64, generator=torch.Generator().manual_seed(seed))


def covariance(seed, d, *batch, spread=1.0):
    x = draw(seed, *batch, d, d)
    return spread * x @ x.mT + 0.5 * torch.eye(d, dtype=f64)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (divergence(P, Q, "kl"), 0.44314718056),
        (divergence(Q, P, "kl"), 1.30685281944),
        (divergence(P, Q, "reverse_kl"), 1.30685281944),
        (renyi(P, Q, 0.25), 0.213456703199),
        (renyi(P, Q, 0.5), 0.323143551314),
        (renyi(P, Q, 0.75), 0.393253066388),
        (renyi(P, Q, 2.0), 0.556196429449),
        (renyi(P, Q, 3.0), 0.614074497591),
        (renyi(Q, P, 0.5), 0.323143551314),
        (renyi(Q, P, 2.0), math.inf),
        (divergence(P, Q, "pearson_chi2"), 0.74402634151),
        (divergence(P, Q, "squared_hellinger"), 2 * 0.149194537847),
        (renyi(P, Q, 0.5) / 2, 0.161571775657),
        ((-renyi(P, Q, 0.5) / 2).exp(), 0.850805462153),
        (cauchy_schwarz(P, Q), 0.211571775657),
        (divergence(P, Q, "total_variation"), 0.390065660121),
        (divergence(P, Normal(t(1.0), t(1.0)), "total_variation"), 0.382924922548),
        (divergence(P2, Q2, "kl"), 1.05945053334),
        (divergence(Q2, P2, "kl"), 1.61339913008),
        (renyi(P2, Q2, 0.5), 0.560259208013),
        (renyi(P2, Q2, 0.75), 0.788096465235),
        (divergence(P2, Q2, "squared_hellinger"), 2 * 0.244314204798),
        (cauchy_schwarz(P2, Q2), 0.458701032578),
    ],
)
def test_known_numbers(value, wanted):
    assert value.item() == pytest.approx(wanted, rel=1e-11 if wanted > 0.1 else 1e-10)  # the numbers have twelve digits


ORDERS = (-0.7, 0.1, 0.5, 0.99, 1.3, 2.0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("other", [(0.3, 0.8), (0.0, 1.25), (-2.0, 1.0)])
def test_one_dimension_by_quadrature(order, other):
    mean, scale = other
    q = Normal(t(mean), t(scale))

    def density(x, m, s):
        return mpmath.exp(-(((x - m) / s) ** 2) / 2) / (s * mpmath.sqrt(2 * mpmath.pi))

    def integrand(x):
        return density(x, mpmath.mpf(0), mpmath.mpf(1)) ** order * density(x, mpmath.mpf(mean), mpmath.mpf(scale)) ** (1 - order)

    precision = order + (1 - order) / scale**2
    if precision <= 0:
        assert divergence(P, q, alpha_cichocki(order)).item() == math.inf
        return
    middle, width = (1 - order) * mean / scale**2 / precision, precision**-0.5  # of the integrand, another Gaussian
    integral = mpmath.quad(integrand, [middle + width * z for z in (-14, -6, -2, 0, 2, 6, 14)])
    wanted = float((integral - 1) / (order * (order - 1)))
    assert divergence(P, q, alpha_cichocki(order)).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("order", [-0.1, 0.3, 0.5, 1.2])
def test_two_dimensions_by_a_grid(order):
    """The trapezoidal rule converges faster than any power for Gaussians: its error is far below the tolerance here."""
    x = torch.linspace(-14, 14, 701, dtype=f64)
    points = torch.cartesian_prod(x, x)
    log_p, log_q = P2.log_prob(points), Q2.log_prob(points)
    integral = (order * log_p + (1 - order) * log_q).exp().sum() * (x[1] - x[0]) ** 2
    wanted = (integral - 1) / (order * (order - 1))
    assert divergence(P2, Q2, alpha_cichocki(order)).item() == pytest.approx(wanted.item(), rel=1e-10)


@pytest.mark.parametrize("other", [(0.0, 3.0), (0.4, 1.0), (1.5, 0.2), (-3.0, 1.01), (0.001, 1.0), (0.0, 1e-3)])
def test_total_variation_by_quadrature(other):
    mean, scale = other
    q = Normal(t(mean), t(scale))
    a, b, c = 1 - scale**2, -2 * mean, mean**2 + 2 * scale**2 * math.log(scale)
    roots = [-c / b] if a == 0 else [(-b + sign * math.sqrt(b * b - 4 * a * c)) / (2 * a) for sign in (1, -1)]
    ends = [-mpmath.inf, *sorted(roots), mpmath.inf]
    with mpmath.workdps(30):
        mass = [mpmath.ncdf(x) - mpmath.ncdf((x - mpmath.mpf(mean)) / mpmath.mpf(scale)) for x in ends]
        wanted = sum(abs(high - low) for low, high in itertools.pairwise(mass)) / 2
    for got in (divergence(P, q, total_variation), divergence(q, P, total_variation)):
        assert got.item() == pytest.approx(float(wanted), rel=1e-10, abs=1e-15)


def test_total_variation_far_apart_and_of_extreme_scales():
    for mean, scale in ((50.0, 1.0), (0.0, 1e-100), (0.0, 1e100), (1e200, 1e-200)):
        assert divergence(P, Normal(t(mean), t(scale)), total_variation).item() == pytest.approx(1, rel=1e-10)
        single = divergence(Normal(0.0, 1.0), Normal(min(mean, 1e30), min(max(scale, 1e-30), 1e30)), total_variation)
        assert single.item() == pytest.approx(1, rel=1e-6)
    same = Normal(torch.zeros(3, dtype=f64, requires_grad=True), torch.ones(3, dtype=f64, requires_grad=True))
    value = divergence(same, Normal(t(0.0), t(1.0)), total_variation)
    assert value.tolist() == [0, 0, 0]
    assert all(g.tolist() == [0, 0, 0] for g in torch.autograd.grad(value.sum(), (same.loc, same.scale)))


def test_total_variation_with_a_common_covariance():
    p = MultivariateNormal(P2.loc, P2.covariance_matrix)
    q = MultivariateNormal(Q2.loc, P2.covariance_matrix)
    distance = (Q2.loc @ torch.linalg.solve(P2.covariance_matrix, Q2.loc)).sqrt().item()
    wanted = math.erf(distance / math.sqrt(8))
    tv = total_variation
    for g, c in ((tv, 1), (3.0 * tv, 3), (tv.tilted(0.7), 1), (tv + tv, 2), (tv.tilted(-0.2).reverse(), 1)):
        assert divergence(p, q, g).item() == pytest.approx(c * wanted, rel=1e-12)
    diagonal = [Independent(Normal(m, t(1.0, 2.0)), 1) for m in (t(0.0, 0.0), t(1.0, 1.0))]
    assert divergence(*diagonal, total_variation).item() == pytest.approx(math.erf(math.sqrt(1.25 / 8)), rel=1e-12)
    with pytest.raises(NotImplementedError, match=r"total_variation has no closed form here for MultivariateNormal .* estimate_divergence"):
        divergence(P2, Q2, total_variation)
    line = [MultivariateNormal(x.loc.reshape(1), x.scale.reshape(1, 1) ** 2) for x in (P, Q)]
    one = [Independent(Normal(x.loc.reshape(1, 1), x.scale.reshape(1, 1)), 2) for x in (P, Q)]
    for pair in (line, one):
        assert divergence(*pair, tv).item() == pytest.approx(0.390065660121, rel=1e-11)
    for g in (jeffreys + tv, kl + tv, jeffreys.symmetrised() + tv):  # whose limits are infinite on both sides, as if they were straight
        with pytest.raises(NotImplementedError, match="estimate_divergence"):
            divergence(P, Q, g)


def test_a_common_covariance_has_the_same_gradient_from_both():
    """Against finite differences along the covariance that both share, and half of it for each."""
    factor = torch.linalg.cholesky(covariance(0, 3)).requires_grad_()
    other = factor.detach().clone().requires_grad_()
    mean = draw(1, 3)

    def value(a, b):
        return divergence(
            MultivariateNormal(torch.zeros(3, dtype=f64), scale_tril=a), MultivariateNormal(mean, scale_tril=b), total_variation
        )

    first, second = torch.autograd.grad(value(factor, other), (factor, other))
    torch.testing.assert_close(first, second)
    direction = torch.tril(draw(2, 3, 3))
    step = 1e-6 * direction
    slope = (value(factor + step, other + step) - value(factor - step, other - step)) / 2e-6
    assert ((first + second) * direction).sum().item() == pytest.approx(slope.item(), rel=1e-7)


def test_every_way_to_write_a_gaussian():
    """One number four times: numbers, independent numbers, a full covariance, and one of low rank."""
    mean_p, scale_p, mean_q, scale_q = draw(3, 4), draw(4, 4).exp(), draw(5, 4), draw(6, 4).exp() + draw(4, 4).exp()
    alone = Normal(mean_p, scale_p), Normal(mean_q, scale_q)
    together = [Independent(x, 1) for x in alone]
    full = [MultivariateNormal(x.loc, torch.diag(x.scale.square())) for x in alone]
    half = [LowRankMultivariateNormal(x.loc, torch.zeros(4, 1, dtype=f64), x.scale.square()) for x in alone]
    for order in (0.0, 0.2, 0.5, 0.9, 1.0, 1.5, math.inf):
        wanted = renyi(*alone, order).sum()
        for p, q in (together, full, half, (together[0], full[1]), (half[0], together[1])):
            torch.testing.assert_close(renyi(p, q, order), wanted, rtol=1e-10, atol=1e-15)
    for p, q in (full, half, (full[0], together[1])):
        torch.testing.assert_close(divergence(p, q, "jeffreys"), divergence(*together, "jeffreys"), rtol=1e-10, atol=0)
        torch.testing.assert_close(cauchy_schwarz(p, q), cauchy_schwarz(*alone).sum(), rtol=1e-10, atol=0)


def test_kl_is_torchs_and_batches_broadcast():
    p = MultivariateNormal(draw(7, 5, 1, 3), covariance(8, 3, 5, 1))
    q = MultivariateNormal(draw(9, 4, 3), covariance(10, 3))
    torch.testing.assert_close(divergence(p, q, kl), kl_divergence(p, q), rtol=1e-10, atol=0)
    assert divergence(p, q, "squared_hellinger").shape == renyi(p, q, 0.5).shape == cauchy_schwarz(p, q).shape == (5, 4)
    a, b = Normal(draw(11, 5, 1), draw(12, 5, 1).exp()), Normal(draw(13, 4), draw(14, 1).exp())
    torch.testing.assert_close(divergence(a, b, kl), kl_divergence(a, b), rtol=1e-10, atol=0)
    assert divergence(a, b, total_variation).shape == (5, 4)


def test_close_gaussians_lose_no_digits():
    """KL of scales that differ by e is e^2 to first order, where the textbook's formula has only rounding errors."""
    for e in (1e-5, 1e-9):
        q = Normal(t(0.0), t(1.0) + e)
        e_exact = q.scale.item() - 1
        with mpmath.workdps(40):
            x = mpmath.mpf(e_exact)
            wanted = float(mpmath.log(1 + x) + 1 / (2 * (1 + x) ** 2) - mpmath.mpf(1) / 2)
        assert divergence(P, q, kl).item() == pytest.approx(wanted, rel=1e-15 / e)
        full = [MultivariateNormal(x.loc.reshape(1), scale_tril=x.scale.reshape(1, 1)) for x in (P, q)]
        assert divergence(*full, kl).item() == pytest.approx(wanted, rel=1e-15 / e)
        assert divergence(P, q, kl) >= 0


def test_orders_near_zero_and_one_tend_to_kl():
    for e in (1e-4, 1e-8, 1e-12):
        assert divergence(P, Q, alpha_cichocki(1 - e)).item() == pytest.approx(0.44314718056, rel=2 * e + 1e-11)
        assert divergence(P, Q, alpha_cichocki(e)).item() == pytest.approx(1.30685281944, rel=3 * e + 1e-11)
        assert renyi(P, Q, 1 - e).item() == pytest.approx(0.44314718056, rel=2 * e + 1e-11)
    assert divergence(P2, Q2, alpha_cichocki(1 - 1e-6)).item() == pytest.approx(1.05945053334, rel=1e-5)


def test_infinite_never_nan():
    """2 S_q - S_p: positive definite, indefinite, singular, negative; the gradients of the finite ones are as without the others."""
    scales = t(0.5, 1.0, 1.41421356237309505, 1.5, 3.0, 100.0).requires_grad_()
    means = torch.ones(6, dtype=f64, requires_grad=True)
    value = divergence(Normal(means, scales), Normal(t(0.0), t(1.0)), pearson_chi2)
    assert value[:2].isfinite().all()
    assert not value[2].isnan()  # the square root of 2 but for a rounding: a large number, or infinite
    assert value[3:].tolist() == [math.inf] * 3
    gradients = torch.autograd.grad(value[:2].sum(), (means, scales), retain_graph=True)
    for gradient, alone in zip(torch.autograd.grad(value.sum(), (means, scales)), gradients, strict=True):
        assert not gradient.isnan().any()
        torch.testing.assert_close(gradient[:2], alone[:2])
        assert gradient[3:].tolist() == [0, 0, 0]
    factors = torch.stack([torch.diag(t(1.0, s)) for s in (0.5, 1.5)]).requires_grad_()
    q = MultivariateNormal(t(0.0, 0.0), torch.eye(2, dtype=f64))
    value = divergence(MultivariateNormal(t(1.0, 1.0), scale_tril=factors), q, pearson_chi2)
    assert value.isfinite().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(value.sum(), factors)
    assert not gradient.isnan().any()
    assert gradient[1].abs().max() == 0
    # singular: 2 S_q - S_p has an eigenvalue of 0
    p = MultivariateNormal(t(0.0, 0.0), torch.diag(t(2.0, 1.0)))
    assert divergence(p, q, pearson_chi2).item() == math.inf
    assert divergence(q, p, neyman_chi2).item() == math.inf
    assert renyi(p, q, 2.0).item() == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_beyond_the_largest_float(dtype):
    """The chi-squared divergence of two unit Gaussians m apart is e^(m^2) - 1."""
    means = torch.tensor([1.0, 5.0, 8.0, 100.0], dtype=dtype, requires_grad=True)
    still = torch.zeros(4, dtype=dtype, requires_grad=True)
    value = divergence(Normal(means, 1.0), Normal(still, 1.0), pearson_chi2)
    largest = torch.finfo(dtype).max
    wanted = [math.expm1(m * m) if m * m < math.log(largest) else math.inf for m in (1.0, 5.0, 8.0, 100.0)]
    assert value.tolist() == pytest.approx(wanted, rel=1e-5 if dtype is torch.float32 else 1e-12)
    for gradient in torch.autograd.grad(value.sum(), (means, still)):
        assert not gradient.isnan().any()
    assert divergence(Normal(means, 1.0), Normal(0.0, 1.0), kl).isfinite().all()
    assert renyi(Normal(means, 1.0), Normal(0.0, 1.0), 2.0).tolist() == pytest.approx([1, 25, 64, 1e4], rel=1e-6)


def test_renyi_at_infinity():
    narrow, wide = Normal(t(0.3), t(0.5)), Normal(t(0.0), t(2.0))
    x = torch.linspace(-3, 3, 600_001, dtype=f64)
    wanted = (narrow.log_prob(x) - wide.log_prob(x)).max().item()
    assert renyi(narrow, wide, math.inf).item() == pytest.approx(wanted, rel=1e-9)
    assert renyi(wide, narrow, math.inf).item() == math.inf
    assert renyi(wide, Normal(t(0.1), t(2.0)), math.inf).item() == math.inf
    assert renyi(wide, wide, math.inf).item() == 0
    p = MultivariateNormal(t(0.1, 0.2), t([0.5, 0.2], [0.2, 0.4]))
    q = MultivariateNormal(t(0.0, 0.0), t([1.0, 0.1], [0.1, 1.5]))
    assert renyi(p, q, math.inf).item() == pytest.approx(renyi(p, q, 1e7).item(), rel=1e-5)
    assert renyi(q, p, math.inf).item() == math.inf
    assert renyi(p, p, math.inf).item() == 0


def test_orders_grow():
    orders = (0.0, 0.1, 0.5, 0.9, 1.0, 1.1, 1.5, 1.9, 3.0, math.inf)
    values = torch.stack([renyi(P, Q, order) for order in orders])
    assert (values[1:] > values[:-1]).all()
    assert values[0] == 0


GENERATORS = {name: g for name, g in all_generators().items() if g.alphas is not None}


@pytest.mark.parametrize("name", GENERATORS)
def test_gradients_of_both_orders(name):
    """In one dimension and in two, of wide against narrow: finite for every order in the list, in both directions."""
    g = GENERATORS[name]
    mean_p, scale_p = t(0.3).requires_grad_(), t(1.0).requires_grad_()
    mean_q, scale_q = t(-0.2).requires_grad_(), t(1.1).requires_grad_()

    def of_numbers(*x):
        return divergence(Normal(x[0], x[1]), Normal(x[2], x[3]), g)

    inputs = (mean_p, scale_p, mean_q, scale_q)
    assert torch.autograd.gradcheck(of_numbers, inputs)
    assert torch.autograd.gradgradcheck(of_numbers, inputs)
    means = draw(15, 2, 2)
    factors = torch.stack([torch.eye(2, dtype=f64), torch.tensor([[1.1, 0.0], [0.1, 0.95]], dtype=f64)])

    def of_vectors(means, factors):
        p, q = (MultivariateNormal(means[k], scale_tril=factors[k].tril()) for k in (0, 1))
        return divergence(p, q, g)

    inputs = (0.3 * means).requires_grad_(), factors.requires_grad_()
    assert torch.isfinite(of_vectors(*inputs))
    assert torch.autograd.gradcheck(of_vectors, inputs)
    assert torch.autograd.gradgradcheck(of_vectors, inputs)


def test_gradients_of_total_variation():
    inputs = (t(0.3).requires_grad_(), t(1.0).requires_grad_(), t(-0.2).requires_grad_(), t(1.3).requires_grad_())
    same_mean = (inputs[0], inputs[1], t(0.3).requires_grad_(), inputs[3])
    for x in (inputs, (*inputs[:3], t(0.2).requires_grad_()), same_mean):
        function = lambda a, b, c, d: divergence(Normal(a, b), Normal(c, d), total_variation)  # noqa: E731
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    tiny = t(1e-200).requires_grad_()
    (slope,) = torch.autograd.grad(divergence(P, Normal(tiny, t(1.0)), total_variation), tiny)
    assert slope.item() == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)
    # at equal scales too, where one crossing is at infinity: by differences of the analytic values around it
    scale = t(1.0).requires_grad_()
    (slope,) = torch.autograd.grad(divergence(P, Normal(t(0.7), scale), total_variation), scale)
    step = 1e-5
    around = [divergence(P, Normal(t(0.7), t(1 + sign * step)), total_variation).item() for sign in (1, -1)]
    assert slope.item() == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-7)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
def test_under_vmap_and_func():
    means, factors = draw(16, 5, 3), torch.linalg.cholesky(covariance(17, 3, 5, spread=0.1))
    still = MultivariateNormal(torch.zeros(3, dtype=f64), 2 * torch.eye(3, dtype=f64), validate_args=False)

    def value(mean, factor, g):
        return divergence(MultivariateNormal(mean, scale_tril=factor, validate_args=False), still, g)

    for g in ("kl", "reverse_kl", "squared_hellinger", "pearson_chi2"):
        each = torch.vmap(lambda m, f: value(m, f, g))(means, factors)  # noqa: B023
        torch.testing.assert_close(each, value(means, factors, g), rtol=1e-12, atol=0)
        gradients = torch.vmap(torch.func.grad(lambda m, f: value(m, f, g)))(means, factors)  # noqa: B023
        forward = torch.vmap(lambda m, f: torch.func.jvp(lambda z: value(z, f, g), (m,), (torch.ones_like(m),))[1])(means, factors)  # noqa: B023
        torch.testing.assert_close(gradients.sum(-1), forward)
    numbers = torch.vmap(lambda m, s: divergence(Normal(m, s, validate_args=False), Normal(0.0, 2.0), total_variation))
    wanted = divergence(Normal(means[0], means[1].exp()), Normal(0.0, 2.0), total_variation)
    torch.testing.assert_close(numbers(means[0], means[1].exp()), wanted)


def test_single_and_half_precision():
    for g in ("kl", "squared_hellinger", "pearson_chi2", alpha_cichocki(0.999)):
        double = divergence(P2, MultivariateNormal(Q2.loc, 3 * Q2.covariance_matrix), g)
        single = divergence(
            MultivariateNormal(P2.loc.float(), P2.covariance_matrix.float()),
            MultivariateNormal(Q2.loc.float(), 3 * Q2.covariance_matrix.float()),
            g,
        )
        assert single.dtype is torch.float32
        assert single.item() == pytest.approx(double.item(), rel=1e-5 if isinstance(g, str) else 1e-3)  # 1e-7 over 1 - 0.999
    half = divergence(Normal(torch.zeros(2).bfloat16(), torch.ones(2).bfloat16()), Normal(0.5, 2.0), "kl")
    assert half.dtype is torch.float32


@pytest.mark.compile
def test_compiled_in_one_graph():
    torch._dynamo.reset()

    def value(m, s, factor):
        p, q = Normal(m, s, validate_args=False), Normal(0.0, 2.0, validate_args=False)
        a = MultivariateNormal(m, scale_tril=factor, validate_args=False)
        b = MultivariateNormal(torch.zeros_like(m), scale_tril=2 * factor, validate_args=False)
        return divergence(p, q, kl).sum() + divergence(p, q, total_variation).sum() + divergence(a, b, pearson_chi2) + renyi(a, b, 0.5)

    arguments = t(0.1, 0.2), t(1.0, 0.5), torch.linalg.cholesky(covariance(18, 2))
    compiled = torch.compile(value, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), value(*arguments))


def test_what_has_no_closed_form_says_so():
    for g in ("jensen_shannon", "triangular", chi_p(3.0)):
        with pytest.raises(NotImplementedError, match=r"has no closed form here for Normal .*; estimate_divergence finds it from samples"):
            divergence(P, Q, g)
    with pytest.raises(ValueError, match=r"same event shape; got Normal with events of shape \(\) and MultivariateNormal .* \(2,\)"):
        divergence(P, P2, kl)
    with pytest.raises(ValueError, match="log is for rows"):
        divergence(P, Q, kl, log=True)
    with pytest.raises(ValueError, match=r"order must be a number in \[0, inf\]; got float -0.5"):
        renyi(P, Q, -0.5)
