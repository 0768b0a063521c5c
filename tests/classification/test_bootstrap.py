"""The bootstrapping loss against the paper's sum over classes, and the way its gradient flows."""

import math

import pytest
import torch

import lossmith

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.2, 1.0], [-2.0, 3.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2])


def by_hand(z: list[float], label: int, beta: float, mode: str) -> float:
    total = sum(map(math.exp, z))
    p = [math.exp(v) / total for v in z]
    own = p if mode == "soft" else [1.0 if k == p.index(max(p)) else 0.0 for k in range(len(p))]
    return -sum((beta * (k == label) + (1 - beta) * own[k]) * math.log(p[k]) for k in range(len(p)))


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("beta", [0.0, 0.6, 0.95, 1.0])
def test_it_is_the_papers_sum(beta, mode):
    expected = [by_hand(z, k, beta, mode) for z, k in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    found = lossmith.bootstrap_loss(LOGITS, TARGET, beta=beta, mode=mode, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_hand_values_class_probabilities_and_weights():
    z = torch.zeros(1, 4, dtype=torch.float64)  # every term is log 4
    for mode in ("soft", "hard"):
        assert lossmith.bootstrap_loss(z, torch.tensor([1]), mode=mode).item() == pytest.approx(math.log(4))
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    rows = [
        sum(t * w * by_hand(z, k, 0.9, "soft") for k, (t, w) in enumerate(zip(ts, weight.tolist(), strict=True)))
        for z, ts in zip(LOGITS.tolist(), soft.tolist(), strict=True)
    ]
    found = lossmith.bootstrap_loss(LOGITS, soft, beta=0.9, weight=weight)
    assert found.item() == pytest.approx(sum(rows) / 3, rel=1e-12)


def test_the_gradient_flows_through_the_soft_target():
    z = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(lossmith.bootstrap_loss(z, TARGET, beta=0.5, reduction="sum"), z)
    p = torch.softmax(LOGITS, -1)
    label = torch.nn.functional.one_hot(TARGET, 3)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    torch.testing.assert_close(found, 0.5 * (p - label) - 0.5 * p * (p.log() + entropy))
    # held constant, the second term would leave nothing but half of cross-entropy's gradient
    assert not torch.allclose(found, 0.5 * (p - label), atol=1e-3)


def test_the_gradient_of_the_hard_loss_is_cross_entropys_with_the_mixed_target():
    z = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(lossmith.bootstrap_loss(z, TARGET, beta=0.8, mode="hard", reduction="sum"), z)
    mixed = 0.8 * torch.nn.functional.one_hot(TARGET, 3) + 0.2 * torch.nn.functional.one_hot(LOGITS.argmax(-1), 3)
    torch.testing.assert_close(found, torch.softmax(LOGITS, -1) - mixed)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_extreme_and_impossible_logits(mode):
    z = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, float("-inf"), 1.0]], requires_grad=True)
    loss = lossmith.bootstrap_loss(z, torch.tensor([0, 0, 0]), beta=0.8, mode=mode, reduction="none")
    assert loss[:2].tolist() == [0.0, 8e3]
    assert loss[2].item() == pytest.approx(by_hand([0.0, 1.0], 0, 0.8, mode), rel=1e-6)
    assert torch.autograd.grad(loss.sum(), z)[0].isfinite().all()


@pytest.mark.untyped
def test_beta_and_mode_are_checked():
    with pytest.raises(ValueError, match=r"bootstrap_loss: beta must be in \[0, 1\]; got 1.2"):
        lossmith.bootstrap_loss(LOGITS, TARGET, beta=1.2)
    with pytest.raises(ValueError, match=r"bootstrap_loss: mode must be in 'soft' \| 'hard'; got 'firm'"):
        lossmith.bootstrap_loss(LOGITS, TARGET, mode="firm")
