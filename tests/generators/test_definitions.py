"""The instances against their definitions: 60-digit arithmetic at extreme arguments, and plain sums over two outcomes."""

import math

import mpmath
import pytest
import torch
from generator_cases import CLOSED, DTYPES, REGISTERED

from lossmith import generators
from lossmith.divergences import from_certainty
from lossmith.generators import alpha_amari, alpha_cichocki, alpha_f_dpo, alpha_tsallis, convert_alpha, kl, reverse_kl

mpmath.mp.dps = 60
log, sqrt = mpmath.log, mpmath.sqrt


def _js(w):
    return lambda u: w * u * log(u / (w * u + 1 - w)) - (1 - w) * log(w * u + 1 - w)


def _alpha(a):
    return {0: lambda u: u - 1 - log(u), 1: lambda u: u * log(u) - u + 1}.get(a, lambda u: (u**a - 1 - a * (u - 1)) / (a * (a - 1)))


BY_NAME = {
    "kl": lambda: lambda u: u * log(u),
    "reverse_kl": lambda: lambda u: -log(u),
    "jeffreys": lambda: lambda u: (u - 1) * log(u),
    "jensen_shannon": lambda: _js(mpmath.mpf(1) / 2),
    "jensen_shannon_gan": lambda: lambda u: 2 * _js(mpmath.mpf(1) / 2)(u),
    "jensen_shannon_skewed": lambda weight: _js(weight),
    "gan": lambda: lambda u: u * log(u) - (u + 1) * log(u + 1) + 2 * log(2),
    "skew_kl": lambda skew: lambda u: u * log(u / (skew * u + 1 - skew)),
    "skew_reverse_kl": lambda skew: lambda u: -log(skew + (1 - skew) * u),
    "squared_hellinger": lambda: lambda u: (sqrt(u) - 1) ** 2,
    "pearson_chi2": lambda: lambda u: (u - 1) ** 2,
    "neyman_chi2": lambda: lambda u: (u - 1) ** 2 / u,
    "total_variation": lambda: lambda u: abs(u - 1) / 2,
    "triangular": lambda: lambda u: (u - 1) ** 2 / (u + 1),
    "chi_p": lambda p: lambda u: abs(u - 1) ** p,
    "alpha_cichocki": _alpha,
    "alpha_tsallis": lambda alpha: lambda u: alpha * _alpha(alpha)(u),
}


def definition(name):
    """The definition of a registered generator by its full name, in exact arithmetic at its float parameter."""
    base, _, setting = name.partition("(")
    return BY_NAME[base](*([mpmath.mpf(float(setting.rstrip(")").split("=")[1]))] if setting else []))


def derivative(f, u):
    step = u * mpmath.mpf(10) ** -20
    return (f(u + step) - f(u - step)) / (2 * step)


def second(f, u):
    step = u * mpmath.mpf(10) ** -15
    return (f(u + step) - 2 * f(u) + f(u - step)) / step**2


def in_dtype(value, dtype):
    return torch.tensor(float(value), dtype=torch.float64).to(dtype).item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REGISTERED)
def test_f_and_its_derivatives_at_all_sizes(name, dtype):
    g, f = REGISTERED[name], definition(name)
    largest, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    tolerance = 1e-12 if dtype is torch.float64 else 2e-5
    for at in (2 * tiny, 1e-30, 1e-6, 0.03, 0.5, 2.0, 40.0, 1e7, 1e30, largest / 2):
        u = torch.tensor(at, dtype=dtype)
        exact = mpmath.mpf(u.item())
        mpmath.mp.dps = 60 if 1e-8 < at < 1e8 else 1200  # near f(0), 1 + 1e-800 must not be 1
        for member, value in ((g.f, f(exact)), (g.df, derivative(f, exact)), (g.d2f, second(f, exact))):
            wanted, got = in_dtype(value, dtype), member(u).item()
            if abs(wanted) < 4 * tiny:  # rounded to zero, on the way or at the end
                assert abs(got) <= 8 * tiny
            else:
                assert got == pytest.approx(wanted, rel=tolerance), (member, at)


