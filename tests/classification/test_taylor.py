"""Taylor cross-entropy against the sum of its terms, and at its two ends."""

import itertools

import pytest
import torch

import lossmith

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.2, 1.0], [-2.0, 3.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("order", [1, 2, 3, 7])
def test_it_is_the_sum_of_its_terms(order):
    doubt = [1 - p for p in torch.softmax(LOGITS, -1)[torch.arange(3), TARGET].tolist()]
    expected = torch.tensor([sum(d**k / k for k in range(1, order + 1)) for d in doubt], dtype=torch.float64)
    found = lossmith.taylor_cross_entropy(LOGITS, TARGET, order=order, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_hand_values_class_probabilities_and_weights():
    z = torch.zeros(1, 4, dtype=torch.float64)  # 3/4 + 9/32
    assert lossmith.taylor_cross_entropy(z, torch.tensor([1])).item() == pytest.approx(0.75 + 9 / 32)
    soft, weight = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64), torch.tensor([3.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert lossmith.taylor_cross_entropy(z, soft, weight=weight).item() == pytest.approx(2 * (0.75 + 9 / 32))


def test_order_1_is_mean_absolute_error_and_high_orders_tend_to_cross_entropy():
    assert torch.equal(lossmith.taylor_cross_entropy(LOGITS, TARGET, order=1), lossmith.classification_mae(LOGITS, TARGET))
    target = lossmith.cross_entropy(LOGITS, TARGET)
    errors = [(target - lossmith.taylor_cross_entropy(LOGITS, TARGET, order=t)).item() for t in (1, 4, 16, 64, 256)]
    assert all(0 < later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-6


def test_the_slope_in_p_stays_below_the_order():
    z = torch.tensor([[0.0, 1e4], [1e4, 0.0], [0.0, 30.0]], requires_grad=True)
    loss = lossmith.taylor_cross_entropy(z, torch.tensor([0, 0, 0]), order=3, reduction="none")
    assert loss.tolist() == pytest.approx([1 + 1 / 2 + 1 / 3, 0.0, 1 + 1 / 2 + 1 / 3])
    assert torch.autograd.grad(loss.sum(), z)[0].isfinite().all()
    doubt = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (1 + doubt + doubt**2).max().item() == 3


@pytest.mark.untyped
def test_orders_are_whole_numbers_from_1():
    assert torch.equal(lossmith.taylor_cross_entropy(LOGITS, TARGET, order=3.0), lossmith.taylor_cross_entropy(LOGITS, TARGET, order=3))
    with pytest.raises(ValueError, match=r"taylor_cross_entropy: order must be in the whole numbers of \[1, inf\); got 0"):
        lossmith.taylor_cross_entropy(LOGITS, TARGET, order=0)
    with pytest.raises(ValueError, match=r"taylor_cross_entropy: order must be in the whole numbers of \[1, inf\); got 2.5"):
        lossmith.taylor_cross_entropy(LOGITS, TARGET, order=2.5)
    for wrong in (torch.tensor(2), "two"):
        with pytest.raises(TypeError, match="taylor_cross_entropy: order must be a"):
            lossmith.taylor_cross_entropy(LOGITS, TARGET, order=wrong)
