"""Poly-1 against its power series in 1 - p, and its convexity where the docstring claims it."""

import math

import pytest
import torch

import lossmith

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.2, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_it_is_the_expansion_with_its_first_coefficient_moved(epsilon):
    doubt = 1 - torch.softmax(LOGITS, -1)[torch.arange(3), TARGET]
    series = (1 + epsilon) * doubt + sum(doubt**k / k for k in range(2, 200))
    found = lossmith.poly_loss(LOGITS, TARGET, epsilon=epsilon, reduction="none")
    torch.testing.assert_close(found, series, rtol=1e-12, atol=1e-12)


def test_hand_values():
    z, y = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([3])
    assert lossmith.poly_loss(z, y).item() == pytest.approx(math.log(4) + 0.75)
    soft = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert lossmith.poly_loss(z, soft, weight=weight).item() == pytest.approx(1.5 * (math.log(4) + 0.75))


def test_extreme_logits():
    z = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = lossmith.poly_loss(z, torch.tensor([0, 0]), reduction="none")
    assert loss.tolist() == [0.0, 10001.0]
    assert torch.autograd.grad(loss.sum(), z)[0].tolist() == [[0.0, 0.0], [-1.0, 1.0]]


@pytest.mark.parametrize(("epsilon", "convex"), [(-1.0, True), (0.5, True), (1.0, True), (1.2, False), (2.0, False)])
def test_it_is_convex_exactly_up_to_1(epsilon, convex):
    z = torch.cat([torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3, torch.tensor([[-5.0, 0, 0]])])

    def loss(row):
        return lossmith.poly_loss(row.unsqueeze(0), torch.tensor([0]), epsilon=epsilon)

    lowest = torch.linalg.eigvalsh(torch.func.vmap(torch.func.jacrev(torch.func.jacrev(loss)))(z)).min().item()
    assert (lowest > -1e-12) is convex


def test_the_documented_minimiser():
    """For true probabilities q, p_k = q_k / (lambda - epsilon q_k): stationary there."""
    q = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    low, high = 2.0 * 0.6 + 1e-9, 10.0
    for _ in range(200):  # bisection for the lambda at which p sums to 1
        middle = (low + high) / 2
        low, high = (middle, high) if (q / (middle - 2.0 * q)).sum() > 1 else (low, middle)
    z = torch.log(q / (low - 2.0 * q)).requires_grad_()
    (slope,) = torch.autograd.grad(lossmith.poly_loss(z, q, epsilon=2.0), z)
    assert slope.abs().max().item() < 1e-12
    assert torch.softmax(z, -1)[0, 0].item() > 0.6  # sharper than the truth


def test_epsilon_below_minus_1_is_refused():
    with pytest.raises(ValueError, match=r"poly_loss: epsilon must be in \[-1, inf\); got -1.5"):
        lossmith.poly_loss(LOGITS, TARGET, epsilon=-1.5)
