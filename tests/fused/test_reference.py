"""The definition itself, against torch and closed forms."""

import mpmath
import pytest
import torch

from lossmith.fused.reference import row_stats
from tests.fused.heads import assert_close

INF = float("inf")


def test_the_definition_is_that_of_log_softmax():
    z, label = torch.randn(20, 7, dtype=torch.float64), torch.arange(20) % 7
    found = row_stats(z, label, want=("log_prob", "target_logit", "logsumexp", "entropy", "mean_logit"), temperatures=(2.0,))
    log_p = z.log_softmax(-1)
    assert_close(found.log_prob, log_p.gather(1, label[:, None])[:, 0])
    assert_close(found.target_logit, z[torch.arange(20), label])
    assert_close(found.logsumexp, z.logsumexp(-1))
    assert_close(found.entropy, -(log_p.exp() * log_p).sum(-1))
    assert_close(found.mean_logit, z.mean(-1))
    assert_close(found.logsumexp_at[:, 0], (z / 2).logsumexp(-1))


@pytest.mark.parametrize("lead", [1.0, 18.0, 69.0, 300.0])
def test_a_confident_row_keeps_its_digits(lead):
    """Two classes apart by `lead`: -log p = log(1 + exp(-lead)); its gradient by the lead is -1/(1 + exp(lead))."""
    z = torch.tensor([[lead, 0.0]], dtype=torch.float64, requires_grad=True)
    found = row_stats(z, torch.tensor([0])).log_prob
    mpmath.mp.dps = 400
    torch.testing.assert_close(found.item(), float(-mpmath.log(1 + mpmath.exp(-lead))), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), z)
    torch.testing.assert_close(slope[0, 1].item(), float(-1 / (1 + mpmath.exp(lead))), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("row", "label", "expected"),
    [
        ([0.0, -INF, 0.0], 0, -0.6931471805599453),
        ([0.0, -INF, 0.0], 1, -INF),
        ([-INF, 3.0, -INF], 1, 0.0),
        ([5.0], 0, 0.0),
        ([-INF, -INF], 0, float("nan")),
        ([INF, 0.0], 1, float("nan")),
        ([float("nan"), 0.0], 1, float("nan")),
    ],
)
def test_infinite_logits_mean_what_they_mean_to_log_softmax(row, label, expected):
    z = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    found = row_stats(z, torch.tensor([label])).log_prob
    torch.testing.assert_close(found.item(), expected, equal_nan=True)
    torch.testing.assert_close(found.item(), z.log_softmax(-1)[0, label].item(), equal_nan=True)
    if expected > -INF:
        (slope,) = torch.autograd.grad(found.sum(), z)
        p = z.detach().softmax(-1)
        torch.testing.assert_close(slope, (torch.arange(len(row)) == label).double() - p, rtol=1e-12, atol=0)


def test_a_class_of_probability_0_adds_nothing_to_the_entropy():
    z = torch.tensor([[0.0, -INF, 0.0]], dtype=torch.float64, requires_grad=True)
    (found,) = row_stats(z, want=("entropy",)).entropy
    torch.testing.assert_close(found.item(), 0.6931471805599453)
    assert torch.autograd.grad(found, z)[0].isfinite().all()
