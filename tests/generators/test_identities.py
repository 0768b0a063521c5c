"""The laws of a generator, on every one of them, in both dtypes, up to the largest and smallest numbers that the dtype has.

Where a law joins a link to a conjugate, rounding the link is rounding its argument: the exact value must lie between those at the
rounded link's neighbours. That is the sharpest statement that holds at every size.
"""

import math

import pytest
import torch
from generator_cases import ALL, DTYPES, REDERIVED, REGISTERED

every = pytest.mark.parametrize("g", ALL.values(), ids=ALL.keys())
registered = pytest.mark.parametrize("g", REGISTERED.values(), ids=REGISTERED.keys())
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def eps(dtype):
    return torch.finfo(dtype).eps


def ratios(g, dtype):
    """Ratios spread over all that the dtype can represent, evenly and at random in their logarithms, with both ends and 1.

    A user's own formula is differentiated as it stands, and overflows where its intermediate results do: less is asked of it.
    """
    ends = torch.tensor([1e-8, 1e8] if g in REDERIVED.values() else [torch.finfo(dtype).tiny, torch.finfo(dtype).max], dtype=dtype)
    low, high = ends.log().tolist()
    scattered = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    logs = torch.cat([torch.linspace(low, high, 41, dtype=torch.float64), low + (high - low) * scattered, 6 * scattered - 3])
    return torch.cat([logs.exp().to(dtype).clamp(*ends), ends, torch.ones(1, dtype=dtype)]).sort().values


def neighbours(t):
    """Slopes a few roundings below and above."""
    step = 16 * eps(t.dtype) * t.abs().clamp(min=1)
    return t - step, t + step


def moderate(dtype, low=1e-3, high=1e3, n=41):
    """Ratios about 1, but not 1 itself, where some have a corner."""
    u = torch.logspace(math.log10(low), math.log10(high), n, dtype=dtype)
    return u[(u - 1).abs() > 1e-2]


@both
@every
def test_f_is_zero_at_one(g, dtype):
    assert abs(g.f(torch.ones((), dtype=dtype)).item()) <= 4 * eps(dtype)


@both
@every
def test_fenchel_young_inequality(g, dtype):
    u, t = ratios(g, dtype)[:, None], g.df(ratios(g, dtype))
    product, f, conjugate = u * t, g.f(u), g.conjugate(t)
    assert not f.isnan().any()
    assert not conjugate.isnan().any()
    comparable = product.isfinite() & ~(f + conjugate).isnan()
    slack = 64 * eps(dtype) * (f.abs() + conjugate.abs() + product.abs())
    assert ((f + conjugate >= product - slack) | ~comparable | slack.isinf()).all()


@both
@every
def test_fenchel_young_equality_at_the_link(g, dtype):
    u = ratios(g, dtype)
    t, f = g.df(u), g.f(u)
    target, slack = u * t - f, 64 * eps(dtype) * ((u * t).abs() + f.abs())
    known = target.isfinite()
    below, above = (g.conjugate(s) for s in neighbours(t))
    assert ((below <= target + slack) | ~known).all()
    assert ((above >= target - slack) | ~known).all()


@both
@every
def test_the_inverse_link_inverts_the_link(g, dtype):
    u = ratios(g, dtype)
    t = g.df(u)
    below, above = (g.inverse_link(s) for s in neighbours(t))
    rounding = 1e3 * eps(dtype)  # a power's exponent is itself rounded, and multiplied by log u
    seen = t.isfinite()
    assert ((below * (1 - rounding) <= u) | ~seen).all()
    assert ((above * (1 + rounding) >= u) | ~seen).all()
    if g.strict:  # in the middle of the range the round trip is exact to rounding
        u = moderate(dtype, 0.1, 10)
        torch.testing.assert_close(g.inverse_link(g.df(u)), u, rtol=1e3 * eps(dtype), atol=0)


@both
@every
def test_f_is_convex_and_its_members_are_monotone(g, dtype):
    u = ratios(g, dtype)
    t = g.df(u)
    assert not t.isnan().any()
    assert ((g.d2f(u) >= 0) | ((u == 1) & (g in REDERIVED.values()))).all()  # at a corner autograd knows no curvature
    assert ((t[1:] >= t[:-1]) | (t[1:] - t[:-1] >= -64 * eps(dtype) * (t[1:].abs() + t[:-1].abs()))).all()
    t = t.sort().values
    for member in (g.conjugate, g.inverse_link):
        value = member(t)
        assert not value.isnan().any()
        assert ((value[1:] - value[:-1] >= -1e3 * eps(dtype) * (value[1:].abs() + 1)) | value[1:].isinf() | value[:-1].isinf()).all()


