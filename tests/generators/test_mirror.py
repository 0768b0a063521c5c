"""Mirror maps: gradients and inverses, duality, stability at and far from 0, and descent that arrives."""

import math

import pytest
import torch
from entropy_cases import interior, logits
from torch.autograd import gradcheck, gradgradcheck

from lossmith.generators import entropic_map, gini, p_norm_map, tsallis

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative

P = (1.1, 1.5, 2.0, 3.0, 10.0)
norms = pytest.mark.parametrize("p", P)


@norms
def test_the_maps_are_their_definitions(p):
    x = logits(6, 4)
    size = x.abs().pow(p).sum(-1, keepdim=True).pow(1 / p)
    psi = p_norm_map(p)
    torch.testing.assert_close(psi.potential(x), size.squeeze(-1).square() / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(psi.gradient(x), size.pow(2 - p) * x.abs().pow(p - 1) * x.sign(), rtol=1e-11, atol=0)
    torch.testing.assert_close(torch.func.grad(lambda t: psi.potential(t).sum())(x), psi.gradient(x), rtol=1e-11, atol=0)
    torch.testing.assert_close(torch.func.grad(lambda t: psi.conjugate(t).sum())(x), psi.inverse(x), rtol=1e-11, atol=0)


@norms
def test_the_inverse_inverts(p):
    x, psi = logits(6, 4), p_norm_map(p)
    torch.testing.assert_close(psi.inverse(psi.gradient(x)), x, rtol=1e-10, atol=0)
    torch.testing.assert_close(psi.gradient(psi.inverse(x)), x, rtol=1e-10, atol=0)


@norms
def test_fenchel_young(p):
    x, y, psi = logits(6, 4), logits(6, 4, seed=1), p_norm_map(p)
    assert (psi.potential(x) + psi.conjugate(y) >= (x * y).sum(-1)).all()
    slope = psi.gradient(x)
    torch.testing.assert_close(psi.potential(x) + psi.conjugate(slope), (x * slope).sum(-1), rtol=1e-12, atol=0)


@norms
def test_bregman_is_dual_to_itself(p):
    x, y, psi = logits(6, 4), logits(6, 4, seed=1), p_norm_map(p)
    assert (psi.bregman(x, y) > 0).all()
    assert psi.bregman(x, x).abs().max() <= 1e-14
    u, v = psi.gradient(x), psi.gradient(y)
    dual = psi.conjugate(v) - psi.conjugate(u) - (psi.inverse(u) * (v - u)).sum(-1)
    torch.testing.assert_close(psi.bregman(x, y), dual, rtol=1e-9, atol=1e-12)


@norms
def test_derivatives(p):
    x, y = logits(2, 3).requires_grad_(), logits(2, 3, seed=1).requires_grad_()
    psi = p_norm_map(p)
    for member in (psi.potential, psi.gradient, psi.inverse, psi.conjugate):
        assert gradcheck(member, x)
        assert gradgradcheck(member, x, atol=1e-4)
    assert gradcheck(psi.bregman, (x, y))
    torch.testing.assert_close(torch.func.vmap(psi.gradient)(x), psi.gradient(x), rtol=1e-12, atol=0)


@norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_at_zero_and_at_the_ends_of_the_range(p, dtype):
    psi = p_norm_map(p)
    zero = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    for member in (psi.potential, psi.gradient, psi.inverse, psi.conjugate):
        value = member(zero)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (value == 0).all()
        assert (torch.autograd.grad(value.sum(), zero)[0] == 0).all()
    partly = torch.tensor([0.0, 3.0, -4.0], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(psi.gradient(partly).sum(), partly)
    assert gradient.isfinite().all()
    assert psi.gradient(partly)[0] == 0
    for size in (1e-30, 1e30):  # a power of which would be 0 or infinite
        x = (size * torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)).to(dtype)
        wide = p_norm_map(p).gradient(x.double())
        torch.testing.assert_close(psi.gradient(x).double(), wide, rtol=1e-5, atol=0)
        torch.testing.assert_close(psi.inverse(psi.gradient(x)).double(), x.double(), rtol=1e-4, atol=0)


def test_the_entropic_map_is_the_exponentiated_gradient():
    x, g, psi = interior(5, 4), logits(5, 4), entropic_map()
    expected = x * (-0.3 * g).exp()
    torch.testing.assert_close(psi.step(x, g, 0.3), expected / expected.sum(-1, keepdim=True), rtol=1e-12, atol=0)
    torch.testing.assert_close(psi.bregman(x, psi.step(x, g, 0.3)), (x * (x / psi.step(x, g, 0.3)).log()).sum(-1), rtol=1e-10, atol=1e-14)
    vertex = torch.tensor([1.0, 0.0])
    assert psi.step(vertex, torch.tensor([5.0, 0.0]), 1.0).tolist() == [1.0, 0.0]
    assert psi.bregman(vertex, vertex) == 0
    assert psi.bregman(torch.tensor([0.5, 0.5]), vertex) == math.inf


@pytest.mark.parametrize("psi", [entropic_map(), entropic_map(gini), entropic_map(tsallis(1.5)), p_norm_map(1.2), p_norm_map(3)], ids=repr)
def test_a_step_is_a_bregman_proximal_step(psi):
    """eta g + grad psi(x') - grad psi(x) is the same for every class on the simplex, and 0 off it."""
    x, g = interior(5, 4), logits(5, 4)
    there = psi.step(x, g, 0.05)
    residual = 0.05 * g + psi.gradient(there) - psi.gradient(x)
    if "entropic" in psi.name:
        residual = residual - residual.mean(-1, keepdim=True)
    assert residual.abs().max() <= 1e-12


@pytest.mark.parametrize("psi", [entropic_map(), p_norm_map(2), p_norm_map(3)], ids=repr)
def test_half_precision_is_computed_in_float32(psi):
    """What is near is not told apart by a difference that is rounded to 8 bits first."""
    x = interior(5, 16).bfloat16()
    y = (x.float() * (1 + 0.05 * logits(5, 16, dtype=torch.float32))).bfloat16()
    torch.testing.assert_close(psi.bregman(x, y).double(), psi.bregman(x.double(), y.double()), rtol=2e-4, atol=2e-6)
    torch.testing.assert_close(psi.step(x, y, 0.3).double(), psi.step(x.double(), y.double(), 0.3), rtol=1e-5, atol=1e-6)


@norms
def test_a_number_that_is_none_stays_none(p):
    psi = p_norm_map(p)
    for x in (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, math.nan])):
        for member in (psi.potential, psi.gradient, psi.inverse, psi.conjugate):
            assert member(x).isnan().any()


def test_mirror_descent_arrives():
    """The least expected loss on the simplex is at its cheapest vertex."""
    cost, psi = torch.tensor([0.3, 0.1, 0.9], dtype=torch.float64), entropic_map()
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    for _ in range(200):
        x = psi.step(x, cost, 0.5)
    torch.testing.assert_close(x, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: p_norm_map(1), ValueError, r"p_norm_map: p must be in \(1, inf\); got 1"),
        (lambda: p_norm_map(2).gradient(torch.tensor([1, 2])), TypeError, r"p_norm_map\(p=2.0\).gradient: needs a floating-point tensor"),
        (lambda: entropic_map("shannon"), TypeError, "entropic_map: entropy must be an Entropy; got str"),
    ],
)
@pytest.mark.untyped
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
