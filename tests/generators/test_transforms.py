"""The members under torch's transformations, and what they give at the edges of their domains."""

import copy
import math

import pytest
import torch
from generator_cases import CLOSED, DERIVED, REGISTERED

from lossmith.generators import alpha_cichocki, chi_p, gan, jeffreys, kl, skew_kl, total_variation

closed = pytest.mark.parametrize("g", CLOSED.values(), ids=CLOSED.keys())
registered = pytest.mark.parametrize("g", REGISTERED.values(), ids=REGISTERED.keys())
U = torch.tensor([0.02, 0.4, 0.8, 1.3, 30.0], dtype=torch.float64)


def members(g):
    """Each member with a good argument."""
    t = g.df(U) if g.strict else torch.linspace(-0.4, 0.4, 5, dtype=torch.float64)
    return [(g.f, U), (g.df, U), (g.d2f, U), (g.conjugate, t), (g.inverse_link, t), (g.f_log, U.log()), (g.df_log, U.log())]


@registered
def test_vmap_and_func_grad(g):
    for member, x in members(g):
        torch.testing.assert_close(torch.vmap(member)(x), member(x), rtol=1e-13, atol=1e-15)
        each = torch.vmap(torch.func.grad(member))(x)
        x = x.clone().requires_grad_()
        value = member(x)
        whole = torch.autograd.grad(value.sum(), x)[0] if value.requires_grad else torch.zeros_like(x)
        torch.testing.assert_close(each, whole, rtol=1e-13, atol=1e-15)


@registered
def test_gradients_against_finite_differences(g):
    for member, x in members(g):
        if g.strict:
            assert torch.autograd.gradcheck(member, x[1:-1].clone().requires_grad_(), eps=1e-7, atol=1e-5, rtol=1e-5)


@closed
@pytest.mark.compile
def test_compiled_in_one_graph(g):
    """All members in one graph, values and gradients alike."""
    (_, u), (_, t) = members(g)[0], members(g)[3]

    def all_members(u, t):
        return g.f(u) + g.df(u) + g.d2f(u) + g.f_log(u.log()) + g.df_log(u.log()) + g.conjugate(t) + g.inverse_link(t)

    torch._dynamo.reset()
    compiled = torch.compile(all_members, backend="aot_eager", fullgraph=True)
    results = []
    for function in (all_members, compiled):
        x, y = u.clone().requires_grad_(), t.clone().requires_grad_()
        value = function(x, y)
        results.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-13, atol=1e-15)


@registered
def test_gradients_at_the_edges_are_not_nan(g):
    """At u = 0 f has its slope where that is finite, and no gradient where it is not; beyond the domains nothing is NaN."""
    u = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(g.f(u).sum(), u)
    assert gradient[0].item() == pytest.approx(g.slope_at_zero if math.isfinite(g.slope_at_zero) else 0.0, rel=1e-12)
    assert not gradient.isnan().any()
    beyond = [g.slope_at_zero - 1 if math.isfinite(g.slope_at_zero) else -1e3, g.slope_at_infinity + 1]
    t = torch.tensor(beyond, dtype=torch.float64, requires_grad=True)
    for member in (g.conjugate, g.inverse_link):
        value = member(t)
        if value.requires_grad and math.isfinite(g.slope_at_infinity):
            assert not torch.autograd.grad(value.sum(), t)[0].isnan().any()


def test_any_shape_and_half_precision():
    for shape in ((), (0,), (2, 3), (2, 1, 4)):
        assert jeffreys.conjugate(torch.zeros(shape)).shape == shape
        assert kl.f(torch.ones(shape)).shape == shape
    half = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
    for member in (kl.f, kl.df_log, jeffreys.f_log, jeffreys.inverse_link, total_variation.df):
        assert member(half).dtype is torch.float32
        torch.testing.assert_close(member(half), member(half.float()))


def test_a_copy_is_as_good():
    twin = copy.deepcopy(kl)
    assert repr(twin) == repr(kl) == r"FGenerator(kl: u \log u)"
    torch.testing.assert_close(twin.conjugate(U), kl.conjugate(U))


def test_the_domains():
    assert str(kl.domain) == "[0, inf)"
    assert str(jeffreys.domain) == "(0, inf)"
    assert str(total_variation.conjugate_domain) == "(-inf, 0.5]"
    assert str(REGISTERED["reverse_kl"].conjugate_domain) == "(-inf, 0)"


DECLARING = [name for name, g in (REGISTERED | DERIVED).items() if g.alphas is not None]
P, Q = (torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(-1) for seed in (0, 1))


@pytest.mark.parametrize("name", [*DECLARING, "chi_p(p=2.0)", "reverse of chi_p(p=2.0)", "skew_kl(skew=0.0)", "skew_reverse_kl(skew=0.0)"])
def test_a_sum_of_alpha_divergences(name):
    """D_f is the sum that `alphas` says, by the definition of both sides."""
    more = [chi_p(2.0), chi_p(2.0).reverse(), skew_kl(0.0), skew_kl(0.0).reverse()]
    g = (REGISTERED | DERIVED | {h.name: h for h in more})[name]
    for h in (g, g.reverse(), g.scaled(0.7), g.tilted(1.3), g.symmetrised(), g + kl, g.reverse().centred()):
        assert h.alphas is not None
        assert all(weight > 0 for _, weight in h.alphas)
        assert len({order for order, _ in h.alphas}) == len(h.alphas)
        got = sum(weight * (Q * alpha_cichocki(order).f(P / Q)).sum(-1) for order, weight in h.alphas)
        torch.testing.assert_close(got, (Q * h.f(P / Q)).sum(-1), rtol=1e-11, atol=0)


def test_which_are_sums_of_alpha_divergences():
    names = {name.partition("(")[0] for name in REGISTERED if REGISTERED[name].alphas is not None}
    assert names == {
        "alpha_cichocki", "alpha_tsallis", "jeffreys", "kl", "neyman_chi2", "pearson_chi2", "reverse_kl", "squared_hellinger",
    }  # fmt: skip
    for g in (kl + total_variation, total_variation.scaled(2.0), gan.tilted(1.0), gan.reverse(), chi_p(3.0).symmetrised()):
        assert g.alphas is None
    assert kl.symmetrised().alphas == ((1.0, 0.5), (0.0, 0.5))
    assert (kl + kl).alphas == ((1.0, 2.0),)