@both
@every
def test_derivatives_are_derivatives(g, dtype):
    tolerance = {"rtol": 1e5 * eps(dtype), "atol": 1e3 * eps(dtype)}
    u = moderate(dtype).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(g.f(u).sum(), u)[0], g.df(u), **tolerance)
    df = g.df(u)
    second = torch.autograd.grad(df.sum(), u)[0] if df.requires_grad else torch.zeros_like(u)
    torch.testing.assert_close(second, g.d2f(u), **tolerance)


@every
def test_f_has_its_slope_at_one(g):
    """Where the powers of |u - 1| meet, and where equal distributions are."""
    u = torch.ones((), dtype=torch.float64, requires_grad=True)
    for of_ratio in (g.f, lambda v: g.f_log(v.log())):
        torch.testing.assert_close(torch.autograd.grad(of_ratio(u), u)[0], g.df(u).detach(), rtol=0, atol=1e-12)


@both
@every
def test_the_derivative_of_the_conjugate_is_the_inverse_link(g, dtype):
    tolerance = {"rtol": 1e5 * eps(dtype), "atol": 1e3 * eps(dtype)}
    u = moderate(dtype, 0.02, 50)
    t = g.df(u).detach().requires_grad_()
    (slope,) = torch.autograd.grad(g.conjugate(t).sum(), t)
    if not g.strict:
        assert ((g.inverse_link(t) == 1) | (t.abs() >= 0.5)).all()
        return
    torch.testing.assert_close(slope, g.inverse_link(t).detach(), **tolerance)
    (curvature,) = torch.autograd.grad(g.inverse_link(t).sum(), t)
    torch.testing.assert_close(curvature * g.d2f(u), torch.ones_like(u), **tolerance)


@every
def test_the_conjugate_is_twice_differentiable(g):
    """The second derivative of f* is 1 / f'', by autograd through whatever computed f*."""
    if not g.strict:
        pytest.skip("not strictly convex: f* has corners")
    u = moderate(torch.float64, 0.1, 10)
    t = g.df(u).detach().requires_grad_()
    (slope,) = torch.autograd.grad(g.conjugate(t).sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), t)
    torch.testing.assert_close(second * g.d2f(u), torch.ones_like(u), rtol=1e-7, atol=0)


@pytest.mark.numbers
@both
@every
def test_the_conjugate_of_the_conjugate_is_f(g, dtype):
    """sup_t u t - f*(t), over a fine grid of slopes about the best one, and a coarse one elsewhere."""
    for at in (0.2, 0.7, 1.0, 1.3, 4.0):
        u = torch.tensor(at, dtype=dtype)
        near = [g.df(end).item() for end in (0.8 * u, 1.25 * u)]
        far = [g.df(torch.tensor(end, dtype=dtype)).item() for end in (0.05, 20.0)]
        t = torch.cat([torch.linspace(*ends, 2001, dtype=dtype) for ends in (near, far)])
        if math.isfinite(g.slope_at_infinity) and not g.closed:
            t = t.clamp(max=g.slope_at_infinity - 4 * eps(dtype))
        supremum = (u * t - g.conjugate(t)).max()
        torch.testing.assert_close(supremum, g.f(u), rtol=1e-5, atol=1e-6 + 64 * eps(dtype) * max(map(abs, near)))


@every
def test_the_stated_limits_are_the_limits(g):
    if g in REDERIVED.values():
        g, known = REGISTERED[g.name.removeprefix("from_function of ")], g
        for limit in ("at_zero", "slope_at_zero", "slope_at_infinity"):
            assert getattr(known, limit) == pytest.approx(getattr(g, limit), rel=1e-12, abs=1e-30)
        return
    ends = torch.tensor([1e-300, 1e-150, 1e-75, 1e75, 1e150, 1e300], dtype=torch.float64)
    f, df = g.f(ends), g.df(ends)
    zero = torch.zeros((), dtype=torch.float64)
    for stated, at, approach in (
        (g.at_zero, g.f(zero).item(), f[:3].flip(0)),
        (g.slope_at_zero, g.df(zero).item(), df[:3].flip(0)),
        (g.slope_at_infinity, None, df[3:]),
    ):
        if math.isinf(stated):
            assert approach[-1].isinf() or abs(approach[-1]) > 1.5 * abs(approach[0]), "stated infinite, but it is not"
            assert math.copysign(1, approach[-1]) == math.copysign(1, stated)
        else:
            assert approach[-1].item() == pytest.approx(stated, rel=1e-12, abs=1e-12)
        if at is not None:
            assert at == pytest.approx(stated, rel=1e-12, abs=1e-12)
    if math.isfinite(g.slope_at_infinity):  # f'(inf) is also the limit of f(u) / u
        assert (f[-1] / ends[-1]).item() == pytest.approx(g.slope_at_infinity, rel=1e-12, abs=1e-12)


