"""Symmetric cross-entropy and the active-passive family against sums over classes in plain Python."""

import math

import pytest
import torch

import lossmith

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.2, 1.0], [-2.0, 3.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2])


def probabilities(z: list[float]) -> list[float]:
    total = sum(map(math.exp, z))
    return [math.exp(v) / total for v in z]


def symmetric(z: list[float], label: int, alpha: float, beta: float, log_zero: float) -> float:
    """Both cross-entropies class by class, with log 0 of the one-hot label replaced."""
    p = probabilities(z)
    reverse = -sum(p[k] * (0.0 if k == label else log_zero) for k in range(len(p)))
    return -alpha * math.log(p[label]) + beta * reverse


@pytest.mark.parametrize("hyper", [(0.1, 1.0, -4.0), (6.0, 0.1, -4.0), (1.0, 2.0, -9.21)])
def test_symmetric_cross_entropy_is_the_two_sums(hyper):
    alpha, beta, log_zero = hyper
    expected = [symmetric(z, k, *hyper) for z, k in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    found = lossmith.symmetric_cross_entropy(LOGITS, TARGET, alpha=alpha, beta=beta, log_zero=log_zero, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_symmetric_cross_entropy_by_hand_soft_and_weighted():
    z = torch.zeros(1, 4, dtype=torch.float64)
    one = 0.1 * math.log(4) + 3
    assert lossmith.symmetric_cross_entropy(z, torch.tensor([0])).item() == pytest.approx(one)
    soft, weight = torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64), torch.tensor([3.0, 1, 1, 1], dtype=torch.float64)
    assert lossmith.symmetric_cross_entropy(z, soft, weight=weight).item() == pytest.approx(2 * one)


def test_symmetric_cross_entropy_is_poly_loss_as_documented():
    found = lossmith.symmetric_cross_entropy(LOGITS, TARGET, alpha=0.5, beta=2.0, log_zero=-3.0)
    assert found.item() == pytest.approx(0.5 * lossmith.poly_loss(LOGITS, TARGET, epsilon=12.0).item(), rel=1e-12)


def test_log_zero_is_negative():
    with pytest.raises(ValueError, match=r"symmetric_cross_entropy: log_zero must be in \(-inf, 0\]; got 4.0"):
        lossmith.symmetric_cross_entropy(LOGITS, TARGET, log_zero=4.0)


def active_passive(z: list[float], label: int, alpha: float, beta: float, gamma: float, scale: float) -> float:
    active = [-((1 - p) ** gamma) * math.log(p) for p in probabilities(z)]
    return alpha * active[label] / sum(active) + beta * scale * (1 - probabilities(z)[label])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("passive", "scale"), [("mae", 1.0), ("reverse_cross_entropy", 4.0)])
def test_active_passive_is_the_sums(gamma, passive, scale):
    expected = [active_passive(z, k, 10.0, 0.1, gamma, scale) for z, k in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    found = lossmith.active_passive_loss(LOGITS, TARGET, alpha=10.0, beta=0.1, gamma=gamma, passive=passive, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_active_passive_is_normalised_cross_entropy_at_the_default():
    nll = -torch.log_softmax(LOGITS, -1)
    label = nll[torch.arange(3), TARGET]
    expected = label / nll.sum(-1) + 1 - torch.exp(-label)
    torch.testing.assert_close(lossmith.active_passive_loss(LOGITS, TARGET, reduction="none"), expected)


def test_active_passive_soft_and_weighted():
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    rows = [
        sum(t * w * active_passive(z, k, 1.0, 1.0, 0.0, 1.0) for k, (t, w) in enumerate(zip(ts, weight.tolist(), strict=True)))
        for z, ts in zip(LOGITS.tolist(), soft.tolist(), strict=True)
    ]
    assert lossmith.active_passive_loss(LOGITS, soft, weight=weight).item() == pytest.approx(sum(rows) / 3, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_active_passive_sums_to_a_constant_over_the_labels(gamma):
    z = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    total = sum(lossmith.active_passive_loss(z, torch.full((50,), k), alpha=2.0, beta=3.0, gamma=gamma, reduction="none") for k in range(5))
    torch.testing.assert_close(total, torch.full((50,), 2.0 + 3.0 * 4, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_active_passive_at_extreme_and_impossible_logits(gamma):
    z = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, float("-inf"), 0.0], [float("-inf"), 0.0, 0.0]], requires_grad=True)
    loss = lossmith.active_passive_loss(z, torch.tensor([0, 0, 0, 0]), gamma=gamma, reduction="none")
    assert loss.tolist() == pytest.approx([0.0, 1.5, 0.5, 2.0])
    assert torch.autograd.grad(loss.sum(), z)[0].isfinite().all()
    soft = torch.tensor([[0.5, 0.0, 0.5]])
    z = torch.tensor([[0.0, float("-inf"), 0.0]], requires_grad=True)
    assert torch.autograd.grad(lossmith.active_passive_loss(z, soft, gamma=gamma), z)[0].isfinite().all()


@pytest.mark.untyped
def test_passive_is_checked():
    with pytest.raises(ValueError, match=r"active_passive_loss: passive must be in 'mae' \| 'reverse_cross_entropy'; got 'nce'"):
        lossmith.active_passive_loss(LOGITS, TARGET, passive="nce")
