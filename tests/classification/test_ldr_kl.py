"""LDR-KL and its adaptive form against searches over class weights and temperatures, and frozen numbers of the authors' code."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import lossmith
from lossmith import AdaptiveLDR, cross_entropy, ldr_kl_loss


def problem(seed=0, rows=8, classes=4, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,), generator=g)
    return z, y, torch.softmax(torch.randn(rows, classes, generator=g, dtype=torch.float64), 1)


def leads(row, label, margin):
    return [0.0 if k == label else margin + v - row[label] for k, v in enumerate(row)]


def by_loop(z, y, temperature, margin):
    """temperature * log mean_k exp(d_k / temperature), a row at a time in Python floats."""
    total = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        d = leads(row, label, margin)
        top = max(d)
        total.append(top + temperature * math.log(sum(math.exp((v - top) / temperature) for v in d) / len(d)))
    return total


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0, 100.0])
@pytest.mark.parametrize("margin", [0.0, 0.1, 2.0])
def test_it_equals_a_loop(temperature, margin):
    z, y, _ = problem()
    ours = ldr_kl_loss(z, y, temperature=temperature, margin=margin, reduction="none")
    assert ours.tolist() == pytest.approx(by_loop(z, y, temperature, margin), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_it_is_the_worst_case_over_class_weights(temperature):
    z, y, _ = problem(1, rows=4)
    g = torch.Generator().manual_seed(0)
    p = torch.softmax(4 * torch.randn(5000, 4, generator=g, dtype=torch.float64), 1)
    kl = (p * torch.log(4 * p)).sum(1)
    for row, label, value in zip(
        z.tolist(), y.tolist(), ldr_kl_loss(z, y, temperature=temperature, margin=1.0, reduction="none"), strict=True
    ):
        d = torch.tensor(leads(row, label, 1.0), dtype=torch.float64)
        objective = p @ d - temperature * kl
        assert objective.max() <= value + 1e-12
        best = torch.softmax(d / temperature, 0)
        reached = best @ d - temperature * (best * torch.log(4 * best)).sum()
        assert reached.item() == pytest.approx(value.item(), abs=1e-12)
        assert objective.max() > value - 0.1 * max(1.0, temperature)  # the search came close, so it could have failed


def test_hand_values():
    z = torch.zeros(1, 4, dtype=torch.float64)
    y = torch.tensor([1])
    assert ldr_kl_loss(z, y, margin=0.0).item() == 0
    assert ldr_kl_loss(z, y, margin=2.0).item() == pytest.approx(math.log((1 + 3 * math.e**2) / 4), rel=1e-14)
    assert ldr_kl_loss(z, y, margin=1.0, temperature=0.5).item() == pytest.approx(0.5 * math.log((1 + 3 * math.e**2) / 4), rel=1e-14)
    sure = torch.tensor([[0.0, 1e4, 0.0, 0.0]])
    assert ldr_kl_loss(sure, y, temperature=3.0).item() == pytest.approx(-3 * math.log(4), rel=1e-6)


def test_at_temperature_1_without_margin_it_is_cross_entropy_less_log_c():
    z, y, t = problem(2)
    for target in (y, t):
        ours = ldr_kl_loss(z, target, margin=0.0, reduction="none")
        torch.testing.assert_close(ours, cross_entropy(z, target, reduction="none") - math.log(4), rtol=1e-12, atol=1e-13)


def test_the_ends_of_the_temperature():
    z, y, _ = problem(3)
    d = torch.tensor([leads(row, label, 2.0) for row, label in zip(z.tolist(), y.tolist(), strict=True)], dtype=torch.float64)
    cold = ldr_kl_loss(z, y, temperature=1e-3, reduction="none")
    assert ((d.amax(1) - cold) >= 0).all()
    assert ((d.amax(1) - cold) <= 1e-3 * math.log(4) + 1e-12).all()
    hot = ldr_kl_loss(z, y, temperature=1e7, reduction="none")
    torch.testing.assert_close(hot, d.mean(1), rtol=1e-5, atol=1e-5)
    # there it is robust to symmetric noise: summed over the labels it is (c - 1) times the margin
    total = sum(ldr_kl_loss(z, torch.full_like(y, k), temperature=1e7, reduction="none") for k in range(4))
    torch.testing.assert_close(total, torch.full((8,), 6.0, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 10.0, 1e3, 1e7])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_float32_is_accurate_at_every_temperature_and_scale(temperature, scale):
    z, y, _ = problem(4, rows=64, classes=10, scale=scale)
    z = z.float().requires_grad_()
    exact = z.detach().double().requires_grad_()
    ours = ldr_kl_loss(z, y, temperature=temperature, reduction="none")
    true = ldr_kl_loss(exact, y, temperature=temperature, reduction="none")
    size = (exact.amax(1) - exact.amin(1) + 2).detach()
    assert ((ours - true).abs() / size).max() < 1e-6
    (by_z,), (by_exact,) = torch.autograd.grad(ours.sum(), z), torch.autograd.grad(true.sum(), exact)
    # scores and margin carry their rounding, over the temperature, into the class weights
    assert (by_z - by_exact).abs().max() < 1e-6 * (1 + min((scale + 2) / temperature, 1e6))


def test_the_gradient_is_the_worst_case_weight():
    z = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ldr_kl_loss(z, torch.tensor([1]), temperature=2.0, margin=0.5), z)
    p = torch.softmax(torch.tensor([1.5, 0.0, -0.5], dtype=torch.float64) / 2, 0)
    assert gradient.tolist() == [pytest.approx([p[0].item(), p[1].item() - 1, p[2].item()], rel=1e-12)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_its_conditional_risk_is_least_where_the_docstring_says(temperature, margin):
    """P(k) proportional to p_k (m - (m - 1) p_k), which is in the order of p."""
    g = torch.Generator().manual_seed(0)
    p = torch.softmax(2 * torch.randn(50, 3, generator=g, dtype=torch.float64), 1)
    m = math.exp(margin / temperature)
    truth = p * (m - (m - 1) * p)
    truth = truth / truth.sum(1, keepdim=True)
    assert torch.equal(truth.argsort(1), p.argsort(1))
    z = (temperature * torch.log(p)).requires_grad_()
    risk = ldr_kl_loss(z, truth, temperature=temperature, margin=margin, reduction="none")
    (gradient,) = torch.autograd.grad(risk.sum(), z)
    assert gradient.abs().max() < 1e-13
    away = ldr_kl_loss(
        z + torch.randn(z.shape, generator=g, dtype=z.dtype), truth, temperature=temperature, margin=margin, reduction="none"
    )
    assert (away > risk).all()


Z = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.2, -1.0], [-2.0, 1.5, 0.5]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("margin", "temperature", "theirs"),
    [(2.0, 1.0, 1.7208703011282027), (0.1, 10.0, -0.007974037793499264), (0.1, 0.1, 0.4910160883293286)],
)
def test_on_normalised_scores_it_is_the_authors(margin, temperature, theirs):
    scores = F.softplus(Z)
    scores = scores / scores.mean(1, keepdim=True)
    assert ldr_kl_loss(scores, Y, temperature=temperature, margin=margin).item() == pytest.approx(theirs, rel=1e-12)


def test_weights_and_class_probabilities():
    z, y, t = problem(5)
    w, s = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64), torch.arange(8, dtype=torch.float64)
    rows = torch.tensor(by_loop(z, y, 1.0, 2.0), dtype=torch.float64)
    torch.testing.assert_close(ldr_kl_loss(z, y, weight=w, sample_weight=s), (rows * w[y] * s).sum() / (w[y] * s).sum(), rtol=1e-12, atol=0)
    each = torch.tensor([by_loop(z, torch.full_like(y, k), 1.0, 2.0) for k in range(4)], dtype=torch.float64).T
    torch.testing.assert_close(ldr_kl_loss(z, t, weight=w, reduction="none"), (each * t * w).sum(1), rtol=1e-12, atol=0)


def test_an_impossible_class_is_left_out():
    z = torch.tensor([[0.5, -math.inf, 1.0]], requires_grad=True)
    value = ldr_kl_loss(z, torch.tensor([0]), margin=0.0)
    assert value.item() == pytest.approx(math.log((1 + math.exp(0.5)) / 3), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.isfinite().all()
    impossible = ldr_kl_loss(z, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(impossible, z)
    assert impossible.item() == math.inf
    assert gradient.isfinite().all()


# the adaptive form


def adaptive(rows=8, **hyper):
    return AdaptiveLDR(num_samples=rows, **hyper).double()


def objective_over(temperatures, d, anchor, alpha):
    """What is maximised over the temperature, the class weights being at their best for each."""
    log_c = math.log(len(d))
    worst = temperatures * (torch.logsumexp(d / temperatures[:, None], 1) - log_c)
    return worst - alpha * log_c / (2 * anchor) * (temperatures - anchor) ** 2


@pytest.mark.parametrize(("anchor", "alpha", "margin"), [(1.0, 2.0, 1.0), (3.0, 1.5, 0.0), (0.5, 4.0, 0.2)])
def test_repeated_steps_climb_to_the_maximum_over_temperatures(anchor, alpha, margin):
    z, y, _ = problem(6, rows=12)
    loss, index = adaptive(12, anchor=anchor, alpha=alpha, margin=margin), torch.arange(12)
    history = [loss(z, y, index, reduction="none") for _ in range(200)]
    for before, after in itertools.pairwise(history):
        assert (after >= before - 1e-12).all()
    grid = torch.linspace(anchor * 1e-3, 1.5 * anchor, 20001, dtype=torch.float64)
    compared = 0
    for i in range(12):
        d = torch.tensor(leads(z[i].tolist(), y[i].item(), margin), dtype=torch.float64)
        over = objective_over(grid, d, anchor, alpha)
        best = over.argmax()
        peaks = ((over[1:-1] > over[:-2]) & (over[1:-1] > over[2:])).sum()
        if peaks == 1 and 0 < best < 20000:  # with one summit, the steps must find it
            compared += 1
            assert history[-1][i].item() == pytest.approx(over[best].item(), abs=1e-6)
            assert loss.temperatures[i].item() == pytest.approx(grid[best].item(), abs=1e-3 * anchor)
    assert compared >= 8


def test_one_step_by_hand():
    z, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    loss = adaptive(1, anchor=2.0, alpha=3.0, margin=0.5)
    value = loss(z, y, torch.tensor([0])).item()
    d = [0.0, -0.5]
    p = 1 / (1 + math.exp(-0.25))
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p)
    t = 2.0 - 2.0 / (3.0 * math.log(2)) * kl
    assert loss.temperatures.item() == pytest.approx(t, rel=1e-13)
    expected = t * math.log((math.exp(d[0] / t) + math.exp(d[1] / t)) / 2) - 3.0 * math.log(2) / 4.0 * (t - 2.0) ** 2
    assert value == pytest.approx(expected, rel=1e-12)


def test_a_certain_row_is_cold_and_an_undecided_one_keeps_the_anchor():
    z = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    loss = adaptive(2, anchor=1.0, alpha=2.0, margin=0.0)
    values = loss(z, torch.tensor([0, 1]), torch.tensor([0, 1]), reduction="none")
    assert loss.temperatures.tolist() == pytest.approx([0.5, 1.0], abs=1e-12)  # anchor (1 - 1 / alpha), anchor
    # 0.5 log(1/3) - 2 log 3 / 2 * 0.25, and 0
    assert values.tolist() == pytest.approx([-0.75 * math.log(3), 0.0], abs=1e-12)


def test_without_margin_and_on_normalised_scores_it_is_the_authors():
    loss, index = adaptive(5, margin=0.0), torch.tensor([4, 0, 2])
    theirs = [0.02714077401583045, 0.027818959908482002, 0.027850275801028664]
    for step, expected in enumerate(theirs, start=1):
        scores = step * Z
        scores = scores / scores.abs().mean(1, keepdim=True)
        assert loss(scores, Y, index).item() == pytest.approx(expected, rel=1e-12)
    theirs = [0.8599192057382288, 1.0, 0.8258205375821513, 1.0, 0.8482251258437885]
    assert loss.temperatures.tolist() == pytest.approx(theirs, rel=1e-12)


def test_a_strong_pull_makes_it_ldr_kl():
    z, y, _ = problem(7)
    ours = adaptive(anchor=0.7, alpha=1e9, margin=0.3)(z, y, torch.arange(8), reduction="none")
    torch.testing.assert_close(ours, ldr_kl_loss(z, y, temperature=0.7, margin=0.3, reduction="none"), rtol=1e-7, atol=1e-7)


def test_no_gradient_flows_through_the_temperature():
    z, y, _ = problem(8)
    loss, index = adaptive(), torch.arange(8)
    z.requires_grad_()
    (trained,) = torch.autograd.grad(loss(z, y, index), z)
    (fixed,) = torch.autograd.grad(loss.eval()(z, y, index), z)
    assert torch.equal(trained, fixed)
    assert not loss.temperatures.requires_grad
    assert list(loss.parameters()) == []


def test_a_later_call_does_not_spoil_an_earlier_backward():
    z, y, _ = problem(9)
    loss, index = adaptive(), torch.arange(8)
    z.requires_grad_()
    first = loss(z, y, index)
    (alone,) = torch.autograd.grad(first, z, retain_graph=True)
    loss(5 * z, y, index)
    (after,) = torch.autograd.grad(first, z)
    assert torch.equal(alone, after)


def test_it_is_convex_at_fixed_temperatures_and_not_in_a_step():
    a, b = torch.tensor([[5.0, 1.0], [10.0, -1.0]], dtype=torch.float64).split(1)

    def sag(training):
        losses = [adaptive(1).train(training)(z, torch.tensor([0]), torch.tensor([0])) for z in (a, b, (a + b) / 2)]
        return ((losses[0] + losses[1]) / 2 - losses[2]).item()

    assert sag(training=False) > 0
    assert sag(training=True) < -1e-6


def test_evaluation_neither_changes_nor_resets_the_temperatures():
    z, y, _ = problem(10)
    loss, index = adaptive(), torch.arange(8)
    trained = loss(z, y, index)
    before = loss.temperatures.clone()
    assert torch.equal(loss.eval()(z, y, index), trained)
    loss.eval()(3 * z, y, index)
    assert torch.equal(loss.temperatures, before)
    loss.train()(3 * z, y, index)
    assert (loss.temperatures != before).all()


def test_only_the_rows_given_and_kept_are_updated():
    z, y, _ = problem(11, rows=4)
    y[1] = -100
    z[1], z[2] = math.nan, math.nan
    loss = adaptive(10)
    value = loss(z, y, torch.tensor([3, 5, 7, 9]), sample_weight=torch.tensor([1.0, 1.0, 0.0, 2.0]))
    assert value.isfinite()
    changed = (loss.temperatures != 1).nonzero().flatten().tolist()
    assert changed == [3, 9]


def test_rows_with_one_index_share_the_mean():
    z, y, _ = problem(12, rows=3)
    y[2] = -100
    apart, together = adaptive(3), adaptive(3)
    apart(z, y, torch.arange(3))
    values = together(z, y, torch.tensor([1, 1, 1]), reduction="none")
    shared = apart.temperatures[:2].mean()
    torch.testing.assert_close(together.temperatures[1], shared, rtol=1e-14, atol=0)
    pull = 2 * math.log(4) / 2 * (shared - 1) ** 2
    for i in range(2):
        expected = by_loop(z[i : i + 1], y[i : i + 1], shared.item(), 1.0)[0] - pull.item()
        assert values[i].item() == pytest.approx(expected, rel=1e-12)


def test_shapes_a_vector_and_an_image():
    z, y, _ = problem(13, rows=6)
    rows, image, vector = adaptive(2), adaptive(2), adaptive(2)
    expected = rows(z, y, torch.tensor([0, 0, 0, 1, 1, 1]), reduction="none")
    found = image(z.reshape(2, 3, 4).movedim(-1, 1), y.reshape(2, 3), torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(image.temperatures, rows.temperatures, rtol=1e-13, atol=0)
    alone = adaptive(2)(z[:1], y[:1], torch.tensor([1]))
    torch.testing.assert_close(vector(z[0], y[0], torch.tensor(1)), alone, rtol=1e-14, atol=0)


def test_weights_reduce_as_everywhere():
    z, y, _ = problem(14)
    w, s = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64), torch.arange(8, dtype=torch.float64)
    loss, index = adaptive().eval(), torch.arange(8)
    rows = loss(z, y, index, reduction="none")
    torch.testing.assert_close(loss(z, y, index, weight=w, sample_weight=s), (rows * w[y] * s).sum() / (w[y] * s).sum())
    torch.testing.assert_close(loss(z, y, index, denominator=3.0), rows.sum() / 3)


def test_its_state_is_saved_restored_copied_and_shown():
    z, y, _ = problem(15)
    loss = adaptive()
    loss(z, y, torch.arange(8))
    other = adaptive()
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.temperatures, loss.temperatures)
    assert torch.equal(copy.deepcopy(loss).eval()(z, y, torch.arange(8)), loss.eval()(z, y, torch.arange(8)))
    assert loss.to("meta").temperatures.device.type == "meta"
    assert repr(adaptive(5, alpha=3.0)) == "AdaptiveLDR(num_samples=5, anchor=1.0, alpha=3.0, margin=1.0)"
    assert isinstance(lossmith.objective("aldr_kl_loss", num_samples=5, margin=0.1), AdaptiveLDR)


def test_half_precision_is_computed_in_float32():
    z, y, _ = problem(16)
    single, half = AdaptiveLDR(num_samples=8), AdaptiveLDR(num_samples=8)
    value = half(z.bfloat16(), y, torch.arange(8))
    assert value.dtype == torch.float32
    assert torch.equal(value, single(z.bfloat16().float(), y, torch.arange(8)))


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda m, z, y, i: m(z, torch.softmax(z, 1), i), TypeError, r"target must be class indices, for .*; got float64 \(8, 4\)"),
        (lambda m, z, y, i: m(z, y, i[:3]), ValueError, r"index must have the target's shape \(8,\); got int64 \(3,\)"),
        (lambda m, z, y, i: m(z, y, i.double()), TypeError, r"index must be an integer tensor.*; got float64 \(8,\)"),
        (lambda m, z, y, i: m(z, y, None), TypeError, "index must be an integer tensor.*; got NoneType None"),
        (lambda m, z, y, i: m(z, y, i + 1), ValueError, r"index must be in 0\.\.7; got 8"),
        (lambda m, z, y, i: m(z, y, i, weigth=None), TypeError, "no option 'weigth'; did you mean 'weight'"),
        (lambda m, z, y, i: AdaptiveLDR(num_samples=0), ValueError, "num_samples must be at least 1; got 0"),
        (lambda m, z, y, i: AdaptiveLDR(num_samples=2.0), TypeError, "num_samples must be an integer; got float"),
        (lambda m, z, y, i: AdaptiveLDR(num_samples=2, alpha=1.0), ValueError, r"alpha must be in \(1, inf\); got 1.0"),
        (lambda m, z, y, i: AdaptiveLDR(num_samples=2, anchor=0.0), ValueError, r"anchor must be in \(0, inf\); got 0.0"),
        (lambda m, z, y, i: ldr_kl_loss(z, y, temperature=0.0), ValueError, r"temperature must be in \(0, inf\); got 0.0"),
    ],
)
@pytest.mark.untyped
def test_errors_name_the_argument_and_lose_nothing(call, error, complaint):
    z, y, _ = problem(17)
    loss = adaptive()
    with pytest.raises(error, match=complaint):
        call(loss, z, y, torch.arange(8))
    assert (loss.temperatures == 1).all()
