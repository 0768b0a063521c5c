"""Variational bounds: below the divergence, equal to it at the best critic, and what the named special cases say."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from lossmith.divergences import divergence, tight_variational_bound, variational_bound
from lossmith.generators import FGenerator, all_generators, density_ratio, get, kl, output_activation, pearson_chi2, total_variation

GENERATORS = {**all_generators(), "from_function": FGenerator.from_function(lambda u: u * u.log() + (u - 1) ** 2, name="kl and chi2")}
every = pytest.mark.parametrize("g", GENERATORS.values(), ids=GENERATORS.keys())
P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.2, 0.25, 0.25, 0.3], dtype=torch.float64)
POINTS = {"weights_p": P, "weights_q": Q}


def critic(seed, scale=1.0, shape=(4,)):
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@every
def test_equality_at_the_best_critic(g):
    wanted = divergence(P, Q, g)
    t = g.df(P / Q)
    torch.testing.assert_close(variational_bound(t, t, g, **POINTS).value, wanted, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(tight_variational_bound(t + 3, t + 3, g, **POINTS).value, wanted, rtol=1e-8, atol=1e-12)
    r = (P / Q).log()
    torch.testing.assert_close(variational_bound(r, r, g, log_ratio=True, **POINTS).value, wanted, rtol=1e-8, atol=1e-12)


@every
def test_a_lower_bound_at_any_critic(g):
    wanted = divergence(P, Q, g)
    for seed in range(5):
        v = critic(seed)
        t = output_activation(v, g)
        plain, tight = variational_bound(t, t, g, **POINTS).value, tight_variational_bound(t, t, g, **POINTS).value
        assert plain <= tight + 1e-12
        assert tight <= wanted + 1e-12
        assert variational_bound(v, v, g, log_ratio=True, **POINTS).value <= wanted + 1e-12


@pytest.mark.parametrize(
    "name", ["kl", "reverse_kl", "squared_hellinger", "pearson_chi2", "jensen_shannon_gan", "gan", "neyman_chi2", "jeffreys"]
)
def test_the_maximum_over_critics_by_a_solver(name):
    """BFGS over the output before f-GAN's activation finds the divergence, and the density ratio at its critic."""

    def loss(v):
        v = torch.tensor(v, requires_grad=True)
        t = output_activation(v, name)
        value = -variational_bound(t, t, name, **POINTS).value
        value.backward()
        return value.item(), v.grad.numpy()

    start = np.array([0.3, 0.1, -0.2, -0.4])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    assert -found.fun == pytest.approx(divergence(P, Q, name).item(), abs=1e-8)
    ratio = density_ratio(output_activation(torch.tensor(found.x), name), name)
    torch.testing.assert_close(ratio, P / Q, rtol=1e-4, atol=0)


def test_total_variation_is_reached_at_the_sign():
    t = 0.5 * (P - Q).sign()
    assert variational_bound(t, t, "total_variation", **POINTS).value.item() == pytest.approx(divergence(P, Q, total_variation).item())


@every
def test_the_tight_bound_is_the_best_shift_by_search(g):
    t = critic(3, 0.3)
    tight = tight_variational_bound(t, t, g, **POINTS).value.item()
    top = g.slope_at_infinity - t.max().item() if math.isfinite(g.slope_at_infinity) else 5.0
    low = g.df(torch.ones((), dtype=torch.float64)).item() - t.max().item() - 1
    for _ in range(3):  # a grid over the shift, and two finer ones about the best
        shifts = torch.linspace(low, top, 2001, dtype=torch.float64)
        values = ((t + shifts[:, None]) * P).sum(-1) - (g.conjugate(t + shifts[:, None]) * Q).sum(-1)
        best = values.argmax().item()
        low, top = shifts[max(best - 1, 0)].item(), shifts[min(best + 1, 2000)].item()
    assert tight == pytest.approx(values.max().item(), abs=1e-8)
    assert tight >= values.max().item() - 1e-12


def test_donsker_varadhan_and_nwj():
    t_p, t_q = critic(0, shape=(50, 2)), critic(1, shape=(70, 2))
    dv = tight_variational_bound(t_p, t_q, kl)
    torch.testing.assert_close(dv.value, t_p.mean(0) - (t_q.logsumexp(0) - math.log(70)), rtol=1e-12, atol=0)
    nwj = variational_bound(t_p, t_q, kl)
    torch.testing.assert_close(nwj.value, t_p.mean(0) - (t_q - 1).exp().mean(0), rtol=1e-12, atol=0)
    assert (dv.value >= nwj.value).all()
    assert (dv.kind, nwj.kind) == ("estimate", "lower bound")


def test_known_shift_optima():
    """Chi-squared: the best affine critic gives (E_P T - E_Q T)^2 / Var_Q T; the best shift alone E_P T - E_Q T - Var_Q(T) / 4."""
    t = critic(4, 0.2)
    mean = (Q * t).sum()
    variance = (Q * (t - mean) ** 2).sum()
    gap = (P * t).sum() - mean
    torch.testing.assert_close(tight_variational_bound(t, t, pearson_chi2, **POINTS).value, gap - variance / 4, rtol=1e-12, atol=1e-14)
    best = t * (2 * gap / variance)
    torch.testing.assert_close(
        variational_bound(best - (Q * best).sum(), best - (Q * best).sum(), pearson_chi2, **POINTS).value, gap**2 / variance
    )
    tv = tight_variational_bound(20 * t, 20 * t, total_variation, **POINTS).value  # E_P T - E_Q max(T, max T - 1)
    torch.testing.assert_close(tv, (P * 20 * t).sum() - (Q * torch.maximum(20 * t, 20 * t.max() - 1)).sum())