@pytest.mark.parametrize("name", [name for name, g in REGISTERED.items() if math.isfinite(g.at_zero)])
def test_the_divergence_of_a_certainty_at_all_probabilities(name):
    """Float32, from 1 - 1e-7 down to 1e-30: the value, and by log p the slope and the curvature, this relative to the larger of both."""
    f, at_zero = definition(name), definition(name)(mpmath.mpf(10) ** -1000)

    def divergence(x):
        p = mpmath.exp(x)
        return p * f(1 / p) + (1 - p) * at_zero

    log_p = torch.tensor([-1e-7, -1e-5, -1e-3, -0.1, -0.7, -2, -5, -9, -14, -16.6, -18, -22, -30, -45, -60, -69], requires_grad=True)
    value = from_certainty(log_p, REGISTERED[name])
    (slope,) = torch.autograd.grad(value.sum(), log_p, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), log_p) if slope.requires_grad else (torch.zeros_like(slope),)
    for x, *found in zip(*(t.tolist() for t in (log_p, value, slope, curvature)), strict=True):
        x, h = mpmath.mpf(x), mpmath.mpf(10) ** -18
        low, exact, high = (divergence(x + step) for step in (-h, 0, h))
        if exact < 1e37:
            first, then = (high - low) / (2 * h), (high - 2 * exact + low) / h**2
            assert found[0] == pytest.approx(float(exact), rel=5e-6)
            assert found[1] == pytest.approx(float(first), rel=5e-6)
            assert found[2] == pytest.approx(float(then), abs=5e-6 * float(max(abs(first), abs(then))))


@pytest.mark.parametrize("name", [name for name, g in CLOSED.items() if g.strict])
def test_the_conjugate_and_its_derivative_by_root_finding(name):
    g, f = REGISTERED[name], definition(name)
    for at in (0.01, 0.5, 1.5, 30.0):
        t = g.df(torch.tensor(at, dtype=torch.float64))
        exact = mpmath.mpf(t.item())
        u = mpmath.findroot(lambda x: derivative(f, x) - exact, mpmath.mpf(at), tol=1e-30)  # noqa: B023
        assert g.inverse_link(t).item() == pytest.approx(float(u), rel=1e-12)
        assert g.conjugate(t).item() == pytest.approx(float(exact * u - f(u)), rel=1e-12, abs=1e-14)


def kl_of(a, b):
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))


def mixed(a, b, w):
    return [w * x + (1 - w) * y for x, y in zip(a, b, strict=True)]


def total(term, a, b):
    return sum(term(x, y) for x, y in zip(a, b, strict=True))


CLOSED_FORMS = {
    "kl": kl_of,
    "reverse_kl": lambda p, q: kl_of(q, p),
    "jeffreys": lambda p, q: kl_of(p, q) + kl_of(q, p),
    "jensen_shannon": lambda p, q: (kl_of(p, mixed(p, q, 0.5)) + kl_of(q, mixed(p, q, 0.5))) / 2,
    "jensen_shannon_gan": lambda p, q: kl_of(p, mixed(p, q, 0.5)) + kl_of(q, mixed(p, q, 0.5)),
    "gan": lambda p, q: kl_of(p, mixed(p, q, 0.5)) + kl_of(q, mixed(p, q, 0.5)),
    "jensen_shannon_skewed(weight=0.1)": lambda p, q: 0.1 * kl_of(p, mixed(p, q, 0.1)) + 0.9 * kl_of(q, mixed(p, q, 0.1)),
    "skew_kl(skew=0.1)": lambda p, q: kl_of(p, mixed(p, q, 0.1)),
    "skew_reverse_kl(skew=0.1)": lambda p, q: kl_of(q, mixed(q, p, 0.1)),
    "squared_hellinger": lambda p, q: 2 - 2 * total(lambda x, y: math.sqrt(x * y), p, q),
    "pearson_chi2": lambda p, q: total(lambda x, y: x * x / y, p, q) - 1,
    "neyman_chi2": lambda p, q: total(lambda x, y: y * y / x, p, q) - 1,
    "total_variation": lambda p, q: max(p[0] - q[0], q[0] - p[0]),
    "triangular": lambda p, q: total(lambda x, y: (x - y) ** 2 / (x + y), p, q),
    "chi_p(p=3.0)": lambda p, q: total(lambda x, y: abs(x - y) ** 3 / y**2, p, q),
    "alpha_cichocki(alpha=0.3)": lambda p, q: (total(lambda x, y: x**0.3 * y**0.7, p, q) - 1) / (0.3 * -0.7),
    "alpha_cichocki(alpha=3.0)": lambda p, q: (total(lambda x, y: x**3 / y**2, p, q) - 1) / 6,
    "alpha_tsallis(alpha=2.5)": lambda p, q: (total(lambda x, y: x**2.5 * y**-1.5, p, q) - 1) / 1.5,
}


