"""Focal loss against its formula in plain Python, at certainty, and against cross-entropy."""

import math

import pytest
import torch

import lossmith

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.2, 4.0], [-3.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 1, 2])
GAMMAS = [0.0, 0.3, 1.0, 2.0, 5.0]


def probability(z: list[float], k: int) -> float:
    return math.exp(z[k]) / sum(math.exp(v) for v in z)


def by_hand(z: list[float], k: int, gamma: float) -> float:
    p = probability(z, k)
    return -((1 - p) ** gamma) * math.log(p)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_it_is_its_formula(gamma):
    expected = [by_hand(z, k, gamma) for z, k in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    found = lossmith.focal_loss(LOGITS, TARGET, gamma=gamma, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_hand_values():
    # p = 1/2: (1/2)^2 log 2; p = 1/4: (3/4)^2 log 4
    assert lossmith.focal_loss(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.log(2) / 4)
    assert lossmith.focal_loss(torch.zeros(1, 4), torch.tensor([1])).item() == pytest.approx(math.log(4) * 9 / 16)


def test_class_probabilities_are_the_expectation_over_labels_and_weights_weigh():
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [0.0, 0.3, 0.7]], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    rows = [
        sum(t * w * by_hand(z, k, 2.0) for k, (t, w) in enumerate(zip(ts, weight.tolist(), strict=True)))
        for z, ts in zip(LOGITS.tolist(), soft.tolist(), strict=True)
    ]
    assert lossmith.focal_loss(LOGITS, soft, weight=weight).item() == pytest.approx(sum(rows) / 4, rel=1e-12)
    hard = [weight[k].item() * by_hand(z, k, 2.0) for z, k in zip(LOGITS.tolist(), TARGET.tolist(), strict=True)]
    total = weight[TARGET].sum().item()
    assert lossmith.focal_loss(LOGITS, TARGET, weight=weight).item() == pytest.approx(sum(hard) / total, rel=1e-12)


def test_gamma_0_is_cross_entropy_gradient_included():
    gradients = []
    for loss in (lossmith.cross_entropy, lambda z, y: lossmith.focal_loss(z, y, gamma=0.0)):
        z = torch.cat([LOGITS, torch.tensor([[1e4, 0.0, 0.0]], dtype=torch.float64)]).requires_grad_()
        gradients.append(torch.autograd.grad(loss(z, torch.tensor([0, 1, 1, 2, 0])), z)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 0.9, 1.0, 2.0])
def test_the_gradient_is_finite_where_the_model_is_certain(gamma, dtype):
    """The power's own derivative is infinite at 1 - p = 0 for gamma below 1: elsewhere that is NaN in training."""
    z = torch.tensor([[1e4, 0.0], [200.0, 0.0], [18.0, 0.0], [0.0, 1e4], [0.0, float("-inf")]], dtype=dtype, requires_grad=True)
    y = torch.tensor([0, 0, 0, 0, 0])
    loss = lossmith.focal_loss(z, y, gamma=gamma, reduction="none")
    (first,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert loss[3].item() == 1e4
    z = z.detach().requires_grad_()
    learnt = torch.tensor(gamma, dtype=dtype, requires_grad=True)
    lossmith.focal_loss(z, y, gamma=learnt).backward()
    assert learnt.grad.isfinite()
    torch.testing.assert_close(z.grad, first.detach() / 5)


def test_gamma_below_0_is_refused():
    with pytest.raises(ValueError, match=r"focal_loss: gamma must be in \[0, inf\); got -1"):
        lossmith.focal_loss(LOGITS, TARGET, gamma=-1)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_one_logit_is_two_classes(gamma):
    z = torch.linspace(-30, 30, 25, dtype=torch.float64)
    for t in (0, 1):
        target = torch.full_like(z, t, dtype=torch.int64)
        two = lossmith.focal_loss(torch.stack([torch.zeros_like(z), z], -1), target, gamma=gamma, reduction="none")
        torch.testing.assert_close(lossmith.binary_focal_loss(z, target, gamma=gamma, reduction="none"), two, rtol=1e-9, atol=1e-15)


def documented_by_torchvision(z: float, t: float, alpha: float, gamma: float) -> float:
    """alpha_t (1 - p_t)^gamma (-log p_t) for a target of 0 or 1."""
    p = 1 / (1 + math.exp(-z))
    right = p if t == 1 else 1 - p
    return (alpha if t == 1 else 1 - alpha) * (1 - right) ** gamma * -math.log(right)


def test_alpha_is_expressed_by_weights_as_documented():
    alpha, gamma = 0.25, 2.0
    z, t = torch.tensor([0.5, -1.0, 3.0, -2.0], dtype=torch.float64), torch.tensor([1, 0, 0, 1])
    expected = [documented_by_torchvision(a, b, alpha, gamma) for a, b in zip(z.tolist(), t.tolist(), strict=True)]
    weight, pos_weight = torch.tensor(1 - alpha), torch.tensor(alpha / (1 - alpha), dtype=torch.float64)
    found = lossmith.binary_focal_loss(z, t, weight=weight, pos_weight=pos_weight, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    mean = (1 - alpha) * lossmith.binary_focal_loss(z, t, pos_weight=pos_weight)
    assert mean.item() == pytest.approx(sum(expected) / 4, rel=1e-12)
    by_objects = (1 - alpha) * lossmith.binary_focal_loss(z, t, pos_weight=pos_weight, denominator=t.sum())
    assert by_objects.item() == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_a_probability_as_binary_target_is_the_expectation_over_the_answer():
    z = torch.tensor([0.7, -2.0], dtype=torch.float64)
    yes, no = (lossmith.binary_focal_loss(z, torch.full_like(z, t), reduction="none") for t in (1.0, 0.0))
    mixed = lossmith.binary_focal_loss(z, torch.tensor([0.25, 0.25], dtype=torch.float64), reduction="none")
    torch.testing.assert_close(mixed, 0.25 * yes + 0.75 * no)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 2.0])
def test_binary_gradients_at_extreme_logits(gamma):
    z = torch.tensor([-1e4, -104.0, -80.0, 80.0, 104.0, 1e4], requires_grad=True)
    for t in (0, 1):
        loss = lossmith.binary_focal_loss(z, torch.full((6,), t), gamma=gamma, reduction="none")
        assert loss.max().item() == 1e4
        assert torch.autograd.grad(loss.sum(), z)[0].abs().max().item() == pytest.approx(1)


def test_the_papers_balance_and_the_two_ways_to_divide():
    z, alpha, gamma = torch.linspace(-3, 3, 8, dtype=torch.float64), 0.25, 2.0
    t = torch.tensor([0.0, 1, 0, 0, 1, 0, 1, 0], dtype=torch.float64)
    p_t = torch.where(t == 1, z.sigmoid(), 1 - z.sigmoid())
    theirs = torch.where(t == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * -p_t.log()
    balance = {"weight": torch.tensor(1 - alpha).double(), "pos_weight": torch.tensor(alpha / (1 - alpha)).double()}
    torch.testing.assert_close(lossmith.binary_focal_loss(z, t, reduction="none", **balance), theirs, rtol=1e-7, atol=0)
    torch.testing.assert_close((1 - alpha) * lossmith.binary_focal_loss(z, t, **balance), theirs.mean(), rtol=1e-7, atol=0)
    torch.testing.assert_close(lossmith.binary_focal_loss(z, t, denominator=t.sum(), **balance), theirs.sum() / 3, rtol=1e-7, atol=0)
