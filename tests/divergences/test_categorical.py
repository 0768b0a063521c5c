"""Divergences of categorical distributions against scipy, torch and plain sums."""

import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr

import lossmith
from lossmith.divergences import divergence, f_divergence
from lossmith.generators import FGenerator, all_generators, alpha_cichocki, chi_p, kl

GENERATORS = all_generators()
every = pytest.mark.parametrize("name", GENERATORS)


def rows(seed, scale=2.0, n=6, c=5):
    logits = scale * torch.randn(n, c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(-1)


P, Q = rows(0), rows(1)


def test_against_scipy():
    p, q = P.exp().numpy(), Q.exp().numpy()
    m = (p + q) / 2
    for name, wanted in {
        "kl": rel_entr(p, q),
        "reverse_kl": rel_entr(q, p),
        "jeffreys": rel_entr(p, q) + rel_entr(q, p),
        "jensen_shannon": (rel_entr(p, m) + rel_entr(q, m)) / 2,
        "total_variation": np.abs(p - q) / 2,
        "squared_hellinger": (np.sqrt(p) - np.sqrt(q)) ** 2,
        "pearson_chi2": (p - q) ** 2 / q,
        "neyman_chi2": (p - q) ** 2 / p,
        "triangular": (p - q) ** 2 / (p + q),
    }.items():
        for got in (divergence(P.exp(), Q.exp(), name), divergence(P, Q, name, log=True)):
            np.testing.assert_allclose(got.numpy(), wanted.sum(-1), rtol=1e-10)


def test_the_calls_of_torch_that_the_documentation_names():
    torch.testing.assert_close(divergence(P.exp(), Q.exp(), kl), F.kl_div(Q, P.exp(), reduction="none").sum(-1))
    torch.testing.assert_close(divergence(P, Q, kl, log=True), F.kl_div(Q, P, reduction="none", log_target=True).sum(-1))


@every
@pytest.mark.parametrize("logit", [-60.0, -85.0, -100.0])
def test_single_precision_gradients_of_confident_rows(name, logit):
    """As in double precision, wherever that gradient is a float."""

    def gradient(dtype, exchanged):
        logits = torch.tensor([logit, 0.0, 1.0], dtype=dtype, requires_grad=True)
        pair = [logits.log_softmax(-1), torch.tensor([0.3, 0.5, 0.2], dtype=dtype).log()]
        return torch.autograd.grad(divergence(*(pair[::-1] if exchanged else pair), name, log=True), logits)[0]

    for exchanged in (False, True):
        wanted = gradient(torch.float64, exchanged)
        if wanted.abs().max() < 1e35:
            torch.testing.assert_close(gradient(torch.float32, exchanged).double(), wanted, rtol=1e-4, atol=1e-6)


FAR = {name: GENERATORS[name] for name in GENERATORS} | {
    "alpha 12": alpha_cichocki(12.0),
    "alpha -10": alpha_cichocki(-10.0),
    "chi of order 11": chi_p(11.0),
    "a user's": FGenerator.from_function(lambda u: (u - 1) ** 4 / (u + 3)),
    "a sum": GENERATORS["neyman_chi2"] + GENERATORS["chi_p(p=3.0)"],
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize(("in_p", "in_q"), [(-110.0, -120.0), (-120.0, -110.0), (-95.0, -56.0), (-60.0, -95.0), (-210.0, -208.0)])
def test_a_class_far_down_on_both_sides(name, in_p, in_q):
    """In float32, where the ratio's power overflows and the probability it goes with is 0: as the definition in float64."""
    g = FAR[name]
    z = [torch.tensor([[0.0, 1.0, -3.0, down]], dtype=torch.float64, requires_grad=True) for down in (in_p, in_q)]
    p, q = (x.softmax(-1) for x in z)
    expected = (q * g.f(p / q)).sum()
    wanted = torch.autograd.grad(expected, z)
    narrow = [x.detach().float().requires_grad_() for x in z]
    found = divergence(*(x.log_softmax(-1) for x in narrow), g, log=True).sum()
    assert not found.isnan()
    if max(slope.abs().max() for slope in wanted) > 1e37:
        return
    assert found.item() == pytest.approx(expected.item(), rel=3e-5, abs=1e-7)
    for mine, exact in zip(torch.autograd.grad(found, narrow), wanted, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=0, atol=5e-5 * exact.abs().max().item() + 1e-7)


def test_a_class_that_float64_cannot_hold():
    """(p - q)^2 / q of log p = -800 and log q = -1590 is e^-10, and its slope by log p twice that."""
    log_p, log_q = (torch.tensor([0.0, down], dtype=torch.float64, requires_grad=True) for down in (-800.0, -1590.0))
    cases = [("pearson_chi2", log_p, log_q, 1.0), ("neyman_chi2", log_q, log_p, 1.0), ("pearson_chi2", log_q, log_p, 0.0)]
    for name, first, second, exact in cases:
        value = divergence(first, second, name, log=True)
        assert value.item() == pytest.approx(exact * math.exp(-10), rel=1e-12)
        assert torch.autograd.grad(value, log_p)[0][1].item() == pytest.approx(2 * exact * math.exp(-10), rel=1e-12)


def test_a_power_of_probabilities_that_is_no_float():
    p, q = torch.tensor([1.0, 1e-20]), torch.tensor([1.0, 1e-33])  # the cube of 1e13 is 1e39
    assert divergence(p, q, alpha_cichocki(4.0)).item() == pytest.approx(1e-20 * 1e39 / 12, rel=1e-5)


@every
def test_both_forms_agree_vanish_at_equality_and_reverse(name):
    g = GENERATORS[name]
    plain = divergence(P.exp(), Q.exp(), g)
    torch.testing.assert_close(divergence(P, Q, g, log=True), plain, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(divergence(Q.exp(), P.exp(), g.reverse()), plain, rtol=1e-10, atol=1e-14)
    assert (plain > 0).all()
    torch.testing.assert_close(divergence(P, P, g, log=True), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)


@every
def test_off_the_support(name):
    """Half of p is where q is not, and a quarter of q where p is not; both are nowhere on the last outcome."""
    g = GENERATORS[name]
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.75, 0.0, 0.25, 0.0], dtype=torch.float64)
    common = 0.75 * g.f(torch.tensor(2 / 3, dtype=torch.float64)).item()
    wanted = common + 0.5 * g.slope_at_infinity + 0.25 * g.at_zero
    for got in (divergence(p, q, g), divergence(p.log(), q.log(), g, log=True)):
        assert got.item() == pytest.approx(wanted, rel=1e-12)
    for x, y, log in ((p, q, False), (p.log(), q.log(), True)):
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        divergence(x, y, g, log=log).backward()
        assert x.grad is not None
        assert y.grad is not None
        if math.isfinite(wanted):
            assert not torch.cat([x.grad, y.grad]).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_logits(dtype):
    logits = torch.tensor([1e4, 0.0, -1e4], dtype=dtype)
    log_p, log_q = logits.log_softmax(0), (-logits).log_softmax(0)
    for name, wanted in (("kl", 2e4), ("reverse_kl", 2e4), ("jeffreys", 4e4), ("jensen_shannon", math.log(2)), ("total_variation", 1.0)):
        a, b = log_p.clone().requires_grad_(), log_q.clone().requires_grad_()
        value = divergence(a, b, name, log=True)
        assert value.item() == pytest.approx(wanted, rel=1e-6)
        for gradient in torch.autograd.grad(value, (a, b)):
            assert gradient.isfinite().all()
    assert divergence(log_p, log_q, "pearson_chi2", log=True) == math.inf


@every
def test_gradients(name):
    g = GENERATORS[name]
    if not g.strict:
        pytest.skip("has corners, where finite differences mean nothing")
    for log in (False, True):
        x, y = ((z if log else z.exp())[:2].clone().requires_grad_() for z in (rows(2, 0.5), rows(3, 0.5)))
        assert torch.autograd.gradcheck(lambda x, y: divergence(x, y, g, log=log), (x, y), rtol=1e-4)  # noqa: B023
        assert torch.vmap(lambda x, y: divergence(x, y, g, log=log))(x, y).shape == (2,)  # noqa: B023


@pytest.mark.untyped
def test_mistakes_are_named():
    with pytest.raises(TypeError, match="p must be a floating-point tensor of shape"):
        divergence([0.5, 0.5], Q, kl)
    with pytest.raises(ValueError, match=r"same last axis; got float64 \(6, 4\) and float64 \(6, 5\)"):
        divergence(P[:, :4], Q, kl)
    with pytest.raises(TypeError, match="generator must be an FGenerator or the name of one; got int 3"):
        divergence(P, Q, 3)
    with pytest.raises(KeyError, match="did you mean 'kl'"):
        divergence(P, Q, "kll")
    with lossmith.validate(True), pytest.raises(ValueError, match=r"q must be probabilities that sum to 1 .* sums to"):
        divergence(P.exp(), Q, kl)


@pytest.mark.parametrize("name", ["kl", "gan", "total_variation", alpha_cichocki(0.3), 2 * kl])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.compile
def test_compiled_in_one_graph(name, log):
    torch._dynamo.reset()
    if not isinstance(name, str):
        name.reverse()
    compiled = torch.compile(lambda p, q: divergence(p, q, name, log=log), backend="aot_eager", fullgraph=True)
    p, q = (P, Q) if log else (P.exp(), Q.exp())
    torch.testing.assert_close(compiled(p, q), divergence(p, q, name, log=log))


def test_the_example_runs():
    result = doctest.testmod(f_divergence)
    assert result.attempted > 0
    assert result.failed == 0
