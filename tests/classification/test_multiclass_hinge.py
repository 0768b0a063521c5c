"""The multi-class hinge losses against loops, scikit-learn and torch."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import hinge_loss

from lossmith import crammer_singer, weston_watkins

LOSSES = [crammer_singer, weston_watkins]


def problem(seed=0, rows=9, classes=4):
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,), generator=g)
    return z, y, torch.softmax(torch.randn(rows, classes, generator=g, dtype=torch.float64), 1)


def by_loop(loss, z, y, margin):
    join = max if loss is crammer_singer else sum
    return [
        join(max(0.0, margin + v - row[label]) for k, v in enumerate(row) if k != label)
        for row, label in zip(z.tolist(), y.tolist(), strict=True)
    ]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0, 5.0])
def test_it_equals_a_loop(loss, margin):
    z, y, _ = problem()
    assert loss(z, y, margin=margin, reduction="none").tolist() == pytest.approx(by_loop(loss, z, y, margin), rel=1e-13, abs=1e-14)


def test_crammer_singer_equals_scikit_learns():
    z, _, _ = problem(1, rows=20)
    y = torch.arange(20) % 4
    assert crammer_singer(z, y).item() == pytest.approx(hinge_loss(y.numpy(), z.numpy()), rel=1e-12)


def test_weston_watkins_is_c_times_torchs():
    z, y, _ = problem(2)
    torch.testing.assert_close(weston_watkins(z, y, margin=0.7), 4 * F.multi_margin_loss(z, y, margin=0.7), rtol=1e-12, atol=0)


def test_hand_values():
    z = torch.tensor([[1.0, 0.5, 0.25]])
    assert crammer_singer(z, torch.tensor([0])).item() == 0.5
    assert weston_watkins(z, torch.tensor([0])).item() == 0.75
    assert crammer_singer(z, torch.tensor([2])).item() == 1.75
    assert weston_watkins(z, torch.tensor([2])).item() == 3.0


@pytest.mark.parametrize("loss", LOSSES)
def test_with_two_classes_both_are_the_binary_hinge(loss):
    z, y, _ = problem(3, classes=2)
    sign = 2.0 * y - 1
    torch.testing.assert_close(loss(z, y, reduction="none"), torch.relu(1 - sign * (z[:, 1] - z[:, 0])), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("loss", "expected"), [(crammer_singer, [-1.0, 1.0, 0.0]), (weston_watkins, [-2.0, 1.0, 1.0])])
def test_the_gradient_raises_the_label_and_lowers_its_rivals(loss, expected):
    z = torch.tensor([[0.5, 0.4, 0.3]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(z, torch.tensor([0])), z)
    assert gradient.tolist() == [expected]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_won_row_has_nothing_to_learn(loss):
    z = torch.tensor([[3.0, 1.5, -1e4]], requires_grad=True)
    value = loss(z, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, z)
    assert value.item() == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize(("loss", "expected"), [(crammer_singer, 0.3), (weston_watkins, 0.6)])
def test_the_margin_survives_beside_large_logits(loss, expected):
    assert loss(torch.full((1, 3), 1e4), torch.tensor([0]), margin=0.3).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_and_class_probabilities(loss):
    z, y, t = problem(4)
    w, s = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64), torch.arange(9, dtype=torch.float64)
    rows = torch.tensor(by_loop(loss, z, y, 1.0), dtype=torch.float64)
    torch.testing.assert_close(loss(z, y, weight=w, sample_weight=s), (rows * w[y] * s).sum() / (w[y] * s).sum(), rtol=1e-12, atol=0)
    each = torch.tensor([by_loop(loss, z, torch.full_like(y, k), 1.0) for k in range(4)], dtype=torch.float64).T
    torch.testing.assert_close(loss(z, t, weight=w, reduction="none"), (each * t * w).sum(1), rtol=1e-12, atol=0)


def test_crammer_singer_is_not_calibrated():
    """No class above one half: the least conditional risk is at equal logits, which prefer no class."""
    t = torch.tensor([[0.4, 0.3, 0.3]], dtype=torch.float64).expand(4000, 3)
    g = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(4000, 3, generator=g, dtype=torch.float64)
    assert crammer_singer(z, t, reduction="none").min() >= crammer_singer(torch.zeros(1, 3, dtype=torch.float64), t[:1]).item()


def test_weston_watkins_is_not_calibrated():
    """Preferring the most likely class costs as much as not, and another preference costs less than the right one alone."""
    t = torch.tensor([[0.4, 0.35, 0.25]], dtype=torch.float64)
    tied = weston_watkins(torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64), t).item()
    g = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(20000, 3, generator=g, dtype=torch.float64)
    strictly_right = (z[:, 0] > z[:, 1] + 1e-3) & (z[:, 0] > z[:, 2] + 1e-3)
    assert weston_watkins(z[strictly_right], t.expand(int(strictly_right.sum()), 3), reduction="none").min() > tied


def test_the_margin_must_not_be_negative():
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"margin must be in \[0, inf\); got -1"):
            loss(torch.zeros(1, 3), torch.tensor([0]), margin=-1.0)
