"""Robust risks against searches over the simplex that know nothing of duals, closed forms, and the ends of their ranges."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

import lossmith
from lossmith.divergences import divergence
from lossmith.generators import (
    FGenerator,
    all_generators,
    alpha_cichocki,
    chi_p,
    jensen_shannon,
    kl,
    neyman_chi2,
    pearson_chi2,
    reverse_kl,
    squared_hellinger,
    total_variation,
    triangular,
)
from lossmith.robust import conditional_value_at_risk, dro_risk, dro_weights

LOSSES = np.array([0.3, 1.7, -0.4, 0.9, 1.1])
P = np.array([0.1, 0.15, 0.3, 0.25, 0.2])
FROM_FUNCTION = FGenerator.from_function(lambda u: 0.5 * u * u.log() + (u - 1) ** 4, name="kl and a fourth power")
EVERY = {**all_generators(), "from_function": FROM_FUNCTION}
STRICT = {name: g for name, g in EVERY.items() if g.strict}


def js(q, p):
    m = (p + q) / 2
    return (np.sum(q * np.log(np.maximum(q, 1e-300) / m)) + np.sum(p * np.log(p / m))) / 2


DEFINITIONS = {  # the divergences written out, D(q||p)
    "kl": (kl, lambda q, p: np.sum(q * np.log(np.maximum(q, 1e-300) / p))),
    "reverse_kl": (reverse_kl, lambda q, p: np.sum(p * np.log(p / np.maximum(q, 1e-300)))),
    "pearson_chi2": (pearson_chi2, lambda q, p: np.sum((q - p) ** 2 / p)),
    "neyman_chi2": (neyman_chi2, lambda q, p: np.sum((q - p) ** 2 / np.maximum(q, 1e-300))),
    "squared_hellinger": (squared_hellinger, lambda q, p: np.sum((np.sqrt(np.maximum(q, 0)) - np.sqrt(p)) ** 2)),
    "jensen_shannon": (jensen_shannon, js),
    "triangular": (triangular, lambda q, p: np.sum((q - p) ** 2 / (p + q))),
    "from_function": (FROM_FUNCTION, lambda q, p: np.sum(q * np.log(np.maximum(q, 1e-300) / p)) / 2 + np.sum((q - p) ** 4 / p**3)),
}


def tensors(*arrays):
    return [torch.tensor(a, dtype=torch.float64) for a in arrays]


def largest_over_the_simplex(objective, p, constraints=()):
    """The best of several starts of SLSQP, polished by restarting where it stopped."""
    inside = [{"type": "eq", "fun": lambda q: q.sum() - 1}, *constraints]
    best = -np.inf
    for start in (p, 0.6 * p + 0.4 * np.eye(len(p))[1], 0.3 * p + 0.7 * np.eye(len(p))[1]):
        for _ in range(3):
            found = minimize(
                lambda q: -objective(q), start, method="SLSQP", bounds=[(1e-12, 1)] * len(p), constraints=inside,
                options={"ftol": 1e-15, "maxiter": 500},
            )  # fmt: skip
            start = found.x
        if abs(found.x.sum() - 1) < 1e-10 and all(c["fun"](found.x) > -1e-10 for c in constraints):
            best = max(best, -found.fun)
    return best


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("penalty", [0.2, 1.0, 5.0])
def test_penalised_against_the_simplex(name, penalty):
    g, d = DEFINITIONS[name]
    losses, p = tensors(LOSSES, P)
    wanted = largest_over_the_simplex(lambda q: q @ LOSSES - penalty * d(q, P), P)
    assert dro_risk(losses, g, penalty=penalty, weights=p).item() == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize(("name", "radius"), [(name, radius) for name in DEFINITIONS for radius in (0.01, 0.1, 0.3)][:-2])
def test_balls_against_the_simplex(name, radius):
    g, d = DEFINITIONS[name]
    losses, p = tensors(LOSSES, P)
    ball = [{"type": "ineq", "fun": lambda q: radius - d(q, P)}]
    wanted = largest_over_the_simplex(lambda q: q @ LOSSES, P, ball)
    risk, q = (f(losses, g, radius=radius, weights=p) for f in (dro_risk, dro_weights))
    assert risk.item() == pytest.approx(wanted, abs=1e-8)
    assert d(q.numpy(), P) <= radius * (1 + 1e-9)  # feasible, so that the risk is not too large by being out of the ball
    assert (q @ losses).item() == pytest.approx(risk.item(), abs=1e-12)


@pytest.mark.parametrize("g", [total_variation, (2 * total_variation).scaled(0.5)], ids=["closed", "by roots"])
@pytest.mark.parametrize("size", [0.05, 0.3, 0.6, 2.0])
def test_total_variation_against_linear_programs(size, g):
    """q and slacks s >= |q - p|, with (1/2) sum s as the divergence; once by the route of any generator with straight pieces."""
    losses, p = tensors(LOSSES, P)
    eye, n = np.eye(5), 5
    bounds = [(0, None)] * 10
    distance = {"A_ub": np.block([[eye, -eye], [-eye, -eye]]), "b_ub": np.concatenate([P, -P])}
    mass = {"A_eq": np.concatenate([np.ones(n), np.zeros(n)])[None], "b_eq": [1.0]}
    found = linprog(np.concatenate([-LOSSES, size / 2 * np.ones(n)]), **distance, **mass, bounds=bounds)
    assert dro_risk(losses, g, penalty=size, weights=p).item() == pytest.approx(-found.fun, abs=1e-9)
    within = {
        "A_ub": np.concatenate([distance["A_ub"], np.concatenate([np.zeros(n), np.ones(n) / 2])[None]]),
        "b_ub": np.append(distance["b_ub"], size),
    }
    found = linprog(np.concatenate([-LOSSES, np.zeros(n)]), **within, **mass, bounds=bounds)
    risk, q = (f(losses, g, radius=size, weights=p) for f in (dro_risk, dro_weights))
    assert risk.item() == pytest.approx(-found.fun, abs=1e-9)
    assert divergence(q, p, total_variation) <= size + 1e-12
    torch.testing.assert_close((q * losses).sum(), risk)


@pytest.mark.parametrize("level", [0.04, 0.25, 0.35, 0.7, 1.0])
def test_cvar_against_a_linear_program_and_its_dual(level):
    losses, p = tensors(LOSSES, P)
    found = linprog(-LOSSES, A_eq=np.ones((1, 5)), b_eq=[1.0], bounds=[(0, w / level) for w in P])
    risk = conditional_value_at_risk(losses, level, weights=p)
    assert risk.item() == pytest.approx(-found.fun, abs=1e-10)
    eta = losses[:, None]
    dual = (eta.T + (p[:, None] * (eta - eta.T).clamp(min=0)).sum(0) / level).min()
    assert risk.item() == pytest.approx(dual.item(), abs=1e-12)


def test_cvar_is_the_risk_of_the_indicator_generator():
    """f = 0 on [0, 1/level]: as level times it, with a steep wall in place of +inf, the dual approaches it."""
    losses = torch.tensor(LOSSES)
    wall = FGenerator.from_function(
        lambda u: 1e3 * (u - 2).clamp(min=0) ** 2, name="wall", at_zero=0.0, slope_at_zero=0.0, slope_at_infinity=math.inf
    )
    assert dro_risk(losses, wall, penalty=1.0).item() == pytest.approx(conditional_value_at_risk(losses, 0.5).item(), abs=1e-3)


@pytest.mark.parametrize("at", range(3))
def test_a_loss_that_is_no_number_is_not_hidden(at):
    losses = torch.tensor([0.0, 1.0, 2.0])
    losses[at] = math.nan
    assert conditional_value_at_risk(losses, 0.5).isnan()
    assert dro_risk(losses, "kl", penalty=1.0).isnan()
    removed = torch.tensor([1.0, 1.0, 1.0])
    removed[at] = 0
    assert not conditional_value_at_risk(losses, 0.5, weights=removed).isnan()


def test_cvar_weights_and_ties():
    losses = torch.tensor([[2.0, 5.0, 5.0, 1.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    (q,) = torch.autograd.grad(conditional_value_at_risk(losses, 0.25).sum(), losses)
    torch.testing.assert_close(q, torch.tensor([[0, 0.5, 0.5, 0], [0.25] * 4], dtype=torch.float64))
    kept = conditional_value_at_risk(torch.tensor([math.nan, 1.0, 2.0]), 0.5, weights=torch.tensor([0.0, 1.0, 1.0]))
    assert kept.item() == 2.0
    assert conditional_value_at_risk(torch.tensor([math.inf, 1.0]), 0.1) == math.inf
    batch = torch.randn(3, 4, 7)
    for dim in (0, 1, -1):
        torch.testing.assert_close(conditional_value_at_risk(batch, 0.3, dim=dim), conditional_value_at_risk(batch.movedim(dim, -1), 0.3))
    torch.testing.assert_close(conditional_value_at_risk(batch, 1.0), batch.mean(-1))
    torch.testing.assert_close(torch.vmap(lambda x: conditional_value_at_risk(x, 0.3))(batch), conditional_value_at_risk(batch, 0.3))


def test_closed_forms():
    losses, p = tensors(LOSSES, P)
    mean = (p * losses).sum()
    variance = (p * (losses - mean) ** 2).sum()
    known = {
        ("kl", "penalty", 0.7): 0.7 * ((losses / 0.7).exp() * p).sum().log(),
        ("pearson_chi2", "penalty", 3.0): mean + variance / 12,
        ("pearson_chi2", "radius", 0.1): mean + (0.1 * variance).sqrt(),
        ("total_variation", "penalty", 0.9): (p * torch.maximum(losses, losses.max() - 0.9)).sum(),
        ("total_variation", "radius", 0.2): mean + 0.2 * (losses.max() - losses.min()),
    }
    for (name, kind, size), wanted in known.items():
        torch.testing.assert_close(dro_risk(losses, name, weights=p, **{kind: size}), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(dro_weights(losses, "kl", penalty=0.7, weights=p), (p.log() + losses / 0.7).softmax(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("penalty", [0.2, 1.0, 5.0])
def test_the_pessimist_of_robust_reinforcement_learning(penalty):
    """inf_q E_q V + lambda D is minus our risk of -V; its three published closed forms, chi-squared by a grid over its threshold."""
    v, p = tensors(LOSSES, P)
    low, high = v.min(), v.max()
    least = {
        "total_variation": (p * torch.minimum(v, low + penalty)).sum(),
        "kl": -penalty * (p * (-v / penalty).exp()).sum().log(),
    }
    a = torch.cat([torch.linspace(low.item(), high.item(), 20001, dtype=torch.float64), v])[:, None]
    cut = torch.minimum(v, a)
    mean = (p * cut).sum(-1)
    least["pearson_chi2"] = (mean - ((p * cut**2).sum(-1) - mean**2) / (4 * penalty)).max()
    for name, wanted in least.items():
        found = -dro_risk(-v, name, penalty=penalty, weights=p)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8 if name == "pearson_chi2" else 1e-12)


@pytest.mark.parametrize("g", EVERY.values(), ids=EVERY.keys())
def test_weights_are_feasible_optimal_and_the_gradient(g):
    """Primal value of the weights equals the dual value: whatever else may be wrong, both then bracket the truth."""
    losses = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    p = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    p = p / p.sum(-1, keepdim=True)
    sizes = (("penalty", 0.3), ("radius", 0.02), ("penalty", 2.0), ("radius", 0.2))
    for kind, size in sizes[:2] if "inverse_link" in g.numerical else sizes:  # a root in a root in a root takes its time
        risk, q = dro_risk(losses, g, weights=p, **{kind: size}), dro_weights(losses, g, weights=p, **{kind: size})
        torch.testing.assert_close(q.sum(-1), torch.ones(3, dtype=torch.float64), rtol=1e-13, atol=0)
        assert (q >= 0).all()
        distance = divergence(q, p, g)
        if kind == "penalty":
            primal = (q * losses).sum(-1) - size * distance
            eta = torch.linspace(-1, 1, 5, dtype=torch.float64)  # any eta gives an upper bound
            top = losses.amax(-1) - size * min(g.slope_at_infinity, 30.0)
            for shift in eta:
                level = top.detach() + 1.5 + shift
                dual = level + size * (p * g.conjugate((losses - level[:, None]) / size)).sum(-1)
                assert (dual >= risk - 1e-9).all()
        else:
            primal = (q * losses).sum(-1)
            assert (distance <= size * (1 + 1e-7)).all()
        torch.testing.assert_close(primal, risk, rtol=1e-9, atol=1e-10)
        (gradient,) = torch.autograd.grad(risk.sum(), losses)
        torch.testing.assert_close(gradient, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["kl", "pearson_chi2", "squared_hellinger", "jensen_shannon", "total_variation"])
def test_the_ball_is_the_best_penalty(name):
    losses, radius = torch.tensor(LOSSES), 0.07
    risk = dro_risk(losses, name, radius=radius).item()
    penalties = torch.logspace(-3, 3, 4001, dtype=torch.float64)
    values = penalties * radius + dro_risk(losses.expand(4001, 5), name, penalty=penalties)
    assert risk <= values.min().item() + 1e-12
    corner = name == "total_variation"  # the grid's own error is quadratic in its step, but linear at a corner
    assert risk == pytest.approx(values.min().item(), abs=1e-3 if corner else 1e-5)


@pytest.mark.parametrize("kind", ["penalty", "radius"])
@pytest.mark.parametrize(
    "g", [kl, reverse_kl, pearson_chi2, neyman_chi2, jensen_shannon, chi_p(3.0), alpha_cichocki(0.3)], ids=lambda g: g.name
)
def test_first_and_second_derivatives(g, kind):
    """In the losses, in the penalty or radius, and in the weights."""
    losses, p = (x.clone().requires_grad_() for x in tensors(LOSSES, P))
    size = torch.tensor({"penalty": 0.8, "radius": 0.06}[kind], dtype=torch.float64, requires_grad=True)

    def risk(losses, p, size):
        return dro_risk(losses, g, weights=p, **{kind: size})

    assert torch.autograd.gradcheck(risk, (losses, p, size), rtol=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(risk, (losses, p, size), rtol=1e-4, atol=1e-6)


def test_third_derivatives():
    losses = torch.tensor(LOSSES)

    def along(f, order):
        def g(h):
            return f(losses + h * torch.arange(5, dtype=torch.float64))

        for _ in range(order):
            g = torch.func.grad(g)
        return g(torch.zeros((), dtype=torch.float64))

    numerical = FGenerator(name="kl again", f=kl.f, df=kl.df, d2f=kl.d2f, at_zero=0.0, slope_at_zero=-math.inf, slope_at_infinity=math.inf)
    for order in (1, 2, 3):
        known = along(lambda x: 0.7 * ((x / 0.7).logsumexp(0) - math.log(5)), order)
        for g in (kl, kl.tilted(1.0), numerical):
            torch.testing.assert_close(along(lambda x: dro_risk(x, g, penalty=0.7), order), known, rtol=1e-9, atol=1e-11)  # noqa: B023


ENDS = [kl, reverse_kl, pearson_chi2, neyman_chi2, jensen_shannon, squared_hellinger, total_variation, chi_p(3.0), chi_p(1.5)]


@pytest.mark.parametrize("g", ENDS, ids=lambda g: g.name)
def test_the_ends(g):
    losses, p = tensors(LOSSES, P)
    mean = (p * losses).sum().item()
    for kind, size, wanted in (
        ("penalty", 0.0, 1.7),
        ("penalty", math.inf, mean),
        ("penalty", 1e-12, 1.7),
        ("penalty", 1e9, mean),
        ("radius", 0.0, mean),
        ("radius", 1e-18, mean),
        ("radius", math.inf, 1.7),
    ):
        x = losses.clone().requires_grad_()
        risk = dro_risk(x, g, weights=p, **{kind: size})
        assert risk.item() == pytest.approx(wanted, abs=1e-5), (kind, size)
        (gradient,) = torch.autograd.grad(risk, x)
        torch.testing.assert_close(gradient, dro_weights(losses, g, weights=p, **{kind: size}), rtol=1e-6, atol=1e-9)
    if math.isfinite(g.at_zero):  # the ball that just holds the point mass
        reach = divergence(torch.eye(5, dtype=torch.float64)[1], p, g).item()
        assert dro_risk(losses, g, weights=p, radius=reach * (1 + 1e-12)).item() == 1.7
        assert dro_risk(losses, g, weights=p, radius=0.99 * reach).item() < 1.7


@pytest.mark.parametrize("g", ENDS, ids=lambda g: g.name)
@pytest.mark.parametrize("options", [{"penalty": 0.5}, {"radius": 0.1}], ids=str)
def test_degenerate_rows(g, options):
    """Equal losses, one loss, ties at the top, a loss of +inf, and a NaN without weight, in one batch, with finite gradients."""
    losses = torch.tensor(
        [[1.0, 1, 1, 1], [2, 5, 5, 1], [0, math.inf, 1, 2], [3, math.nan, 1, math.inf], [math.nan, 4, math.nan, math.nan], [math.nan] * 4],
        dtype=torch.float64,
        requires_grad=True,
    )
    weights = torch.ones(6, 4, dtype=torch.float64)
    weights[3, 1] = weights[3, 3] = 0
    weights[4] = torch.tensor([0, 2.0, 0, 0])
    weights[5] = 0
    risk, q = dro_risk(losses, g, weights=weights, **options), dro_weights(losses, g, weights=weights, **options)
    assert risk[0].item() == pytest.approx(1.0, abs=1e-14)
    torch.testing.assert_close(q[0], torch.full((4,), 0.25, dtype=torch.float64))
    assert q[1, 1].item() == pytest.approx(q[1, 2].item(), rel=1e-12)
    assert risk[2] == math.inf
    assert q[2].tolist() == [0, 1, 0, 0]
    alone = dro_risk(torch.tensor([3.0, 1.0], dtype=torch.float64), g, **options)
    assert risk[3].item() == pytest.approx(alone.item(), rel=1e-12)
    assert risk[4].item() == 4
    assert (risk[5].item(), q[5].tolist()) == (0, [0, 0, 0, 0])
    (gradient,) = torch.autograd.grad(risk[[0, 1, 3, 4, 5]].sum(), losses, create_graph=True)
    torch.testing.assert_close(gradient.detach()[[0, 1, 3, 4, 5]], q.detach()[[0, 1, 3, 4, 5]], rtol=1e-12, atol=1e-14)
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient.square().sum(), losses)
        assert not second.isnan().any()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative
@pytest.mark.parametrize("g", [kl, reverse_kl, pearson_chi2, jensen_shannon, total_variation], ids=lambda g: g.name)
def test_precision_transforms_and_axes(g):
    losses = 3 * torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for options in ({"penalty": 0.7}, {"radius": 0.05}):
        risk, q = dro_risk(losses, g, **options), dro_weights(losses, g, **options)
        single = dro_risk(losses.float(), g, **options)
        assert single.dtype is torch.float32
        torch.testing.assert_close(single.double(), risk, rtol=2e-6, atol=2e-6)
        half = losses.bfloat16()
        assert dro_risk(half, g, **options).dtype is torch.float32
        torch.testing.assert_close(dro_risk(half, g, **options), dro_risk(half.float(), g, **options))
        torch.testing.assert_close(dro_weights(losses.T, g, dim=0, **options), q.T)
        torch.testing.assert_close(dro_risk(losses.reshape(2, 2, 9).movedim(-1, 0), g, dim=0, **options), risk.reshape(2, 2))
        torch.testing.assert_close(torch.vmap(lambda x: dro_risk(x, g, **options))(losses), risk, rtol=1e-10, atol=0)  # noqa: B023
        each = torch.vmap(torch.func.grad(lambda x: dro_risk(x, g, **options)))(losses)  # noqa: B023
        torch.testing.assert_close(each, q, rtol=1e-8, atol=1e-12)
        along = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
        _, tangent = torch.func.jvp(lambda x: dro_risk(x, g, **options), (losses,), (along,))  # noqa: B023
        torch.testing.assert_close(tangent, (q * along).sum(-1), rtol=1e-9, atol=1e-12)


def test_losses_of_every_size_and_place():
    """Equivariance: a shift moves the risk, a factor on losses and penalty scales it, at sizes from 1e-20 to 1e20."""
    losses = torch.tensor(LOSSES)
    for g in (kl, pearson_chi2, jensen_shannon, total_variation):
        base, ball = dro_risk(losses, g, penalty=0.5), dro_risk(losses, g, radius=0.1)
        for factor in (1e-20, 1e-6, 1e20):
            torch.testing.assert_close(dro_risk(factor * losses, g, penalty=0.5 * factor), factor * base, rtol=1e-12, atol=0)
            torch.testing.assert_close(dro_risk(factor * losses, g, radius=0.1), factor * ball, rtol=1e-12, atol=0)
        torch.testing.assert_close(dro_risk(losses + 1e6, g, penalty=0.5), base + 1e6, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["kl", "jeffreys", "skew_kl(skew=0.1)", "jensen_shannon", "gan"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("penalty", [1e6, 1e30])
def test_large_penalties_are_not_multiplied_with_rounding_errors(name, dtype, penalty):
    losses = torch.tensor([0.0, 1.0, 3.0], dtype=dtype)
    curvature = EVERY[name].d2f(torch.ones((), dtype=torch.float64)).item()
    wanted = losses.double().mean().item() + losses.double().var(correction=0).item() / (2 * penalty * curvature)
    assert dro_risk(losses, name, penalty=penalty).item() == pytest.approx(wanted, rel=4e-6 if dtype == torch.float32 else 1e-8)


def test_a_penalty_a_row():
    losses = torch.tensor(LOSSES).expand(3, 5)
    sizes = torch.tensor([0.0, 0.4, math.inf], dtype=torch.float64)
    one_by_one = torch.stack([dro_risk(losses[0], kl, penalty=size.item()) for size in sizes])
    torch.testing.assert_close(dro_risk(losses, kl, penalty=sizes), one_by_one)
    sizes = torch.tensor([0.0, 0.4, 50.0], dtype=torch.float64)
    one_by_one = torch.stack([dro_risk(losses[0], jensen_shannon, radius=size.item()) for size in sizes])
    torch.testing.assert_close(dro_risk(losses, jensen_shannon, radius=sizes), one_by_one)
    assert dro_risk(torch.empty(0, 4), "kl", radius=0.1).shape == (0,)


@pytest.mark.compile
@pytest.mark.parametrize(
    ("name", "options"),
    [("kl", {"penalty": 0.5}), ("kl", {"radius": 0.1}), ("jensen_shannon", {"penalty": 0.5}), ("pearson_chi2", {"radius": 0.1})],
    ids=str,
)
def test_compiled_in_one_graph(name, options):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: dro_risk(x, name, **options), backend="aot_eager", fullgraph=True)
    losses = torch.tensor(LOSSES).expand(2, 5).clone().requires_grad_()
    risk = compiled(losses)
    torch.testing.assert_close(risk, dro_risk(losses, name, **options))
    (gradient,) = torch.autograd.grad(risk.sum(), losses)
    torch.testing.assert_close(gradient, dro_weights(losses, name, **options))


@pytest.mark.untyped
def test_mistakes_are_named():
    losses = torch.zeros(2, 3)
    for call, error, message in (
        (lambda: dro_risk(losses, "kl"), ValueError, "exactly one of penalty and radius must be given; got penalty=None and radius=None"),
        (lambda: dro_weights(losses, "kl", penalty=1.0, radius=1.0), ValueError, "dro_weights: exactly one of penalty and radius"),
        (lambda: dro_risk(losses, "kl", penalty=-1.0), ValueError, "penalty must be at least 0; got -1.0"),
        (lambda: dro_risk(losses, "kl", radius=math.nan), ValueError, "radius must be at least 0; got nan"),
        (lambda: dro_risk(losses, "kl", radius="big"), TypeError, "radius must be a number or a tensor; got str 'big'"),
        (lambda: dro_risk(losses, "kl", radius=torch.ones(3)), ValueError, r"one a row \(2,\); got float32 \(3,\)"),
        (lambda: dro_risk(losses, "kll", radius=1.0), KeyError, "did you mean 'kl'"),
        (lambda: dro_risk(losses.long(), "kl", radius=1.0), TypeError, r"losses must be a floating-point tensor of shape \(\*rows, n\)"),
        (lambda: dro_risk(losses, "kl", radius=1.0, dim=2), ValueError, "dim must be an axis of the losses; got 2"),
        (lambda: dro_risk(torch.zeros(2, 0), "kl", radius=1.0), ValueError, "at least one entry along dim"),
        (
            lambda: dro_risk(losses, "kl", radius=1.0, weights=torch.ones(2)),
            ValueError,
            r"weights must have the losses' shape \(2, 3\) or \(3,\)",
        ),
        (lambda: conditional_value_at_risk(losses, 0.0), ValueError, r"level must be in \(0, 1\]; got 0.0"),
        (lambda: conditional_value_at_risk(losses, "half"), TypeError, "level must be a number"),
    ):
        with pytest.raises(error, match=message):
            call()
    with lossmith.validate(True), pytest.raises(ValueError, match="weights must not be negative; the smallest is -1"):
        dro_risk(losses, "kl", radius=1.0, weights=-torch.ones(3))
    with lossmith.validate(True), pytest.raises(ValueError, match="penalty must be at least 0; got -2"):
        dro_risk(losses, "kl", penalty=torch.tensor(-2.0))


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "gan", "skew_kl(skew=0.1)", "squared_hellinger", "reverse_kl", "pearson_chi2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_outlier_among_many(name, dtype):
    """The search for the ball passes penalties at which the divergence is nothing but rounding error, of either sign."""
    losses = torch.linspace(-2, 2, 1000, dtype=torch.float64)
    losses[0] = 50.0
    q = dro_weights(losses.to(dtype), name, radius=0.1).double()
    tight = 1e-7 if dtype == torch.float64 else 1e-3
    assert divergence(q, torch.full_like(q, 1e-3), name).item() == pytest.approx(0.1, rel=tight)
    assert dro_risk(losses.to(dtype), name, radius=0.1).item() == pytest.approx((q @ losses).item(), rel=tight)
