"""Links of a generator: against their papers' tables, plain calculus, and at the far ends of the dtype."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from generator_cases import ALL, DTYPES, REDERIVED, REGISTERED

from lossmith.generators import (
    FGenerator,
    alpha_cichocki,
    alpha_f_dpo,
    chi_p,
    density_ratio,
    get,
    jensen_shannon_gan,
    jensen_shannon_skewed,
    kl,
    output_activation,
    policy_reward,
    preference_link,
    reverse_kl,
    score_weight,
    skew_kl,
    skew_reverse_kl,
    squared_hellinger,
    total_variation,
    triangular,
)

every = pytest.mark.parametrize("g", ALL.values(), ids=ALL.keys())
registered = pytest.mark.parametrize("g", REGISTERED.values(), ids=REGISTERED.keys())
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)
R = torch.tensor([-6.0, -1.3, -0.2, 0.4, 1.0, 7.0], dtype=torch.float64)
U = R.exp()


@pytest.mark.parametrize(
    ("g", "score"),
    [
        (kl, lambda r: r),
        (reverse_kl, lambda r: -(-r).exp()),
        (jensen_shannon_gan, lambda r: F.logsigmoid(r)),
        (alpha_f_dpo(0.3), lambda r: -(-0.3 * r).exp() / 0.3),
    ],
    ids=["reverse KL", "forward KL", "JS", "alpha"],
)
def test_f_dpo_rewards_up_to_a_constant(g, score):
    """Table 1 of f-DPO, with its names of the divergences."""
    gap = preference_link(R, g) - score(R)
    torch.testing.assert_close(gap, gap[0].expand(6), rtol=0, atol=1e-12)


@registered
def test_policy_reward_is_the_gradient_of_the_divergence(g):
    """Theorem 1 of f-DPG on five outcomes: E_pi[-reward grad log pi] is autograd's gradient of sum p f(pi/p)."""
    if not g.strict:
        pytest.skip("has a corner")
    log_p = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    logits = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    log_pi = logits.log_softmax(0)
    reward = policy_reward((log_pi - log_p).detach(), g)
    (wanted,) = torch.autograd.grad((log_p.exp() * g.f((log_pi - log_p).exp())).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad(-(log_pi.exp().detach() * reward * log_pi).sum(), logits)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_pseudo_rewards_of_f_dpg():
    """Its table: KL(p||pi) is DPG's p/pi, KL(pi||p) the RLHF reward, total variation a sign; JS and chi2(p||pi) are bounded below."""
    torch.testing.assert_close(policy_reward(R, "reverse_kl"), 1 / U)
    torch.testing.assert_close(policy_reward(R, "kl"), -R - 1)
    torch.testing.assert_close(policy_reward(R, "total_variation"), -R.sign() / 2)
    torch.testing.assert_close(policy_reward(R, "jensen_shannon_gan"), -(2 * U / (1 + U)).log(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(policy_reward(R, "neyman_chi2"), U**-2 - 1)
    torch.testing.assert_close(policy_reward(R, "pearson_chi2"), -2 * (U - 1))
    far = torch.tensor([700.0], dtype=torch.float64)
    assert policy_reward(far, "jensen_shannon_gan").item() == pytest.approx(-math.log(2))
    assert policy_reward(far, "neyman_chi2").item() == -1


@pytest.mark.parametrize(
    ("g", "h"),
    [
        (reverse_kl, torch.ones_like),
        (kl, lambda u: u),
        (jensen_shannon_gan, lambda u: u / (u + 1)),
        (squared_hellinger, lambda u: u.sqrt() / 2),
        (get("jeffreys"), lambda u: u + 1),
        (get("pearson_chi2"), lambda u: 2 * u**2),
        (get("neyman_chi2"), lambda u: 2 / u),
        (FGenerator.from_function(lambda u: (u + 1) * (0.5 + 0.5 / u).log(), name="softened"), lambda u: 1 / (u + 1)),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_score_weights_of_f_distill(g, h):
    """Its table; the softened reverse KL, which we do not have, from its formula alone."""
    torch.testing.assert_close(score_weight(R, g), h(U), rtol=1e-9 if g.numerical else 1e-12, atol=0)


@both
@every
def test_score_weight_is_u_squared_times_the_curvature(g, dtype):
    r = torch.linspace(-5.0, 5.0, 30, dtype=dtype)
    u = r.exp()
    tolerance = {"rtol": 2e4 * torch.finfo(dtype).eps, "atol": 1e3 * torch.finfo(dtype).eps}
    torch.testing.assert_close(score_weight(r, g), u * (u * g.d2f(u)), **tolerance)


WEIGHTS = {
    "kl": lambda u: u,
    "reverse_kl": lambda u: mpmath.mpf(1),
    "jeffreys": lambda u: u + 1,
    "jensen_shannon": lambda u: u / (2 * (u + 1)),
    "gan": lambda u: u / (u + 1),
    "squared_hellinger": lambda u: mpmath.sqrt(u) / 2,
    "pearson_chi2": lambda u: 2 * u**2,
    "neyman_chi2": lambda u: 2 / u,
    "triangular": lambda u: 8 * u**2 / (1 + u) ** 3,
    "total_variation": lambda u: mpmath.mpf(0),
}
FAMILIES = [
    (jensen_shannon_skewed(0.1), lambda u: 0.1 * 0.9 * u / (0.1 * u + 0.9)),
    (skew_kl(0.1), lambda u: u * (0.9 / (0.1 * u + 0.9)) ** 2),
    (skew_reverse_kl(0.1), lambda u: (0.9 * u / (0.1 + 0.9 * u)) ** 2),
    (alpha_cichocki(0.3), lambda u: u ** mpmath.mpf(0.3)),
    (chi_p(1.5), lambda u: mpmath.mpf(0.75) * u**2 / mpmath.sqrt(abs(u - 1))),
    (chi_p(1.5).reverse(), lambda u: mpmath.mpf(0.75) / u / mpmath.sqrt(abs(1 - 1 / u))),
    (2 * kl, lambda u: 2 * u),
    (kl.tilted(3.0), lambda u: u),
    (kl + reverse_kl, lambda u: u + 1),
]


@both
@pytest.mark.parametrize(("g", "h"), [(get(n), h) for n, h in WEIGHTS.items()] + FAMILIES, ids=lambda x: getattr(x, "name", None))
def test_score_weight_far_beyond_representable_ratios(g, h, dtype):
    largest, smallest = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    for at in (-700.0, -150.0, -60.0, 0.3, 60.0, 150.0, 700.0, -800.0, 800.0):
        r = torch.tensor(at, dtype=dtype)
        exact, found = h(mpmath.exp(mpmath.mpf(r.item()))), score_weight(r, g).item()
        if exact > largest:
            assert found == math.inf
        elif abs(exact) < 4 * smallest:
            assert 0 <= found <= 8 * smallest
        else:
            assert found == pytest.approx(float(exact), rel=1e3 * torch.finfo(dtype).eps), at


def test_a_formula_of_ratios_goes_on_as_the_power_it_is_at_the_ends():
    """Formulas whose derivatives lose no digits there; 1e-6 because the power is a quotient of derivatives 300 e-folds away."""
    r = torch.tensor([-800.0, 500.0, 800.0, 1200.0], dtype=torch.float64)
    for known, f in (
        (kl, lambda u: u * u.log()),
        (reverse_kl, lambda u: -u.log()),
        (alpha_cichocki(0.5), lambda u: 2 * u + 2 - 4 * u.sqrt()),
        (get("pearson_chi2"), lambda u: (u - 1).square()),
        (total_variation, lambda u: (u - 1).abs() / 2),
    ):
        found = score_weight(r, FGenerator.from_function(f, name=f"from {known.name}"))
        torch.testing.assert_close(found, known.score_weight(r), rtol=1e-6, atol=1e-200)


@both
@every
def test_never_nan_and_finite_where_the_value_is(g, dtype):
    """Values and gradients of preference link and score weight, of a user's formula within what it can be asked of."""
    largest = torch.finfo(dtype).max
    far = [15.0] if g in REDERIVED.values() else [88.0, 300.0, 1e3, 1e6, largest]
    r = torch.tensor([*(-x for x in far), -3.0, 0.5, 3.0, *far], dtype=dtype, requires_grad=True)
    for link in (preference_link, score_weight):
        value = link(r, g)
        assert not value.isnan().any(), link
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), r)
            assert not gradient.isnan().any(), link
    assert not preference_link(torch.tensor([-math.inf, math.inf], dtype=dtype), g).isnan().any()


@registered
def test_density_ratio_inverts_the_preference_link(g):
    if not g.strict:
        assert density_ratio(torch.zeros(2), g).tolist() == [1, 1]
        return
    r = R[1:-1]
    torch.testing.assert_close(density_ratio(preference_link(r, g), g), r.exp(), rtol=1e-10, atol=0)
    t = preference_link(r, g).detach().requires_grad_()
    (slope,) = torch.autograd.grad(g.conjugate(t).sum(), t)
    torch.testing.assert_close(slope, density_ratio(t, g), rtol=1e-8, atol=0)


PI = 0.7
F_GAN = {  # name: generator, f with the paper's constants, conjugate, activation, T(1) = f'(1), the paper's least upper bound of T
    "total variation": (total_variation, lambda u: abs(u - 1) / 2, lambda t: t, lambda v: torch.tanh(v) / 2, 0, 0.5),
    "KL": (kl, lambda u: u * u.log(), lambda t: (t - 1).exp(), lambda v: v, 1, math.inf),
    "reverse KL": (reverse_kl, lambda u: -u.log(), lambda t: -1 - (-t).log(), lambda v: -(-v).exp(), -1, 0),
    "Pearson": (get("pearson_chi2"), lambda u: (u - 1) ** 2, lambda t: t * t / 4 + t, lambda v: v, 0, math.inf),
    "Neyman": (get("neyman_chi2"), lambda u: (1 - u) ** 2 / u, lambda t: 2 - 2 * (1 - t).sqrt(), lambda v: 1 - (-v).exp(), 0, 1),
    "Hellinger": (squared_hellinger, lambda u: (u.sqrt() - 1) ** 2, lambda t: t / (1 - t), lambda v: 1 - (-v).exp(), 0, 1),
    "Jeffrey": (get("jeffreys"), lambda u: (u - 1) * u.log(), None, lambda v: v, 0, math.inf),
    "Jensen-Shannon": (
        jensen_shannon_gan,
        lambda u: -(u + 1) * ((1 + u) / 2).log() + u * u.log(),
        lambda t: -(2 - t.exp()).log(),
        lambda v: math.log(2) - (1 + (-v).exp()).log(),
        0,
        math.log(2),
    ),
    "weighted Jensen-Shannon": (
        jensen_shannon_skewed(PI),
        lambda u: PI * u * u.log() - (1 - PI + PI * u) * (1 - PI + PI * u).log(),
        lambda t: (1 - PI) * ((1 - PI) / (1 - PI * (t / PI).exp())).log(),
        lambda v: -PI * math.log(PI) - (1 + (-v).exp()).log(),
        0,
        -PI * math.log(PI),
    ),
    "GAN": (
        get("gan"),
        lambda u: u * u.log() - (u + 1) * (u + 1).log() + 2 * math.log(2),
        lambda t: -(1 - t.exp()).log() - 2 * math.log(2),
        lambda v: -(1 + (-v).exp()).log(),
        -math.log(2),
        0,
    ),
    "alpha below 1": (
        alpha_cichocki(0.3),
        lambda u: (u**0.3 - 1 - 0.3 * (u - 1)) / (0.3 * -0.7),
        lambda t: (t * -0.7 + 1) ** (0.3 / -0.7) / 0.3 - 1 / 0.3,
        lambda v: 1 / 0.7 - (1 + (-v).exp()).log(),
        0,
        1 / 0.7,
    ),
    "alpha above 1": (
        alpha_cichocki(1.5),
        lambda u: (u**1.5 - 1 - 1.5 * (u - 1)) / 0.75,
        lambda t: (t * 0.5 + 1) ** 3 / 1.5 - 1 / 1.5,
        lambda v: v,
        0,
        math.inf,
    ),
}


@pytest.mark.parametrize("row", F_GAN)
def test_the_table_of_f_gan(row):
    """Tables 5 and 6, row by row; the GAN row has the constant that makes f(1) = 0."""
    g, f, conjugate, activation, at_one, end = F_GAN[row]
    v = torch.linspace(-3, 3, 25, dtype=torch.float64)
    torch.testing.assert_close(g.f(U), f(U), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(output_activation(v, g), activation(v), rtol=1e-12, atol=1e-14)
    assert g.df(torch.ones((), dtype=torch.float64)).item() == pytest.approx(at_one, abs=1e-15)
    assert g.slope_at_infinity == pytest.approx(end, abs=1e-15)
    t = activation(v)
    if conjugate is None:  # Jeffrey's, by Lambert's function w at e^(1 - t)
        w = torch.tensor([float(mpmath.lambertw(mpmath.exp(1 - x)).real) for x in t.tolist()], dtype=torch.float64)
        torch.testing.assert_close(g.conjugate(t), w + 1 / w + t - 2, rtol=1e-10, atol=1e-12)
    else:
        t = t[t > g.slope_at_zero]  # below f'(0), where f* is constant, the table goes on with a formula for negative u
        torch.testing.assert_close(g.conjugate(t), conjugate(t), rtol=1e-10, atol=1e-13)


@both
@every
def test_output_activations_are_increasing_onto_the_domain(g, dtype):
    v = torch.linspace(-8.0, 8.0, 97, dtype=dtype, requires_grad=True)
    t = output_activation(v, g)
    (slope,) = torch.autograd.grad(t.sum(), v)
    assert (slope > 0).all()
    assert (t[1:] >= t[:-1]).all()
    assert g.conjugate(t.detach()).isfinite().all()
    ends = output_activation(torch.tensor([-80.0, 80.0], dtype=dtype), g)
    if math.isfinite(g.slope_at_infinity):
        assert ends[1].item() == pytest.approx(g.slope_at_infinity, rel=1e-6, abs=1e-30)
    else:
        assert ends[1] > 10
    base = "total_variation" in g.name and g.activation is not None
    assert ends[0].item() == pytest.approx(2 * g.df(torch.ones(1)).item() - g.slope_at_infinity) if base else ends[0] < -10


def test_activations_follow_multiples_and_tilts():
    v = torch.linspace(-3, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(output_activation(v, 3 * squared_hellinger), 3 * (1 - (-v).exp()))
    torch.testing.assert_close(output_activation(v, total_variation.tilted(0.5)), v.tanh() / 2 + 0.5)
    torch.testing.assert_close(output_activation(v, triangular), 1 + F.logsigmoid(v))


def test_by_name_in_half_precision_and_of_any_shape():
    x = torch.tensor([[0.1], [0.7]], dtype=torch.bfloat16)
    for link in (preference_link, policy_reward, score_weight, density_ratio, output_activation):
        value = link(x, "kl")
        assert value.dtype is torch.float32
        assert value.shape == (2, 1)
        torch.testing.assert_close(value, link(x.float(), kl))
        torch.testing.assert_close(
            torch.vmap(lambda row, link=link: link(row, "jensen_shannon"))(-x.double()), link(-x.double(), "jensen_shannon")
        )


@registered
def test_links_are_twice_differentiable(g):
    if not g.strict:
        pytest.skip("has corners")
    r = R[1:-1].clone().requires_grad_()
    for link in (preference_link, policy_reward, score_weight, output_activation):
        assert torch.autograd.gradcheck(lambda x: link(x, g), r, rtol=1e-4)  # noqa: B023
        if link(r, g).requires_grad and g.name != "chi_p(p=1.5)":
            assert torch.autograd.gradgradcheck(lambda x: link(x, g).sin(), r, rtol=1e-3, atol=1e-4)  # noqa: B023


@pytest.mark.compile
@pytest.mark.parametrize("name", ["kl", "gan", "triangular", "squared_hellinger", "total_variation"])
def test_compiled_in_one_graph(name):
    def all_links(r):
        return preference_link(r, name) + policy_reward(r, name).square() + score_weight(r, name) + output_activation(r, name)

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(all_links, backend="aot_eager", fullgraph=True)(R), all_links(R))


def test_the_f_distill_identity_of_gaussians():
    """E_q[h(p/q) (s_p - s_q)] = -dD_f/dtheta for p = N(0, 1), q = N(theta, 1), by quadrature."""
    theta, x = 0.7, torch.linspace(-12, 12, 4001, dtype=torch.float64)
    dx = (x[1] - x[0]).item()

    def log_density(mean):
        return -0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)

    def d(mean, g):
        return (log_density(mean).exp() * g.f_log(log_density(0.0) - log_density(mean))).sum().item() * dx

    for g in (kl, reverse_kl, jensen_shannon_gan, squared_hellinger):
        h = score_weight(log_density(0.0) - log_density(theta), g)
        found = (log_density(theta).exp() * h * (-x + (x - theta))).sum().item() * dx
        assert found == pytest.approx(-(d(theta + 1e-4, g) - d(theta - 1e-4, g)) / 2e-4, rel=1e-6)


@pytest.mark.untyped
@pytest.mark.parametrize("link", [preference_link, policy_reward, score_weight, density_ratio, output_activation])
def test_mistakes_are_named(link):
    with pytest.raises(TypeError, match=f"{link.__name__}: generator must be an FGenerator or the name of one; got int 3"):
        link(R, 3)
    with pytest.raises(KeyError, match="did you mean 'kl'"):
        link(R, "kll")
    with pytest.raises(TypeError, match=rf"{link.__name__}: \w+ must be a floating-point tensor; got float 1.0"):
        link(1.0, "kl")