def divergence(g, p, q):
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    return (q * g.f(p / q)).sum().item()


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize(("p", "q"), [(0.3, 0.6), (0.999, 0.001), (0.5, 0.5 + 1e-4)])
def test_divergences_of_two_coins(name, p, q):
    g, p, q = REGISTERED[name], [p, 1 - p], [q, 1 - q]
    assert divergence(g, p, q) == pytest.approx(CLOSED_FORMS[name](p, q), rel=1e-10, abs=1e-15)
    assert divergence(g.reverse(), q, p) == pytest.approx(CLOSED_FORMS[name](p, q), rel=1e-10, abs=1e-15)
    assert divergence(g.centred(), p, q) == pytest.approx(CLOSED_FORMS[name](p, q), rel=1e-10, abs=1e-15)


def test_known_values_of_two_dice():
    p, q = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    for name, value in {
        "kl": 0.360062440636,
        "reverse_kl": 0.394816205204,
        "jensen_shannon": 0.0905658499553,
        "squared_hellinger": 2 * 0.0924130981911,
        "total_variation": 0.4,
        "pearson_chi2": 0.766666666667,
    }.items():
        assert divergence(generators.get(name), p, q) == pytest.approx(value, rel=1e-11)
    for order, renyi in ((2.0, 0.56909453189), (0.5, 0.193931915717)):
        assert math.log1p((order - 1) * divergence(alpha_tsallis(order), p, q)) / (order - 1) == pytest.approx(renyi, rel=1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("end", "limit"), [(0.0, reverse_kl), (1.0, kl)])
def test_alpha_runs_smoothly_into_both_kullback_leibler_divergences(end, limit, dtype):
    """Every member, from both sides and at the end itself, at the rate at which the family converges."""
    u = torch.logspace(-2, 2, 21, dtype=dtype)
    exact = limit.centred()
    t = exact.df(u)
    t = t[(t > -20) & (t < min(4, exact.slope_at_infinity - 0.2))]
    for step in (0.0, 1e-12, 1e-7, 1e-4):
        for side in (-1, 1):
            g = alpha_cichocki(end + side * step)
            tolerance = {"rtol": 40 * step + 300 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(dtype).eps}
            for member in ("f", "df", "d2f"):
                torch.testing.assert_close(getattr(g, member)(u), getattr(exact, member)(u), **tolerance)
            for member in ("conjugate", "inverse_link"):
                torch.testing.assert_close(getattr(g, member)(t), getattr(exact, member)(t), **tolerance)


@pytest.mark.untyped
def test_the_conventions_of_alpha():
    p, q = [0.3, 0.7], [0.6, 0.4]
    forward, backward = kl_of(p, q), kl_of(q, p)
    for family, at_forward, at_backward in ((alpha_cichocki, 1.0, 0.0), (alpha_amari, -1.0, 1.0), (alpha_f_dpo, 0.0, 1.0)):
        assert divergence(family(at_forward), p, q) == pytest.approx(forward, rel=1e-12)
        assert divergence(family(at_backward), p, q) == pytest.approx(backward, rel=1e-12)
    assert divergence(alpha_tsallis(1.0), p, q) == pytest.approx(forward, rel=1e-12)
    amari = 4 / (1 - 0.4**2) * (1 - sum(x**0.3 * y**0.7 for x, y in zip(p, q, strict=True)))
    assert divergence(alpha_amari(0.4), p, q) == pytest.approx(amari, rel=1e-12)
    u = torch.tensor([0.2, 3.0], dtype=torch.float64)
    torch.testing.assert_close(alpha_f_dpo(0.3).df(u), (1 - u**-0.3) / 0.3)
    conventions = ("cichocki", "amari", "f_dpo")
    for given in conventions:
        for wanted in conventions:
            assert convert_alpha(convert_alpha(0.3, given, wanted), wanted, given) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="given must be one of 'cichocki', 'amari', 'f_dpo'; got 'amary'; did you mean 'amari'"):
        convert_alpha(0.3, "amary", "cichocki")


def test_known_relations():
    u = torch.logspace(-3, 3, 31, dtype=torch.float64)
    for a, b in (
        (2 * alpha_cichocki(2.0), generators.pearson_chi2),
        (2 * alpha_cichocki(-1.0), generators.neyman_chi2),
        (generators.chi_p(2.0), generators.pearson_chi2),
        (generators.skew_kl(0.0), kl),
        (generators.skew_reverse_kl(0.0), reverse_kl),
        (2 * kl.symmetrised(), generators.jeffreys),
        (generators.jensen_shannon_skewed(0.5), generators.jensen_shannon),
        (alpha_cichocki(0.5), (2 * generators.squared_hellinger).centred()),
    ):
        for member in ("f", "df", "d2f"):
            torch.testing.assert_close(getattr(a, member)(u), getattr(b, member)(u), rtol=1e-10, atol=1e-12)