@both
@every
def test_beyond_the_domains(g, dtype):
    largest, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    negative = torch.tensor([-tiny, -1.0, -largest, -math.inf], dtype=dtype)
    assert (g.f(negative) == math.inf).all()
    assert g.df(negative).isnan().all()
    assert g.f(torch.tensor(math.nan, dtype=dtype)).isnan()
    everywhere = torch.tensor([-math.inf, -largest, -1.0, -tiny, 0.0, tiny, 1.0, largest, math.inf], dtype=dtype)
    assert not g.conjugate(everywhere).isnan().any()
    assert not g.inverse_link(everywhere).isnan().any()
    if math.isfinite(g.slope_at_zero):
        t = torch.tensor([g.slope_at_zero - 1e-2, g.slope_at_zero - 5], dtype=dtype)
        torch.testing.assert_close(g.conjugate(t), torch.full_like(t, -g.at_zero), rtol=4 * eps(dtype), atol=0)
        assert (g.inverse_link(t) == 0).all()
    if math.isfinite(g.slope_at_infinity):
        t = torch.tensor([g.slope_at_infinity + 1e-2, g.slope_at_infinity + 5], dtype=dtype)
        assert (g.conjugate(t) == math.inf).all()
        assert (g.inverse_link(t) == math.inf).all()
    at_end = torch.tensor(g.slope_at_infinity, dtype=torch.float64)
    assert g.conjugate(at_end).isfinite() == g.closed == (g.slope_at_infinity in g.conjugate_domain)


@every
def test_the_conjugate_at_the_end_of_its_domain(g):
    """f*(f'(inf)) is minus the reverse's slope at 0; a function that nothing else is known of counts its end as outside."""
    if g not in REDERIVED.values():
        assert g.closed == math.isfinite(g.reverse().slope_at_zero)
    if g.closed:
        end = torch.tensor(g.slope_at_infinity, dtype=torch.float64)
        assert g.conjugate(end).item() == pytest.approx(-g.reverse().slope_at_zero, rel=1e-7)


@both
@every
def test_the_reverse_exchanges_the_arguments(g, dtype):
    reverse = g.reverse()
    assert reverse.reverse() is g
    u = moderate(dtype)
    torch.testing.assert_close(reverse.f(u), u * g.f(1 / u), rtol=1e3 * eps(dtype), atol=1e3 * eps(dtype))
    assert reverse.at_zero == pytest.approx(g.slope_at_infinity, rel=1e-12, abs=1e-15)
    assert reverse.slope_at_infinity == pytest.approx(g.at_zero, rel=1e-12, abs=1e-15)
    t = g.df(moderate(dtype, 0.1, 10))  # (f°)*(-f*(t)) = -t
    if g.strict:
        torch.testing.assert_close(reverse.conjugate(-g.conjugate(t)), -t, rtol=1e4 * eps(dtype), atol=1e4 * eps(dtype))


@both
@registered
def test_members_of_a_log_ratio_are_those_of_the_ratio(g, dtype):
    u = moderate(dtype)
    torch.testing.assert_close(g.f_log(u.log()), g.f(u), rtol=1e3 * eps(dtype), atol=1e2 * eps(dtype))
    torch.testing.assert_close(g.df_log(u.log()), g.df(u), rtol=1e3 * eps(dtype), atol=1e2 * eps(dtype))
    far = torch.tensor([-1e4, 1e4], dtype=dtype)
    low, high = g.df_log(far).tolist()
    assert low == pytest.approx(g.slope_at_zero, rel=1e-6) if math.isfinite(g.slope_at_zero) else low <= -500
    assert high == pytest.approx(g.slope_at_infinity, rel=1e-6, abs=1e-6) if math.isfinite(g.slope_at_infinity) else high >= 500
    if math.isinf(g.at_zero):
        assert g.f_log(far)[0] >= 9999  # -log u, and no more than u - 1 beside it


@registered
def test_symmetrising(g):
    mean, u = g.symmetrised(), moderate(torch.float64)
    torch.testing.assert_close(mean.f(u), 0.5 * (g.f(u) + u * g.f(1 / u)), rtol=1e-12, atol=1e-13)
    assert mean.reverse() is mean
    assert mean.symmetrised() is mean


@registered
def test_centring_makes_f_nonnegative_and_touch_zero(g):
    centred, u = g.centred(), torch.logspace(-6, 6, 101, dtype=torch.float64)
    assert abs(centred.df(torch.ones((), dtype=torch.float64)).item()) < 1e-15
    assert (centred.f(u) >= -1e-9 * u.clamp(min=1) * 1e-3).all()


@registered
def test_scaling_and_tilting_by_their_definitions(g):
    u = moderate(torch.float64)
    t = g.df(u)
    torch.testing.assert_close((3 * g).f(u), 3 * g.f(u))
    torch.testing.assert_close((3 * g).conjugate(3 * t), 3 * g.conjugate(t))
    torch.testing.assert_close(g.tilted(0.5).f(u), g.f(u) + 0.5 * (u - 1))
    torch.testing.assert_close(g.tilted(0.5).conjugate(t + 0.5), g.conjugate(t) + 0.5, rtol=1e-6, atol=1e-9)
