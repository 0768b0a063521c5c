"""What rounding must not do to statistics whose range is known, however they are computed."""

import math

import pytest
import torch

from lossmith.fused import LinearLogits, linear_log_prob, linear_stats
from tests.fused.heads import leaf, problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_no_probability_is_above_one(dtype, scale):
    """The label's logit comes of another sum than those that it is compared with: counted among them, rounding could show."""
    p = problem(300, width=33, classes=1100, scale=scale, ignored=False)
    hidden, weight = p.hidden.to(dtype), p.weight.to(dtype)
    likeliest = (hidden.float() @ weight.float().T).argmax(1)
    for label in (p.target, likeliest):
        log_p = linear_log_prob(hidden, weight, label)
        assert log_p.isfinite().all()
        assert (log_p <= 0).all()
    entropy = linear_stats(hidden, weight, want=("entropy",)).entropy
    assert (entropy >= -1e-5).all()  # logits of 50 are rounded to 4e-6
    assert (entropy <= math.log(1100) * (1 + 1e-6)).all()


@pytest.mark.parametrize("schedule", ["forward", "recompute"])
def test_classes_with_the_same_weights_share_alike(schedule):
    """Two classes alike, far above the others: a probability of 1/2 each, and nothing that draws a row from one to the other."""
    g = torch.Generator().manual_seed(0)
    hidden = leaf(torch.randn(300, 64, generator=g).abs())
    weight = torch.full((700, 64), -3.0)
    weight[[3, 650]] = torch.rand(64, generator=g)
    weight, label = leaf(weight), torch.tensor([3, 650]).repeat(150)
    source = LinearLogits(hidden, weight, schedule=schedule)
    total = source.weighted_log_prob(label, label >= 0, torch.ones(300))
    torch.testing.assert_close(total, torch.tensor(-300 * math.log(2)), rtol=1e-6, atol=0)
    by_hidden, by_weight = torch.autograd.grad(total, (hidden, weight))
    assert by_hidden.abs().max() < 1e-5
    torch.testing.assert_close(by_weight[3], -by_weight[650], rtol=1e-4, atol=1e-4)  # what one gains, the other loses
    assert by_weight[[0, 1, 2, 400]].abs().max() == 0
