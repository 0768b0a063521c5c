"""The Brier score against loops, exact fractions and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

from lossmith import brier_loss


def problem(seed=0, rows=8, classes=4, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,), generator=g)
    return z, y, torch.softmax(torch.randn(rows, classes, generator=g, dtype=torch.float64), 1)


def by_loop(z, y):
    total = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        top = max(row)
        e = [math.exp(v - top) for v in row]
        p = [v / sum(e) for v in e]
        total.append(sum((v - (k == label)) ** 2 for k, v in enumerate(p)))
    return total


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_it_equals_a_loop(scale):
    z, y, _ = problem(scale=scale)
    assert brier_loss(z, y, reduction="none").tolist() == pytest.approx(by_loop(z, y), rel=1e-12, abs=1e-14)


def test_it_equals_scikit_learns():
    z, _, _ = problem(1, rows=20)
    y = torch.arange(20) % 4
    p = torch.softmax(z, 1).numpy()
    expected = brier_score_loss(y.numpy(), p, labels=np.arange(4), scale_by_half=False)
    assert brier_loss(z, y).item() == pytest.approx(expected, rel=1e-10)


def test_hand_values():
    z = torch.log(torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64))
    assert brier_loss(z, torch.tensor([0])).item() == pytest.approx(0.375, rel=1e-14)  # 1/4 + 1/16 + 1/16
    assert brier_loss(z, torch.tensor([1])).item() == pytest.approx(0.875, rel=1e-14)  # 1/4 + 9/16 + 1/16
    assert brier_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([1])).item() == 2.0


@pytest.mark.parametrize("lead", [1, 5, 10, 20, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sure_answer_keeps_its_relative_precision(lead, dtype):
    e = Fraction(math.exp(-lead))
    miss = 2 * e / (1 + 2 * e)
    expected = float(miss**2 + 2 * (e / (1 + 2 * e)) ** 2)
    z = torch.tensor([[0.0, -lead, -lead]], dtype=dtype, requires_grad=True)
    value = brier_loss(z, torch.tensor([0]))
    precision = 1e-5 if dtype == torch.float32 else 1e-13
    assert value.item() == pytest.approx(expected, rel=precision, abs=0)
    (gradient,) = torch.autograd.grad(value, z)
    p = float(e / (1 + 2 * e))
    # d/dz_k = 2 p_k (p_k - 1[k=y] - sum_j p_j (p_j - 1[j=y])), written for a rival
    other = 2 * p * (p - (2 * p * p - float(miss) * (1 - float(miss))))
    assert gradient[0, 1].item() == pytest.approx(other, rel=1e2 * precision, abs=0)


def test_the_gradient_is_right_where_all_classes_tie():
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(brier_loss(z, torch.tensor([1])), z)
    assert gradient.tolist() == [pytest.approx([2 / 9, -4 / 9, 2 / 9], rel=1e-12)]


def test_class_probabilities_are_the_distance_and_what_cannot_be_avoided():
    z, _, t = problem(2)
    p = torch.softmax(z, 1)
    expected = ((p - t) ** 2).sum(1) + 1 - (t**2).sum(1)
    torch.testing.assert_close(brier_loss(z, t, reduction="none"), expected, rtol=1e-12, atol=0)


def test_it_is_proper():
    _, _, t = problem(3)
    z = torch.log(t).requires_grad_()
    (gradient,) = torch.autograd.grad(brier_loss(z, t), z)
    assert gradient.abs().max() < 1e-15
    assert (brier_loss(z + 0.1 * torch.randn_like(z), t, reduction="none") > brier_loss(z, t, reduction="none")).all()


def test_weights_multiply_and_divide():
    z, y, t = problem(4)
    w, s = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64), torch.arange(8, dtype=torch.float64)
    rows = torch.tensor(by_loop(z, y), dtype=torch.float64)
    expected = (rows * w[y] * s).sum() / (w[y] * s).sum()
    torch.testing.assert_close(brier_loss(z, y, weight=w, sample_weight=s), expected, rtol=1e-12, atol=0)
    each = torch.tensor([by_loop(z, torch.full_like(y, k)) for k in range(4)], dtype=torch.float64).T
    torch.testing.assert_close(brier_loss(z, t, weight=w, reduction="none"), (each * t * w).sum(1), rtol=1e-12, atol=0)


def test_the_gradient_vanishes_where_the_model_is_confidently_wrong():
    z = torch.tensor([[50.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(brier_loss(z, torch.tensor([1])), z)
    assert gradient.abs().max() < 1e-20