def test_log_ratio_of_gan_is_the_discriminator():
    v_p, v_q = critic(0, 40.0, (30,)), critic(1, 40.0, (20,))
    found = variational_bound(v_p, v_q, "gan", log_ratio=True).value
    torch.testing.assert_close(found, 2 * math.log(2) + F.logsigmoid(v_p).mean() + F.logsigmoid(-v_q).mean(), rtol=1e-12, atol=0)


@every
def test_log_ratios_never_give_nan(g):
    r = torch.tensor([-1e4, -100.0, 0.3, 100.0, 1e4], dtype=torch.float64, requires_grad=True)
    value = variational_bound(-r, r, g, log_ratio=True).value
    assert not value.isnan()
    if g.name in ("gan", "jensen_shannon"):  # their bounds are finite everywhere
        (gradient,) = torch.autograd.grad(value, r)
        assert not gradient.isnan().any()


def test_beyond_the_domain_the_bound_is_trivial():
    bound = variational_bound(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.5]), "squared_hellinger")
    assert bound.value == -math.inf
    assert bound.standard_error == math.inf


def test_standard_errors():
    """Against the scatter of two thousand repetitions, for both bounds, 10 % being four standard deviations of that."""
    seeds = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2000, dtype=torch.float64, generator=seeds) + 0.5
    y = torch.randn(60, 2000, dtype=torch.float64, generator=seeds)
    for bound in (variational_bound(0.5 * x + 0.8, 0.5 * y + 0.8, kl), tight_variational_bound(0.5 * x, 0.5 * y, kl)):
        assert bound.n == 40
        scatter = bound.value.std().item()
        assert bound.standard_error.square().mean().sqrt().item() == pytest.approx(scatter, rel=0.1)
    plain = variational_bound(0.5 * x + 0.8, 0.5 * y + 0.8, kl).value.mean().item()
    assert plain == pytest.approx(0.5 * 0.5 + 0.8 - math.exp(-0.2 + 0.125), abs=0.02)


@pytest.mark.parametrize("g", [kl, get("jensen_shannon"), get("squared_hellinger")], ids=lambda g: g.name)
def test_gradients(g):
    t_p, t_q = critic(0, 0.2).requires_grad_(), critic(1, 0.2).requires_grad_()
    for bound in (variational_bound, tight_variational_bound):
        assert torch.autograd.gradcheck(lambda x, y: bound(x - 1, y - 1, g).value, (t_p, t_q))  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda x, y: bound(x - 1, y - 1, g).value, (t_p, t_q))  # noqa: B023


@pytest.mark.parametrize("g", [kl, get("jensen_shannon"), total_variation, pearson_chi2], ids=lambda g: g.name)
def test_equal_weights_are_none(g):
    t_p, t_q = critic(0, 0.2), critic(1, 0.2)
    for bound in (variational_bound, tight_variational_bound):
        plain, weighted = (
            bound(t_p - 1, t_q - 1, g),
            bound(t_p - 1, t_q - 1, g, weights_p=torch.full_like(t_p, 3.0), weights_q=torch.ones(4).double()),
        )
        torch.testing.assert_close(weighted.value, plain.value)
        torch.testing.assert_close(weighted.standard_error, plain.standard_error)
    if g is not total_variation:  # the terms whose scatter is the standard error average to the value
        share = Q / Q.sum()
        tight = tight_variational_bound(t_p, t_q, g, weights_q=share)
        assert tight.standard_error > 0


def test_half_precision():
    t = torch.tensor([0.25, -0.5], dtype=torch.bfloat16)
    for bound in (variational_bound, tight_variational_bound):
        assert bound(t, t, "kl").value.dtype is torch.float32


@pytest.mark.untyped
@pytest.mark.parametrize("bound", [variational_bound, tight_variational_bound])
def test_mistakes_are_named(bound):
    t = torch.zeros(3)
    with pytest.raises(
        TypeError, match=rf"{bound.__name__}: t_p must be a floating-point tensor of shape \(n, \*batch\); got int64 \(3,\)"
    ):
        bound(torch.zeros(3, dtype=torch.long), t, "kl")
    with pytest.raises(ValueError, match="t_q must have at least one sample"):
        bound(t, torch.zeros(0), "kl")
    with pytest.raises(ValueError, match=r"same batch after their samples; got float32 \(3,\) and float32 \(3, 2\)"):
        bound(t, torch.zeros(3, 2), "kl")
    for side in ("weights_p", "weights_q"):
        with pytest.raises(ValueError, match=rf"{bound.__name__}: {side} must have shape \(3,\) or \(3,\); got float32 \(2,\)"):
            bound(t, t, "kl", **{side: torch.ones(2)})
