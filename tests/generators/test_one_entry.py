"""A new divergence is one entry of at most 15 lines, and everything the library derives follows from it, with no second formula."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

import lossmith
from lossmith import generators
from lossmith.divergences import divergence, tight_variational_bound, variational_bound
from lossmith.generators import FGenerator, density_ratio, output_activation, policy_reward, preference_link, registry, score_weight
from lossmith.robust import dro_risk, dro_weights


def new_entry():
    """The whole entry: the generator of D(P||Q) = sum p^(3/2) / q^(1/2) + sum q^(3/2) / p^(1/2) - 2."""
    # entry
    return generators.register(
        FGenerator(
            name="square_root_chi", formula=r"u^{3/2} + u^{-1/2} - 2", source="made up here",
            f=lambda u: u.pow(1.5) + u.pow(-0.5) - 2,
            at_zero=math.inf, slope_at_zero=-math.inf, slope_at_infinity=math.inf,
        )
    )  # fmt: skip
    # end


P = np.array([0.5, 0.3, 0.15, 0.05])
Q = np.array([0.2, 0.25, 0.25, 0.3])
LOSSES = np.array([0.3, 1.7, -0.4, 0.9])


def d(p, q):
    """The divergence, written out."""
    return np.sum(p**1.5 / q**0.5) + np.sum(q**1.5 / p**0.5) - 2


def link(u):
    return 1.5 * u**0.5 - 0.5 * u**-1.5


def tensors(*arrays):
    return [torch.tensor(a, dtype=torch.float64) for a in arrays]


@pytest.fixture(scope="module")
def g():
    """Registered for this module, and forgotten."""
    before = dict(registry.GENERATORS.instances)
    yield new_entry()
    registry.GENERATORS.instances.clear()
    registry.GENERATORS.instances.update(before)


def test_the_entry_is_short(g):
    source = inspect.getsource(new_entry).splitlines()
    entry = source[source.index("    # entry") + 1 : source.index("    # end")]
    assert len(entry) <= 15
    assert generators.get("square_root_chi") is g


def test_divergence_and_reverse(g):
    p, q = tensors(P, Q)
    assert divergence(p, q, "square_root_chi").item() == pytest.approx(d(P, Q), rel=1e-12)
    assert divergence(q, p, g).item() == pytest.approx(d(Q, P), rel=1e-12)
    assert divergence(q, p, g.reverse()).item() == pytest.approx(d(P, Q), rel=1e-12)


@pytest.mark.parametrize("t", [-3.0, 0.0, 1.0, 4.0])
def test_conjugate(g, t):
    def minus(r):
        return -(np.exp(r) * t - np.exp(1.5 * r) - np.exp(-0.5 * r) + 2)

    found = minimize_scalar(minus, bounds=(-8, 8), method="bounded", options={"xatol": 1e-12})
    assert g.conjugate(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(-found.fun, rel=1e-10)


def test_variational_bounds(g):
    p, q = tensors(P, Q)

    def loss(v):
        v = torch.tensor(v, requires_grad=True)
        t = output_activation(v, g)
        value = -variational_bound(t, t, g, weights_p=p, weights_q=q).value
        value.backward()
        return value.item(), v.grad.numpy()

    found = minimize(loss, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-10})
    assert -found.fun == pytest.approx(d(P, Q), abs=1e-8)
    t = torch.tensor(found.x)
    assert tight_variational_bound(t - 2, t - 2, g, weights_p=p, weights_q=q).value.item() == pytest.approx(d(P, Q), abs=1e-8)
    torch.testing.assert_close(density_ratio(t, g), p / q, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [{"penalty": 0.5}, {"radius": 0.2}], ids=str)
def test_dro(g, size):
    losses, p = tensors(LOSSES, P)
    (kind, bound) = next(iter(size.items()))
    constraints = [{"type": "eq", "fun": lambda q: q.sum() - 1}]
    if kind == "radius":
        constraints.append({"type": "ineq", "fun": lambda q: bound - d(q, P)})
    start = P
    for _ in range(3):
        found = minimize(
            lambda q: -(q @ LOSSES) + (bound * d(q, P) if kind == "penalty" else 0.0), start, method="SLSQP",
            bounds=[(1e-9, 1)] * 4, constraints=constraints, options={"ftol": 1e-15},
        )  # fmt: skip
        start = found.x
    assert dro_risk(losses, g, weights=p, **size).item() == pytest.approx(-found.fun, abs=1e-8)
    np.testing.assert_allclose(dro_weights(losses, g, weights=p, **size).numpy(), found.x, atol=1e-4)


def test_links(g):
    r = np.linspace(-3, 3, 13)
    (log_ratio,) = tensors(r)
    u = np.exp(r)
    np.testing.assert_allclose(preference_link(log_ratio, g).numpy(), link(u), rtol=1e-12)
    np.testing.assert_allclose(policy_reward(log_ratio, g).numpy(), -link(u), rtol=1e-12)
    np.testing.assert_allclose(score_weight(log_ratio, g).numpy(), 0.75 * u**1.5 + 0.75 * u**-0.5, rtol=1e-10)
    np.testing.assert_allclose(density_ratio(preference_link(log_ratio, g), g).numpy(), u, rtol=1e-10)


def test_distillation(g):
    """By its name, between rows of logits; and as the loss of a label, which has no finite value: f(0) is infinite."""
    teacher, student = (torch.tensor(np.log([row, row[::-1]]) + 3) for row in (P, Q))
    expected = [d(P, Q), d(P[::-1], Q[::-1])]
    loss = lossmith.divergence_distillation(student, teacher, generator="square_root_chi", reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"f\(0\); that of 'square_root_chi' is inf"):
        lossmith.f_divergence_loss(student, torch.tensor([0, 1]), generator="square_root_chi")
