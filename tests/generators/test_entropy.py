"""The laws of an entropy, on every one of them: optimality, duality, the losses and divergences that follow, and their derivatives."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from entropy_cases import ALL, FORMULAS, MARGINS, REGISTERED, USERS, interior, logits
from torch.autograd import gradcheck, gradgradcheck

import lossmith
from lossmith import generators
from lossmith.generators import Entropy, entropy_registry, gini, norm_entropy, shannon, squared_norm_entropy, tsallis

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode derivative

every = pytest.mark.parametrize("e", ALL.values(), ids=ALL.keys())
registered = pytest.mark.parametrize("e", REGISTERED.values(), ids=REGISTERED.keys())


def close(actual, expected, rtol=1e-10, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def inner(theta, p):
    return (theta * p).sum(-1)


def test_every_case_has_an_independent_formula():
    assert set(FORMULAS) == set(MARGINS) == set(ALL)


@every
def test_omega_and_its_gradient_are_the_formulas(e):
    omega, gradient = FORMULAS[e.name]
    p = interior(5, 4)
    close(e.omega(p), torch.from_numpy(omega(p.numpy())))
    ours, theirs = e.gradient(p), torch.from_numpy(gradient(p.numpy()))
    close(ours - ours[:, :1], theirs - theirs[:, :1])


@every
def test_it_is_zero_at_the_vertices_and_negative_between(e):
    assert e.omega(torch.eye(4, dtype=torch.float64)).abs().max() <= 1e-15
    assert (e.omega(interior(20, 4)) < 0).all()
    assert (e.bayes_risk(interior(20, 4)) > 0).all()


@every
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_the_argmax_satisfies_the_conditions_of_optimality(e, scale):
    """The gradient is theta - tau on the support and at least that off it: for a convex function, that is a proof."""
    theta = logits(12, 7, scale=scale)
    p = e.argmax(theta)
    close(p.sum(-1), torch.ones(12, dtype=torch.float64))
    assert (p >= 0).all()
    gradient = torch.from_numpy(FORMULAS[e.name][1](p.numpy()))
    support = (p > 1e-6) & gradient.isfinite()
    tau = torch.where(support, theta - gradient, 0).sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
    # a slope is as well known as the probability whose power it is
    error = torch.where(support, theta - gradient - tau, 0).abs() / (1 + gradient.nan_to_num().abs())
    assert error.max() <= 1e-9
    assert torch.where(p == 0, theta - tau - gradient, -1).max() <= 1e-9


@every
def test_the_conjugate_is_what_a_solver_finds(e):
    omega = FORMULAS[e.name][0]
    theta = logits(3, 4, scale=0.7, seed=5)
    for row, ours in zip(theta, e.conjugate(theta), strict=True):
        found = scipy.optimize.minimize(
            lambda p, row=row: omega(np.maximum(p, 1e-12)) - row.numpy() @ p, np.full(4, 0.25), method="SLSQP", bounds=[(1e-9, 1.0)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert abs(-found.fun - ours.item()) <= 1e-7  # what the solver's bounds cost


@every
def test_the_argmax_is_the_gradient_of_the_conjugate(e):
    theta = logits(6, 5)
    close(torch.func.grad(lambda t: e.conjugate(t).sum())(theta), e.argmax(theta), atol=1e-11)


@every
def test_shifts_and_permutations(e):
    theta, order = logits(6, 5), torch.tensor([3, 0, 4, 1, 2])
    close(e.argmax(theta + 3), e.argmax(theta), atol=1e-9)
    close(e.conjugate(theta + 3), e.conjugate(theta) + 3)
    close(e.argmax(theta[:, order]), e.argmax(theta)[:, order])
    tied = e.argmax(torch.tensor([0.5, 0.5, 0.0, 0.5], dtype=torch.float64))
    assert tied[0] == tied[1] == tied[3]


@every
def test_fenchel_young_inequality_and_equality(e):
    theta, p = logits(12, 5, scale=2), interior(12, 5)
    direct = e.conjugate(theta) + e.omega(p) - inner(theta, p)
    close(e.fenchel_young(theta, p), direct)
    assert (e.fenchel_young(theta, p) >= 0).all()
    assert e.fenchel_young(theta, e.argmax(theta)).abs().max() <= 1e-13


@every
def test_the_biconjugate_is_omega(e):
    """sup over theta of <theta, p> - Omega*(theta): attained at the link, and exceeded nowhere."""
    p = interior(6, 5)
    link = e.gradient(p)
    close(inner(link, p) - e.conjugate(link), e.omega(p))
    others = link + logits(6, 5)
    assert (inner(others, p) - e.conjugate(others) <= e.omega(p) + 1e-14).all()


@every
def test_the_link_is_inverted_by_the_argmax(e):
    p = interior(6, 5)
    close(e.argmax(e.gradient(p)), p, rtol=1e-8)


@every
def test_the_loss_of_a_label_is_the_loss_of_its_vertex(e):
    theta, label = logits(6, 5, scale=3), torch.tensor([0, 1, 2, 3, 4, 0])
    vertex = torch.eye(5, dtype=torch.float64)[label]
    close(e.fenchel_young(theta, label), e.fenchel_young(theta, vertex), atol=1e-14)
    gradient = torch.func.grad(lambda t: e.fenchel_young(t, label).sum())(theta)
    close(gradient, e.argmax(theta) - vertex, atol=1e-11)


@every
def test_the_margin_is_where_the_loss_becomes_zero(e):
    assert math.isclose(e.margin, MARGINS[e.name], rel_tol=1e-9)
    if math.isinf(e.margin):
        assert e.fenchel_young(torch.tensor([10.0, 0.0, -1.0], dtype=torch.float64), torch.tensor(0)) > 0
        return
    margin = torch.tensor(e.margin, dtype=torch.float64)
    reached = torch.stack([margin * (1 + 1e-12), torch.zeros_like(margin), -margin])
    assert e.fenchel_young(reached, torch.tensor(0)).abs() <= 1e-15
    assert e.argmax(reached).tolist() == [1.0, 0.0, 0.0]
    missed = torch.stack([0.5 * margin, torch.zeros_like(margin), -margin])
    assert e.fenchel_young(missed, torch.tensor(0)) > 1e-8


@every
def test_bregman_divergence(e):
    p, q, r = interior(8, 5, 1), interior(8, 5, 2), interior(8, 5, 3)
    assert (e.bregman(p, q) > 0).all()
    assert e.bregman(p, p).abs().max() <= 1e-15
    three_points = e.bregman(p, q) + e.bregman(q, r) + inner(e.gradient(q) - e.gradient(r), p - q)
    close(three_points, e.bregman(p, r))
    close(e.fenchel_young(e.gradient(q), p), e.bregman(p, q))


@every
def test_the_proper_loss_is_minimised_by_the_truth(e):
    truth, reports = interior(1, 5), interior(200, 5, 2)
    expected = inner(e.proper_loss(reports), truth)
    at_truth = inner(e.proper_loss(truth), truth)
    close(at_truth, e.bayes_risk(truth))
    close(expected - at_truth, e.bregman(truth, reports))
    assert (expected > at_truth).all()


@every
def test_the_proper_loss_is_the_fenchel_young_loss_at_the_link(e):
    p = interior(3, 4)
    link = e.gradient(p)
    each = torch.stack([e.fenchel_young(link, torch.full((3,), k)) for k in range(4)], -1)
    close(e.proper_loss(p), each, atol=1e-11)


def test_cross_entropy_is_the_shannon_instance():
    theta, label = logits(5, 4, scale=3), torch.tensor([0, 3, 1, 2, 0])

    def ours(t):
        return shannon.fenchel_young(t, label).mean()

    def theirs(t):
        return lossmith.cross_entropy(t, label)

    close(ours(theta), theirs(theta), rtol=1e-12)
    close(torch.func.grad(ours)(theta), torch.func.grad(theirs)(theta), rtol=1e-12, atol=1e-15)
    close(torch.func.hessian(ours)(theta), torch.func.hessian(theirs)(theta), rtol=1e-12, atol=1e-15)
    p = interior(5, 4)
    close(-(p * theta.log_softmax(-1)).sum(-1) + shannon.omega(p), shannon.fenchel_young(theta, p), rtol=1e-12)
    close(shannon.proper_loss(p), -p.log(), rtol=1e-12)


def test_brier_is_the_proper_loss_of_gini():
    """Half of |e_k - p|^2, whose gradient with respect to the logits goes through sparsemax."""
    p = interior(5, 4)
    half_brier = (torch.eye(4, dtype=torch.float64) - p.unsqueeze(-2)).square().sum(-1) / 2
    close(gini.proper_loss(p), half_brier)


@registered
def test_first_and_second_derivatives_on_sparse_supports(e):
    rows = [[0.3, -0.2, 0.1, -5.0], [2.0, 0.1, 0.0, -0.3], [0.02, 0.01, -0.01, 0.0]]
    theta = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    for member in (e.argmax, e.conjugate):
        assert gradcheck(member, theta, atol=2e-5)
        assert gradgradcheck(member, theta, atol=5e-5)


@pytest.mark.parametrize("e", [gini, tsallis(1.5), tsallis(1.3), tsallis(0.5), norm_entropy(1.5), squared_norm_entropy(1.5)], ids=repr)
def test_third_derivatives(e):
    theta = torch.tensor([0.3, -0.2, 0.1, -2.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(torch.func.hessian(e.conjugate), theta, atol=1e-5)
    assert gradcheck(torch.func.hessian(lambda t: e.argmax(t)[0]), theta, atol=1e-5)


@every
def test_derivatives_in_the_probabilities(e):
    p, q = interior(2, 3, 1).requires_grad_(), interior(2, 3, 2).requires_grad_()
    for member in (e.omega, e.gradient, e.proper_loss):
        assert gradcheck(member, p)
    assert gradcheck(e.bregman, (p, q))
    assert gradcheck(lambda t: e.fenchel_young(q, t), p)


@every
def test_transforms(e):
    theta, v = logits(4, 6), logits(4, 6, seed=9)
    p = e.argmax(theta)
    close(torch.func.vmap(e.argmax)(theta), p, rtol=1e-9)
    close(torch.func.vmap(torch.func.grad(e.conjugate))(theta), p, rtol=1e-8, atol=1e-9)
    leaf = theta.clone().requires_grad_()
    (backward,) = torch.autograd.grad(e.argmax(leaf), leaf, v)
    _, forward = torch.func.jvp(e.argmax, (theta,), (v,))
    close(forward, backward, rtol=1e-7, atol=1e-9)  # the Jacobian is symmetric
    _, over = torch.func.jvp(torch.func.grad(lambda t: e.conjugate(t).sum()), (theta,), (v,))
    close(over, backward, rtol=1e-7, atol=1e-9)


@pytest.mark.compile
@pytest.mark.parametrize("e", [shannon, gini, tsallis(1.5)], ids=repr)
def test_compiles_to_one_graph(e):
    theta, label = logits(3, 4, dtype=torch.float32).requires_grad_(), torch.tensor([0, 1, 2])

    def loss(t):
        return e.fenchel_young(t, label).sum() + e.argmax(t).square().sum()

    expected = torch.autograd.grad(loss(theta), theta)
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True)(theta), theta)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


EXTREMES = [[1e4, -1e4, 0.0, 9999.0], [-math.inf, 0.0, -math.inf, 1.0], [2.0, 2.0, 2.0, 2.0], [0.0, 1e-8, -1e-8, 0.0], [-1e4, 0, 0, 0]]


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_extreme_logits(e, dtype):
    theta = torch.tensor(EXTREMES, dtype=dtype).requires_grad_()
    p, conjugate, loss = e.argmax(theta), e.conjugate(theta), e.fenchel_young(theta, torch.tensor([0, 3, 1, 2, 1]))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert p.dtype == conjugate.dtype == loss.dtype == wide
    assert (p[1, [0, 2]] == 0).all()
    assert (p.sum(-1) - 1).abs().max() <= (
        4e-6 if e in USERS.values() else 1e-6
    )  # theirs is found among floats that a formula can tell apart
    assert conjugate.isfinite().all()
    assert (loss >= -1e-6).all()
    assert loss.isfinite().all()
    for value in (p.square().sum(), conjugate.sum(), loss.sum()):
        (gradient,) = torch.autograd.grad(value, theta, retain_graph=True)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


@registered
@pytest.mark.parametrize("row", [[math.nan, 1.0, 0.0], [-math.inf] * 3, [math.inf, 0.0, 1.0]], ids=str)
def test_a_row_without_a_prediction_is_nan_and_no_other_row_is(e, row):
    theta = torch.tensor([row, [1.0, 0.5, 0.0]])
    p, loss = e.argmax(theta), e.fenchel_young(theta, torch.tensor([0, 0]))
    assert p[0].isnan().any()
    assert loss[0].isnan()
    torch.testing.assert_close(p[1], e.argmax(theta[1]))
    q = torch.tensor([math.nan, 0.5, 0.5])
    assert e.omega(q).isnan()
    assert e.gradient(q)[0].isnan()


@registered
@pytest.mark.parametrize("small", [1e-20, 1e-27, 1e-38, 1e-42])
def test_the_proper_loss_of_a_sure_and_right_report_has_a_gradient(e, small):
    """Whose other probabilities are so small that the curvature of Omega there is no float32."""
    p = torch.tensor([1.0, small, 0.0], requires_grad=True)
    loss = e.proper_loss(p)[0]
    (slope,) = torch.autograd.grad(loss, p)
    wide = p.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(e.proper_loss(wide)[0], wide)
    torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=1e-6)


@every
def test_large_logits_cost_no_digits(e):
    theta, label = logits(4, 5, dtype=torch.float32), torch.tensor([0, 1, 2, 3])
    moved = (theta + 1024) - 1024  # what rounding at 1024 leaves of them
    torch.testing.assert_close(e.fenchel_young(moved + 1024, label), e.fenchel_young(moved, label), rtol=1e-6, atol=1e-6)


@every
def test_a_label_without_probability(e):
    theta = torch.tensor([[0.0, -math.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = e.fenchel_young(theta, torch.tensor([1]))
    assert loss.item() == math.inf
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    close(gradient, e.argmax(theta) - torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    soft = e.fenchel_young(theta, torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64))
    assert soft.isfinite().all()


@every
def test_few_rows_and_few_classes(e):
    one = torch.tensor([[3.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    close(e.argmax(one), torch.ones_like(one))
    close(e.conjugate(one), one.squeeze(-1).detach())
    close(e.fenchel_young(one, torch.tensor([0, 0])), torch.zeros(2, dtype=torch.float64))
    assert torch.autograd.grad(e.argmax(one).sum(), one, allow_unused=True)[0].tolist() == [[0.0], [0.0]]
    assert e.argmax(torch.zeros(0, 3)).shape == (0, 3)
    assert e.conjugate(torch.zeros(0, 3)).shape == e.fenchel_young(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert e.argmax(torch.zeros(2, 0)).shape == (2, 0)
    assert e.conjugate(torch.zeros(2, 0)).tolist() == [-math.inf, -math.inf]


@every
def test_any_number_of_axes(e):
    theta = logits(2, 3, 4)
    close(e.argmax(theta), torch.stack([e.argmax(t) for t in theta]), rtol=1e-9)
    close(e.argmax(theta[0, 0]), e.argmax(theta)[0, 0], rtol=1e-9)
    assert e.conjugate(theta).shape == e.fenchel_young(theta, torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3)


@every
def test_at_the_boundary_of_the_simplex(e):
    """0 log 0 = 0; what neither distribution has costs nothing and receives no gradient; a missing class costs the slope."""
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    divergence = e.bregman(p, q)
    assert divergence.isfinite().all()
    assert divergence[1] == 0
    for gradient in torch.autograd.grad(divergence.sum(), (p, q)):
        assert gradient.isfinite().all()
    loss = e.proper_loss(p)
    assert loss[1, 0] == 0
    assert loss[0, 2].isinf() == math.isinf(e.margin)
    assert torch.autograd.grad(loss[:, 0].sum(), p)[0].isfinite().all()
    assert e.bregman(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])).isinf() == math.isinf(e.margin)


def test_the_families_meet():
    theta = logits(5, 6)
    assert tsallis(1) is shannon is generators.get_entropy("shannon")
    assert tsallis(2) is squared_norm_entropy(2) is gini
    assert generators.get_entropy("tsallis", alpha=1.5) is tsallis(1.5) is generators.all_entropies()["tsallis(alpha=1.5)"]
    close(tsallis(1.0001).argmax(theta), theta.softmax(-1), rtol=0, atol=2e-3)
    close(tsallis(0.9999).argmax(theta), theta.softmax(-1), rtol=0, atol=2e-3)
    close(tsallis(2.000001).argmax(theta), gini.argmax(theta), rtol=0, atol=1e-5)
    close(squared_norm_entropy(2.000001).argmax(theta), gini.argmax(theta), rtol=0, atol=1e-5)


def test_every_entropy_says_where_it_comes_from():
    for name, e in REGISTERED.items():
        assert e.name == name
        assert e.formula
        assert e.source


def test_a_new_entropy_takes_one_short_entry(monkeypatch):
    """Logit entropies weighed by class: given its conjugate, all the rest follows."""
    monkeypatch.setattr(entropy_registry.ENTROPIES, "instances", dict(entropy_registry.ENTROPIES.instances))
    half = generators.register_entropy(
        Entropy(
            name="half shannon", formula=r"\tfrac12 \sum p \log p", source="Shannon 1948",
            omega=lambda p: torch.xlogy(p, p).sum(-1) / 2,
            conjugate=lambda theta: (2 * theta).logsumexp(-1) / 2,
        )
    )  # fmt: skip
    assert generators.get_entropy("half shannon") is half
    theta, p = logits(3, 4), interior(3, 4)
    close(half.argmax(theta), (2 * theta).softmax(-1))
    close(half.gradient(p), (p.log() + 1) / 2)
    close(half.bregman(p, half.argmax(theta)), half.fenchel_young(theta, p))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gini.argmax([1.0]), TypeError, r"gini.argmax: theta must be a floating-point tensor of shape \(\*rows, c\); got list"),
        (lambda: gini.omega(torch.tensor([1])), TypeError, "gini.omega: p must be a floating-point tensor"),
        (lambda: gini.fenchel_young(torch.zeros(2, 3), torch.tensor([0, 3])), ValueError, r"class indices in 0..2; got 3"),
        (lambda: gini.fenchel_young(torch.zeros(2, 3), torch.tensor([0])), ValueError, r"target must have shape \(2,\)"),
        (lambda: gini.fenchel_young(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, "target must have the last axis of theta"),
        (lambda: gini.fenchel_young(torch.zeros(2, 3), True), TypeError, "target must be class indices or probabilities; got bool"),
        (lambda: tsallis(0), ValueError, r"tsallis: alpha must be in \(0, inf\); got 0"),
        (lambda: norm_entropy(1), ValueError, r"norm_entropy: q must be in \(1, inf\); got 1"),
        (lambda: squared_norm_entropy("2"), TypeError, "squared_norm_entropy: q must be a number"),
        (lambda: generators.get_entropy("shanon"), KeyError, "no entropy is called 'shanon'; did you mean 'shannon'?"),
        (lambda: generators.get_entropy("gini", q=1), TypeError, "'gini' has no parameters; got q"),
        (lambda: generators.register_entropy(gini), ValueError, "the name 'gini' is taken"),
        (lambda: Entropy(name="x", omega=lambda p: p), TypeError, "x: an Entropy takes argmax, conjugate or both; got neither"),
    ],
)
@pytest.mark.untyped
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_values_are_checked_on_request():
    with lossmith.validate(True), pytest.raises(ValueError, match=r"gini.omega: p must be probabilities .* a row that sums to 1.5"):
        gini.omega(torch.tensor([1.0, 0.5]))
