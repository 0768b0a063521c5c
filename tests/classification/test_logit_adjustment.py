"""Logit adjustment against the pairwise form of the paper, cross-entropy and hand values."""

import math

import pytest
import torch

from lossmith import cross_entropy, logit_adjusted, validate

COUNTS = torch.tensor([50, 20, 5, 1])


def problem(seed=0, rows=8):
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(rows, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 4, (rows,), generator=g)
    return z, y, torch.softmax(torch.randn(rows, 4, generator=g, dtype=torch.float64), 1)


def pairwise(z, y, counts, tau):
    """log(1 + sum over the rivals of (n_k / n_y)^tau e^(z_k - z_y))."""
    return [
        math.log1p(sum((counts[k] / counts[label]) ** tau * math.exp(v - row[label]) for k, v in enumerate(row) if k != label))
        for row, label in zip(z.tolist(), y.tolist(), strict=True)
    ]


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_it_is_the_papers_pairwise_form(tau, dtype):
    z, y, _ = problem()
    ours = logit_adjusted(z, y, class_counts=COUNTS.to(dtype), tau=tau, reduction="none")
    assert ours.tolist() == pytest.approx(pairwise(z, y, COUNTS.tolist(), tau), rel=1e-12)


def test_hand_values():
    z = torch.zeros(1, 2)
    counts = torch.tensor([3, 1])
    assert logit_adjusted(z, torch.tensor([1]), class_counts=counts).item() == pytest.approx(math.log(4), rel=1e-6)
    assert logit_adjusted(z, torch.tensor([0]), class_counts=counts).item() == pytest.approx(math.log(4 / 3), rel=1e-6)
    assert logit_adjusted(z, torch.tensor([1]), class_counts=counts, tau=2.0).item() == pytest.approx(math.log(10), rel=1e-6)


def test_no_adjustment_and_equal_counts_are_cross_entropy():
    z, y, t = problem(1)
    for target in (y, t):
        expected = cross_entropy(z, target)
        torch.testing.assert_close(logit_adjusted(z, target, class_counts=COUNTS, tau=0.0), expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(logit_adjusted(z, target, class_counts=torch.full((4,), 7)), expected, rtol=1e-13, atol=0)


def test_only_the_ratios_of_the_counts_matter():
    z, y, _ = problem(2)
    frequencies = COUNTS.double() / COUNTS.sum()
    torch.testing.assert_close(
        logit_adjusted(z, y, class_counts=COUNTS), logit_adjusted(z, y, class_counts=frequencies), rtol=1e-12, atol=0
    )


def test_its_minimiser_is_the_balanced_posterior():
    _, _, t = problem(3)
    frequency = COUNTS.double() / COUNTS.sum()
    z = (torch.log(t) - torch.log(frequency)).requires_grad_()
    (gradient,) = torch.autograd.grad(logit_adjusted(z, t, class_counts=COUNTS), z)
    assert gradient.abs().max() < 1e-15
    balanced = t / frequency / (t / frequency).sum(1, keepdim=True)
    torch.testing.assert_close(torch.softmax(z, 1), balanced, rtol=1e-12, atol=0)


def test_the_gradient_is_larger_where_the_label_is_rare():
    z = torch.zeros(2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(logit_adjusted(z, torch.tensor([0, 3]), class_counts=COUNTS, reduction="sum"), z)
    assert gradient[0, 0].item() == pytest.approx(50 / 76 - 1, rel=1e-5)
    assert gradient[1, 3].item() == pytest.approx(1 / 76 - 1, rel=1e-5)


def test_a_class_that_never_occurs_takes_no_part():
    z = torch.tensor([[0.3, 5.0, -0.2], [0.3, 5.0, -0.2]], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    value = logit_adjusted(z, torch.tensor([0, 1]), class_counts=torch.tensor([2, 0, 1]), tau=tau, reduction="none")
    assert value[0].item() == pytest.approx(math.log1p(0.5 * math.exp(-0.5)), rel=1e-13)
    assert value[1].item() == math.inf
    by_z, by_tau = torch.autograd.grad(value[0], (z, tau))
    assert by_z.isfinite().all()
    assert by_z[0, 1].item() == 0
    assert by_tau.isfinite()
    # without adjustment it is a class like any other
    at_0 = logit_adjusted(z, torch.tensor([0, 1]), class_counts=torch.tensor([2, 0, 1]), tau=0.0)
    torch.testing.assert_close(at_0, cross_entropy(z, torch.tensor([0, 1])))


def test_weights_and_class_probabilities():
    z, y, t = problem(4)
    w, s = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64), torch.arange(8, dtype=torch.float64)
    rows = torch.tensor(pairwise(z, y, COUNTS.tolist(), 1.0), dtype=torch.float64)
    ours = logit_adjusted(z, y, class_counts=COUNTS, weight=w, sample_weight=s)
    torch.testing.assert_close(ours, (rows * w[y] * s).sum() / (w[y] * s).sum(), rtol=1e-12, atol=0)
    each = torch.tensor([pairwise(z, torch.full_like(y, k), COUNTS.tolist(), 1.0) for k in range(4)], dtype=torch.float64).T
    ours = logit_adjusted(z, t, class_counts=COUNTS, weight=w, reduction="none")
    torch.testing.assert_close(ours, (each * t * w).sum(1), rtol=1e-12, atol=0)


def test_the_class_axis_stays_where_it_is():
    z, y, _ = problem(5, rows=6)
    image = z.reshape(2, 3, 4).movedim(-1, 1)
    rows = logit_adjusted(z, y, class_counts=COUNTS, reduction="none")
    assert torch.equal(logit_adjusted(image, y.reshape(2, 3), class_counts=COUNTS, reduction="none"), rows.reshape(2, 3))
    assert torch.equal(logit_adjusted(z[0], y[0], class_counts=COUNTS), rows[0])


@pytest.mark.parametrize(
    ("counts", "error", "complaint"),
    [
        ([1, 2, 3, 4], TypeError, r"class_counts must be a tensor of one number a class; got list \[1, 2, 3, 4\]"),
        (torch.ones(3), ValueError, r"class_counts must have shape \(4,\); got float32 \(3,\)"),
        (torch.tensor([1, -1, 2, 3]), ValueError, "class_counts must be at least 0 and not all 0"),
        (torch.zeros(4), ValueError, "class_counts must be at least 0 and not all 0"),
    ],
)
@pytest.mark.untyped
def test_errors_name_the_argument(counts, error, complaint):
    with pytest.raises(error, match=complaint):
        logit_adjusted(torch.zeros(2, 4), torch.tensor([0, 1]), class_counts=counts)


def test_tau_must_not_be_negative():
    with pytest.raises(ValueError, match=r"tau must be in \[0, inf\)"):
        logit_adjusted(torch.zeros(2, 4), torch.tensor([0, 1]), class_counts=COUNTS, tau=-1.0)
    with validate(True), pytest.raises(ValueError, match=r"tau must be in \[0, inf\)"):
        logit_adjusted(torch.zeros(2, 4), torch.tensor([0, 1]), class_counts=COUNTS, tau=torch.tensor(-1.0))
